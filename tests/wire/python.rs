//! Python's `requests` and `websockets`, and git.

use crate::{RULES, case};
use support::programs;

#[test]
fn requests_gets_posts_and_streams() {
    case("Python requests", RULES, |_, daemon| {
        let script = include_str!("../programs/requests_all.py");
        let ran = daemon.run(programs::python()).args(["-c", script]).ran().ok();
        assert!(ran.stdout.contains("requests: done"), "{}", ran.screen());
    });
}

#[test]
fn websockets_echo_frames_of_every_size() {
    case("WebSocket echo", RULES, |scene, daemon| {
        let script = include_str!("../programs/websockets_all.py");
        let ran = daemon.run(programs::python()).args(["-c", script]).ran().ok();
        assert!(ran.stdout.contains("websockets: done"), "{}", ran.screen());
        assert_eq!(scene.requests("example.com", "/ws"), 1);
    });
}

#[test]
fn git_clones_over_https() {
    case("git clone over https", RULES, |scene, daemon| {
        let _ran = daemon.run("git").args(["clone", "-q", "https://github.com/acme/demo.git", "demo"]).ran().ok();
        let log = scene.agent("git").args(["-C", "demo", "log", "--oneline"]).ran().ok();
        assert_eq!(log.stdout.lines().count(), 2, "{}", log.screen());
    });
}
