//! What the story plays on: two hosts, the stand-in in the far one, the daemon and its agents in the near one.

use std::{
    fs::{self, File},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{self, Child, Command, Output, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;

use crate::{
    hosts::{AS_NOBODY, Hosts, NAME_SERVER, PROVIDER},
    progress::Wait,
};

/// How long the daemon and the stand-in may take until they are ready.
const READY: Duration = Duration::from_secs(30);
/// Characters of a line that are shown.
const WIDTH: usize = 200;

#[derive(Debug)]
pub(super) struct Stage {
    hosts: Hosts,
    stand_in: Child,
    daemon: Option<Child>,
    /// The daemon's binary: a copy, so that its processes are told from any other caracald.
    caracald: PathBuf,
    config: PathBuf,
    instance: String,
    cgroup: PathBuf,
}

/// The stand-in's own bill.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bill {
    pub(super) calls: usize,
    pub(super) nano: u64,
}

/// One attempt to reach the provider.
#[derive(Debug)]
pub(super) struct Attempt {
    pub(super) connected: bool,
    pub(super) text: String,
}

impl Stage {
    /// Sets it up and starts everything.
    pub(super) fn set(caracald: &Path, stand_in: &Path, budget: &str) -> Result<Self> {
        let hosts = Hosts::new("demo")?;
        hosts.mount()?;
        let caracald = hosts.copy(caracald)?;
        let instance = format!("demo{}", process::id());
        let config = hosts.file("caracal.toml", &configuration(&hosts, &instance, budget)?)?;
        let cgroup = cgroup_mount()?.join(format!("caracal-demo-{}", process::id()));
        fs::create_dir(&cgroup).with_context(|| cgroup.display().to_string())?;
        let child = start_stand_in(&hosts, stand_in)?;
        let mut stage = Self { hosts, stand_in: child, daemon: None, caracald, config, instance, cgroup };
        wait_for("the stand-in provider", &stage.hosts.files().join("stand-in.out"), &mut stage.stand_in)
            .with_context(|| stage.read("stand-in.err"))?;
        stage.start()?;
        Ok(stage)
    }

    /// Starts the daemon and waits until it is ready.
    pub(super) fn start(&mut self) -> Result<()> {
        let out = self.hosts.files().join("caracald.out");
        let mut child = self
            .hosts
            .near(&self.caracald)
            .arg("--config")
            .arg(&self.config)
            .args(["attach", "--agent", "cgroup", "--cgroup"])
            .arg(&self.cgroup)
            .stdout(File::create(&out)?)
            .stderr(File::create(self.hosts.files().join("caracald.err"))?)
            .spawn()
            .context("caracald does not start")?;
        let ready = wait_for("caracald", &out, &mut child);
        self.daemon = Some(child);
        ready.with_context(|| self.read("caracald.err"))
    }

    /// `kill -9` of every process of the daemon; their ids.
    pub(super) fn kill(&mut self) -> Result<String> {
        let pids = self.processes()?;
        ensure!(!pids.is_empty(), "the daemon is gone already");
        let ids: Vec<String> = pids.iter().map(u32::to_string).collect();
        let status = Command::new("kill").arg("-9").args(&ids).status()?;
        ensure!(status.success(), "the daemon could not be killed");
        if let Some(mut daemon) = self.daemon.take() {
            daemon.wait()?;
        }
        Ok(ids.join(" "))
    }

    /// The processes that run our copy of the binary.
    fn processes(&self) -> Result<Vec<u32>> {
        let pids = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
        Ok(pids.filter(|pid| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == self.caracald)).collect())
    }

    /// Narration.
    pub(super) fn say(&self, title: &str, text: &str) {
        println!("\n{title}\n   {text}\n");
    }

    /// Runs a governed command as an ordinary user and shows both it and what it prints.
    pub(super) fn show(&self, command: &[String]) -> Result<String> {
        let words: Vec<&str> = command.iter().map(|word| if word.len() > 60 { "..." } else { word.as_str() }).collect();
        println!("   $ caracald run --agent demo -- {}", words.join(" ").replace('\n', "\\n"));
        let text = self.run(command)?;
        println!("{}", indented(&text));
        Ok(text)
    }

    /// Runs a governed command as an ordinary user.
    pub(super) fn run(&self, command: &[String]) -> Result<String> {
        let [first, rest @ ..] = AS_NOBODY;
        let output = self
            .hosts
            .near(first)
            .args(rest)
            .arg(&self.caracald)
            .arg("--config")
            .arg(&self.config)
            .args(["run", "--agent", "demo", "--"])
            .args(command)
            .env("HOME", self.home())
            .current_dir(self.home())
            .output()
            .context("caracald run does not start")?;
        Ok(text(&output))
    }

    /// Asks the daemon as root and shows both question and answer. Returns whether it succeeded.
    pub(super) fn ask(&self, question: &[&str]) -> Result<bool> {
        println!("   $ caracald {}", question.join(" "));
        let output = self.hosts.near(&self.caracald).arg("--config").arg(&self.config).args(question).output()?;
        println!("{}", indented(&text(&output)));
        Ok(output.status.success())
    }

    /// Shows the spend, once the ledger has taken in this many calls from the journal.
    pub(super) fn spend(&self, calls: usize) -> Result<()> {
        let mut wait = Wait::start("waiting for the ledger to take in the last call");
        loop {
            let output = self.hosts.near(&self.caracald).arg("--config").arg(&self.config).arg("spend").output()?;
            let seen = text(&output);
            let total = seen.lines().find_map(|line| line.trim().strip_prefix("total")?.split_whitespace().next());
            if total.is_some_and(|total| total == calls.to_string()) {
                wait.done();
                return self.ask(&["spend"]).map(drop);
            }
            ensure!(wait.waited() < READY, "the ledger shows {}, not {calls} calls", total.unwrap_or("nothing"));
            wait.glance();
        }
    }

    /// One attempt of an ordinary user in the governed cgroup.
    pub(super) fn reach_from_cgroup(&self) -> Result<Attempt> {
        let script = r#"echo 0 >"$0/cgroup.procs" && exec "$@""#;
        let mut command = self.hosts.near("sh");
        command.args(["-c", script]).arg(&self.cgroup).args(AS_NOBODY);
        attempt(&mut command)
    }

    /// One attempt of a process that nobody governs.
    pub(super) fn reach_ungoverned(&self) -> Result<Attempt> {
        let [first, rest @ ..] = AS_NOBODY;
        attempt(self.hosts.near(first).args(rest))
    }

    pub(super) fn bill(&self) -> Result<Bill> {
        #[derive(Deserialize)]
        struct Line {
            nano: u64,
        }
        let text = fs::read_to_string(self.hosts.files().join("bill.jsonl")).context("the stand-in's bill")?;
        let lines = text.lines().map(serde_json::from_str::<Line>).collect::<Result<Vec<_>, _>>()?;
        Ok(Bill { calls: lines.len(), nano: lines.iter().map(|line| line.nano).sum() })
    }

    fn home(&self) -> PathBuf {
        self.hosts.files().join("home")
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.hosts.files().join(name)).unwrap_or_default()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // Best effort throughout: there is nobody left to tell.
        for pid in self.processes().unwrap_or_default() {
            drop(Command::new("kill").args(["-9", &pid.to_string()]).status());
        }
        if let Some(mut daemon) = self.daemon.take() {
            drop(daemon.wait());
        }
        drop(self.stand_in.kill());
        drop(self.stand_in.wait());
        if let Ok(mount) = cgroup_mount() {
            remove_cgroup(&mount.join(format!("{}.slice", self.instance)));
        }
        remove_cgroup(&self.cgroup);
    }
}

/// A cgroup directory holds files that cannot be removed and need not be.
fn remove_cgroup(directory: &Path) {
    for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
        if entry.path().is_dir() {
            remove_cgroup(&entry.path());
        }
    }
    drop(fs::remove_dir(directory));
}

/// The model provider at any price that fits into `budget`; nothing else.
fn configuration(hosts: &Hosts, instance: &str, budget: &str) -> Result<String> {
    for (name, mode) in [("daemon", 0o755), ("home", 0o777)] {
        let directory = hosts.files().join(name);
        fs::create_dir(&directory)?;
        fs::set_permissions(&directory, fs::Permissions::from_mode(mode))?;
    }
    let files = hosts.files().display();
    Ok(format!(
        "instance = \"{instance}\"\nstate_dir = \"{files}/daemon/state\"\nruntime_dir = \"{files}/daemon/run\"\n\n\
         [upstream]\nnameservers = [\"{NAME_SERVER}\"]\nroots = [\"{files}/root.pem\"]\n\n\
         [[allow]]\nhosts = [\"api.openai.com\"]\nports = [443]\n\n\
         [[budget]]\nname = \"demo\"\nlimit = \"{budget}\"\nwindow = \"day\"\n"
    ))
}

fn start_stand_in(hosts: &Hosts, stand_in: &Path) -> Result<Child> {
    let files = hosts.files();
    hosts
        .far(hosts.copy(stand_in)?)
        .arg("--root-out")
        .arg(files.join("root.pem"))
        .arg("--bill")
        .arg(files.join("bill.jsonl"))
        .args(["--listen", "0.0.0.0", "--dns", NAME_SERVER, "--answer-v4", PROVIDER, "--answer-v6", "none"])
        .stdout(File::create(files.join("stand-in.out"))?)
        .stderr(File::create(files.join("stand-in.err"))?)
        .spawn()
        .context("the stand-in does not start")
}

/// Waits until a line of `out` is `ready`.
fn wait_for(what: &str, out: &Path, child: &mut Child) -> Result<()> {
    let mut wait = Wait::start(format!("waiting for {what}"));
    loop {
        if fs::read_to_string(out).is_ok_and(|text| text.lines().any(|line| line.trim() == "ready")) {
            wait.done();
            return Ok(());
        }
        if let Some(status) = child.try_wait()? {
            bail!("{what} ended before it was ready, with {status}");
        }
        if wait.waited() > READY {
            bail!("{what} is not ready after {} s", READY.as_secs());
        }
        wait.glance();
    }
}

/// curl to the provider's address: whether the connection stood, not what was answered.
fn attempt(command: &mut Command) -> Result<Attempt> {
    let resolve = format!("api.openai.com:443:{PROVIDER}");
    let output = command
        // Whose certificate it is does not matter here: only whether there is a connection.
        .args(["curl", "-sSk", "-m", "10", "-o", "/dev/null", "-w", "HTTP %{http_code}", "--resolve", &resolve])
        .arg("https://api.openai.com/v1/models")
        .stderr(Stdio::piped())
        .output()
        .context("curl does not start")?;
    Ok(Attempt {
        connected: output.status.success(),
        text: if output.status.success() {
            String::from_utf8_lossy(&output.stdout).trim().to_owned()
        } else {
            String::from_utf8_lossy(&output.stderr).trim().to_owned()
        },
    })
}

fn cgroup_mount() -> Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts")?;
    mounts
        .lines()
        .find_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (place, kind) = (words.next()?, words.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(place))
        })
        .context("cgroup v2 is mounted nowhere: mount -t cgroup2 none /sys/fs/cgroup/unified")
}

fn text(output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{stdout}{stderr}")
}

fn indented(text: &str) -> String {
    let short = |line: &str| match line.char_indices().nth(WIDTH) {
        Some((end, _)) => format!("   | {} ...", line.get(..end).unwrap_or_default()),
        None => format!("   | {line}"),
    };
    text.trim().lines().map(short).collect::<Vec<_>>().join("\n")
}
