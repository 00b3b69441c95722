use super::*;
use crate::agent::Agent;
use crate::keeper::cgroup::Hierarchy;
use std::io::Write;
use std::process::Command;
use std::sync::{Arc, Mutex};

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

/// What a subscriber writes.
#[derive(Clone, Default)]
struct Written(Arc<Mutex<Vec<u8>>>);

impl Write for Written {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("the text").extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Needs the programs with lines: `cargo xtask test unit` builds them beside the others.
#[test]
fn programs_with_lines_say_what_they_decide() {
    let object = env!("CARACAL_BPF_LOG_OBJECT");
    let object = fs::read(object).unwrap_or_else(|error| panic!("{object}: {error}; run `cargo xtask build --log`"));
    let name = format!("unit-lines-{}", std::process::id());
    let pins = Kernel::pin_directory(&name);
    crate::keeper::serve::mount_bpffs().expect("bpffs");
    let cgroup = Hierarchy::find().expect("a cgroup v2 mount").make(&format!("caracal-{name}")).expect("a cgroup");
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
    let port = listener.local_addr().expect("an address").port();

    let settings = Settings { abi: ABI_VERSION, tcp_port: port, dns_port: 1 };
    let load = |say: u8| Kernel::load_object(&object, say, &pins, settings, Require::Network);
    let mut kernel = load(aya_log::Level::Debug as u8).expect("the programs load with their lines");
    assert_eq!(kernel.refused(), [], "a program is refused with its line");
    let mut reader = kernel.take_lines().expect("reads").expect("these programs have lines");
    kernel.govern(&cgroup).expect("attaches");
    let agent = Agent { name: "unit".into(), cgroup: cgroup.id, path: cgroup.path.clone(), uid: 0, learn: false };
    kernel.admit(&agent, cgroup.level).expect("admits");
    kernel.admit_namespace(crate::keeper::listeners::netns_cookie().expect("a cookie")).expect("admits");
    let connect = "exec 3<>/dev/tcp/192.0.2.1/443";
    assert!(!inside(&cgroup.absolute, connect), "no lease, no connect");
    kernel.set_lease(u64::MAX).expect("opens");
    assert!(inside(&cgroup.absolute, connect), "it is redirected");

    let written = Written::default();
    let writer = written.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_ansi(false);
    tracing::subscriber::with_default(subscriber.with_writer(move || writer.clone()).finish(), || reader.flush());
    let said = String::from_utf8_lossy(&written.0.lock().expect("the text")).into_owned();
    let refused = "DEBUG caracal_ebpf: hook connect refuses, why lease_expired: ::ffff:192.0.2.1 port 443, pid ";
    let redirected = format!("DEBUG caracal_ebpf: connect: ::ffff:192.0.2.1 port 443 goes to port {port}, pid ");
    assert!(said.contains(refused) && said.contains(&redirected), "{said}");

    // Closed, the same programs say nothing, also in a link that was there.
    drop(kernel);
    let mut kernel = load(0).expect("loads again");
    let mut reader = kernel.take_lines().expect("reads").expect("these programs have lines");
    assert!(inside(&cgroup.absolute, connect), "the link is adopted");
    let written = Written::default();
    let writer = written.clone();
    let subscriber = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG);
    tracing::subscriber::with_default(subscriber.with_writer(move || writer.clone()).finish(), || reader.flush());
    assert!(written.0.lock().expect("the text").is_empty());
    kernel.release(cgroup.id).expect("releases");
    drop(kernel);
    assert!(cgroup.remove());
    fs::remove_dir_all(&pins).expect("the pins go");
}
