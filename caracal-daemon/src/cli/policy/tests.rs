//! What each command prints, and its exit code.

use super::*;
use clap::Parser;
use std::error::Error;

type Outcome = Result<(), Box<dyn Error>>;

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    args: PolicyArgs,
}

/// Exit code, what was printed, and what was complained of.
fn ran(config: &str, line: &[&str], reload: Reload<'_>) -> Result<(u8, String, String), Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("caracal.toml");
    std::fs::write(&file, config)?;
    std::fs::write(
        dir.path().join("t.toml"),
        "[[case]]\nhost = \"x.test\"\nexpect = \"allow\"\n[[case]]\nhost = \"y.test\"\nexpect = \"deny\"\n",
    )?;
    let table = dir.path().join("t.toml").display().to_string();
    let line = line.iter().map(|word| if *word == "TABLE" { table.clone() } else { (*word).to_owned() });
    let words = ["policy".to_owned()].into_iter().chain(line);
    let mut args = Line::try_parse_from(words)?.args;
    file.clone_into(&mut args.config);
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let code = run_to(&args, reload, &mut out, &mut err)?;
    Ok((code, String::from_utf8(out)?, String::from_utf8(err)?))
}

fn no_daemon() -> anyhow::Result<Value> {
    anyhow::bail!("no daemon")
}

const RULE: &str = "[[allow]]\nhosts = [\"x.test\"]\n";

#[test]
fn check_says_good_or_what_is_wrong() -> Outcome {
    let (code, out, _) = ran(RULE, &["check"], &no_daemon)?;
    assert!(code == 0 && out.contains("good. 1 allow and 0 deny rules"), "{out}");
    let (code, out, err) = ran("[[allow]]\nhost = \"x\"\n", &["check"], &no_daemon)?;
    assert!(
        code == WRONG
            && out.is_empty()
            && err.contains("caracal.toml:2:1: `host`")
            && err.contains("did you mean `hosts`?"),
        "{err}"
    );
    let (code, out, _) = ran("x = 1", &["check", "--json"], &no_daemon)?;
    let said: Value = serde_json::from_str(&out)?;
    assert_eq!((code, &said["ok"]), (WRONG, &Value::Bool(false)));
    let (_, out, _) = ran(RULE, &["check", "--print"], &no_daemon)?;
    assert!(
        out.contains("@id(\"allow-1-x-test\")\npermit (principal, action == Action::\"resolve\", resource)"),
        "{out}"
    );
    Ok(())
}

#[test]
fn a_table_that_differs_exits_with_one() -> Outcome {
    let (code, out, _) = ran(RULE, &["test", "TABLE"], &no_daemon)?;
    assert!(code == 0 && out.contains("2 as expected, 0 not"), "{out}");
    let (code, out, _) = ran("", &["test", "TABLE"], &no_daemon)?;
    assert!(code == 1 && out.contains("1 DIFFERS") && out.contains("deny: host_not_allowed"), "{out}");
    let (code, out, _) = ran("", &["test", "TABLE", "--json"], &no_daemon)?;
    let said: Value = serde_json::from_str(&out)?;
    assert_eq!(
        (code, &said["failed"], &said["cases"][0]["decision"]["reason"]),
        (1, &json!(1), &json!("host_not_allowed"))
    );
    Ok(())
}

#[test]
fn explain_takes_urls_and_hosts() -> Outcome {
    let (code, out, _) = ran(RULE, &["explain", "https://X.test/a?secret=1", "--method", "POST"], &no_daemon)?;
    assert!(code == 0 && out.starts_with("agent request: POST x.test:443/a\nallowed\n"), "{out}");
    let (_, out, _) = ran(RULE, &["explain", "x.test", "--port", "22", "--action", "connect"], &no_daemon)?;
    assert!(out.contains("denied: policy_denied") && out.contains("mode = \"tcp\""), "{out}");
    let (_, out, _) = ran(RULE, &["explain", "https://y.test:8443/", "--json"], &no_daemon)?;
    let said: Value = serde_json::from_str(&out)?;
    assert_eq!(said["would_allow"], json!("[[allow]]\nhosts = [\"y.test\"]\nports = [8443]\n"));
    assert!(ran(RULE, &["explain", "ftp://x.test/"], &no_daemon).is_err());
    Ok(())
}

#[test]
fn reload_asks_the_daemon() -> Outcome {
    let (code, out, err) = ran("", &["reload", "--json"], &|| Ok("abc".into()))?;
    assert_eq!(
        (code, serde_json::from_str(&out)?, err),
        (0, json!({"policy_set": "abc", "waiting_for_restart": []}), String::new())
    );
    let waits = || Ok(json!({"policy_set": "abc", "waiting_for_restart": ["[listen]", "[[agent]]"]}));
    let (code, out, err) = ran("", &["reload"], &waits)?;
    assert_eq!((code, out.as_str()), (0, "in force: policy set abc\n"));
    assert!(err.starts_with("warning: ") && err.contains("restart") && err.contains("[listen], [[agent]]"), "{err}");
    let failed = ran("", &["reload"], &no_daemon).map_or_else(|error| error.to_string(), |_| String::new());
    assert!(failed.contains("the one in force stays"), "{failed}");
    Ok(())
}

#[test]
fn check_says_what_a_daemon_would_do_with_it() -> Outcome {
    let (_, _, err) = ran("x = 1", &["check"], &no_daemon)?;
    assert!(err.contains("does not start") && !err.contains("denies everything"), "{err}");
    // No such Cedar file.
    let (code, _, err) = ran("[policy]\ncedar = [\"none.cedar\"]\n", &["check"], &no_daemon)?;
    assert!(code == WRONG && err.contains("denies everything") && !err.contains("does not start"), "{err}");
    Ok(())
}

#[test]
fn explain_says_no_by_its_exit_code_and_where_no_price_is() -> Outcome {
    let (code, out, _) = ran(RULE, &["explain", "y.test"], &no_daemon)?;
    assert!(code == 1 && out.contains("denied") && !out.contains("Budgets"), "{out}");
    assert_eq!(ran(RULE, &["explain", "y.test", "--json"], &no_daemon)?.0, 1);
    let rule = "[[allow]]\nhosts = [\"api.openai.com\"]\n";
    let ask = |model| ["explain", "api.openai.com", "--action", "llm", "--provider", "openai", "--model", model];
    let (code, out, _) = ran(rule, &ask("gpt-4o"), &no_daemon)?;
    assert!(code == 0 && out.contains("allowed") && out.contains("has one") && out.contains("Budgets"), "{out}");
    let (code, out, _) = ran(rule, &ask("no-such-model"), &no_daemon)?;
    assert!(code == 1 && out.contains("price: none") && out.contains("price_unknown"), "{out}");
    Ok(())
}
