//! Tools over the older transport of MCP: HTTP with server-sent events, where a message is posted and its answer comes over another
//! connection.

use crate::sdks::python;
use crate::{AMPLE, NOTHING, case, refused};
use support::scene::TOOLS;

/// The server, which is listened to at one path and posted to at another.
fn rules(budget: &str) -> String {
    let desk = TOOLS.replace("paths = [\"/mcp\"]", "paths = [\"/sse\", \"/messages\"]");
    assert_ne!(desk, TOOLS, "the path of the tools");
    format!("{budget}\n[[allow]]\nhosts = [\"mcp.example\"]\n{desk}")
}

#[test]
fn a_tool_over_sse_is_charged_and_a_refused_one_is_not_sent() {
    case("Python MCP over SSE, allowed, charged and denied", &rules(AMPLE), |scene, daemon| {
        let ran = python(daemon, include_str!("../programs/mcp_sse.py")).ok();
        for said in [
            "tools: ['delete_everything', 'lookup', 'search']",
            "search: search was called",
            "delete_everything: no answer",
            // The session outlives the refusal.
            "lookup: lookup was called",
        ] {
            assert!(ran.stdout.contains(said), "{said}: {}", ran.screen());
        }
        assert_eq!(refused(daemon, "policy_denied"), 1);
        let billed: Vec<_> = scene.bill().into_iter().map(|line| (line.model, line.path)).collect();
        assert_eq!(billed, [("search".to_owned(), "/messages".to_owned())]);
    });
}

#[test]
fn a_tool_over_sse_that_no_budget_pays_is_not_sent() {
    case("Python MCP over SSE, out of budget", &rules(NOTHING), |scene, daemon| {
        let script = include_str!("../programs/mcp_sse.py").replace("(\"search\", 120)", "(\"search\", 3)");
        let ran = python(daemon, &script).ok();
        assert!(ran.stdout.contains("search: no answer"), "{}", ran.screen());
        // What costs nothing needs no budget.
        assert!(ran.stdout.contains("lookup: lookup was called"), "{}", ran.screen());
        assert_eq!((refused(daemon, "budget_exceeded"), refused(daemon, "policy_denied")), (1, 1));
        assert!(scene.bill().is_empty(), "{:?}", scene.bill());
    });
}
