//! Tools over the older transport of MCP: HTTP with server-sent events, where a message is posted and its answer comes over another
//! connection. The client has no time limit of its own here: a refusal that did not come would be waited for for ever.

use crate::sdks::python;
use crate::{AMPLE, NOTHING, case};
use support::daemon::Daemon;
use support::ledger::Record;
use support::scene::TOOLS;

/// The server, which is listened to at one path and posted to at another.
fn rules(budget: &str) -> String {
    let desk = TOOLS.replace("paths = [\"/mcp\"]", "paths = [\"/sse\", \"/messages\"]");
    assert_ne!(desk, TOOLS, "the path of the tools");
    format!("{budget}\n[[allow]]\nhosts = [\"mcp.example\"]\n{desk}")
}

/// Waits until this many refusals are recorded: equal ones are written as one, after a moment.
fn refused(daemon: &Daemon<'_>, reason: &str, count: u64) {
    let denials = |record: &&Record| record.is_denial(reason);
    let _all = daemon.records_when(|records| records.iter().filter(denials).map(Record::count).sum::<u64>() == count);
}

#[test]
fn a_tool_over_sse_is_charged_and_a_refused_one_is_said_on_the_stream() {
    case("Python MCP over SSE, allowed, charged and denied", &rules(AMPLE), |scene, daemon| {
        let ran = python(daemon, include_str!("../programs/mcp_sse.py")).ok();
        assert!(ran.stdout.contains("tools: ['delete_everything', 'lookup', 'search']"), "{}", ran.screen());
        let said: Vec<&str> = ran.stdout.lines().skip(1).collect();
        let sentence = "delete_everything: True policy_denied Caracal";
        let beginnings = [
            "search: False None search was called",
            sentence,
            sentence,
            // The session outlives the refusals.
            "lookup: False None lookup was called",
            "search: False None search was called",
        ];
        assert_eq!(said.len(), beginnings.len(), "{}", ran.screen());
        for (said, beginning) in said.iter().zip(beginnings) {
            assert!(said.starts_with(beginning), "{said}: {}", ran.screen());
        }
        refused(daemon, "policy_denied", 2);
        let billed: Vec<_> = scene.bill().into_iter().map(|line| (line.model, line.path)).collect();
        assert_eq!(
            billed,
            [("search".to_owned(), "/messages".to_owned()), ("search".to_owned(), "/messages".to_owned())]
        );
        let charges = |records: &[Record]| -> Vec<u64> {
            records.iter().filter(|record| record.is_outcome()).map(Record::cost).collect()
        };
        let charged = charges(&daemon.records_when(|records| charges(records).len() == 2));
        assert_eq!(charged, scene.bill().iter().map(|line| line.nano).collect::<Vec<_>>());
    });
}

#[test]
fn a_tool_over_sse_that_no_budget_pays_is_not_sent() {
    case("Python MCP over SSE, out of budget", &rules(NOTHING), |scene, daemon| {
        let ran = python(daemon, include_str!("../programs/mcp_sse.py")).ok();
        assert_eq!(ran.stdout.matches("search: True budget_exceeded Caracal").count(), 2, "{}", ran.screen());
        // What costs nothing needs no budget.
        assert!(ran.stdout.contains("lookup: False None lookup was called"), "{}", ran.screen());
        refused(daemon, "budget_exceeded", 2);
        refused(daemon, "policy_denied", 2);
        assert!(scene.bill().is_empty(), "{:?}", scene.bill());
    });
}
