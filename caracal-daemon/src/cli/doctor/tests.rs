use super::*;

fn host(release: &str, files: &[(&str, &str)], landlock: u32) -> Vec<Check> {
    let dir = tempfile::tempdir().unwrap();
    for (path, text) in files {
        let path = dir.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    Host { root: dir.path(), release: release.into(), landlock }.checks()
}

const GOOD: &[(&str, &str)] = &[
    ("proc/self/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n"),
    ("proc/sys/kernel/seccomp/actions_avail", "kill_process errno allow\n"),
    ("proc/sys/kernel/unprivileged_bpf_disabled", "2\n"),
    ("sys/kernel/btf/vmlinux", ""),
    ("sys/kernel/security/lsm", "capability,landlock,bpf"),
    ("proc/self/ns/user", ""),
];

fn with(path: &'static str, text: &'static str) -> Vec<(&'static str, &'static str)> {
    GOOD.iter().copied().filter(|(p, _)| *p != path).chain([(path, text)]).collect()
}

fn find<'a>(checks: &'a [Check], name: &str) -> &'a Check {
    checks.iter().find(|check| check.name == name).unwrap()
}

#[test]
fn a_good_host_is_full_and_needs_nothing() {
    let checks = host("6.12.0-generic", GOOD, 6);
    assert_eq!(level(&checks), "full");
    assert!(checks.iter().all(|check| check.remedy.is_empty()), "{checks:?}");
}

#[test]
fn without_the_lsm_the_level_is_network_and_unknown_is_not_yes() {
    let checks = host("6.12.0", &with("sys/kernel/security/lsm", "capability,landlock"), 6);
    assert_eq!((level(&checks), find(&checks, "BPF LSM").state), ("network", State::No));
    let unseen: Vec<_> = GOOD.iter().copied().filter(|(p, _)| *p != "sys/kernel/security/lsm").collect();
    let checks = host("6.12.0", &unseen, 6);
    assert_eq!((level(&checks), find(&checks, "BPF LSM").state), ("network", State::Unknown));
}

#[test]
fn what_is_required_and_missing_means_none() {
    for checks in [
        host("5.9.1", GOOD, 6),
        host("nonsense", GOOD, 6),
        host("6.12.0", &with("proc/self/mounts", "bpf /sys/fs/bpf bpf rw 0 0\n"), 6),
        host("6.12.0", &with("proc/sys/kernel/seccomp/actions_avail", "kill\n"), 6),
        host("6.12.0", &[], 0),
    ] {
        assert_eq!(level(&checks), "none", "{checks:?}");
    }
}

#[test]
fn a_hybrid_host_and_the_old_controllers() {
    let mounts = "cgroup /sys/fs/cgroup/net_cls cgroup rw,net_cls,net_prio 0 0\n\
                  cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\nbpf /b bpf rw 0 0\n";
    let checks = host("5.10.3", &with("proc/self/mounts", mounts), 0);
    assert_eq!(find(&checks, "cgroup v2").found, "hybrid, at /sys/fs/cgroup/unified");
    assert_eq!(find(&checks, "net_cls and net_prio").state, State::No);
    let checks = host("5.15.0", &with("proc/self/mounts", mounts), 0);
    assert_eq!(find(&checks, "net_cls and net_prio").state, State::Yes);
}

#[test]
fn this_host_is_read_and_a_hook_that_fails_counts() {
    let checks = probe(&[]);
    assert_eq!(find(&checks, "kernel").state, State::Yes);
    let bad = Hook { name: "connect4".into(), required: true, error: Some("EINVAL".into()) };
    let mut text = Vec::new();
    let args = |json| DoctorArgs { json, ..DoctorArgs::default() };
    let untried = || Err("not tried".to_owned());
    assert_eq!(run(&args(true), std::slice::from_ref(&bad), untried, &mut text).unwrap(), 1);
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap();
    assert_eq!(json["enforceable"], "none");
    assert!(json["vectors"].as_array().unwrap().iter().all(|row| row["attach"] == "unknown"));
    let mut text = Vec::new();
    run(&args(false), &[bad], untried, &mut text).unwrap();
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
        print(&checks, &[], &mut text).unwrap();
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
    print(&checks, &[], &mut text).unwrap();
    let text = String::from_utf8(text).unwrap();
    for (way, said) in [("packet_raw", "AF_PACKET"), ("xdp_socket", "AF_XDP"), ("vsock", "AF_VSOCK")] {
        let open = VECTORS.iter().any(|vector| vector.name == way && vector.scope == Scope::Full);
        assert!(open && text.contains(said), "{way}: {text}");
    }
}
