//! Providers of OpenAI's shape, one base of the operator's own among them, and plain APIs that cost by the byte: the ledger
//! is the bill to the nano-USD, and what costs nothing holds nothing.

use crate::STAND_IN;
use crate::providers::{budget, charged, python};
use std::process::Command;
use support::daemon::Daemon;
use support::ledger::{Record, audit, calls};
use support::report;
use support::scene::Scene;

/// All hosts that the program asks, and bases of the operator's own.
const RULES: &str = r#"
[[allow]]
hosts = ["api.openai.com", "api.mistral.ai", "api.groq.com", "api.deepseek.com", "api.x.ai", "openrouter.ai",
         "api.together.xyz", "mine.openai.azure.com", "ollama.example", "llm.example"]

[[provider]]
host = "ollama.example"
provider = "ollama"

[[provider]]
host = "llm.example"
provider = "vllm"
base = "/serve/v1"
"#;

/// Prices that the built-in book does not have: whose, the model, dollars for a million tokens in, cached and out.
const OWN: [(&str, &str, &str, &str, &str); 5] = [
    ("azure", "desk-4o", "2.75", "1.375", "11"),
    ("openrouter", "anthropic/claude-haiku-4.5", "1.05", "0.105", "5.25"),
    ("together", "meta-llama/Llama-3.3-70B-Instruct-Turbo", "0.88", "0.88", "0.88"),
    ("ollama", "llama3.2", "0.01", "0.01", "0.02"),
    ("vllm", "qwen3-own", "0.04", "0.04", "0.08"),
];

/// The built-in book and these prices.
fn book() -> String {
    let shown =
        Command::new(support::daemon::caracald()).args(["prices", "show", "--toml"]).output().expect("caracald");
    let mut book = String::from_utf8(shown.stdout).expect("text");
    for (provider, model, input, cached, output) in OWN {
        book.push_str(&format!(
            "\n[[model]]\nprovider = \"{provider}\"\nnames = [\"{model}\"]\noperations = [\"chat\", \"responses\"]\nsource = \"x\"\n\
             max_input = 131072\nmax_output = 16384\n\
             rates = [{{ tier = \"standard\", input = \"{input}\", cache_read = \"{cached}\", output = \"{output}\" }}]\n"
        ));
    }
    book
}

#[test]
fn every_provider_of_openais_shape_is_charged_its_bill() {
    report::plain("money", "providers of OpenAI's shape, by openai", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let file = scene.file("prices.toml", &book());
        let rules = format!("[prices]\nfile = \"{}\"\n{RULES}{}", file.display(), budget("50 USD"));
        let mut daemon = Daemon::start(&scene, &rules);
        scene.wire.clear();
        let ran = python(&daemon, include_str!("../programs/compatible_all.py")).ok();
        // Ten bases and a deployment, each whole and streamed, and a response.
        assert_eq!(ran.stdout.matches(": word0 ").count(), 23, "{}", ran.screen());
        // The usage that only the daemon asked for is not passed on; Mistral tells it to who asked for none.
        assert!(ran.stdout.contains("mistral stream, usage 1:"), "{}", ran.screen());
        assert_eq!(ran.stdout.matches("usage 1:").count(), 1, "{}", ran.screen());
        let (records, charges, bill) = charged(&scene, &daemon);
        assert_eq!(bill.len(), 23, "{:?}", scene.bill());
        assert_eq!(charges, bill, "left: the ledger, right: the provider's bill\n{records:#?}");
        let audit = audit(&records, &scene.bill());
        assert_eq!((audit.lost, audit.doubled), (0, 0), "{audit:?}");
        for call in calls(&records).values() {
            assert!(call.cost.unwrap_or(u64::MAX) <= call.hold && call.settle == "settled", "{call:?}");
        }
        let mut named: Vec<&str> = records
            .iter()
            .filter(|record| record.is_intent())
            .map(|record| record.text("gen_ai.provider.name"))
            .collect();
        let mut billed: Vec<String> = scene.bill().into_iter().map(|line| line.provider).collect();
        named.sort_unstable();
        billed.sort_unstable();
        assert_eq!(named, billed, "left: the ledger's providers, right: the bill's");
        assert!(ran.stdout.contains("moderations: False"), "{}", ran.screen());
        scene.wire.silent();
        daemon.stop();
    });
}

#[test]
fn moderations_cost_nothing_and_hold_nothing() {
    report::plain("money", "moderations under a budget that pays for nothing", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::start(&scene, &crate::rules("0.000000001 USD"));
        let script = "import openai\nclient = openai.OpenAI(api_key='stand-in')\n\
                      print('free:', client.moderations.create(input='hello').results[0].flagged)\n\
                      client.chat.completions.create(model='gpt-4o-mini', messages=[{'role': 'user', 'content': 'hello'}])";
        let ran = python(&daemon, script);
        assert!(ran.stdout.contains("free: False") && ran.stderr.contains("purse"), "{}", ran.screen());
        assert_eq!(scene.requests("api.openai.com", "/v1/moderations"), 1);
        let denied = |records: &[Record]| records.iter().any(|record| record.is_denial("budget_exceeded"));
        let records = daemon.records_when(denied);
        assert!(!records.iter().any(Record::is_intent) && scene.bill().is_empty(), "{records:#?}");
        daemon.stop();
    });
}

/// An API that costs by the byte, both ways.
const BULK: &str = r#"
[[allow]]
hosts = ["mcp.example"]

[[api]]
name = "bulk"
host = "mcp.example"
paths = ["/bulk/*"]
sent_mib = "2 USD"
received_mib = "1 USD"
max_received_bytes = 300000
"#;

/// Nano-USD for so many bytes sent, and 300,000 received.
fn most(sent: u64) -> u64 {
    (sent * 2_000_000_000 + 300_000 * 1_000_000_000).div_ceil(1 << 20)
}

#[test]
fn a_plain_api_is_charged_by_the_byte_and_in_full_where_it_breaks_off() {
    let post = |header: &str, more: &str| {
        format!(
            "curl -sS -o answer -w '%{{size_download}}\\n' {more} -H 'x-stand-in: {header}' --data-binary @question https://mcp.example/bulk/200001"
        )
    };
    for (name, command, settle) in [
        ("whole", post("", ""), "settled"),
        ("broken off", post("cut=70000", ""), "charged_max"),
        // It reads 16 KiB and closes; the rest is read for nobody.
        (
            "not read to its end",
            format!("{} | head -c 10 >/dev/null", post("", "").replace("-o answer", "")),
            "settled",
        ),
    ] {
        report::plain("money", &format!("an API by the byte: {name}"), || {
            let scene = Scene::new(STAND_IN).expect("the scene stands");
            let mut daemon = Daemon::start(&scene, &format!("{BULK}{}", budget("50 USD")));
            let script = format!("head -c 12345 /dev/zero > question; {command}; true");
            let ran = daemon.run("sh").args(["-c", &script]).ran().ok();
            let (records, charges, bill) = charged(&scene, &daemon);
            assert_eq!((bill.len(), charges.len()), (1, 1), "{}\n{records:#?}", ran.screen());
            let call = calls(&records).into_values().next().expect("a call");
            assert_eq!((call.settle.as_str(), call.hold), (settle, most(12_345)), "{records:#?}");
            match settle {
                // More of it may have been sent than came.
                "charged_max" => assert!(bill[0] < call.hold && charges[0] == call.hold, "{charges:?} for {bill:?}"),
                _ => assert_eq!(charges, bill, "{records:#?}"),
            }
            daemon.stop();
        });
    }
}
