use super::*;
use proptest::prelude::*;

fn nature(protocol: i32) -> Nature {
    Nature { family: libc::AF_INET, kind: libc::SOCK_STREAM, protocol, cookie: 1, namespace: 1 }
}

fn line() -> Socket {
    Socket {
        pid: 1,
        process: "test".into(),
        fd: 3,
        processes: 1,
        kind: String::new(),
        state: String::new(),
        local: None,
        peer: None,
        made: Made::Unknown,
        done: Done::Open,
        why: String::new(),
    }
}

#[test]
fn a_unix_socket_to_outside_is_named_and_one_to_inside_is_not() {
    let pids = HashSet::from([7]);
    let mut socket = line();
    unix(&mut socket, Some(false), Some(std::process::id()), &pids);
    assert_eq!(socket.done, Done::Uncovered);
    assert!(socket.why.contains(&std::process::id().to_string()), "{}", socket.why);
    for (inside, peer, done) in [
        (Some(true), Some(1), Done::Left),
        (None, Some(7), Done::Left),
        (None, None, Done::Left),
        (Some(false), Some(7), Done::Uncovered),
        (Some(false), None, Done::Uncovered),
        (None, Some(1), Done::Uncovered),
    ] {
        let mut socket = line();
        unix(&mut socket, inside, peer, &pids);
        assert_eq!(socket.done, done, "{inside:?} {peer:?}");
    }
}

proptest! {
    /// Whatever the protocol: a socket that was not made in the cgroup is fenced or open, never left.
    #[test]
    fn what_was_made_elsewhere_is_never_left(protocol in 0_i32..300, marked: bool) {
        let mut socket = line();
        let mark = if marked { Ok(()) } else { Err("no".to_owned()) };
        let end = ip(&mut socket, nature(protocol), None, false, &HashSet::from([5]), &mark);
        prop_assert!(matches!(socket.done, Done::Fenced | Done::Open));
        prop_assert!(marked || socket.done == Done::Open);
        prop_assert!(!end, "what is in no list cannot be ended");
    }
}
