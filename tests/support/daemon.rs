//! The binary under test: configured, started, hurt and asked. Its path is in `CARACALD`.

mod cgroup;
mod process;

pub use cgroup::{Cgroup, cgroup_mount};
pub use process::alive;

use crate::ledger::Record;
use crate::netns::{Host, Ran, Run, until};
use crate::scene::Scene;
use cgroup::{remove_slice, sweep};
use process::{children_of, uid_of};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

/// How long the daemon may take to govern, or to stop.
const PATIENCE: Duration = Duration::from_secs(180);

/// The binary under test.
///
/// # Panics
/// When `CARACALD` is not set.
#[must_use]
pub fn caracald() -> PathBuf {
    PathBuf::from(std::env::var_os("CARACALD").expect("CARACALD names the binary under test: run `cargo xtask test`"))
}

/// One daemon in host A.
#[derive(Debug)]
pub struct Daemon<'a> {
    scene: &'a Scene,
    child: Option<Child>,
    instance: String,
    binary: PathBuf,
    by: Vec<String>,
    dir: PathBuf,
    starts: u32,
    attach: Vec<PathBuf>,
    routed: Vec<u32>,
}

impl<'a> Daemon<'a> {
    /// Where it listens unless the configuration says something else.
    pub const TCP_PORT: u16 = 15_001;
    /// Where its resolver listens.
    pub const DNS_PORT: u16 = 15_053;

    /// Writes a configuration with these rules and budgets; nothing runs yet.
    ///
    /// # Panics
    /// When the scratch directory cannot be written.
    #[must_use]
    pub fn configured(scene: &'a Scene, rules: &str) -> Daemon<'a> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        sweep();
        let instance = format!("t{}x{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let dir = scene.net.files().join(&instance);
        std::fs::create_dir(&dir).expect("a scratch directory");
        crate::netns::open_to_all(&dir).expect("its mode");
        let (by, attach, routed) = (Vec::new(), Vec::new(), Vec::new());
        let daemon = Daemon { scene, child: None, instance, binary: caracald(), by, dir, starts: 0, attach, routed };
        daemon.configure(rules);
        daemon
    }

    /// Starts with these rules and waits until it governs.
    ///
    /// # Panics
    /// When it does not.
    #[must_use]
    #[track_caller]
    pub fn start(scene: &'a Scene, rules: &str) -> Daemon<'a> {
        let mut daemon = Daemon::configured(scene, rules);
        daemon.restart();
        daemon
    }

    /// Replaces rules and budgets in the configuration file; the daemon is not told.
    ///
    /// # Panics
    /// When the file cannot be written.
    pub fn configure(&self, rules: &str) {
        let text = format!(
            "instance = \"{}\"\nstate_dir = \"{}\"\nruntime_dir = \"{}\"\n\n[upstream]\nnameservers = [\"{}\"]\nroots = [\"{}\"]\n\n{rules}\n",
            self.instance,
            self.state().display(),
            self.dir.join("run").display(),
            crate::netns::NAME_SERVER,
            self.scene.root().display(),
        );
        std::fs::write(self.config(), text).expect("the configuration");
    }

    /// The configuration file.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.dir.join("caracal.toml")
    }

    /// Journal, ledger and keys.
    #[must_use]
    pub fn state(&self) -> PathBuf {
        self.dir.join("state")
    }

    /// The instance's name.
    #[must_use]
    pub fn instance(&self) -> &str {
        &self.instance
    }

    /// Governs this cgroup as well from the next start on.
    pub fn attach(&mut self, cgroup: &Path) {
        self.attach.push(cgroup.to_owned());
    }

    /// Starts this program instead from now on: another version of the binary under test.
    pub fn install(&mut self, binary: &Path) {
        binary.clone_into(&mut self.binary);
    }

    /// From the next start on, this command becomes the daemon: one that sets limits and executes the rest of its line.
    pub fn start_by(&mut self, command: &[&str]) {
        self.by = command.iter().map(|word| (*word).to_owned()).collect();
    }

    /// Starts the process and does not wait.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn launch(&mut self) {
        self.starts += 1;
        let out = std::fs::File::create(self.out()).expect("a log");
        let err = std::fs::File::create(self.err()).expect("a log");
        let mut run = match self.by.split_first() {
            Some((program, rest)) => {
                self.started_by(|host| host.run(program).args(rest).arg(&self.binary), &["attach"])
            }
            None => self.command(&["attach"]),
        };
        for cgroup in &self.attach {
            run = run.arg("--cgroup").arg(cgroup);
        }
        self.child = Some(run.spawn(Stdio::from(out), Stdio::from(err)).expect("caracald starts"));
    }

    /// Starts it (again) and waits until it governs.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn restart(&mut self) {
        self.launch();
        let out = self.out();
        let ready = until("caracald says `ready`", PATIENCE, || {
            std::fs::read_to_string(&out).is_ok_and(|text| text.lines().any(|line| line.trim() == "ready"))
                || self.exited().is_some()
        });
        assert!(
            ready.is_ok() && self.exited().is_none(),
            "caracald does not govern: exit {:?}\n{}",
            self.exited(),
            self.logs()
        );
        self.route();
    }

    /// Lets the data path's own packets onto the road, and checks that it is another user than root.
    ///
    /// # Panics
    /// When no child of the keeper runs as a user of its own.
    #[track_caller]
    fn route(&mut self) {
        let mut users: Vec<u32> = Vec::new();
        let _late = until("the data path's user", PATIENCE, || {
            users = self.processes().iter().filter_map(|pid| uid_of(*pid)).filter(|uid| *uid != 0).collect();
            !users.is_empty()
        });
        assert!(
            !users.is_empty(),
            "the data path must run as a user of its own; processes: {:?}\n{}",
            self.processes(),
            self.logs()
        );
        for uid in users {
            if !self.routed.contains(&uid) {
                self.scene.net.road_for(uid).expect("the road");
                self.routed.push(uid);
            }
        }
    }

    fn out(&self) -> PathBuf {
        self.dir.join(format!("out.{}", self.starts))
    }

    fn err(&self) -> PathBuf {
        self.dir.join(format!("err.{}", self.starts))
    }

    /// What the daemon said since its last start.
    #[must_use]
    pub fn logs(&self) -> String {
        let read = |path: PathBuf| std::fs::read_to_string(path).unwrap_or_default();
        read(self.out()) + &read(self.err())
    }

    /// The keeper and its descendants.
    #[must_use]
    pub fn processes(&self) -> Vec<i32> {
        let Some(keeper) = self.keeper() else {
            return Vec::new();
        };
        let mut all = vec![keeper];
        let mut next = 0;
        while let Some(parent) = all.get(next).copied() {
            all.extend(children_of(parent));
            next += 1;
        }
        all
    }

    /// The exit code, once it has ended.
    pub fn exited(&mut self) -> Option<i32> {
        let status = self.child.as_mut()?.try_wait().ok().flatten()?;
        Some(status.code().unwrap_or(-1))
    }

    /// Sends a signal to every process of the daemon that is not governed.
    pub fn signal(&self, signal: i32) {
        for pid in self.own_processes() {
            // SAFETY: kill takes integers; the pids are the daemon's own, whose keeper has not been waited for.
            unsafe { libc::kill(pid, signal) };
        }
    }

    /// Keeper and data path: what the keeper started for agents has another program.
    fn own_processes(&self) -> Vec<i32> {
        let binary = std::fs::canonicalize(&self.binary).unwrap_or_default();
        let same = |pid: &i32| std::fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == binary);
        let keeper = self.keeper();
        self.processes().into_iter().filter(|pid| Some(*pid) == keeper || same(pid)).collect()
    }

    /// The keeper: the daemon's process that is root's.
    #[must_use]
    pub fn keeper(&self) -> Option<i32> {
        self.child.as_ref().and_then(|child| i32::try_from(child.id()).ok())
    }

    /// The data path: the daemon's process that is not root's.
    #[must_use]
    pub fn data_path(&self) -> Option<i32> {
        self.own_processes().into_iter().find(|pid| uid_of(*pid).is_some_and(|uid| uid != 0))
    }

    /// `kill -9`, keeper and data path, and waits until neither holds a socket any more.
    pub fn kill(&mut self) {
        let all = self.own_processes();
        self.signal(libc::SIGKILL);
        if let Some(mut child) = self.child.take() {
            let _dead = child.kill();
            let _status = child.wait();
        }
        let _late = until("the end of the daemon", PATIENCE, || all.iter().all(|pid| !alive(*pid)));
    }

    /// Asks it to stop and demands that it does, with exit code 0.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn stop(&mut self) {
        let Some(keeper) = self.keeper() else { return };
        // SAFETY: kill takes integers; the keeper has not been waited for.
        unsafe { libc::kill(keeper, libc::SIGTERM) };
        let ended = until("caracald stops", PATIENCE, || self.exited().is_some());
        assert!(ended.is_ok(), "caracald does not stop on SIGTERM\n{}", self.logs());
        assert_eq!(self.exited(), Some(0), "{}", self.logs());
        self.child = None;
    }

    /// A subcommand, as root.
    #[must_use]
    pub fn command(&self, args: &[&str]) -> Run {
        self.started_by(|host| host.run(&self.binary), args)
    }

    fn started_by(&self, start: impl FnOnce(&Host) -> Run, args: &[&str]) -> Run {
        start(&self.scene.net.a).clean_env().env("HOME", "/root").arg("--config").arg(self.config()).args(args)
    }

    /// What `doctor --json` says of this kernel at the highest level that it takes, whatever is required. `CARACAL_DOCTOR` names a file that has it already: in an
    /// emulated machine it takes long.
    #[must_use]
    pub fn doctor(&self) -> String {
        let said = std::env::var_os("CARACAL_DOCTOR").and_then(|path| std::fs::read_to_string(path).ok());
        said.filter(|text| !text.is_empty())
            .unwrap_or_else(|| self.command(&["doctor", "--json", "--level", "full"]).ran().stdout)
    }

    /// The local CA's certificate, in a file that agents can read: for programs in an attached cgroup.
    ///
    /// # Panics
    /// When `ca export` fails.
    #[must_use]
    #[track_caller]
    pub fn ca(&self) -> PathBuf {
        let pem = self.command(&["ca", "export"]).ran().ok().stdout;
        assert!(pem.contains("BEGIN CERTIFICATE"), "`ca export` prints no certificate: {pem}");
        self.scene.file(&format!("{}-ca.pem", self.instance), &pem)
    }

    /// A program of the agent's user, governed: `caracald run -- PROGRAM`, arguments to be added.
    #[must_use]
    pub fn run(&self, program: impl AsRef<std::ffi::OsStr>) -> Run {
        self.run_as(&[], program)
    }

    /// The same with options of `run`.
    #[must_use]
    pub fn run_as(&self, options: &[&str], program: impl AsRef<std::ffi::OsStr>) -> Run {
        self.scene.agent(caracald()).arg("--config").arg(self.config()).arg("run").args(options).arg("--").arg(program)
    }

    /// A subcommand's JSON.
    ///
    /// # Panics
    /// When it fails or prints something else.
    #[must_use]
    #[track_caller]
    pub fn json(&self, args: &[&str]) -> Value {
        let asked = || self.command(args).arg("--json").ran();
        let mut ran = asked();
        if args == ["status"] {
            // It exits 1 while the door is shut, which on a busy machine it may be for a moment.
            let open = until("the door is open", PATIENCE, || {
                if ran.code != Some(0) {
                    ran = asked();
                }
                ran.code == Some(0)
            });
            assert!(open.is_ok(), "the door stays shut: {}\n{}", ran.screen(), self.logs());
        }
        let ran = ran.ok();
        serde_json::from_str(&ran.stdout).unwrap_or_else(|error| panic!("{args:?} --json: {error}\n{}", ran.screen()))
    }

    /// Everything recorded so far.
    ///
    /// # Panics
    /// When `events` fails.
    #[must_use]
    #[track_caller]
    pub fn records(&self) -> Vec<Record> {
        let ran = self.command(&["events", "--json", "--limit", "1000000"]).ran().ok();
        Record::read(&ran.stdout)
    }

    /// Everything recorded, once `done` is content with it: an outcome is written a moment after the agent's last byte.
    ///
    /// # Panics
    /// When it never is.
    #[must_use]
    #[track_caller]
    pub fn records_when(&self, done: impl Fn(&[Record]) -> bool) -> Vec<Record> {
        let mut last = Vec::new();
        let complete = until("the records", PATIENCE, || {
            last = self.records();
            done(&last)
        });
        assert!(complete.is_ok(), "the records never became complete: {last:#?}\n{}", self.logs());
        last
    }

    /// What `ledger verify --json` says once the ledger has every record of the journal: what reads the ledger alone, such as
    /// `spend`, is behind by up to a checkpoint.
    ///
    /// # Panics
    /// When the ledger never catches up.
    #[track_caller]
    pub fn caught_up(&self) -> Value {
        let mut verified = Value::Null;
        let caught_up = until("the ledger has every record of the journal", PATIENCE, || {
            verified = self.json(&["ledger", "verify"]);
            verified["journal_records"] == 0
        });
        assert!(caught_up.is_ok(), "the ledger never caught up: {verified:#}\n{}", self.logs());
        verified
    }

    /// `ledger verify` must find nothing wrong.
    ///
    /// # Panics
    /// When it does.
    #[track_caller]
    pub fn verify(&self) -> Ran {
        self.command(&["ledger", "verify"]).ran().ok()
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- caracald said:\n{}", self.logs());
        }
        // A stopped process does not act on anything but this.
        self.signal(libc::SIGCONT);
        self.kill();
        remove_slice(&self.instance);
        if !std::thread::panicking() {
            // Journals are large, and a test may have many daemons where the scratch directory is in memory.
            let _gone = std::fs::remove_dir_all(self.state());
        }
    }
}
