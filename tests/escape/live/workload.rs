//! A workload that holds sockets of every kind before anybody governs it.

use super::{CANARY, CANARY6, PATIENCE};
use serde_json::Value;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use support::daemon::Cgroup;
use support::netns::{AGENT_UID, until};
use support::scene::Scene;
use support::wire::CANARY_PORT;

/// `tests/programs/live.py`, with its inner process in the cgroup.
pub(super) struct Workload {
    child: Child,
    dir: PathBuf,
    pub(super) pids: Value,
    pub(super) ready: Value,
}

impl Workload {
    pub(super) fn start(scene: &Scene, cgroup: &Cgroup) -> Workload {
        let dir = scene.home.path().join("live");
        std::fs::create_dir(&dir).expect("a directory");
        std::os::unix::fs::chown(&dir, Some(AGENT_UID), Some(AGENT_UID)).expect("its owner");
        let script = scene.file("live.py", include_str!("../../programs/live.py"));
        let errors = std::fs::File::create(scene.net.files().join("live.err")).expect("a log");
        let (port, uid) = (CANARY_PORT.to_string(), AGENT_UID.to_string());
        let run = scene.agent("/usr/bin/python3").user(0).arg(script).arg(&dir).args([CANARY, &port, CANARY6, &uid]);
        let child = run.spawn(Stdio::null(), Stdio::from(errors)).expect("python3 starts");
        let mut workload = Workload { child, dir, pids: Value::Null, ready: Value::Null };
        workload.pids = workload.told(scene, "pids");
        let inside = workload.pids["inside"].as_u64().expect("a pid").to_string();
        std::fs::write(cgroup.path().join("cgroup.procs"), inside).expect("it moves");
        workload.ask("moved");
        workload.ready = workload.told(scene, "ready");
        workload
    }

    pub(super) fn ask(&self, name: &str) {
        std::fs::write(self.dir.join(name), "").expect("a file");
    }

    fn told(&self, scene: &Scene, name: &str) -> Value {
        let path = self.dir.join(name);
        let read = || serde_json::from_str(&std::fs::read_to_string(&path).unwrap_or_default()).ok();
        let there = until(name, PATIENCE, || read().is_some());
        let errors = std::fs::read_to_string(scene.net.files().join("live.err")).unwrap_or_default();
        assert!(there.is_ok(), "the workload does not say {name}: {errors}");
        read().unwrap_or(Value::Null)
    }

    /// What became of the last attempts, all of them made after this was called.
    pub(super) fn seen(&self) -> Value {
        let path = self.dir.join("seen");
        let _gone = std::fs::remove_file(&path);
        let mut seen = Value::Null;
        for _ in 0..2 {
            until("an attempt", PATIENCE, || {
                let text = std::fs::read_to_string(&path).unwrap_or_default();
                seen = serde_json::from_str(&text).unwrap_or(Value::Null);
                !seen.is_null()
            })
            .expect("the workload tries");
            let _gone = std::fs::remove_file(&path);
        }
        seen
    }
}

impl Drop for Workload {
    fn drop(&mut self) {
        if let Some(inside) = self.pids["inside"].as_i64().and_then(|pid| i32::try_from(pid).ok()) {
            // SAFETY: kill takes integers; the outer process has not been waited for, so its child's pid is not another's.
            unsafe { libc::kill(inside, libc::SIGKILL) };
        }
        let _dead = self.child.kill();
        let _status = self.child.wait();
    }
}
