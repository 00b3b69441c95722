//! The SDKs of the providers and of tools: Python and Node.

use crate::{AMPLE, Denial, NOTHING, case, denied, refused};
use support::daemon::Daemon;
use support::netns::Ran;
use support::programs;
use support::scene::{Scene, TOOLS};

pub(crate) fn python(daemon: &Daemon<'_>, script: &str) -> Ran {
    let run = daemon.run(programs::python()).args(["-c", script]);
    run.env("OPENAI_API_KEY", "sk-stand-in").env("ANTHROPIC_API_KEY", "sk-ant-stand-in").ran()
}

pub(crate) fn node(scene: &Scene, daemon: &Daemon<'_>, script: &str) -> Ran {
    let file = scene.home.path().join("script.mjs");
    std::fs::write(&file, script.replace("NODE_PREFIX", &programs::node_prefix().display().to_string()))
        .expect("a script");
    let run = daemon.run(programs::host("node")).arg(file);
    run.env("OPENAI_API_KEY", "sk-stand-in").env("ANTHROPIC_API_KEY", "sk-ant-stand-in").ran()
}

#[test]
fn openai_python_is_allowed() {
    case("Python openai, allowed", AMPLE, |scene, daemon| {
        let ran = python(daemon, include_str!("../programs/openai_all.py")).ok();
        assert!(ran.stdout.contains("chat: word0") && ran.stdout.contains("responses: word0"), "{}", ran.screen());
        // The daemon may ask for the usage; the agent sees it only where the agent asked.
        assert!(ran.stdout.contains("usage chunks: 1 of 1 asked, 0 of 1 not asked"), "{}", ran.screen());
        assert_eq!(scene.bill().len(), 5);
        assert!(scene.bill().iter().all(|line| line.usage_sent), "a stream went unmetered: {:?}", scene.bill());
    });
}

#[test]
fn anthropic_python_is_allowed() {
    case("Python anthropic, allowed", AMPLE, |scene, daemon| {
        let ran = python(daemon, include_str!("../programs/anthropic_all.py")).ok();
        assert!(ran.stdout.contains("message: word0") && ran.stdout.contains("stream: word0"), "{}", ran.screen());
        assert_eq!(scene.bill().len(), 2);
    });
}

#[test]
fn openai_node_is_allowed() {
    case("Node openai, allowed", AMPLE, |scene, daemon| {
        let ran = node(scene, daemon, include_str!("../programs/openai_all.mjs")).ok();
        assert!(ran.stdout.contains("chat: word0") && ran.stdout.contains("responses: word0"), "{}", ran.screen());
        assert_eq!(scene.bill().len(), 4);
    });
}

#[test]
fn anthropic_node_is_allowed() {
    case("Node anthropic, allowed", AMPLE, |scene, daemon| {
        let ran = node(scene, daemon, include_str!("../programs/anthropic_all.mjs")).ok();
        assert!(ran.stdout.contains("message: word0") && ran.stdout.contains("stream: word0"), "{}", ran.screen());
        assert_eq!(scene.bill().len(), 2);
        assert!(scene.bill().iter().all(|line| line.usage_sent), "a stream went unmetered: {:?}", scene.bill());
    });
}

/// The server of tools may be asked.
const DESK: &str = "\n[[allow]]\nhosts = [\"mcp.example\"]\n";

#[test]
fn mcp_typescript_is_allowed_and_each_refusal_is_a_result_of_its_call() {
    case("TypeScript MCP, allowed, denied and unpriced tools", &format!("{AMPLE}{DESK}{TOOLS}"), |scene, daemon| {
        let ran = node(scene, daemon, include_str!("../programs/mcp_all.mjs")).ok();
        for said in [
            "tools: delete_everything lookup search",
            "search: search was called",
            "lookup: lookup was called",
            "delete_everything: refused: policy_denied: Caracal",
            "unpriced: refused: price_unknown: Caracal",
        ] {
            assert!(ran.stdout.contains(said), "{said}: {}", ran.screen());
        }
        assert_eq!((refused(daemon, "policy_denied"), refused(daemon, "price_unknown")), (1, 1));
        assert_eq!(scene.bill().len(), 1);
    });
}

#[test]
fn a_tool_that_no_budget_pays_is_one_request_for_mcp_typescript() {
    let script = "import { createRequire } from 'node:module';\nconst sdk = createRequire('NODE_PREFIX/');\n\
                  const { Client } = sdk('@modelcontextprotocol/sdk/client/index.js');\n\
                  const { StreamableHTTPClientTransport } = sdk('@modelcontextprotocol/sdk/client/streamableHttp.js');\n\
                  const client = new Client({ name: 'contract', version: '1' });\n\
                  await client.connect(new StreamableHTTPClientTransport(new URL('https://mcp.example/mcp')));\n\
                  const answer = await client.callTool({ name: 'search', arguments: {} });\n\
                  const { reason, budget, retry_after_ms } = answer._meta['caracal/denial'];\n\
                  console.log(reason, budget, retry_after_ms > 0);\n\
                  console.error(`isError ${answer.isError}: ${answer.content[0].text}`);\nprocess.exit(1);";
    denied(
        "TypeScript MCP, out of budget: one request, the sentence",
        &format!("{NOTHING}{DESK}{TOOLS}"),
        |scene, daemon| {
            let ran = node(scene, daemon, script);
            assert_ne!(ran.code, Some(0), "{}", ran.screen());
            assert!(ran.stdout.contains("budget_exceeded nothing true"), "{}", ran.screen());
            assert!(ran.stderr.contains("isError true: Caracal") && ran.stderr.contains("nothing"), "{}", ran.screen());
            let requests = refused(daemon, "budget_exceeded");
            assert_eq!(requests, 1);
            assert!(scene.bill().is_empty());
            Denial::of(&ran.stderr, requests)
        },
    );
}

/// Python that makes `call`, and says which request id the SDK shows of the error before it lets it pass.
fn python_call(imports: &str, call: &str, id: &str) -> String {
    format!(
        "{imports}\nM = [{{'role': 'user', 'content': 'hello'}}]\ntry:\n    {call}\nexcept Exception as error:\n    print('id:', {id})\n    raise\n"
    )
}

#[test]
fn a_denied_call_is_one_request_and_our_sentence() {
    // Anthropic says the id in the body, too.
    let (head, both) =
        ("error.request_id", "error.request_id if error.request_id == error.body['request_id'] else error.body");
    let calls = [
        ("chat", "openai.OpenAI().chat.completions.create(model='gpt-4o-mini', messages=M, max_tokens=9)", head),
        (
            "chat stream",
            "list(openai.OpenAI().chat.completions.create(model='gpt-4o-mini', messages=M, max_tokens=9, stream=True))",
            head,
        ),
        ("responses", "openai.OpenAI().responses.create(model='gpt-5-mini', input='hello')", head),
        (
            "responses stream",
            "list(openai.OpenAI().responses.create(model='gpt-5-mini', input='hello', stream=True))",
            head,
        ),
        ("embeddings", "openai.OpenAI().embeddings.create(model='text-embedding-3-small', input='hello ' * 100)", head),
        ("messages", "anthropic.Anthropic().messages.create(model='claude-haiku-4-5', messages=M, max_tokens=9)", both),
        (
            "messages stream",
            "anthropic.Anthropic().messages.stream(model='claude-haiku-4-5', messages=M, max_tokens=9).__enter__()",
            both,
        ),
    ];
    for (name, call, id) in calls {
        denied(&format!("Python {name}, out of budget: one request, the sentence"), NOTHING, |scene, daemon| {
            let ran = python(daemon, &python_call("import openai, anthropic", call, id));
            assert_eq!(ran.code, Some(1), "{}", ran.screen());
            assert!(ran.stderr.contains("BadRequestError") && ran.stderr.contains("Caracal"), "{}", ran.screen());
            assert!(ran.stderr.contains("nothing"), "the sentence does not name the budget: {}", ran.screen());
            let requests = refused(daemon, "budget_exceeded");
            assert_eq!(requests, 1);
            assert!(scene.log("started").is_empty() && scene.bill().is_empty());
            Denial::of(&ran.stderr, requests).with_id(&ran.stdout)
        });
    }
}

/// More hosts than the two that `NOTHING` allows, under the same budget.
const OTHERS: &str = "\n[[allow]]\nhosts = [\"generativelanguage.googleapis.com\", \"*.amazonaws.com\"]\n";

#[test]
fn a_denied_call_of_gemini_bedrock_or_a_tool_is_one_request_in_the_providers_words() {
    let boto = "import boto3\nclient = boto3.client('bedrock-runtime', region_name='us-east-1', aws_access_key_id='A', aws_secret_access_key='stand-in-secret')";
    let talk = "modelId='amazon.nova-pro-v1:0', messages=[{'role': 'user', 'content': [{'text': 'hello'}]}]";
    let bedrock = |call: &str| python_call(boto, call, "error.response['ResponseMetadata']['RequestId']");
    let genai = "from google import genai\nclient = genai.Client(api_key='x')";
    let ask = "(model='gemini-2.5-flash', contents='hello')";
    let gemini = |call: &str| python_call(genai, call, "error.response.headers.get('x-request-id')");
    let tool = "import asyncio\nfrom mcp import ClientSession\nfrom mcp.client.streamable_http import streamable_http_client\n\
                async def main():\n    async with streamable_http_client('https://mcp.example/mcp') as s, ClientSession(s[0], s[1]) as session:\n\
                \x20       await session.initialize()\n        answer = await session.call_tool('search', {})\n\
                \x20       print(answer.meta['caracal/denial'])\n        raise SystemExit(f'is_error {answer.is_error}: {answer.content[0].text}')\n\
                asyncio.run(main())\n";
    let (google, aws) = (["ClientError", "400", "FAILED_PRECONDITION"], ["ValidationException"]);
    let calls: [(&str, String, &[&str], bool); 5] = [
        ("google-genai", gemini(&format!("client.models.generate_content{ask}")), &google, true),
        ("google-genai stream", gemini(&format!("list(client.models.generate_content_stream{ask})")), &google, true),
        ("boto3 converse", bedrock(&format!("client.converse({talk})")), &aws, true),
        ("boto3 converse stream", bedrock(&format!("list(client.converse_stream({talk})['stream'])")), &aws, true),
        // A JSON-RPC answer has the id that its client chose.
        ("MCP", tool.to_owned(), &["is_error True"], false),
    ];
    for (name, script, says, shows_id) in calls {
        let rules = format!("{NOTHING}{OTHERS}{DESK}{TOOLS}");
        denied(&format!("Python {name}, out of budget: one request, the sentence"), &rules, |scene, daemon| {
            let ran = python(daemon, &script);
            assert_eq!(ran.code, Some(1), "{}", ran.screen());
            for said in says.iter().chain(&["Caracal", "nothing"]) {
                assert!(ran.stderr.contains(said), "{said}: {}", ran.screen());
            }
            let requests = refused(daemon, "budget_exceeded");
            assert_eq!(requests, 1);
            assert!(scene.log("started").is_empty() && scene.bill().is_empty());
            let denial = Denial::of(&ran.stderr, requests);
            if shows_id { denial.with_id(&ran.stdout) } else { denial }
        });
    }
}

#[test]
fn a_denied_call_of_node_is_one_request_and_our_sentence() {
    // Anthropic says the id in the body, too.
    let (head, both) =
        ("error.requestID", "error.requestID === error.error.request_id ? error.requestID : error.error");
    let chat = "chat.completions.create({ model: 'gpt-4o-mini', messages";
    let calls = [
        ("openai", "chat", format!("{chat} }})"), head),
        ("openai", "chat stream", format!("{chat}, stream: true }})"), head),
        ("openai", "responses", "responses.create({ model: 'gpt-5-mini', input: 'hello' })".to_owned(), head),
        (
            "openai",
            "embeddings",
            "embeddings.create({ model: 'text-embedding-3-small', input: 'hello '.repeat(100) })".to_owned(),
            head,
        ),
        (
            "@anthropic-ai/sdk",
            "messages",
            "messages.create({ model: 'claude-haiku-4-5', max_tokens: 9, messages })".to_owned(),
            both,
        ),
        (
            "@anthropic-ai/sdk",
            "messages stream",
            "messages.stream({ model: 'claude-haiku-4-5', max_tokens: 9, messages }).finalMessage()".to_owned(),
            both,
        ),
    ];
    for (package, name, call, id) in calls {
        let sdk = if package == "openai" { package } else { "anthropic" };
        denied(&format!("Node {sdk} {name}, out of budget: one request, the sentence"), NOTHING, |scene, daemon| {
            let script = format!(
                "import {{ createRequire }} from 'node:module';\nconst Sdk = createRequire('NODE_PREFIX/')('{package}');\n\
                 const messages = [{{ role: 'user', content: 'hello' }}];\n\
                 try {{ await new Sdk().{call}; }} catch (error) {{\n\
                 console.log(error.constructor.name + ':', 'class:', error instanceof Sdk.BadRequestError, 'status:', error.status);\n\
                 console.log('id:', {id});\nconsole.log(error.message); }}",
            );
            let ran = node(scene, daemon, &script).ok();
            assert!(ran.stdout.contains("class: true status: 400"), "{}", ran.screen());
            assert!(ran.stdout.contains("Caracal") && ran.stdout.contains("nothing"), "{}", ran.screen());
            let requests = refused(daemon, "budget_exceeded");
            assert_eq!(requests, 1);
            assert!(scene.log("started").is_empty() && scene.bill().is_empty());
            Denial::of(&ran.stdout, requests).with_id(&ran.stdout)
        });
    }
}

#[test]
fn a_model_that_a_rule_denies_is_one_request() {
    let rules = format!("{AMPLE}\n[[deny]]\nhosts = [\"api.openai.com\"]\nmodels = [\"gpt-4.1*\"]\n");
    case("a denied model: one request, the sentence; others pass", &rules, |scene, daemon| {
        let call = |model: &str| {
            format!(
                "import openai\nprint(openai.OpenAI().chat.completions.create(model='{model}', max_tokens=20, messages=[{{'role': 'user', 'content': 'hello'}}]))"
            )
        };
        let ran = python(daemon, &call("gpt-4.1-mini"));
        assert!(ran.stderr.contains("BadRequestError") && ran.stderr.contains("Caracal"), "{}", ran.screen());
        assert_eq!(refused(daemon, "policy_denied"), 1);
        let _ran = python(daemon, &call("gpt-4o-mini")).ok();
        assert_eq!(scene.bill().len(), 1);
    });
}

#[test]
fn a_model_without_a_price_is_refused_and_the_sentence_says_how_to_add_it() {
    case("an unknown model", AMPLE, |scene, daemon| {
        let ran =
            python(daemon, "import openai\nopenai.OpenAI().responses.create(model='gpt-no-such-model', input='hello')");
        assert!(ran.stderr.contains("Caracal") && ran.stderr.contains("gpt-no-such-model"), "{}", ran.screen());
        assert!(ran.stderr.contains("price"), "{}", ran.screen());
        assert_eq!(refused(daemon, "price_unknown"), 1);
        assert!(scene.bill().is_empty());
    });
}

#[test]
fn a_budget_runs_out_at_its_limit_and_not_above() {
    const LIMIT: u64 = 5_000_000;
    let rules = "[[allow]]\nhosts = [\"api.openai.com\"]\n[[budget]]\nname = \"pocket\"\nlimit = \"0.005 USD\"\nwindow = \"day\"\n";
    case("a budget runs out", rules, |scene, daemon| {
        let script = "import openai\nclient = openai.OpenAI()\nfor n in range(500):\n    client.chat.completions.create(model='gpt-4o-mini', \
                      max_tokens=500, messages=[{'role': 'user', 'content': 'hello [[output=400]]'}])\n    print('call', n, flush=True)\n";
        let ran = python(daemon, script);
        assert!(ran.stdout.contains("call 0") && ran.stderr.contains("pocket"), "{}", ran.screen());
        assert_eq!(refused(daemon, "budget_exceeded"), 1);
        let billed: u64 = scene.bill().iter().map(|line| line.nano).sum();
        assert!(billed <= LIMIT, "{billed} nano-USD of {LIMIT}");
        // Less is left than one more call's worst case: 500 tokens out and at most 2,200 in, at the dearest tier that the
        // project's settings may choose (priority: 1 and 0.25 USD for a million).
        assert!(billed > LIMIT - (500 * 1_000 + 2_200 * 250), "{billed} nano-USD of {LIMIT}");
    });
}
