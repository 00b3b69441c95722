//! Real children, as root and as an ordinary user. Each test starts this test program again, as the user in question and
//! with its own descriptors, and that one spawns the command and exits with its code: the fork then happens in a
//! process with one thread, as it does in `caracald run`.

mod confined;
mod descriptors;
mod files;
mod life;

use super::*;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output, Stdio as Pipe};

/// Not a version manager's shim: those live in root's home.
const PYTHON: &str = "/usr/bin/python3";
const ROLE: &str = "CARACAL_SPAWN_TEST";

/// What the driver is to do.
#[derive(serde::Serialize, serde::Deserialize)]
struct Job {
    argv: Vec<String>,
    covers: Vec<(PathBuf, PathBuf)>,
    hide: Vec<PathBuf>,
    /// Print the limits before the command runs.
    limits: bool,
    /// Drop the prepared child instead of releasing it.
    abandon: bool,
}

fn job(argv: &[&str]) -> Job {
    let argv = argv.iter().map(|a| (*a).to_owned()).collect();
    Job { argv, covers: vec![], hide: vec![], limits: false, abandon: false }
}

fn sh(script: &str) -> Job {
    job(&["sh", "-c", script])
}

/// Not a proof by itself: the program that the proofs below start.
#[test]
#[expect(clippy::disallowed_methods, reason = "a child of the test harness must not return into it")]
fn driver() {
    let Some(role) = std::env::var_os(ROLE) else { return };
    let job: Job = serde_json::from_slice(role.as_bytes()).unwrap();
    let plan = SpawnPlan {
        argv: job.argv.into_iter().map(Into::into).collect(),
        env: std::env::vars_os().filter(|(name, _)| name != ROLE).collect(),
        covers: job.covers.into_iter().map(|(source, target)| Cover { source, target }).collect(),
        hide: job.hide,
    };
    running::signals().thread_unblock().unwrap();
    let code = match prepare(&plan) {
        Ok(prepared) => {
            if job.limits {
                eprintln!("limits {:?}", prepared.limits().iter().map(Uncovered::code).collect::<Vec<_>>());
            }
            if job.abandon {
                let pid = prepared.pid();
                drop(prepared);
                let gone = nix::sys::signal::kill(pid, None) == Err(nix::Error::ESRCH);
                std::process::exit(if gone { 42 } else { 1 });
            }
            match prepared.release().and_then(|run| run.wait().map_err(|e| SpawnError::System("wait", e))) {
                Ok(status) => exit_code(status),
                Err(e) => report(&e),
            }
        }
        Err(e) => report(&e),
    };
    std::process::exit(code);
}

fn report(e: &SpawnError) -> i32 {
    eprintln!("{}: {e}", e.code());
    e.exit_code()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum User {
    Root,
    Nobody,
}

/// The driver as a command that is ready to start. `nobody` cannot read root's build directories: it gets a copy.
fn command(user: User, job: &Job) -> (Command, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = dir.path().join("driver");
    let this = std::env::current_exe().unwrap();
    // Not copied by us: a child that another test forks meanwhile would hold the copy open for writing, and what is
    // being written cannot be run.
    if std::fs::hard_link(&this, &program).is_err() {
        assert!(Command::new("cp").arg(&this).arg(&program).status().unwrap().success());
    }
    let mut command = match user {
        User::Root => Command::new(&program),
        User::Nobody => {
            let mut command = Command::new("setpriv");
            command.args([
                "--reuid=65534",
                "--regid=65534",
                "--clear-groups",
                "--inh-caps=-all",
                "--bounding-set=-all",
            ]);
            command.arg(&program);
            command
        }
    };
    command
        .args(["--exact", "cli::spawn::tests::driver", "--nocapture", "--quiet", "--test-threads=1"])
        .env(ROLE, serde_json::to_string(job).unwrap())
        .env("HOME", "/tmp")
        .current_dir("/");
    (command, dir)
}

fn users() -> Vec<User> {
    if nix::unistd::geteuid().is_root() {
        vec![User::Root, User::Nobody]
    } else {
        // Without root only this user can be tried; `cargo xtask test` runs these as root.
        vec![User::Root]
    }
}

fn as_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn output(user: User, job: &Job) -> (Option<i32>, String) {
    let (mut command, _dir) = command(user, job);
    let out: Output = command.stdin(Pipe::null()).output().unwrap();
    (out.status.code(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

fn passes(job: &Job) {
    for user in users() {
        let (code, text) = output(user, job);
        assert_eq!(code, Some(0), "{user:?} {:?}\n{text}", job.argv);
    }
}

fn python(script: &str) -> Job {
    job(&[PYTHON, "-c", script])
}
