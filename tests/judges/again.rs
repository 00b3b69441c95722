//! The ledger played again: asked for by what its records say, and made anew from them.

use crate::SUBJECT;
use serde_json::{Map, Value, json};
use std::path::Path;
use support::daemon::Daemon;
use support::report;

/// The same records give the same root, and other records do not. The daemon is stopped.
pub(crate) fn again(daemon: &Daemon<'_>, dir: &Path) {
    let ask = |words: &[&str]| {
        let lines = daemon.command(&["ledger", "query", "--json"]).args(words).ran().ok().stdout;
        lines.lines().map(str::to_owned).collect::<Vec<String>>()
    };
    let file = dir.join("records.jsonl");
    let rebuild = |lines: &[String]| {
        std::fs::write(&file, lines.join("\n")).expect("written");
        daemon.command(&["ledger", "rebuild", "--json", "--from"]).arg(&file).ran()
    };
    report::case(SUBJECT, "caracald ledger query: by agent, decision, model and time", || {
        let all = ask(&[]);
        let parsed: Vec<Value> = all.iter().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        assert!(parsed.iter().zip(0..).all(|(line, index)| line["index"] == index), "all of them, oldest first");
        let of = |key: &str, word: &str| parsed.iter().filter(|line| line["record"]["data"][key] == word).count();
        let settled = of("caracal.settle", "settled");
        assert!(settled > 0 && settled < all.len());
        assert_eq!(ask(&["--decision", "settled"]).len(), settled);
        let model = of("gen_ai.request.model", "gpt-4o-mini");
        assert!(model >= settled && model < all.len());
        assert_eq!(ask(&["--model", "gpt-4o-mini"]).len(), model);
        assert_eq!(ask(&["--model", "gpt-4o-mini", "--decision", "settled", "--limit", "7"]).len(), 7);
        assert_eq!(ask(&["--agent", "nobody"]), Vec::<String>::new());
        let middle = parsed[all.len() / 2]["record"]["time"].as_str().expect("a time").to_owned();
        let (before, after) = (ask(&["--until", &middle]).len(), ask(&["--since", &middle]).len());
        assert!(before > 0 && after > 0, "{before} before {middle}, {after} after");
        assert_eq!(before + after, all.len());
        assert_eq!(ask(&["--since", "1d"]).len(), all.len());
        Map::new()
    });
    report::case(SUBJECT, "caracald ledger rebuild: the identical root from JSON lines", || {
        let lines = ask(&[]);
        let said = rebuild(&lines).ok().stdout;
        let compared: Value = serde_json::from_str(&said).expect("JSON");
        assert_eq!(compared["rebuilt"], lines.len());
        assert_eq!(
            (&compared["rebuilt_root"], &compared["stored"], &compared["differs_at"]),
            (&compared["stored_root"], &compared["rebuilt"], &Value::Null)
        );
        let mut more = Map::new();
        more.insert("records".into(), json!(lines.len()));
        more.insert("root".into(), compared["rebuilt_root"].clone());
        more
    });
    report::plain(SUBJECT, "caracald ledger rebuild: other records are named", || {
        let mut lines = ask(&[]);
        let last = lines.last_mut().expect("a record");
        let time = last.find("\"time\":\"2").expect("a time") + 8;
        last.replace_range(time..=time, "3");
        let ran = rebuild(&lines);
        let compared: Value = serde_json::from_str(&ran.stdout).expect("JSON");
        assert_eq!((ran.code, &compared["differs_at"]), (Some(3), &json!(lines.len() - 1)), "{}", ran.screen());
        lines.remove(9);
        let ran = rebuild(&lines);
        assert!(ran.code == Some(1) && ran.stderr.contains("leaf 9 "), "{}", ran.screen());
    });
}
