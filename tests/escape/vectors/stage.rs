//! Where the attempts are made: one world, an accomplice outside, a daemon, and cgroups beside each other.
//!
//! ```text
//! TOP/            the user's, as a delegated subtree is
//!   plain         nobody governs it: controls
//!   agent         governed
//!   before-...    governed while its processes run
//!   beside        nobody governs it: where attempts try to go
//! ```

mod carry_out;
mod surroundings;

use super::judge::{Attempted, Found, owners};
use crate::{PROBE, RULES};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;
use support::catalogue::{self, Aim, Phase, Privilege};
use support::daemon::{Cgroup, Daemon, caracald};
use support::netns::{AGENT_UID, Run};
use support::scene::Scene;
use support::wire::Wire;
use surroundings::{Accomplice, accomplice, cgroup, devices, older_hierarchy, own};

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

fn signal(pid: i32, signal: i32) {
    // SAFETY: kill takes integers; the pid is the keeper's.
    unsafe { libc::kill(pid, signal) };
}

/// The attempt of a name.
pub(super) fn aim(name: &str, privilege: Privilege, phase: Phase) -> Option<Aim> {
    catalogue::named(name).map(|(vector, _)| Aim { vector, privilege, phase })
}
