//! Where the attempts are made: one world, an accomplice outside, a daemon, and cgroups beside each other.
//!
//! ```text
//! TOP/            the user's, as a delegated subtree is
//!   plain         nobody governs it: controls
//!   agent         governed
//!   before-...    governed while its processes run
//!   beside        nobody governs it: where attempts try to go
//! ```

use super::judge::{Attempted, Found, owners};
use crate::{PROBE, RULES};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use support::catalogue::{self, Aim, Phase, Privilege};
use support::daemon::{Cgroup, Daemon, caracald};
use support::netns::{AGENT_UID, Run, until};
use support::scene::Scene;
use support::wire::Wire;

/// The accomplice; its System V queue outlives it unless it is removed.
struct Accomplice {
    child: Child,
    queue: i32,
}

impl Drop for Accomplice {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
        // SAFETY: integers, and no structure for this command.
        unsafe { libc::msgctl(self.queue, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

pub(super) struct Stage<'a> {
    scene: &'a Scene,
    road: Wire,
    dir: PathBuf,
    top: Cgroup,
    daemon: Option<Daemon<'a>>,
    _accomplice: Accomplice,
    attached: Mutex<BTreeSet<PathBuf>>,
    attempted: Vec<Attempted>,
    seen: BTreeMap<Aim, String>,
    controls: usize,
    full: bool,
}

impl<'a> Stage<'a> {
    pub(super) fn new(scene: &'a Scene) -> Stage<'a> {
        let dir = scene.net.files().join("outside");
        fs::create_dir(&dir).expect("a directory");
        own(&dir);
        let top = Cgroup::new();
        own(&top.path());
        for file in ["cgroup.procs", "cgroup.threads", "cgroup.subtree_control"] {
            own(&top.path().join(file));
        }
        for name in ["plain", "agent", "beside"] {
            cgroup(&top.path().join(name));
        }
        fs::write(dir.join("top"), top.path().display().to_string()).expect("a file");
        let probe = dir.join("set-uid-probe");
        fs::copy(PROBE, &probe).expect("the probe");
        fs::set_permissions(&probe, fs::Permissions::from_mode(0o4755)).expect("its mode");
        devices(scene, &dir);
        older_hierarchy(scene, &dir);
        let accomplice = accomplice(scene, &dir);
        let road = Wire::road(&scene.net).expect("a second judge");
        Stage {
            scene,
            road,
            dir,
            top,
            daemon: None,
            _accomplice: accomplice,
            attached: Mutex::default(),
            attempted: Vec::new(),
            seen: BTreeMap::new(),
            controls: 0,
            full: false,
        }
    }

    /// Which level the daemons have from now on.
    pub(super) fn require_full(&mut self, full: bool) {
        self.full = full;
    }

    /// Looks at the cables: what is seen later of an attempt that has been judged does not count. (A released cgroup's
    /// sockets may send what they had queued.)
    pub(super) fn look(&mut self) {
        std::thread::sleep(Duration::from_millis(300));
        let packets = [self.scene.wire.packets(), self.road.packets()].concat();
        let tried: BTreeSet<Aim> = self.attempted.iter().filter(|one| !one.judged).map(|one| one.aim).collect();
        self.seen.extend(owners(&packets).into_iter().filter(|(aim, _)| tried.contains(aim)));
        self.attempted.iter_mut().for_each(|one| one.judged = true);
    }

    /// Starts the daemon and governs `agent`.
    pub(super) fn govern(&mut self) {
        if self.controls == 0 {
            self.look();
            self.controls = self.scene.wire.packets().len();
        }
        let mut daemon = Daemon::configured(self.scene, RULES);
        if self.full {
            crate::tier_b::require_full(&daemon);
        }
        daemon.attach(&self.top.path().join("agent"));
        daemon.restart();
        self.name_daemon(&daemon);
        self.daemon = Some(daemon);
    }

    /// The same with another instance: nothing that an attempt broke is left.
    pub(super) fn govern_anew(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            // By name: a daemon that runs releases nothing else, and what it left would be somebody else's to the next one.
            let agent = self.top.path().join("agent");
            let agent = agent.to_str().expect("a path in UTF-8");
            let released = daemon.command(&["detach", "--cgroup", agent]).ran();
            if released.code != Some(0) {
                eprintln!("not released: {}", released.stderr);
            }
            drop(daemon);
        }
        self.govern();
    }

    fn name_daemon(&self, daemon: &Daemon<'_>) {
        let pids = [daemon.keeper(), daemon.data_path()];
        let pids: Vec<String> = pids.into_iter().flatten().map(|pid| pid.to_string()).collect();
        fs::write(self.dir.join("daemon"), pids.join(" ")).expect("a file");
    }

    pub(super) fn daemon(&self) -> &Daemon<'a> {
        self.daemon.as_ref().expect("the daemon runs")
    }

    /// Everything of the catalogue that does not come last.
    pub(super) fn tries(&mut self, privilege: Privilege, phase: Phase) {
        let inside = self.with_sockets(privilege, phase);
        let mut runs = vec![inside];
        if phase != Phase::Run {
            runs.push(
                self.probe(privilege).args(["catalogue", privilege.name(), phase.name()]).arg(&self.dir).arg("outside"),
            );
            let before = self.before(privilege, phase);
            cgroup(&before);
            let run = self.probe(privilege).args(["catalogue", privilege.name(), phase.name()]).arg(&self.dir);
            runs.push(run.arg("before").cgroup(&before));
        }
        self.carry_out(privilege, phase, runs);
    }

    /// One that comes last, or all of them.
    pub(super) fn tries_last(&mut self, privilege: Privilege, phase: Phase, name: Option<&str>) {
        let run = match phase {
            Phase::Run => self.governed_run(privilege).arg(PROBE),
            _ => self.probe(privilege).cgroup(&self.home(phase)),
        };
        let run = run.args(["catalogue", privilege.name(), phase.name()]).arg(&self.dir).arg("last").args(name);
        self.carry_out(privilege, phase, vec![run]);
    }

    /// These, in the governed cgroup.
    pub(super) fn tries_named(&mut self, privilege: Privilege, phase: Phase, names: &[&str]) {
        let run = self.probe(privilege).cgroup(&self.top.path().join("agent"));
        self.tries_in(run, privilege, phase, names);
    }

    /// These, in the cgroup that nobody governs.
    pub(super) fn tries_named_ungoverned(&mut self, privilege: Privilege, phase: Phase, names: &[&str]) {
        let run = self.probe(privilege).cgroup(&self.top.path().join("plain"));
        self.tries_in(run, privilege, phase, names);
    }

    fn tries_in(&mut self, run: Run, privilege: Privilege, phase: Phase, names: &[&str]) {
        let run = run.args(["catalogue", privilege.name(), phase.name()]).arg(&self.dir).arg("inside").args(names);
        self.carry_out(privilege, phase, vec![run]);
    }

    /// Does something while the backstop is off: its links are detached, and the keeper is stopped so that it cannot
    /// mend them.
    pub(super) fn without_egress(&mut self, work: impl FnOnce(&mut Self)) {
        let keeper = self.daemon().keeper().expect("a keeper");
        signal(keeper, libc::SIGSTOP);
        let pattern = format!("/sys/fs/bpf/caracal/{}-v*/links/*/egress", self.daemon().instance());
        let taken_off = self.scene.net.a.shell(&format!("for link in {pattern}; do {PROBE} detach $link; done"));
        work(self);
        signal(keeper, libc::SIGCONT);
        taken_off.expect("the backstop comes off");
    }

    /// What was tried and what was seen.
    pub(super) fn found(&self) -> Found {
        Found::new(&self.attempted, self.seen.clone(), &self.scene.wire.packets(), self.controls)
    }

    fn home(&self, phase: Phase) -> PathBuf {
        self.top.path().join(if phase == Phase::Control { "plain" } else { "agent" })
    }

    fn before(&self, privilege: Privilege, phase: Phase) -> PathBuf {
        self.top.path().join(format!("before-{}-{}", privilege.name(), phase.name()))
    }

    fn uid(privilege: Privilege) -> u32 {
        if privilege == Privilege::Root { 0 } else { AGENT_UID }
    }

    fn probe(&self, privilege: Privilege) -> Run {
        self.scene.agent(PROBE).user(Self::uid(privilege))
    }

    fn governed_run(&self, privilege: Privilege) -> Run {
        let run = self.scene.agent(caracald()).user(Self::uid(privilege));
        run.arg("--config").arg(self.daemon().config()).args(["run", "--"])
    }

    /// A program that opened sockets before it was governed.
    fn with_sockets(&self, privilege: Privilege, phase: Phase) -> Run {
        let run = self.probe(privilege).args(["with-sockets", privilege.name(), phase.name()]).arg(&self.dir);
        let run = match phase {
            Phase::Run => {
                let run = run.arg("stay").arg(caracald());
                run.arg("--config").arg(self.daemon().config()).args(["run", "--", PROBE])
            }
            _ => run.args(["join", PROBE]),
        };
        run.args(["catalogue", privilege.name(), phase.name()]).arg(&self.dir).arg("inside")
    }

    fn carry_out(&mut self, privilege: Privilege, phase: Phase, runs: Vec<Run>) {
        let lines: Vec<Attempted> = std::thread::scope(|scope| {
            let this = &*self;
            let readers: Vec<_> =
                runs.into_iter().map(|run| scope.spawn(move || this.read(run, privilege, phase))).collect();
            readers.into_iter().flat_map(|reader| reader.join().expect("a reader")).collect()
        });
        self.attempted.extend(lines);
    }

    /// Runs it and does what it asks for.
    fn read(&self, run: Run, privilege: Privilege, phase: Phase) -> Vec<Attempted> {
        let mut child = run.spawn(Stdio::piped(), Stdio::piped()).expect("the probe starts");
        let out = child.stdout.take().expect("a pipe");
        let mut err = child.stderr.take().expect("a pipe");
        let complaints = std::thread::spawn(move || {
            let mut text = String::new();
            let _read = err.read_to_string(&mut text);
            text
        });
        let mut attempted = Vec::new();
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["meet", what, pid, file] => self.meet(what, pid, privilege, phase, file),
                ["dial", kind, port] => self.dial(kind, port.parse().unwrap_or(0)),
                _ => match serde_json::from_str::<Value>(&line) {
                    Ok(value) => attempted.extend(Attempted::read(&value, privilege, phase)),
                    Err(_) => eprintln!("{}: {line}", phase.name()),
                },
            }
        }
        let status = child.wait().expect("its end");
        let complaints = complaints.join().unwrap_or_default();
        assert!(
            !attempted.is_empty(),
            "nothing was tried as {} under {}: {status} {complaints}",
            privilege.name(),
            phase.name()
        );
        attempted
    }

    fn meet(&self, what: &str, pid: &str, privilege: Privilege, phase: Phase, file: &str) {
        match what {
            "join" => fs::write(self.home(phase).join("cgroup.procs"), pid).expect("it is moved"),
            "attach" if phase != Phase::Control => self.attach(&self.before(privilege, phase)),
            "cable" => self.cable(pid),
            _ => {}
        }
        fs::write(self.dir.join(file), "").expect("a file");
    }

    /// Governs a cgroup in which processes run; once.
    fn attach(&self, cgroup: &Path) {
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        if attached.insert(cgroup.to_owned()) {
            let run = self.daemon().command(&["attach", "--allow-degraded", "--cgroup"]).arg(cgroup);
            let _ran = run.ran().ok();
        }
    }

    /// Connects a network namespace with the host, as rootless container runtimes do, and lets the host forward.
    fn cable(&self, pid: &str) {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let outer = format!("cage{number}");
        let host = &self.scene.net.a;
        let lines = [
            format!("ip link add {outer} type veth peer name eth0 netns {pid}"),
            format!("ip addr add 10.77.{number}.1/24 dev {outer}"),
            format!("ip link set {outer} up"),
            format!("echo 0 > /proc/sys/net/ipv4/conf/{outer}/rp_filter"),
        ];
        host.shell(&lines.join(" && ")).expect("a cable");
        let inner = fs::File::open(format!("/proc/{pid}/ns/net")).expect("its namespace");
        let inner = std::os::fd::OwnedFd::from(inner);
        let lines = [
            "ip link set lo up".to_owned(),
            "ip link set eth0 up".to_owned(),
            format!("ip addr add 10.77.{number}.2/24 dev eth0"),
            format!("ip route add default via 10.77.{number}.1"),
        ];
        std::thread::spawn(move || {
            nix::sched::setns(&inner, nix::sched::CloneFlags::CLONE_NEWNET).expect("its namespace");
            let done = std::process::Command::new("sh").args(["-c", &lines.join(" && ")]).status().expect("sh");
            assert!(done.success(), "the cable's inner end");
        })
        .join()
        .expect("the cable's inner end");
    }

    /// Calls the attempt from the other host, and gives up before it does.
    #[expect(clippy::disallowed_methods, reason = "the test is the stranger who knocks")]
    fn dial(&self, kind: &str, port: u16) {
        let at = SocketAddr::from(([198, 51, 100, 1], port));
        let work = |work: &(dyn Fn() -> anyhow::Result<()> + Send + Sync)| self.scene.net.b.inside(work);
        let _refused = match kind {
            "tcp" => work(&|| {
                std::thread::spawn(move || {
                    let stream = TcpStream::connect_timeout(&at, Duration::from_millis(700));
                    let read = stream.and_then(|mut stream| {
                        stream.set_read_timeout(Some(Duration::from_millis(700)))?;
                        stream.read(&mut [0; 64])
                    });
                    drop(read);
                });
                Ok(())
            }),
            _ => work(&|| Ok(UdpSocket::bind("198.51.100.2:0")?.send_to(b"hello", at).map(drop)?)),
        };
    }
}

impl Drop for Stage<'_> {
    fn drop(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            drop(daemon);
        }
        // The older hierarchy goes with the mount namespace, once it is empty.
        let _gone = self.scene.net.a.shell(&format!("rmdir {}/net_cls.d/agent; true", self.dir.display()));
    }
}

fn own(path: &Path) {
    chown(path, Some(AGENT_UID), Some(AGENT_UID)).expect("its owner");
}

/// Makes a cgroup that is the user's.
fn cgroup(path: &Path) {
    fs::create_dir(path).expect("a cgroup");
    own(path);
    own(&path.join("cgroup.procs"));
}

/// Tunnel devices that somebody made for the user and for root, and a host that forwards, as for virtual machines. Resolvers
/// listen at port 53 here without privilege.
fn devices(scene: &Scene, dir: &Path) {
    let node = dir.join("tun");
    let node = node.display();
    let lines = [
        format!("mknod {node} c 10 200 && chmod 666 {node} && mount --bind {node} /dev/net/tun"),
        format!("ip tuntap add dev tunuser mode tun user {AGENT_UID} && ip addr add 10.66.0.1/24 dev tunuser"),
        "ip tuntap add dev tunroot mode tun user 0 && ip addr add 10.66.1.1/24 dev tunroot".to_owned(),
        "ip link set tunuser up && ip link set tunroot up".to_owned(),
        "for i in default tunuser tunroot; do echo 0 > /proc/sys/net/ipv4/conf/$i/rp_filter; done".to_owned(),
    ];
    let disk = format!(
        "for i in /sys/class/block/*; do case $i in */loop*|*/ram*) ;; *) d=$(cat $i/dev); break;; esac; done; \
         test -n \"$d\" && mknod {0}/disk b ${{d%:*}} ${{d#*:}}; \
         mknod {0}/mem c 1 1; mknod {0}/vhost-net c 10 238; mknod {0}/vhost-vsock c 10 241; \
         for i in disk mem vhost-net vhost-vsock; do test -e {0}/$i && chmod 666 {0}/$i; done; true",
        dir.display()
    );
    scene.net.a.shell(&disk).expect("device nodes");
    // A kernel without tunnel devices: the attempt finds none, and is absent.
    if let Err(why) = scene.net.a.shell(&lines.join(" && ")) {
        eprintln!("no tunnel devices: {why}");
    }
    let settings = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start";
    scene.net.a.shell(settings).expect("settings of a namespace");
}

/// A cgroup v1 with net_cls that is the user's, where the kernel has it and it is harmless (from 5.15 on).
fn older_hierarchy(scene: &Scene, dir: &Path) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|word| word.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(5), Some(15)) {
        return;
    }
    let mount = dir.join("net_cls.d");
    let agent = mount.join("agent");
    let (mount, agent) = (mount.display(), agent.display());
    let line = format!(
        "mkdir {mount} && mount -t cgroup -o net_cls none {mount} && mkdir -p {agent} && \
         chown -R {AGENT_UID} {agent} && echo 0x100001 > {agent}/net_cls.classid && echo {agent} > {}/net_cls",
        dir.display()
    );
    if let Err(why) = scene.net.a.shell(&line) {
        eprintln!("no net_cls: {why}");
    }
}

fn accomplice(scene: &Scene, dir: &Path) -> Accomplice {
    let out = scene.file("outside.out", "");
    let file = fs::OpenOptions::new().write(true).open(&out).expect("a file");
    let run = scene.agent(PROBE).arg("outside").arg(dir);
    let child = run.spawn(Stdio::from(file), Stdio::inherit()).expect("an accomplice");
    until("the accomplice listens", Duration::from_secs(10), || {
        fs::read_to_string(&out).is_ok_and(|text| text.contains("ready"))
    })
    .expect("an accomplice");
    let queue = fs::read_to_string(dir.join("queue")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(-1);
    Accomplice { child, queue }
}

fn signal(pid: i32, signal: i32) {
    // SAFETY: kill takes integers; the pid is the keeper's.
    unsafe { libc::kill(pid, signal) };
}

/// The attempt of a name.
pub(super) fn aim(name: &str, privilege: Privilege, phase: Phase) -> Option<Aim> {
    catalogue::named(name).map(|(vector, _)| Aim { vector, privilege, phase })
}
