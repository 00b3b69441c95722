//! CONNECT through the redirect, and HTTP without TLS.

use crate::{RULES, case, curl};

#[test]
fn plain_http_passes_and_is_refused_alike() {
    case("plain HTTP", RULES, |scene, daemon| {
        let ran = curl(daemon, &["http://example.com/hello"]).ok();
        assert!(ran.stdout.contains("hello from the stand-in"), "{}", ran.screen());
        let ran = curl(daemon, &["-w", "%{http_code}", "http://denied.example/hello"]).ok();
        assert!(ran.stdout.contains("Caracal") && ran.stdout.ends_with("403"), "{}", ran.screen());
        assert_eq!(scene.requests("denied.example", "/hello"), 0);
    });
}

/// An agent with a proxy in its environment asks that proxy to CONNECT: the daemon is what it reaches, and what is inside
/// is decided like any other connection.
#[test]
fn connect_is_answered_here_and_read_inside() {
    case("CONNECT", RULES, |scene, daemon| {
        let ran = curl(daemon, &["--proxy", "http://proxy.example:80", "https://example.com/hello"]).ok();
        assert!(ran.stdout.contains("hello from the stand-in"), "{}", ran.screen());
        let ran = curl(
            daemon,
            &[
                "--proxy",
                "http://proxy.example:80",
                "-w",
                "%{http_code} %{http_connect}",
                "https://denied.example/hello",
            ],
        );
        assert!(ran.stdout.contains("403"), "{}", ran.screen());
        assert_eq!(scene.requests("denied.example", "/hello"), 0);
    });
}
