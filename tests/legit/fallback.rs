//! HTTP/3: UDP is refused when it is sent, and the client goes on over TCP at once.

use crate::{case, recorded};
use support::programs;
use support::report;

const RULES: &str = "[[allow]]\nhosts = [\"example.com\"]\n";

#[test]
fn an_http3_client_falls_back_at_once() {
    case(
        "an HTTP/3 client falls back",
        RULES,
        |_| (),
        |scene, daemon, _| {
            let script = include_str!("../programs/http3.py");
            let ran = daemon.run(programs::python()).args(["-c", script]).ran().ok();
            let word = |name: &str| {
                let said = ran.stdout.lines().find_map(|line| line.strip_prefix(name));
                said.and_then(|rest| rest.trim().parse::<u64>().ok()).unwrap_or_else(|| panic!("{}", ran.screen()))
            };
            // The promise's own bound: what asking for HTTP/3 costs a client over asking for HTTP/2.
            let fallback = word("fallback_ms");
            report::figure("legit", "http3_fallback_ms", fallback);
            assert!(fallback <= 200, "{}", ran.screen());
            assert!(word("tried") > 0, "it never tried HTTP/3: {}", ran.screen());
            recorded(daemon, "request", "example.com", 443);
            assert!(scene.requests("example.com", "/hello") > 0);
            let quic =
                |record: &support::ledger::Record| record.is_denial("datagram_refused") && record.detail["port"] == 443;
            let _records = daemon.records_when(|records| records.iter().any(quic));
        },
    );
}
