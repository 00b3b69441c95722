//! `cargo xtask run -- CMD...`: set up, build, start the daemon when none answers, then become `caracald run -- CMD`.

use std::{
    ffi::OsString,
    fs,
    os::unix::{fs::MetadataExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    build,
    checkout::Checkout,
    progress::{self, Wait},
    root,
};

/// How long a daemon may take until it answers.
const READY: Duration = Duration::from_secs(30);
/// How long a daemon may take to end its streams.
const DRAIN: Duration = Duration::from_secs(40);
/// How long one status question may take.
const ANSWER: Duration = Duration::from_secs(5);
/// The daemon's own output.
const LOG: &str = "/var/log/caracal/caracald.log";

/// Set up, build, and run a command governed: all it sends goes through policy, budget and ledger, or nowhere.
///
/// The first call writes a starter configuration, starts the daemon as root (it stays until you stop it), and then
/// runs the command as you. Its exit code is the command's.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  cargo xtask run -- claude\n  cargo xtask run -- curl https://example.com\n  \
                        cargo xtask run --learn -- ./my-agent")]
pub(crate) struct Arguments {
    /// The agent's name in policy, budgets and records.
    #[arg(long)]
    agent: Option<String>,
    /// Lift the host allow list, record, and print the policy that would have sufficed.
    #[arg(long)]
    learn: bool,
    /// Build nothing, and note in this directory which daemon was started: for the test of this command.
    #[arg(long, hide = true, value_name = "DIR")]
    built: Option<PathBuf>,
    /// The command and its arguments.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let checkout = Checkout::find()?;
    if arguments.built.is_none() {
        build::all(&checkout)?;
    }
    let notes = arguments.built.clone().unwrap_or_else(|| checkout.target.join("run"));
    ensure_daemon(&checkout, &notes.join("daemon"))?;
    let mut command = Command::new(checkout.caracald());
    command.arg("run");
    if let Some(agent) = &arguments.agent {
        command.arg("--agent").arg(agent);
    }
    if arguments.learn {
        command.arg("--learn");
    }
    command.arg("--").args(&arguments.command);
    crate::checkout::forget_cargo(&mut command);
    Err(command.exec()).context("caracald run does not start")
}

/// A host to itself: no configuration, no state, no pins, no daemon and no network. `$0` is this program, `$1` a directory for
/// notes. The first command writes a configuration, starts the daemon and runs; the second one finds it and passes its code on.
const SCENE: &str = r#"
set -e
etc=/etc/caracal; slice=$(sed -n 's/^[^ ]* \([^ ]*\) cgroup2 .*/\1/p' /proc/mounts | head -n 1)/caracal.slice
had_etc=; [ -d $etc ] && had_etc=1; had_slice=; [ -d "$slice" ] && had_slice=1
mkdir -p $etc
for directory in $etc /run /var/lib /var/log; do mount -t tmpfs none $directory; done
mount -t bpf none /sys/fs/bpf
ip link set lo up
ended() {
    kill "$(cut -d ' ' -f 2 "$1/daemon")" 2>/dev/null || true
    while kill -0 "$(cut -d ' ' -f 2 "$1/daemon")" 2>/dev/null; do sleep 0.1; done
    caracald=$(readlink -f "$2"); "$caracald" detach >/dev/null 2>&1 || true
    [ "$had_slice" ] || find "$slice" -depth -type d -exec rmdir {} + 2>/dev/null || true
    umount -l $etc; [ "$had_etc" ] || rmdir $etc
}
trap 'ended "$1" "$2"' EXIT
"$0" run --built "$1" -- true
[ -s $etc/caracal.toml ] || { echo "no configuration was written"; exit 1; }
first=$(cat "$1/daemon")
code=0; "$0" run --built "$1" -- sh -c 'exit 7' || code=$?
[ $code = 7 ] || { echo "the second command ended with $code, not 7"; exit 1; }
[ "$first" = "$(cat "$1/daemon")" ] || { echo "the second command started another daemon"; exit 1; }
"#;

/// Tries this command on a host to itself.
///
/// # Errors
/// What went wrong in it, or that a daemon of this host's own answers, which it would disturb.
pub(crate) fn attempt(checkout: &Checkout) -> Result<()> {
    if answers(checkout) {
        bail!("a caracald runs on this host already; stop it, then try again");
    }
    let notes = std::env::temp_dir().join(format!("caracal-first-{}", std::process::id()));
    fs::create_dir(&notes).with_context(|| notes.display().to_string())?;
    let mut command = root::command("unshare");
    command.args(["--mount", "--net", "sh", "-c", SCENE]).arg(std::env::current_exe()?);
    command.arg(&notes).arg(checkout.caracald()).stdin(Stdio::null());
    let status = progress::status("the first command", &mut command);
    let removed = root::command("rm").arg("-rf").arg(&notes).status();
    let status = status?;
    if !status.success() || !removed.is_ok_and(|status| status.success()) {
        bail!("the first command ended with {status}; what it said is above");
    }
    Ok(())
}

/// A daemon that we started: which binary, which process.
#[derive(Debug, Eq, PartialEq)]
struct Started {
    binary: String,
    pid: u32,
}

/// Starts a daemon when none answers, and replaces one that we started from an older binary.
fn ensure_daemon(checkout: &Checkout, stamp: &Path) -> Result<()> {
    let binary = fingerprint(&checkout.caracald())?;
    let ours = Started::read(stamp).filter(Started::lives);
    match (answers(checkout), ours) {
        (true, Some(ours)) if ours.binary == binary => return Ok(()),
        (true, None) => {
            eprintln!("--  a daemon that xtask did not start answers; using it as it is");
            return Ok(());
        }
        (_, Some(ours)) => stop(&ours)?,
        (false, None) => {}
    }
    root::ask("to start caracald, which loads the kernel programs")?;
    let pid = spawn(checkout)?;
    let started = Started { binary, pid };
    started.write(stamp)?;
    wait_until_ready(checkout, &started)
}

/// Whether a daemon answers on the control socket.
fn answers(checkout: &Checkout) -> bool {
    let question = Command::new(checkout.caracald())
        .args(["status", "--json"])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let Ok(mut child) = question else {
        return false;
    };
    let asked = Instant::now();
    while asked.elapsed() < ANSWER {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) => thread::sleep(Duration::from_millis(20)),
            Err(_) => return false,
        }
    }
    // Hung: we are not the ones to wait for it. Both calls can only fail when the child has ended just now.
    drop(child.kill());
    drop(child.wait());
    false
}

/// Starts the daemon as root in a session of its own, so that it outlives this terminal. Returns its process id.
fn spawn(checkout: &Checkout) -> Result<u32> {
    let script = r#"mkdir -p "${1%/*}" && { nohup setsid "$0" attach </dev/null >>"$1" 2>&1 & echo $!; }"#;
    let output = root::command("sh")
        .args(["-c", script])
        .arg(checkout.caracald())
        .arg(LOG)
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("the daemon does not start")?;
    let text = String::from_utf8_lossy(&output.stdout);
    text.trim().parse().with_context(|| format!("the daemon was not started: {}", output.status))
}

fn wait_until_ready(checkout: &Checkout, started: &Started) -> Result<()> {
    let mut wait = Wait::start(format!("waiting for caracald to answer (its log: {LOG})"));
    while wait.waited() < READY {
        if answers(checkout) {
            wait.done();
            return Ok(());
        }
        if started.ended() {
            drop(wait);
            show_log();
            bail!("caracald ended before it was ready; the last lines of {LOG} are above");
        }
        wait.glance();
    }
    drop(wait);
    show_log();
    bail!("caracald (pid {}) does not answer after {} s; see {LOG}", started.pid, READY.as_secs())
}

fn stop(old: &Started) -> Result<()> {
    root::ask("to replace the running caracald, which is not the binary just built")?;
    let status = root::command("kill").args(["-TERM", &old.pid.to_string()]).status()?;
    if !status.success() {
        bail!("caracald (pid {}) could not be told to end", old.pid);
    }
    let mut wait = Wait::start(format!("waiting for the old caracald (pid {}) to end its streams", old.pid));
    while old.lives() {
        if wait.waited() >= DRAIN {
            bail!("caracald (pid {}) does not end; stop it, then try again", old.pid);
        }
        wait.glance();
    }
    wait.done();
    Ok(())
}

fn show_log() {
    // Only for people: when the log cannot be shown, its name is still in the message that follows.
    drop(root::command("tail").args(["-n", "20", LOG]).status());
}

/// Changes with every new binary: a new file has another inode, another time, or another size.
fn fingerprint(binary: &Path) -> Result<String> {
    let file = fs::metadata(binary).with_context(|| binary.display().to_string())?;
    Ok(format!("{}-{}-{}.{}", file.ino(), file.len(), file.mtime(), file.mtime_nsec()))
}

impl Started {
    fn read(stamp: &Path) -> Option<Self> {
        let text = fs::read_to_string(stamp).ok()?;
        let (binary, pid) = text.trim().split_once(' ')?;
        Some(Self { binary: binary.to_owned(), pid: pid.parse().ok()? })
    }

    fn write(&self, stamp: &Path) -> Result<()> {
        if let Some(directory) = stamp.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(stamp, format!("{} {}\n", self.binary, self.pid)).with_context(|| stamp.display().to_string())
    }

    /// Whether the process has ended. One that has just been forked need not have become caracald yet.
    fn ended(&self) -> bool {
        !Path::new(&format!("/proc/{}", self.pid)).exists()
    }

    /// Whether the process is there and still a caracald: ids are used again.
    fn lives(&self) -> bool {
        fs::read_to_string(format!("/proc/{}/comm", self.pid)).is_ok_and(|name| name.trim() == "caracald")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_that_is_not_ours_is_no_daemon() {
        let directory = std::env::temp_dir().join(format!("caracal-run-{}", std::process::id()));
        let stamp = directory.join("daemon");
        let started = Started { binary: "1-2-3.4".into(), pid: 7 };
        started.write(&stamp).unwrap();
        assert_eq!(Started::read(&stamp), Some(started));
        fs::write(&stamp, "half").unwrap();
        assert_eq!(Started::read(&stamp), None);
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_process_that_is_not_caracald_yet_has_not_ended() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let started = Started { binary: String::new(), pid: child.id() };
        assert!(!started.lives() && !started.ended());
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(started.ended());
    }

    #[test]
    fn another_process_with_the_same_id_is_no_daemon() {
        assert!(!Started { binary: String::new(), pid: std::process::id() }.lives());
    }
}
