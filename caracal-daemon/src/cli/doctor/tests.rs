//! What is said of this host and of hooks that fail.

use super::host::tests::{find, host, with};
use super::*;

/// What a configuration without a word on it asks.
const NETWORK: Asked = Asked { level: Require::Network, tried: Require::Network, connections: 1 };

#[test]
fn this_host_is_read_and_a_hook_that_fails_counts() {
    let checks = probe(&[]);
    assert_eq!(find(&checks, "kernel").state, State::Yes);
    let bad = Hook { name: "connect4".into(), required: true, error: Some("EINVAL".into()) };
    let mut text = Vec::new();
    let args = |json| DoctorArgs { json, ..DoctorArgs::default() };
    let untried = || Err("not tried".to_owned());
    assert_eq!(run(&args(true), std::slice::from_ref(&bad), &NETWORK, untried, &mut text).unwrap(), 1);
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(json["enforceable"], "none");
    let never = json["never"].as_array().unwrap();
    assert!(never.iter().any(|row| row["code"] == "namespace_root" && row["means"].is_string()), "{json}");
    assert!(json["vectors"].as_array().unwrap().iter().all(|row| row["attach"] == "unknown"));
    let mut text = Vec::new();
    run(&args(false), &[bad], &NETWORK, untried, &mut text).unwrap();
    assert!(String::from_utf8(text).unwrap().contains("hook connect4"));
}

#[test]
fn who_may_not_load_programs_is_told_to_ask_as_root_and_not_for_another_kernel() {
    let refused = |why: &str| Hook { name: "connect4".into(), required: true, error: Some(why.into()) };
    let told = |why: &str, root| refused(why).check(root);
    let user = told("bpffs: Permission denied", false);
    assert!(user.state == State::Unknown && user.remedy.contains("sudo"), "{user:?}");
    let contained = told("the BPF_PROG_LOAD syscall returned Operation not permitted (os error 1)", true);
    assert!(contained.state == State::Unknown && contained.remedy.contains("CAP_BPF"), "{contained:?}");
    let old = told("Invalid argument (os error 22)", true);
    assert!(old.state == State::No && old.remedy.contains("newer kernel"), "{old:?}");
    let says = |checks: Vec<Check>| {
        let mut text = Vec::new();
        print::answer(&checks, &[], &NETWORK, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    };
    assert!(says(vec![user]).contains("cannot be told from here"));
    assert!(says(vec![old]).contains("nothing yet"));
}

#[test]
fn the_level_network_says_which_sockets_it_leaves_open() {
    use vectors::{Scope, VECTORS};
    let checks = host("6.12.0", &with("sys/kernel/security/lsm", "capability,landlock"), 6);
    let mut text = Vec::new();
    print::answer(&checks, &[], &NETWORK, &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    for (way, said) in [("packet_raw", "AF_PACKET"), ("xdp_socket", "AF_XDP"), ("vsock", "AF_VSOCK")] {
        let open = VECTORS.iter().any(|vector| vector.name == way && vector.scope == Scope::Full);
        assert!(open && text.contains(said), "{way}: {text}");
    }
}

#[test]
fn the_exit_code_and_the_words_go_by_the_level_that_is_asked_for() {
    let untried = || Err("not tried".to_owned());
    // Nothing is tried here, so that no level can be told to be reached; what the words say does not hang on that.
    let full = Asked { level: Require::Full, ..NETWORK };
    let said = |checks: &[Check], asked: &Asked| {
        let mut text = Vec::new();
        print::answer(checks, &[], asked, &mut text).unwrap();
        String::from_utf8(text).unwrap()
    };
    let without = host("6.12.0", &with("sys/kernel/security/lsm", "capability,landlock"), 6);
    assert!(said(&without, &full).contains("require = \"full\" does not start here"));
    assert!(!said(&without, &NETWORK).contains("--level full"));
    let mut open = host("6.12.0", &with("sys/kernel/security/lsm", "capability,landlock,bpf"), 6);
    assert_eq!(level(&open), "full");
    open.push(check("ways out by others", State::No, Need::Full, "1 open", "see"));
    assert!(said(&open, &NETWORK).contains("caracald doctor --level full"), "{}", said(&open, &NETWORK));
    let mut text = Vec::new();
    let args = DoctorArgs { json: true, ..DoctorArgs::default() };
    assert_eq!(run(&args, &[], &full, untried, &mut text).unwrap(), 1);
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(json["tried_at"], "network");
}

#[test]
fn ways_that_were_tried_at_network_say_so() {
    let rows = Ok(coverage::untried());
    let remedy = |at| summaries(&rows, at)[1].remedy.clone();
    assert!(remedy(Require::Network).contains("--level full") && !remedy(Require::Full).contains("--level"));
}
