//! Streams: events arrive when they are sent, not when the answer ends.

use crate::{RULES, case, curl};

#[test]
fn a_thousand_events_arrive_in_order() {
    case("a thousand server-sent events", RULES, |_, daemon| {
        for version in ["--http1.1", "--http2"] {
            let ran = curl(daemon, &[version, "-N", "https://example.com/sse/1000"]).ok();
            let expected: String = (0..1_000).map(|n| format!("event: tick\nid: {n}\ndata: tick {n}\n\n")).collect();
            assert_eq!(ran.stdout, expected, "{version}");
        }
    });
}

/// The stand-in sends the second event only after the client, having read the first, has said so in another request.
/// A proxy that waits for more bytes never lets the first one through, and curl's time limit ends the test.
#[test]
fn an_event_is_passed_on_before_the_next_exists() {
    case("no event waits for the next", RULES, |_, daemon| {
        for version in ["--http1.1", "--http2"] {
            let script = format!(
                "curl -sSN --max-time 60 {version} https://example.com/wait/gate{version} > out & \
                 n=0; until grep -q first out; do n=$((n+1)); [ $n -lt 1000 ] || exit 9; sleep 0.05; done; \
                 curl -sS --max-time 60 https://example.com/go/gate{version} > gone; wait; cat out"
            );
            let ran = daemon.run("sh").args(["-c", &script]).ran().ok();
            assert!(ran.stdout.contains("first") && ran.stdout.contains("second"), "{}", ran.screen());
        }
    });
}
