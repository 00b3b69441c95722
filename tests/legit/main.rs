//! What a policy allows works as it did: package managers, SSH, gRPC, PostgreSQL, HTTP/3 clients, services of the host. What
//! the same policy refuses is refused, and the records say both. curl, git over HTTPS, WebSocket and server-sent events
//! stand in `wire/`.

mod ending;
mod fallback;
mod grpc;
mod packages;
mod postgres;
mod services;
mod ssh;

use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;
use support::daemon::Daemon;
use support::ledger::Record;
use support::netns::{Run, until};
use support::scene::Scene;

/// The stand-in's binary.
const STAND_IN: &str = env!("CARGO_BIN_EXE_stand-in");

/// Runs `work` in a world with a daemon under `rules`, as one case of `legit.json`. `before` makes what stands on the other
/// host, which is there until the end.
fn case<T>(name: &str, rules: &str, before: impl FnOnce(&Scene) -> T, work: impl FnOnce(&Scene, &Daemon<'_>, &T)) {
    support::report::plain("legit", name, || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let other_host = before(&scene);
        let mut daemon = Daemon::start(&scene, rules);
        scene.wire.clear();
        work(&scene, &daemon, &other_host);
        scene.wire.silent();
        daemon.stop();
        drop(other_host);
    });
}

/// Waits until a record says that this agent's `action` at `host` and `port` was allowed.
#[track_caller]
fn recorded(daemon: &Daemon<'_>, action: &str, host: &str, port: u16) {
    let _records = daemon.records_when(|records| {
        records.iter().any(|record| allowed(record, action) && at(record, host) && record.detail["port"] == port)
    });
}

/// Waits until a record says that something at `host` was refused for this reason.
#[track_caller]
fn refused(daemon: &Daemon<'_>, reason: &str, host: &str) {
    let _records =
        daemon.records_when(|records| records.iter().any(|record| record.is_denial(reason) && at(record, host)));
}

fn allowed(record: &Record, action: &str) -> bool {
    record.text("caracal.decision") == "allow" && record.text("caracal.action") == action
}

fn at(record: &Record, host: &str) -> bool {
    record.detail["host"] == host
}

/// A server of the other host, ended with its world.
struct Server {
    child: Child,
    log: PathBuf,
}

impl Server {
    /// Starts it and waits until something listens on each of the ports there.
    #[track_caller]
    fn start(scene: &Scene, name: &str, run: Run, ports: &[u16]) -> Server {
        let log = scene.net.files().join(format!("{name}.log"));
        let file = || Stdio::from(std::fs::File::options().create(true).append(true).open(&log).expect("a log"));
        let child = run.spawn(file(), file()).expect("the server starts");
        let server = Server { child, log };
        for port in ports {
            let ready = until(name, Duration::from_secs(60), || listens(scene, *port));
            assert!(ready.is_ok(), "{name} does not listen on {port}:\n{}", server.said());
        }
        server
    }

    fn said(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let group = i32::try_from(self.child.id()).unwrap_or(0);
        // SAFETY: the group is the child's own, which has not been waited for.
        unsafe { libc::kill(-group, libc::SIGTERM) };
        let _late = until("the server ends", Duration::from_secs(10), || !matches!(self.child.try_wait(), Ok(None)));
        // SAFETY: as above.
        unsafe { libc::kill(-group, libc::SIGKILL) };
        let _status = self.child.wait();
    }
}

/// Whether a TCP port of the other host has a listener.
fn listens(scene: &Scene, port: u16) -> bool {
    let tables = scene.net.b.shell("cat /proc/net/tcp /proc/net/tcp6").unwrap_or_default();
    let place = format!(":{port:04X}");
    tables.lines().any(|line| {
        let mut words = line.split_whitespace().skip(1);
        words.next().is_some_and(|local| local.ends_with(&place)) && words.nth(1) == Some("0A")
    })
}

/// A directory of the agent's home.
fn directory(scene: &Scene, name: &str) -> PathBuf {
    let dir = scene.home.path().join(name);
    std::fs::create_dir_all(&dir).expect("a directory");
    own(&dir);
    dir
}

/// A file of the agent's.
fn file(dir: &Path, name: &str, text: &str) -> PathBuf {
    let path = dir.join(name);
    std::fs::write(&path, text).expect("a file");
    own(&path);
    path
}

fn own(path: &Path) {
    let agent = Some(support::netns::AGENT_UID);
    std::os::unix::fs::chown(path, agent, agent).expect("its owner");
}
