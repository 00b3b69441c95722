//! A PostgreSQL server on loopback with a cluster of its own, gone with the test.

use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

pub(super) struct Server {
    dir: tempfile::TempDir,
    port: u16,
    process: Mutex<Option<Child>>,
}

/// Debian's path; the newest version that is there.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let newest = versions.map(|version| version.path().join("bin").join(name)).filter(|path| path.exists()).max();
    newest.unwrap_or_else(|| panic!("PostgreSQL's {name} is missing: `cargo xtask test unit` installs it"))
}

/// It refuses to run as root.
fn as_user(program: &Path) -> Command {
    let Some(user) = user() else { return Command::new(program) };
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &user.to_string(), "--regid", &user.to_string(), "--clear-groups"]).arg(program);
    command
}

fn user() -> Option<u32> {
    let postgres = nix::unistd::User::from_name("postgres").ok().flatten().map(|user| user.uid.as_raw());
    nix::unistd::Uid::effective().is_root().then(|| postgres.expect("the package makes a user `postgres`"))
}

impl Server {
    pub(super) fn start() -> Server {
        let dir = tempfile::Builder::new().prefix("caracal-vault-").tempdir_in("/var/tmp").expect("a directory");
        if let Some(user) = user() {
            chown(dir.path(), Some(user), Some(user)).expect("its owner");
        }
        let port =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr()).expect("a port").port();
        let server = Server { dir, port, process: Mutex::new(None) };
        let made = as_user(&program("initdb"))
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N", "-D"])
            .arg(server.data())
            .current_dir(server.dir.path())
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server.run();
        server
    }

    pub(super) fn url(&self) -> String {
        format!("postgres://postgres@127.0.0.1:{}/postgres", self.port)
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub(super) fn run(&self) {
        let ready = || {
            let port = self.port.to_string();
            let asked = Command::new(program("pg_isready")).args(["-q", "-h", "127.0.0.1", "-p", &port]).status();
            asked.is_ok_and(|status| status.success())
        };
        let deadline = Instant::now() + Duration::from_secs(120);
        let mut child = self.spawn();
        while !ready() {
            let log = || std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
            assert!(Instant::now() < deadline, "PostgreSQL does not answer: {}", log());
            std::thread::sleep(Duration::from_millis(50));
            // Children of one that was killed may be there still, and it starts beside none.
            if child.try_wait().is_ok_and(|ended| ended.is_some()) {
                child = self.spawn();
            }
        }
        *self.process.lock().expect("its process") = Some(child);
    }

    fn spawn(&self) -> Child {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log"));
        as_user(&program("postgres"))
            .arg("-D")
            .arg(self.data())
            .args(["-p", &self.port.to_string(), "-c", "listen_addresses=127.0.0.1", "-k"])
            .arg(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log.expect("a log"))
            .spawn()
            .expect("postgres starts")
    }

    /// SIGKILL. Its children end when they see that it is gone.
    pub(super) fn kill(&self) {
        if let Some(mut child) = self.process.lock().expect("its process").take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// SIGINT: a fast shutdown.
    fn stop(&self) {
        let Some(mut child) = self.process.lock().expect("its process").take() else { return };
        let pid = nix::unistd::Pid::from_raw(i32::try_from(child.id()).expect("a process id"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGINT).expect("it is there");
        child.wait().expect("its end");
    }

    /// A copy of all that it has.
    pub(super) fn backup(&self) -> PathBuf {
        let copy = self.dir.path().join("backup");
        self.stop();
        copy_all(&self.data(), &copy);
        self.run();
        copy
    }

    pub(super) fn restore(&self, backup: &Path) {
        self.stop();
        std::fs::remove_dir_all(self.data()).expect("removed");
        copy_all(backup, &self.data());
        self.run();
    }
}

fn copy_all(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().expect("cp runs");
    assert!(done.success());
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}
