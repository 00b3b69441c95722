//! Loopback: a process outside the cgroup that listens there could carry bytes out.

use crate::{RULES, attempt, case};
use std::net::TcpListener;
use support::scene::Scene;

const PORT: u16 = 7_000;

/// Somebody on the host who is not governed and repeats what he hears.
fn deputy(scene: &Scene) {
    let listener = scene.net.a.inside(|| Ok(TcpListener::bind(("0.0.0.0", PORT))?)).expect("a deputy");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
}

#[test]
fn loopback_to_others_needs_a_rule() {
    let to = format!("127.0.0.1:{PORT}");
    case(
        "loopback to an ungoverned listener",
        RULES,
        |scene, cgroup| {
            deputy(scene);
            assert_eq!(attempt(scene, cgroup, &["tcp", &to]).code, Some(0), "the control does not reach the deputy");
        },
        |world| {
            let ran = world.attempt(&["tcp", &to]);
            assert_ne!(ran.code, Some(0), "{}", ran.screen());
        },
    );
}

#[test]
fn loopback_by_rule_passes() {
    let to = format!("127.0.0.1:{PORT}");
    let rules =
        format!("{RULES}\n[[allow]]\nhosts = [\"127.0.0.1\"]\nports = [{PORT}]\nmode = \"tcp\"\nprivate = true\n");
    case(
        "loopback by rule",
        &rules,
        |scene, _| deputy(scene),
        |world| {
            let ran = world.attempt(&["tcp", &to]);
            assert_eq!(ran.code, Some(0), "{}{}", ran.screen(), world.daemon.logs());
        },
    );
}

/// A rule for what looks public does not mean the host itself.
#[test]
fn an_own_address_needs_a_rule_that_says_private() {
    let to = format!("198.51.100.1:{PORT}");
    for (private, passes) in [("", false), ("private = true\n", true)] {
        let rules =
            format!("{RULES}\n[[allow]]\nhosts = [\"198.51.100.1\"]\nports = [{PORT}]\nmode = \"tcp\"\n{private}");
        case(
            &format!("the host's own address by a rule{}", if passes { " that says private" } else { "" }),
            &rules,
            |scene, _| deputy(scene),
            |world| {
                let ran = world.attempt(&["tcp", &to]);
                assert_eq!(ran.code == Some(0), passes, "{}{}", ran.screen(), world.daemon.logs());
            },
        );
    }
}

#[test]
fn loopback_within_the_agent_passes() {
    case(
        "loopback between two sockets of one agent",
        RULES,
        |_, _| (),
        |world| {
            let ran = world.attempt(&["pair"]);
            assert_eq!(ran.code, Some(0), "{}", ran.screen());
            let ran = world.daemon.run(crate::PROBE).arg("pair").ran();
            assert_eq!(ran.code, Some(0), "{}", ran.screen());
        },
    );
}
