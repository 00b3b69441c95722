//! A small budget stays usable: agents ask for 64,000 to 128,000 output tokens a call or name no cap at all, and are served
//! until less is left than the least that one more call can cost.

use crate::{LOAD, STAND_IN};
use serde_json::{Map, Value, json};
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::daemon::{Daemon, caracald};
use support::ledger::Spending;
use support::netns::until;
use support::report;
use support::scene::Scene;

/// A cap is never lowered below this many tokens, unless `[clamp] min_output` says so.
const MIN_OUTPUT: &str = "4096";
/// The budget: so many holds of the least size.
const HOLDS: u64 = 100;

/// The least that a call of this shape can be held at, nano-USD: with its cap as low as it is ever set.
fn least_hold(shape: &str) -> u64 {
    let exchange = Command::new(LOAD).args(["--shape", shape, "--exchange", MIN_OUTPUT]).output().expect("load runs");
    assert!(exchange.status.success(), "{}", String::from_utf8_lossy(&exchange.stderr));
    let mut bill = Command::new(caracald())
        .args(["prices", "bill"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("caracald runs");
    bill.stdin.take().expect("a pipe").write_all(&exchange.stdout).expect("the exchange");
    let said = bill.wait_with_output().expect("an end");
    let said: Value = serde_json::from_slice(&said.stdout).expect("JSON");
    said["hold_nano_usd"].as_u64().unwrap_or_else(|| panic!("no hold for {shape}: {said}"))
}

/// What one run used of its limit, once the calls that were open at the first denial have ended.
struct Used {
    share: f64,
    answered: u64,
}

fn used(shape: &str, clients: u64, limit: u64, more: &str) -> Used {
    let scene = Scene::new(STAND_IN).expect("the scene stands");
    let rules = format!(
        "[[allow]]\nhosts = [\"api.openai.com\", \"api.anthropic.com\"]\n[[budget]]\nname = \"purse\"\nlimit = \"{}.{:09} USD\"\nwindow = \"total\"\n{more}",
        limit / 1_000_000_000,
        limit % 1_000_000_000
    );
    let mut daemon = Daemon::start(&scene, &rules);
    let clients = clients.to_string();
    let load = daemon.run(LOAD).args(["--shape", shape, "--clients", &clients, "--requests", "20000"]);
    let ran = load.args(["--until-refused", "--count"]).limit(Duration::from_secs(1_200)).ran().ok();
    let told: Value = serde_json::from_str(ran.stdout.trim()).expect("the load's counts");
    assert_eq!((told["unanswered"].as_u64(), told["other"].as_u64()), (Some(0), Some(0)), "{}", ran.screen());
    assert!(told["refused"].as_u64() > Some(0), "the budget never ran out: {told}");
    let answered = told["answered"].as_u64().expect("a count");
    let spending = |daemon: &Daemon<'_>| Spending::of(&daemon.json(&["budgets"]), "purse");
    until("every call is closed", Duration::from_secs(60), || spending(&daemon).is_some_and(|now| now.held == 0))
        .expect("an end of each call");
    let settled = spending(&daemon).map_or(0, |now| now.settled);
    let bill: Vec<u64> = scene.bill().iter().map(|line| line.nano).collect();
    assert_eq!((bill.len() as u64, bill.iter().sum::<u64>()), (answered, settled), "each is charged what it costs");
    assert!(settled <= limit, "{settled} of {limit}");
    daemon.stop();
    Used { share: settled as f64 / limit as f64, answered }
}

/// Budgets of [`HOLDS`] holds, for one client and for many.
fn used_up(shape: &str, name: &str) {
    report::case("money", &format!("usable: {name}, budgets of {HOLDS} holds"), || {
        let hold = least_hold(shape);
        let limit = hold * HOLDS;
        let mut more = Map::new();
        more.insert("least_hold_nano".into(), json!(hold));
        for clients in [1, 8, 64] {
            let used = used(shape, clients, limit, "");
            more.insert(format!("share_{clients}"), json!(used.share));
            more.insert(format!("answered_{clients}"), json!(used.answered));
            report::smallest("money", &format!("used_at_first_denial_{clients}"), used.share);
            if clients == 1 {
                let bound = 1.0 - hold as f64 / limit as f64;
                assert!(used.share >= bound, "{} of the budget was used, and at least {bound} can be", used.share);
                assert!(used.share >= 0.95, "only {} of the budget was used", used.share);
            }
        }
        more
    });
}

#[test]
fn claude_code_uses_a_budget_up_before_its_first_denial() {
    used_up("claude", "Claude Code");
}

#[test]
fn claude_code_of_a_newer_kind_uses_a_budget_up_before_its_first_denial() {
    used_up("claude-new", "Claude Code, newer");
}

#[test]
fn codex_uses_a_budget_up_before_its_first_denial() {
    used_up("codex", "Codex over HTTP");
}

/// A verdict that does not see a bound that is too wide says nothing: without a clamp the same agent is refused early, and
/// would fail the tests above.
#[test]
fn planted_without_a_clamp_a_budget_is_not_used_up() {
    report::plain("money", "usable: planted, no clamp", || {
        let limit = least_hold("claude") * HOLDS;
        let planted = used("claude", 1, limit, "\n[clamp]\nmin_output = 1000000\n");
        assert!(planted.share < 0.97, "{} without a clamp", planted.share);
    });
}
