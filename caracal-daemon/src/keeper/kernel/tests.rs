use super::*;
use crate::agent::Agent;
use crate::keeper::cgroup::Hierarchy;
use std::process::Command;

/// Runs a shell command inside a cgroup.
fn inside(cgroup: &Path, script: &str) -> bool {
    let script = format!("echo $$ > {}/cgroup.procs && {script}", cgroup.display());
    Command::new("bash").arg("-c").arg(script).status().expect("bash runs").success()
}

/// Needs root and cgroup v2: it fails without them. Where no bpffs is mounted it mounts one, as the keeper does.
#[test]
fn a_governed_cgroup_is_shut_without_a_lease_and_stays_shut_by_its_pins() {
    // Names of this run alone: two checkouts may be tried at once.
    let name = format!("unit-test-{}", std::process::id());
    let pins = Kernel::pin_directory(&name);
    crate::keeper::serve::mount_bpffs().expect("bpffs");
    let hierarchy = Hierarchy::find().expect("a cgroup v2 mount");
    let cgroup = hierarchy.make(&format!("caracal-{name}")).expect("a cgroup");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();
    let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
    assert!(inside(&cgroup.absolute, &connect), "the control connects");

    let settings = Settings { abi: ABI_VERSION, tcp_port: port, dns_port: 1 };
    let mut kernel = Kernel::load(&pins, settings, Require::Network).expect("the programs load; is this root?");
    kernel.govern(&cgroup).expect("attaches");
    assert!(!inside(&cgroup.absolute, &connect), "an unknown agent is refused");
    let agent = Agent { name: "unit".into(), cgroup: cgroup.id, path: cgroup.path.clone(), uid: 0, learn: false };
    kernel.admit(&agent, cgroup.level).expect("admits");
    kernel.admit_namespace(crate::keeper::listeners::netns_cookie().expect("a cookie")).expect("admits");
    assert!(!inside(&cgroup.absolute, &connect), "no lease, no connect");
    drop(kernel);
    assert!(!inside(&cgroup.absolute, &connect), "the pins hold without a process");

    let mut kernel = Kernel::load(&pins, settings, Require::Network).expect("loads again");
    assert_eq!(kernel.governed().collect::<Vec<_>>(), [cgroup.id], "the pins are adopted");
    assert_eq!(kernel.admitted().expect("reads"), [cgroup.id]);
    assert!(kernel.counters().expect("reads").iter().map(|(_, count)| count).sum::<u64>() >= 3);
    kernel.release(cgroup.id).expect("releases");
    assert!(inside(&cgroup.absolute, &connect), "a released cgroup connects directly");
    drop(kernel);
    assert!(cgroup.remove());
    fs::remove_dir_all(&pins).expect("the pins go");
}
