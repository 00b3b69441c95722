//! Calls whose usage was never seen, came late, or was the most that it can be: bill <= charge <= hold.

use crate::providers::{HOSTS, budget};
use crate::{LOAD, STAND_IN, rules, settled};
use support::daemon::Daemon;
use support::ledger::calls;
use support::report;
use support::scene::Scene;

#[test]
fn every_way_to_break_off() {
    let ways = [
        ("cut before the first piece", "cut=1", true),
        ("cut in the middle", "cut=20 output=60", true),
        ("cut before the usage", "cut=66 output=64", true),
        ("no usage", "no-usage", true),
        ("late usage", "late-usage", false),
        ("the most that the cap allows", "max", false),
        ("cached and reasoning tokens", "cached=20 reasoning=10", false),
    ];
    for (name, words, unseen) in ways {
        report::plain("money", &format!("stream: {name}"), || one(words, unseen, true));
        report::plain("money", &format!("whole: {name}"), || one(words, unseen, false));
    }
}

fn one(words: &str, unseen: bool, stream: bool) {
    let scene = Scene::new(STAND_IN).expect("the scene stands");
    let mut daemon = Daemon::start(&scene, &rules("1 USD"));
    let args = ["--clients", "4", "--requests", "8", "--words", words];
    let stream: &[&str] = if stream { &["--stream"] } else { &[] };
    let _ran = daemon.run(LOAD).args(args).args(stream).ran().ok();
    assert_eq!(scene.bill().len(), 8, "{:?}", scene.bill());
    let (records, audit) = settled(&scene, &daemon);
    assert_eq!((audit.lost, audit.doubled), (0, 0), "{audit:?}\n{records:#?}");
    assert!(audit.bill <= audit.ledger);
    for call in calls(&records).values() {
        assert!(call.cost.unwrap_or(u64::MAX) <= call.hold, "charged above the hold: {call:?}");
        assert_eq!(call.settle == "settled", !unseen, "{call:?}");
    }
    let _ran = daemon.verify();
    daemon.stop();
}

#[test]
fn a_provider_that_refuses_bills_nothing_and_frees_the_hold() {
    for status in ["429", "500"] {
        report::plain("money", &format!("the provider answers {status}"), || {
            let scene = Scene::new(STAND_IN).expect("the scene stands");
            let mut daemon = Daemon::start(&scene, &rules("1 USD"));
            let words = format!("status={status}");
            let ran = daemon.run(LOAD).args(["--clients", "2", "--requests", "4", "--words", &words]).ran().ok();
            assert_eq!(ran.stdout.matches(&format!("\"status\":{status}")).count(), 4, "{}", ran.screen());
            assert!(scene.bill().is_empty());
            let (_, audit) = settled(&scene, &daemon);
            assert_eq!(audit.ledger, 0, "{audit:?}");
            daemon.stop();
        });
    }
}

#[test]
fn an_agent_that_hangs_up_pays() {
    report::plain("money", "the agent hangs up in mid-stream", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::start(&scene, &rules("1 USD"));
        let body = r#"{"model":"gpt-4o-mini","stream":true,"max_tokens":1000,"messages":[{"role":"user","content":"[[slow=100 output=200]]"}]}"#;
        let run =
            daemon.run("curl").args(["-sSN", "--max-time", "10", "-H", "content-type: application/json", "-d", body]);
        let _ran = run.arg("https://api.openai.com/v1/chat/completions").ran();
        support::netns::until("the bill", std::time::Duration::from_secs(120), || !scene.bill().is_empty())
            .expect("a bill");
        let (_, audit) = settled(&scene, &daemon);
        assert!(audit.bill > 0);
        assert_eq!((audit.lost, audit.doubled), (0, 0), "{audit:?}");
        daemon.stop();
    });
}

/// One call of each provider whose answers have a shape of their own: where, its body around the words, and the same as a
/// stream.
struct Place {
    name: &'static str,
    whole: &'static str,
    stream: &'static str,
    /// `CAP` and `WORDS` are filled in; `STREAM` is what asks for a stream where the path does not.
    body: &'static str,
}

const PLACES: [Place; 6] = [
    Place {
        name: "chat",
        whole: "https://api.openai.com/v1/chat/completions",
        stream: "https://api.openai.com/v1/chat/completions",
        body: r#"{"model":"gpt-4o-mini","max_tokens":CAP,STREAM"messages":[{"role":"user","content":"[[WORDS]]"}]}"#,
    },
    Place {
        name: "responses",
        whole: "https://api.openai.com/v1/responses",
        stream: "https://api.openai.com/v1/responses",
        body: r#"{"model":"gpt-5-mini","max_output_tokens":CAP,STREAM"input":"[[WORDS]]"}"#,
    },
    Place {
        name: "messages",
        whole: "https://api.anthropic.com/v1/messages",
        stream: "https://api.anthropic.com/v1/messages",
        body: r#"{"model":"claude-haiku-4-5","max_tokens":CAP,STREAM"messages":[{"role":"user","content":"[[WORDS]]"}]}"#,
    },
    Place {
        name: "gemini",
        whole: "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:generateContent",
        stream: "https://generativelanguage.googleapis.com/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
        body: r#"{"generationConfig":{"maxOutputTokens":CAP},"contents":[{"role":"user","parts":[{"text":"[[WORDS]]"}]}]}"#,
    },
    Place {
        name: "converse",
        whole: "https://bedrock-runtime.us-east-1.amazonaws.com/model/amazon.nova-pro-v1:0/converse",
        stream: "https://bedrock-runtime.us-east-1.amazonaws.com/model/amazon.nova-pro-v1:0/converse-stream",
        body: r#"{"inferenceConfig":{"maxTokens":CAP},"messages":[{"role":"user","content":[{"text":"[[WORDS]]"}]}]}"#,
    },
    Place {
        name: "invoke",
        whole: "https://bedrock-runtime.us-east-1.amazonaws.com/model/anthropic.claude-haiku-4-5-20251001-v1:0/invoke",
        stream: "https://bedrock-runtime.us-east-1.amazonaws.com/model/anthropic.claude-haiku-4-5-20251001-v1:0/invoke-with-response-stream",
        body: r#"{"anthropic_version":"bedrock-2023-05-31","max_tokens":CAP,"messages":[{"role":"user","content":"[[WORDS]]"}]}"#,
    },
];

impl Place {
    /// A line of shell that makes the call, and says its status.
    fn curl(&self, stream: bool, cap: u64, words: &str, more: &str) -> String {
        let asks = if stream && self.stream == self.whole { "\"stream\":true," } else { "" };
        let body = self.body.replace("CAP", &cap.to_string()).replace("STREAM", asks).replace("WORDS", words);
        let url = if stream { self.stream } else { self.whole };
        format!(
            "curl -s -o /dev/null -w '%{{http_code}} %{{exitcode}}\\n' {more} -H 'content-type: application/json' \
             -H 'authorization: Bearer x' -d '{body}' '{url}'\n"
        )
    }
}

/// The rules for all of them.
fn everywhere() -> String {
    let more = "\n[[allow]]\nhosts = [\"api.openai.com\", \"api.anthropic.com\"]\n";
    format!("{HOSTS}{more}{}", budget("50 USD"))
}

/// What the words do, whether of a stream and of a whole answer; and whether the bill was seen.
const WORDS: [(&str, &str, Option<bool>, Option<bool>); 10] = [
    ("late usage", "late-usage", Some(true), None),
    ("no usage", "no-usage", Some(false), Some(false)),
    ("the most that the cap allows", "max", Some(true), Some(true)),
    ("cut before the first piece", "cut=0", Some(false), None),
    ("cut in the middle", "cut=9", Some(false), Some(false)),
    ("a reset in the middle", "cut=9 reset", Some(false), None),
    // The document is whole, but more was announced: whether its usage counts is the format's affair, and the bill is covered.
    ("a length that is too long", "longer=100", None, None),
    ("a length that is too short", "shorter=5", None, Some(false)),
    // What follows the document may be more of the answer: whatever is made of it, the bill is covered.
    ("bytes behind the document", "trailing=100", None, None),
    ("one byte behind the document", "trailing=1", None, None),
];

#[test]
fn every_providers_adversarial_answers_are_charged_at_least_their_bill() {
    for place in &PLACES {
        report::plain("money", &format!("adversarial answers: {}", place.name), || {
            let scene = Scene::new(STAND_IN).expect("the scene stands");
            let mut daemon = Daemon::start(&scene, &everywhere());
            let mut script = String::new();
            let mut expected = Vec::new();
            for (name, words, of_stream, of_whole) in WORDS {
                for (stream, seen) in [(true, of_stream), (false, of_whole)] {
                    let whole_alone = ["trailing", "longer"].iter().any(|word| words.starts_with(word));
                    if seen.is_none() && (stream || !whole_alone) {
                        continue;
                    }
                    let cap = 100 + expected.len() as u64;
                    script.push_str(&place.curl(stream, cap, &format!("output=30 {words}"), ""));
                    expected.push((cap, name, stream, seen));
                }
            }
            let ran = daemon.run("sh").args(["-c", &script]).ran();
            // A stream that is reset before its head went out is a failure of the upstream's.
            let answered = |line: &&str| line.starts_with("200 ") || line.starts_with("400 ");
            assert_eq!(ran.stdout.lines().filter(answered).count(), expected.len(), "{}", ran.screen());
            assert_eq!(scene.bill().len(), expected.len(), "{:?}", scene.bill());
            let (records, audit) = settled(&scene, &daemon);
            assert_eq!((audit.lost, audit.doubled), (0, 0), "{audit:?}\n{records:#?}");
            let calls = calls(&records);
            for (cap, name, stream, seen) in expected {
                let call = calls.values().find(|call| call.cap == Some(cap)).expect("a call of this cap");
                let settle = seen.map(|seen| if seen { "settled" } else { "charged_max" });
                assert!(settle.is_none_or(|settle| settle == call.settle), "{name}, stream {stream}: {call:?}");
            }
            let _ran = daemon.verify();
            daemon.stop();
        });
    }
}

#[test]
fn a_paid_call_that_is_sent_elsewhere_is_charged_and_not_followed() {
    for place in &PLACES {
        report::plain("money", &format!("a redirect: {}", place.name), || {
            let scene = Scene::new(STAND_IN).expect("the scene stands");
            let mut daemon = Daemon::start(&scene, &everywhere());
            let asked = || scene.log("request").iter().filter(|line| line["method"] == "POST").count();
            // The agent that does not follow: one request, and nothing says that it was not billed.
            let ran = daemon.run("sh").args(["-c", &place.curl(false, 100, "output=30 redirect", "")]).ran().ok();
            assert!(ran.stdout.starts_with("307 0"), "{}", ran.screen());
            assert_eq!((asked(), scene.bill().len()), (1, 0), "nobody but the agent follows");
            // The one that does pays for both.
            let ran = daemon.run("sh").args(["-c", &place.curl(true, 101, "output=30 redirect", "-L")]).ran().ok();
            assert!(ran.stdout.starts_with("200 0"), "{}", ran.screen());
            assert_eq!((asked(), scene.bill().len()), (3, 1));
            let records = daemon.records_when(|records| {
                let calls = calls(records);
                calls.len() == 3 && calls.values().all(|call| call.cost.is_some())
            });
            let ends = |cap: u64| {
                let calls = calls(&records);
                let mut ends: Vec<String> =
                    calls.values().filter(|call| call.cap == Some(cap)).map(|call| call.settle.clone()).collect();
                ends.sort_unstable();
                ends
            };
            assert_eq!(ends(100), ["charged_max"], "{records:#?}");
            assert_eq!(ends(101), ["charged_max", "settled"], "{records:#?}");
            let redirected = records.iter().filter(|record| record.is_outcome() && record.cost() == record.hold());
            assert!(redirected.clone().count() >= 2, "{records:#?}");
            assert!(redirected.take(2).all(|record| record.text("caracal.reason") == "usage_missing"), "{records:#?}");
            let _ran = daemon.verify();
            daemon.stop();
        });
    }
}
