//! Decisions, of real sets compiled from text.

use super::facts::Facts;
use super::*;
use crate::config::Config;
use crate::refusal::Reason;
use std::error::Error;
use std::path::Path;

mod cedar;
mod explained;
mod learned;
mod reloads;
mod rules;
mod slices;
mod tools;

type Outcome = Result<(), Box<dyn Error>>;

pub(super) fn config(text: &str) -> Result<Config, Box<dyn Error>> {
    Ok(Config::parse(text, Path::new("caracal.toml"))?)
}

pub(super) fn set(text: &str) -> Result<PolicySet, Box<dyn Error>> {
    Ok(PolicySet::compile(&config(text)?, Path::new("."))?)
}

/// A set with one Cedar file beside the rules.
fn with_cedar(rules: &str, cedar: &str) -> Result<Result<PolicySet, PolicyError>, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("extra.cedar"), cedar)?;
    let config = config(&format!("{rules}\n[policy]\ncedar = [\"extra.cedar\"]\n"))?;
    Ok(PolicySet::compile(&config, dir.path()))
}

pub(super) fn agent(name: &str) -> Agent {
    table::named_agent(name, false)
}

/// GET https://host/path of agent `a`.
fn get(set: &PolicySet, host: &str, port: u16, path: &str) -> Verdict {
    let agent = agent("a");
    set.decide(&Ask { method: Some("GET"), path: Some(path), ..Ask::new(&agent, Action::Request, host, port) }).verdict
}

fn on(set: &PolicySet, action: Action, host: &str, port: u16) -> Verdict {
    set.decide(&Ask::new(&agent("a"), action, host, port)).verdict
}

fn allowed() -> Verdict {
    Verdict::Allow(Grant::default())
}

fn denied(reason: Reason) -> Verdict {
    Verdict::Deny(reason)
}

#[test]
fn nothing_is_allowed_by_default() -> Outcome {
    let set = set("")?;
    for action in Action::ALL {
        let verdict = on(&set, action, "example.com", 443);
        let on_host = !matches!(action, Action::Llm | Action::Tool);
        assert_eq!(verdict, denied(if on_host { Reason::HostNotAllowed } else { Reason::PolicyDenied }), "{action:?}");
    }
    Ok(())
}

#[test]
fn ids_are_stable_and_annotations_are_in_the_text() -> Outcome {
    let set = set(
        "[[allow]]\nhosts = [\"api.openai.com\", \"*.x.test\"]\n[[allow]]\nid = \"wiki\"\nhosts = [\"wiki.corp\"]\nprivate = true\n[[deny]]\nhosts = [\"*\"]\nports = [25]\n",
    )?;
    let text = set.to_cedar();
    for expected in [
        "// caracal.toml:1\n@id(\"allow-1-api-openai-com\")\npermit (principal, action == Action::\"resolve\", resource)\nwhen { context.host == \"api.openai.com\" };",
        "@id(\"allow-1-any-x-test\")",
        "// caracal.toml:3\n@id(\"wiki\")\n@private(\"true\")\npermit",
        "@id(\"deny-1-any\")\nforbid (principal, action in [Action::\"connect\", Action::\"request\", Action::\"tool\", Action::\"llm\"], resource)\nwhen { context.port == 25 };",
        "// built in\n@id(\"learn\")",
    ] {
        assert!(text.contains(expected), "{text}\n  lacks {expected}");
    }
    Ok(())
}

#[test]
fn the_hash_is_of_the_policies_alone() -> Outcome {
    let one = set("[[allow]]\nhosts = [\"x.test\"]\n")?;
    assert_eq!(one.hash(), set("# comment\n\n[[allow]]\nhosts = ['X.test']\nports = [80, 443]\n")?.hash());
    assert_ne!(one.hash(), set("[[allow]]\nhosts = [\"x.test\"]\nports = [443]\n")?.hash());
    assert_eq!(one.hash().len(), 64);
    Ok(())
}

#[test]
fn a_table_is_decided_case_by_case() -> Outcome {
    let set = set("[[allow]]\nhosts = [\"x.test\"]\nmethods = [\"GET\"]\n")?;
    let text = "[[case]]\nhost = \"x.test\"\nexpect = \"allow\"\n[[case]]\nhost = \"x.test\"\nmethod = \"POST\"\nexpect = \"allow\"\n\
                [[case]]\nhost = \"y.test\"\nexpect = \"deny\"\nreason = \"host_not_allowed\"\n[[case]]\nhost = \"y.test\"\nexpect = \"deny\"\nreason = \"policy_denied\"\n";
    let rows = table::run(text, Path::new("t.toml"), &set)?;
    assert_eq!(rows.iter().map(|row| row.passed).collect::<Vec<_>>(), [true, false, true, false]);
    for (text, expected) in [
        ("", "missing field `case`"),
        ("[[case]]\nhost = \"x\"\n", "t.toml:1: missing field `expect`"),
        ("[[case]]\nhots = \"x\"\nexpect = \"deny\"", "t.toml:2: unknown field `hots`"),
        ("[[case]]\nhost = \"x\"\naction = \"fly\"\nexpect = \"deny\"", "case 1: \"fly\" is no action"),
    ] {
        let message =
            table::run(text, Path::new("t.toml"), &set).map_or_else(|error| error.to_string(), |_| String::new());
        assert!(message.contains(expected), "{message}\n  lacks {expected}");
    }
    Ok(())
}
