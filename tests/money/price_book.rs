//! The price book: who signed it, how old it is, what stands for unknown models, and what LiteLLM's table makes of it. The real
//! binary reads each file; signatures are made by `openssl`.

use crate::{STAND_IN, rules};
use serde_json::{Value, json};
use std::path::Path;
use std::process::Command;
use support::daemon::Daemon;
use support::ledger::Record;
use support::netns::Ran;
use support::programs;
use support::report;
use support::scene::Scene;

/// The model that is asked for, and its price in the built-in book: dollars for a million tokens of output.
const MODEL: &str = "gpt-4o-mini";
const OUTPUT: &str = "0.6";

/// The built-in book as of `version`, with this price of the model's.
fn book(daemon: &Daemon<'_>, version: &str, output: &str) -> String {
    let text = daemon.command(&["prices", "show", "--toml"]).ran().ok().stdout;
    let entry = text.find(&format!("names = [\"{MODEL}\"")).expect("the model's entry");
    let (before, after) = text.split_at(entry);
    let after = after.replacen(&format!("output = \"{OUTPUT}\""), &format!("output = \"{output}\""), 1);
    let start = before.find("version = \"").expect("a version") + "version = \"".len();
    let end = start + before[start..].find('"').expect("its end");
    format!("{}{version}{}{after}", &before[..start], &before[end..])
}

/// `openssl` with these arguments, in `dir`.
#[track_caller]
fn openssl(dir: &Path, args: &[&str]) {
    let made = Command::new(programs::host("openssl")).args(args).current_dir(dir).output().expect("openssl");
    assert!(made.status.success(), "openssl {args:?}: {}", String::from_utf8_lossy(&made.stderr));
}

/// One call of the model, by the agent.
fn call(daemon: &Daemon<'_>, model: &str) -> Ran {
    let script = format!(
        "import openai\nopenai.OpenAI().chat.completions.create(model='{model}', max_tokens=50, \
         messages=[{{'role': 'user', 'content': 'hello [[output=50]]'}}])\nprint('answered')"
    );
    daemon.run(programs::python()).args(["-c", &script]).env("OPENAI_API_KEY", "sk-stand-in").ran()
}

fn outcomes(records: &[Record]) -> Vec<&Record> {
    records.iter().filter(|record| record.is_outcome()).collect()
}

/// What the data path says is wrong.
fn trouble(daemon: &Daemon<'_>) -> String {
    daemon.json(&["status"])["data_path"]["policy_error"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn a_book_that_its_owner_did_not_sign_is_not_used_and_the_last_good_one_stays() {
    report::plain("money", "price book: unsigned or wrongly signed", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::configured(&scene, "");
        let dir = scene.net.files();
        for name in ["own", "other"] {
            let key = format!("{name}.pem");
            openssl(dir, &["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key]);
            openssl(dir, &["ec", "-in", &key, "-pubout", "-out", &format!("{name}.pub")]);
        }
        let sign =
            |key: &str| openssl(dir, &["dgst", "-sha256", "-sign", key, "-out", "prices.toml.sig", "prices.toml"]);
        let built_in = book(&daemon, "2026-11-24", OUTPUT);
        let file = scene.file("prices.toml", &built_in);
        let public = dir.join("own.pub");
        daemon.configure(&format!(
            "[prices]\nfile = \"{}\"\npublic_key = \"{}\"\n{}",
            file.display(),
            public.display(),
            rules("5 USD")
        ));
        // At a start: no signature, and then somebody else's. Nothing has a price then, so nothing that costs money is sent.
        for (signed_by, says) in [(None, "signature"), (Some("other.pem"), "not of this file by this key")] {
            if let Some(key) = signed_by {
                sign(key);
            }
            daemon.restart();
            assert!(trouble(&daemon).contains(says), "{signed_by:?}: {:?}", trouble(&daemon));
            let ran = call(&daemon, MODEL);
            assert!(ran.code != Some(0) && ran.stderr.contains("Caracal"), "{}", ran.screen());
            assert!(scene.bill().is_empty() && scene.log("started").is_empty(), "a call went out: {:?}", scene.bill());
            let asked = daemon.command(&["prices", "show"]).ran();
            assert!(asked.code != Some(0) && asked.stderr.contains(says), "{}", asked.screen());
            daemon.stop();
        }
        sign("own.pem");
        daemon.restart();
        assert_eq!(trouble(&daemon), "");
        let _answered = call(&daemon, MODEL).ok();
        let id = |daemon: &Daemon<'_>| daemon.json(&["status"])["data_path"]["price_book"].clone();
        let good = id(&daemon);
        // On a reload: a dearer book with the signature of the one before it, with none, and with another's.
        std::fs::write(&file, book(&daemon, "2026-11-25", "6")).expect("the book");
        let refused = |why: &str| {
            let ran = daemon.command(&["policy", "reload"]).ran();
            assert_ne!(ran.code, Some(0), "{why}: {}", ran.screen());
            assert_eq!(id(&daemon), good, "{why}: the last good one is in force");
            assert!(trouble(&daemon).contains("prices.toml"), "{why}: {:?}", trouble(&daemon));
            let _answered = call(&daemon, MODEL).ok();
        };
        refused("an edit that was not signed");
        std::fs::remove_file(dir.join("prices.toml.sig")).expect("the signature");
        refused("no signature");
        sign("other.pem");
        refused("another's signature");
        sign("own.pem");
        let _reloaded = daemon.command(&["policy", "reload"]).ran().ok();
        assert_ne!(id(&daemon), good);
        assert_eq!(trouble(&daemon), "");
        let _answered = call(&daemon, MODEL).ok();
        let records = daemon.records_when(|records| outcomes(records).len() == 5);
        let mut costs: Vec<u64> = outcomes(&records).iter().map(|record| record.cost()).collect();
        costs.sort_unstable();
        let first = costs[0];
        assert_eq!(costs[..4], [first; 4], "the price of the last good book");
        // Fifty tokens of output at ten times the price.
        assert_eq!(costs[4], first + 50 * 5_400, "the price of the signed one");
        daemon.stop();
    });
}

#[test]
fn an_old_book_is_said_in_a_record_and_in_status() {
    report::plain("money", "price book: stale prices are said", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::configured(&scene, "");
        let (old, new) = (book(&daemon, "2020-01-01", OUTPUT), book(&daemon, "2999-01-01", OUTPUT));
        let file = scene.file("prices.toml", &old);
        daemon.configure(&format!("[prices]\nfile = \"{}\"\nmax_age_days = 30\n{}", file.display(), rules("5 USD")));
        daemon.restart();
        let said = |daemon: &Daemon<'_>| daemon.command(&["status"]).ran().stdout;
        assert!(said(&daemon).contains("prices: the book 2020-01-01@"), "{}", said(&daemon));
        let days = daemon.json(&["status"])["data_path"]["price_book_days"].as_u64();
        assert!(days.is_some_and(|days| days > 2_000), "{days:?}");
        let told = |records: &[Record]| {
            let told = |record: &&Record| record.text("caracal.message").contains("the price book 2020-01-01@");
            records.iter().filter(told).count()
        };
        assert!(daemon.logs().contains("the price book 2020-01-01@"), "{}", daemon.logs());
        let records = daemon.records_when(|records| told(records) == 1);
        let record = records.iter().find(|record| record.text("caracal.message").contains("days old")).expect("one");
        assert_eq!(record.kind, "caracal.lifecycle.v1");
        // It stays old: a reload says so again. A new one ends it.
        let _reloaded = daemon.command(&["policy", "reload"]).ran().ok();
        let _records = daemon.records_when(|records| told(records) == 2);
        std::fs::write(&file, new).expect("the book");
        let _reloaded = daemon.command(&["policy", "reload"]).ran().ok();
        assert!(!said(&daemon).contains("prices: the book"), "{}", said(&daemon));
        assert_eq!(told(&daemon.records()), 2);
        daemon.stop();
    });
}

#[test]
fn an_unknown_model_has_the_dearest_price_by_a_rule_and_its_record_says_that_it_is_assumed() {
    report::plain("money", "price book: unknown models at the dearest price", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::configured(&scene, "");
        let head = "version = \"2026-11-24\"\n";
        let entry = |name: &str, price: &str| {
            format!(
                "[[model]]\nprovider = \"openai\"\nnames = [\"{name}\"]\noperations = [\"chat\"]\nsource = \"a test\"\n\
                 max_input = 200000\nmax_output = 32768\nrates = [{{ tier = \"standard\", input = \"{price}\", output = \"{price}\" }}]\n"
            )
        };
        let file = scene.file("prices.toml", &format!("{head}{}{}", entry("gpt-4o", "10"), entry("*", "9.99")));
        daemon.configure(&format!("[prices]\nfile = \"{}\"\n{}", file.display(), rules("50 USD")));
        daemon.restart();
        assert!(trouble(&daemon).contains("at least the dearest"), "{:?}", trouble(&daemon));
        let ran = call(&daemon, MODEL);
        assert!(ran.code != Some(0) && scene.bill().is_empty(), "{}", ran.screen());
        std::fs::write(&file, format!("{head}{}{}", entry("gpt-4o", "10"), entry("*", "10"))).expect("the book");
        let _reloaded = daemon.command(&["policy", "reload"]).ran().ok();
        let _answered = call(&daemon, MODEL).ok();
        let _answered = call(&daemon, "gpt-4o").ok();
        let records = daemon.records_when(|records| outcomes(records).len() == 2);
        let assumed = |model: &str| -> Vec<Option<u64>> {
            let of = |record: &&Record| {
                (record.is_intent() || record.is_outcome()) && record.text("gen_ai.request.model") == model
            };
            records.iter().filter(of).map(|record| record.number("caracal.price_assumed")).collect()
        };
        assert_eq!(assumed(MODEL), [Some(1), Some(1)], "intent and outcome");
        assert_eq!(assumed("gpt-4o"), [None, None]);
        let _verified = daemon.verify();
        daemon.stop();
    });
}

/// Rows as LiteLLM's table has them, of each provider of a book and of some that no book has.
fn table() -> Value {
    let row = |provider: &str, mode: &str, input: f64| {
        json!({
            "litellm_provider": provider, "mode": mode, "max_input_tokens": 100_000, "max_output_tokens": 4_000,
            "input_cost_per_token": input, "output_cost_per_token": input * 2.0, "source": "https://example.com/prices",
        })
    };
    let with = |mut row: Value, key: &str, value: Value| {
        row[key] = value;
        row
    };
    let chat = |provider: &str| row(provider, "chat", 0.000_001);
    json!({
        "sample_spec": { "litellm_provider": "one of the list", "mode": "one of chat, ..." },
        MODEL: with(row("openai", "chat", 0.000_000_15), "output_cost_per_token", json!(0.000_000_7)),
        "claude-new": chat("anthropic"),
        "gemini/gemini-2.5-new": with(chat("gemini"), "input_cost_per_audio_token", json!(0.000_009)),
        "gemini/gemini-talks": with(chat("gemini"), "output_cost_per_audio_token", json!(0.000_009)),
        "us.maker.model-v1:0": row("bedrock_converse", "chat", 0.000_001_1),
        "maker.model-v1:0": chat("bedrock_converse"),
        "maker.even-v1:0": chat("bedrock_converse"),
        "maker.american-v1:0": chat("bedrock_converse"),
        "us.maker.american-v1:0": chat("bedrock_converse"),
        "bedrock/eu-west-1/maker.even-v1:0": chat("bedrock"),
        "mistral/mistral-new": chat("mistral"),
        "groq/openai/gpt-oss": chat("groq"),
        "deepseek/deepseek-new": with(chat("deepseek"), "cache_creation_input_token_cost", json!(0.0)),
        "deepseek-new": row("deepseek", "chat", 0.000_003),
        "xai/grok-new": with(chat("xai"), "input_cost_per_image_token", json!(0.000_001)),
        "together_ai/maker/model": chat("together_ai"),
        "together-ai-up-to-4b": chat("together_ai"),
        "openrouter/maker/model": chat("openrouter"),
        "azure/gpt-new": chat("azure"),
        "elsewhere/model": chat("elsewhere"),
        "gpt-image": with(row("openai", "image_generation", 0.000_001), "output_cost_per_image", json!(0.04)),
        "mistral/gratis": row("mistral", "chat", 0.0),
    })
}

#[test]
fn a_table_of_litellms_is_imported_compared_and_nothing_of_it_is_lost_in_silence() {
    report::plain("money", "price book: import and comparison of LiteLLM's table", || {
        let dir = tempfile::tempdir().expect("a directory");
        let (config, file) = (dir.path().join("caracal.toml"), dir.path().join("table.json"));
        std::fs::write(&file, table().to_string()).expect("the table");
        let file = file.display().to_string();
        let prices = |rules: &str, args: &[&str]| {
            std::fs::write(&config, rules).expect("the configuration");
            let mut command = Command::new(support::daemon::caracald());
            let ran = command.arg("--config").arg(&config).arg("prices").args(args).output().expect("caracald");
            let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
            (ran.status.code(), text(ran.stdout), text(ran.stderr))
        };
        let (code, imported, said) = prices("", &["import", &file]);
        assert_eq!(code, Some(0), "{said}");
        let book = dir.path().join("prices.toml");
        std::fs::write(&book, &imported).expect("the book");
        let own = format!("[prices]\nfile = \"{}\"\n", book.display());
        let (code, shown, said) = prices(&own, &["show", "--json"]);
        assert_eq!(code, Some(0), "{said}");
        let shown: Value = serde_json::from_str(&shown).expect("JSON");
        let mut models: Vec<String> = shown
            .as_array()
            .expect("models")
            .iter()
            .map(|model| {
                let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
                format!(
                    "{}/{} {} {}",
                    text(&model["provider"]),
                    text(&model["names"][0]),
                    text(&model["rates"][0]["input"]),
                    model["operations"][0]
                )
            })
            .collect();
        models.sort();
        let wanted = [
            "anthropic/claude-new 1 \"messages\"",
            "bedrock/maker.american-v1:0 1 \"converse\"",
            "bedrock/maker.even-v1:0 1 \"converse\"",
            "bedrock/us.maker.american-v1:0 1 \"converse\"",
            "bedrock/us.maker.model-v1:0 1.1 \"converse\"",
            "deepseek/deepseek-new 3 \"chat\"",
            "google/gemini-2.5-new 1 \"generate_content\"",
            "groq/openai/gpt-oss 1 \"chat\"",
            "mistral/mistral-new 1 \"chat\"",
            "openai/gpt-4o-mini 0.15 \"chat\"",
            "together/maker/model 1 \"chat\"",
            "xai/grok-new 1 \"chat\"",
        ];
        assert_eq!(models, wanted);
        // A bare name has the price of its one profile in that one's regions alone.
        let held = |name: &str| {
            let models = shown.as_array().expect("models").iter();
            models.filter(|model| model["names"][0] == name).map(|model| model["hosts"].clone()).collect::<Vec<_>>()
        };
        assert_eq!(held("maker.american-v1:0"), [json!(["*bedrock-runtime.us-*", "*bedrock-runtime-fips.us-*"])]);
        assert_eq!(held("maker.even-v1:0"), [Value::Null], "a region outside of the US has the same price");
        // Each other row stands in the book as a comment, below its reason.
        let (_, left_out) = imported.split_once("# Not imported:").expect("what was not imported");
        for (why, names) in [
            ("what it costs depends on the region", vec!["bedrock/maker.model-v1:0"]),
            ("output_cost_per_audio_token is a price", vec!["google/gemini-talks"]),
            ("it is the price of one region", vec!["bedrock/eu-west-1/maker.even-v1:0"]),
            ("it is a size class", vec!["together-ai-up-to-4b"]),
            ("where OpenRouter sends the call", vec!["openrouter/maker/model"]),
            ("a deployment's price is in its contract", vec!["azure/gpt-new"]),
            ("a price book has no provider \"elsewhere\"", vec!["elsewhere/model"]),
            ("\"image_generation\" are not metered", vec!["openai/gpt-image"]),
            ("the table says that it costs nothing", vec!["mistral/gratis"]),
        ] {
            let (_, below) = left_out.split_once(why).unwrap_or_else(|| panic!("{why}: {left_out}"));
            let listed: Vec<&str> =
                below.lines().skip(1).map_while(|line| line.strip_prefix("#   \"")?.strip_suffix('"')).collect();
            assert_eq!(listed, names, "{why}");
        }
        let rows = table().as_object().expect("rows").len();
        // The example of the table is none, and one model is there twice.
        assert_eq!(models.len() + left_out.matches("#   \"").count(), rows - 2);
        // Against the table again there is no difference; against the built-in book there is, and of what it has but cannot
        // compare it says why.
        let (code, told, said) = prices(&own, &["diff", &file]);
        assert_eq!(code, Some(0), "{told}{said}");
        let (code, told, _) = prices("", &["diff", &file, "--json"]);
        assert_eq!(code, Some(1));
        let told: Value = serde_json::from_str(&told).expect("JSON");
        let changed = told["changed"]
            .as_array()
            .expect("changes")
            .iter()
            .find(|change| change["model"] == "openai/gpt-4o-mini" && change["what"] == "standard output");
        assert_eq!(changed.map(|change| (&change["old"], &change["new"])), Some((&json!("0.6"), &json!("0.7"))));
        assert!(told["added"].as_array().is_some_and(|added| added.contains(&json!("xai/grok-new"))), "{told}");
        // A name of the book in force that the table has in another way.
        let mut twisted = table();
        twisted["mistral/mistral-large-latest"] = json!({"litellm_provider": "mistral", "mode": "ocr"});
        std::fs::write(&file, twisted.to_string()).expect("the table");
        let (_, told, _) = prices("", &["diff", &file]);
        assert!(told.contains("mistral/mistral-large-latest: not compared: calls of the mode \"ocr\""), "{told}");
        assert!(!told.contains("mistral/mistral-large-latest: only in the book in force"), "{told}");
    });
}
