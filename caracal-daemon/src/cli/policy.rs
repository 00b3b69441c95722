//! `caracald policy check|test|explain|reload`: tells why, before it bites. Takes the files on disk; gives words or JSON and
//! an exit code. Puts nothing into force but by `reload`, which asks the daemon.

mod args;
#[cfg(test)]
mod tests;

pub use args::{ActionName, ExplainArgs, PolicyArgs, PolicyCommand};

use crate::config::{Config, DEFAULT_PATH};
use crate::meter::Provider;
use crate::policy::explain::Explanation;
use crate::policy::table::{self, Case, Expect, Row};
use crate::policy::{Decision, Mode, PolicySet, Verdict};
use crate::refusal::Reason;
use anyhow::Context;
use comfy_table::{ContentArrangement, Table, presets};
use serde_json::{Value, json};
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;

/// A file is wrong (`EX_USAGE` of sysexits.h), as for a wrong command line.
const WRONG: u8 = 64;

/// Asks the running daemon to reload; gives its answer: the hash of the policy set then in force, or that and more.
pub type Reload<'a> = &'a dyn Fn() -> anyhow::Result<Value>;

/// Runs the command. `reload` reaches the daemon.
///
/// # Errors
/// When a table cannot be read, the daemon cannot be reached or refuses, or the output cannot be written. A wrong
/// configuration is no error here: it is printed, with exit code 64.
pub fn run(args: &PolicyArgs, reload: Reload<'_>) -> anyhow::Result<ExitCode> {
    let code = run_to(args, reload, &mut super::output::Output, &mut std::io::stderr().lock())?;
    Ok(ExitCode::from(code))
}

fn run_to(args: &PolicyArgs, reload: Reload<'_>, out: &mut dyn Write, err: &mut dyn Write) -> anyhow::Result<u8> {
    if let PolicyCommand::Reload = args.command {
        let answer = reload().context("the policy was not reloaded; the one in force stays")?;
        let hash = answer["policy_set"].as_str().or(answer.as_str()).unwrap_or_default();
        let waiting = answer["waiting_for_restart"].as_array().map(Vec::as_slice).unwrap_or_default();
        if args.json {
            writeln!(out, "{}", json!({"policy_set": hash, "waiting_for_restart": waiting}))?;
            return Ok(0);
        }
        writeln!(out, "in force: policy set {hash}")?;
        if !waiting.is_empty() {
            let keys: Vec<&str> = waiting.iter().filter_map(Value::as_str).collect();
            writeln!(err, "warning: changed, and not in force before a restart of the daemon: {}", keys.join(", "))?;
        }
        return Ok(0);
    }
    let (config, set) = match read(&args.config) {
        Ok(read) => read,
        Err(wrong) => return report(&wrong, args.json, out, err),
    };
    match &args.command {
        PolicyCommand::Check { print } => check(&config, &set, *print, args.json, out),
        PolicyCommand::Test { file } => test(file, &set, args.json, out),
        PolicyCommand::Explain(asked) => explain(asked, &config, &set, args.json, out),
        PolicyCommand::Reload => Ok(0),
    }
}

/// The configuration and its policies, or every problem.
fn read(path: &Path) -> Result<(Config, PolicySet), Wrong> {
    let config = Config::load(path).map_err(|error| Wrong {
        problems: vec![error.to_string()],
        then: if path == Path::new(DEFAULT_PATH) && !path.exists() { NO_FILE } else { NO_START },
    })?;
    let set = PolicySet::compile(&config, path.parent().unwrap_or(Path::new(".")));
    let set = set
        .map_err(|error| Wrong { problems: error.problems.iter().map(ToString::to_string).collect(), then: DENIES })?;
    Ok((config, set))
}

/// What the configuration's problems are, and what a daemon does that is started with them.
struct Wrong {
    problems: Vec<String>,
    then: &'static str,
}

const NO_FILE: &str = "`attach` writes a starter configuration where the default file is missing, and starts.";
const NO_START: &str = "One that is started with this does not start.";
const DENIES: &str = "One that is started with this starts, and denies everything.";

fn report(
    Wrong { problems, then }: &Wrong,
    as_json: bool,
    out: &mut dyn Write,
    err: &mut dyn Write,
) -> anyhow::Result<u8> {
    if as_json {
        writeln!(out, "{}", json!({"ok": false, "problems": problems}))?;
    } else {
        problems.iter().try_for_each(|problem| writeln!(err, "error: {problem}"))?;
        writeln!(err, "Nothing was changed. A running daemon keeps its last good policy. {then}")?;
    }
    Ok(WRONG)
}

fn check(config: &Config, set: &PolicySet, print: bool, as_json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    let warnings: Vec<String> = set.warnings().iter().map(ToString::to_string).collect();
    if as_json {
        let cedar = print.then(|| set.to_cedar());
        let sizes = json!({"allow": config.allow.len(), "deny": config.deny.len(), "budgets": config.budget.len(), "policies": set.len()});
        writeln!(
            out,
            "{}",
            json!({"ok": true, "policy_set": &*set.hash(), "counts": sizes, "warnings": warnings, "cedar": cedar})
        )?;
        return Ok(0);
    }
    if print {
        write!(out, "{}", set.to_cedar())?;
        return Ok(0);
    }
    warnings.iter().try_for_each(|warning| writeln!(out, "warning: {warning}"))?;
    writeln!(
        out,
        "{}: good. {} allow and {} deny rules, {} budgets; {} Cedar policies, set {}",
        config.file.display(),
        config.allow.len(),
        config.deny.len(),
        config.budget.len(),
        set.len(),
        set.hash().get(..12).unwrap_or_default()
    )?;
    if config.allow.is_empty() && config.policy.cedar.is_empty() {
        writeln!(out, "Nothing is allowed: there is no [[allow]] rule and no Cedar file.")?;
    }
    Ok(0)
}

fn test(file: &Path, set: &PolicySet, as_json: bool, out: &mut dyn Write) -> anyhow::Result<u8> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}", file.display()))?;
    let rows = table::run(&text, file, set)?;
    let failed = rows.iter().filter(|row| !row.passed).count();
    if as_json {
        let cases: Vec<Value> = rows.iter().map(row_json).collect();
        writeln!(
            out,
            "{}",
            json!({"ok": failed == 0, "passed": rows.len() - failed, "failed": failed, "cases": cases})
        )?;
    } else {
        writeln!(out, "{}", rows_table(&rows))?;
        writeln!(out, "{} as expected, {failed} not", rows.len() - failed)?;
    }
    Ok(u8::from(failed > 0))
}

fn rows_table(rows: &[Row]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::UTF8_HORIZONTAL_ONLY).set_content_arrangement(ContentArrangement::Dynamic);
    table.set_header(["", "agent", "action", "what", "expected", "decided", "by"]);
    for (row, number) in rows.iter().zip(1..) {
        let case = &row.case;
        let mark = if row.passed { format!("{number}") } else { format!("{number} DIFFERS") };
        let expected = match case.expect {
            Expect::Allow => "allow".to_owned(),
            Expect::Deny => case.reason.as_ref().map_or_else(|| "deny".to_owned(), |reason| format!("deny: {reason}")),
        };
        let by = row.decision.policies.join(", ");
        table.add_row([
            mark,
            case.agent.clone(),
            case.action.clone(),
            what(case),
            expected,
            verdict(&row.decision),
            by,
        ]);
    }
    table
}

fn what(case: &Case) -> String {
    let place = format!("{}:{}", case.host, case.port);
    match case.action.as_str() {
        "request" => {
            format!("{} {place}{}", case.method.as_deref().unwrap_or("GET"), case.path.as_deref().unwrap_or("/"))
        }
        "llm" => format!(
            "{}/{} at {place}",
            case.provider.as_deref().unwrap_or_default(),
            case.model.as_deref().unwrap_or_default()
        ),
        "tool" => format!("{} at {place}", case.tool.as_deref().unwrap_or_default()),
        _ => place,
    }
}

fn verdict(decision: &Decision) -> String {
    match &decision.verdict {
        Verdict::Allow(_) => "allow".to_owned(),
        Verdict::Deny(reason) => format!("deny: {}", reason.code()),
    }
}

fn row_json(row: &Row) -> Value {
    json!({
        "passed": row.passed, "agent": row.case.agent, "action": row.case.action, "host": row.case.host,
        "decision": decision_json(&row.decision),
    })
}

fn decision_json(decision: &Decision) -> Value {
    match &decision.verdict {
        Verdict::Allow(grant) => {
            let mode = match grant.mode {
                Mode::Inspect => "inspect",
                Mode::TlsPassthrough => "tls-passthrough",
                Mode::Tcp => "tcp",
            };
            json!({
                "verdict": "allow", "policies": decision.policies, "mode": mode, "private": grant.private, "free": grant.free,
                "learned": grant.learned,
            })
        }
        Verdict::Deny(reason) => json!({"verdict": "deny", "reason": reason.code(), "policies": decision.policies}),
    }
}

fn explain(
    asked: &ExplainArgs,
    config: &Config,
    set: &PolicySet,
    as_json: bool,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let case = asked.case()?;
    let explanation = case.ask(|ask| set.explain(ask)).map_err(anyhow::Error::msg)?;
    let allowed = matches!(explanation.decision.verdict, Verdict::Allow(_));
    let priced = if allowed { priced(&case, config)? } else { None };
    if as_json {
        writeln!(out, "{}", explanation_json(&explanation, priced))?;
    } else {
        writeln!(out, "{} {}: {}", case.agent, case.action, what(&case))?;
        write!(out, "{explanation}")?;
        match priced {
            Some(true) => writeln!(out, "price: the price book has one")?,
            Some(false) => writeln!(
                out,
                "price: none; the call is refused ({}). `caracald prices show` lists what has one",
                Reason::PriceUnknown.code()
            )?,
            None => {}
        }
        if allowed {
            writeln!(out, "Budgets and rates were not looked at: `caracald budgets` says what is left.")?;
        }
    }
    Ok(u8::from(!allowed || priced == Some(false)))
}

/// Whether the model of a call has a price; `None` where no model is named.
fn priced(case: &Case, config: &Config) -> anyhow::Result<Option<bool>> {
    let (Some(provider), Some(model), "llm") = (&case.provider, &case.model, case.action.as_str()) else {
        return Ok(None);
    };
    let book = crate::app::price_book(config)?;
    Ok(Some(Provider::named(provider).is_some_and(|provider| book.price(provider, model).is_some())))
}

fn explanation_json(explanation: &Explanation, priced: Option<bool>) -> Value {
    let policies: Vec<Value> =
        explanation.policies.iter().map(|(id, place, text)| json!({"id": id, "place": place, "text": text})).collect();
    json!({
        "decision": decision_json(&explanation.decision), "policies": policies, "nearest": explanation.nearest,
        "would_allow": explanation.would_allow, "priced": priced,
    })
}
