//! What the SDKs make of our own 429: who waits as long as it says and goes on, and who gives up.

use crate::sdks::{node, python};
use crate::{AMPLE, measured, refused};
use serde_json::{Map, Value, json};
use support::ledger::Record;
use support::netns::Ran;

/// A limit on calls of models that is full after two, and has room again half a minute later.
const PACED: &str = "\n[[rate]]\nname = \"pace\"\nrequests = 2\nwindow = \"minute\"\nproviders = [\"*\"]\n";
/// One that has no room for as long as a test lasts.
const SHUT: &str = "\n[[rate]]\nname = \"pace\"\nrequests = 1\nwindow = \"hour\"\nproviders = [\"*\"]\n";
const OTHERS: &str = "\n[[allow]]\nhosts = [\"generativelanguage.googleapis.com\", \"*.amazonaws.com\"]\n";

/// Python: three calls; what the transport saw of each answer, and how long it waited after a 429.
const PYTHON: &str = r#"
import time, SDK
seen = []
def answered(response):
    seen.append((response.status_code, response.headers.get("retry-after"), time.monotonic()))
def asked(request):
    if seen and seen[-1][0] == 429:
        print("waited long enough:", time.monotonic() - seen[-1][2] >= float(seen[-1][1]))
client = SDK.CLASS(http_client=SDK.DefaultHttpxClient(event_hooks={"request": [asked], "response": [answered]}))
M = [{"role": "user", "content": "hello"}]
for n in range(3):
    print("call", n, client.CALL(model="MODEL", messages=M, max_tokens=9).model)
print("statuses:", *[status for status, _, _ in seen])
"#;

/// The same in Node, whose timers may be a millisecond early.
const NODE: &str = r#"
import { createRequire } from "node:module";
const Sdk = createRequire("NODE_PREFIX/")("PACKAGE");
const seen = [];
const told = async (...request) => {
  const last = seen.at(-1);
  if (last?.status === 429) console.log("waited long enough:", performance.now() - last.at >= last.after * 1000 - 2);
  const answer = await fetch(...request);
  seen.push({ status: answer.status, after: Number(answer.headers.get("retry-after")), at: performance.now() });
  return answer;
};
const client = new Sdk({ fetch: told });
const messages = [{ role: "user", content: "hello" }];
for (let n = 0; n < 3; n += 1) {
  console.log("call", n, (await client.CALL({ model: "MODEL", messages, max_tokens: 9 })).model);
}
console.log("statuses:", ...seen.map((one) => one.status));
"#;

/// What a client made of the limit, for the report.
fn row(requests: u64, waits: bool) -> Map<String, Value> {
    Map::from_iter([
        ("requests_on_limit".to_owned(), json!(requests)),
        ("honours_retry_after".to_owned(), json!(waits)),
    ])
}

#[test]
fn openai_and_anthropic_wait_as_long_as_our_429_says_and_go_on() {
    let openai = ("chat.completions.create", "gpt-4o-mini");
    let anthropic = ("messages.create", "claude-haiku-4-5");
    let script = |text: &str, (call, model): (&str, &str)| text.replace("CALL", call).replace("MODEL", model);
    let clients = [
        ("Python openai", script(PYTHON, openai).replace("CLASS", "OpenAI").replace("SDK", "openai"), false),
        (
            "Python anthropic",
            script(PYTHON, anthropic).replace("CLASS", "Anthropic").replace("SDK", "anthropic"),
            false,
        ),
        ("Node openai", script(NODE, openai).replace("PACKAGE", "openai"), true),
        ("Node anthropic", script(NODE, anthropic).replace("PACKAGE", "@anthropic-ai/sdk"), true),
    ];
    for (name, script, by_node) in clients {
        measured(&format!("{name}, too often: it waits and goes on"), &format!("{AMPLE}{PACED}"), |scene, daemon| {
            let ran = if by_node { node(scene, daemon, &script) } else { python(daemon, &script) }.ok();
            // The third call is asked twice: before there is room, and then.
            assert!(ran.stdout.contains("statuses: 200 200 429 200"), "{}", ran.screen());
            assert!(ran.stdout.contains("call 2") && ran.stdout.contains("waited long enough: "), "{}", ran.screen());
            assert!(!ran.stdout.to_lowercase().contains("enough: false"), "sooner than it was told: {}", ran.screen());
            assert_eq!((refused(daemon, "rate_limited"), scene.bill().len()), (1, 3), "{}", ran.screen());
            row(2, true)
        });
    }
}

#[test]
fn google_genai_asks_once_and_boto3_three_times_and_both_say_why() {
    let genai = "from google import genai\nclient = genai.Client(api_key='x')\nfor n in range(2):\n\
                 \x20   client.models.generate_content(model='gemini-2.5-flash', contents='hello', config={'max_output_tokens': 9})\n";
    let boto = "import boto3\nclient = boto3.client('bedrock-runtime', region_name='us-east-1', aws_access_key_id='A', aws_secret_access_key='stand-in-secret')\n\
                for n in range(2):\n    client.converse(modelId='amazon.nova-pro-v1:0', messages=[{'role': 'user', 'content': [{'text': 'hello'}]}], inferenceConfig={'maxTokens': 9})\n";
    let says = |ran: &Ran, words: &[&str]| words.iter().all(|word| ran.stderr.contains(word));
    for (name, script, words, requests) in [
        (
            "google-genai",
            genai,
            &["ClientError", "429", "RESOURCE_EXHAUSTED", "google.rpc.RetryInfo", "'retryDelay': '"][..],
            1,
        ),
        ("boto3", boto, &["ThrottlingException", "reached max retries: 2", "Converse"], 3),
    ] {
        let rules = format!("{AMPLE}{OTHERS}{SHUT}");
        measured(&format!("Python {name}, too often: it gives up in words"), &rules, |scene, daemon| {
            let ran = python(daemon, script);
            assert_eq!(ran.code, Some(1), "{}", ran.screen());
            assert!(says(&ran, words) && says(&ran, &["Caracal", "pace"]), "{}", ran.screen());
            // Equal refusals are written as one, a second later.
            let counted = |records: &[Record]| -> u64 {
                records.iter().filter(|record| record.is_denial("rate_limited")).map(Record::count).sum()
            };
            let records = daemon.records_when(|records| counted(records) >= requests);
            assert_eq!((counted(&records), scene.bill().len()), (requests, 1), "{}", ran.screen());
            row(requests, false)
        });
    }
}
