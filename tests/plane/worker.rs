//! A worker that runs: killed, told to end, and asked by what it said which logs it writes.

use crate::plane::PATIENCE;
use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use support::daemon::caracald;
use support::netns::until;

/// A worker under test.
#[derive(Debug)]
pub(crate) struct Worker {
    child: Child,
    log: PathBuf,
}

impl Worker {
    /// Starts one that writes `log`; `prepare` may change what it finds.
    pub(crate) fn start(
        kind: &str,
        config: &Path,
        (file, log): (File, PathBuf),
        prepare: impl FnOnce(&mut Command),
    ) -> Worker {
        let mut command = Command::new(caracald());
        command.arg("--config").arg(config).args(["worker", kind]);
        prepare(&mut command);
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(file).spawn().expect("a worker");
        Worker { child, log }
    }

    /// What it said last. Its lines begin with the time.
    pub(crate) fn last_line(&self) -> String {
        let log = std::fs::read_to_string(&self.log).unwrap_or_default();
        log.lines().rfind(|line| line.starts_with("20")).unwrap_or_default().to_owned()
    }

    /// The logs that it writes, as it says itself.
    pub(crate) fn logs(&self) -> BTreeSet<i32> {
        let mut logs = BTreeSet::new();
        for line in std::fs::read_to_string(&self.log).unwrap_or_default().lines() {
            let Some((_, behind)) = line.split_once("partition=") else { continue };
            let Some(Ok(partition)) = behind.split(' ').next().map(str::parse) else { continue };
            if line.contains("took over the log") {
                logs.insert(partition);
            } else if line.contains("let go of the log") || line.contains("it is taken up again") {
                logs.remove(&partition);
            }
        }
        logs
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(crate) fn signal(&self, signal: i32) {
        let pid = i32::try_from(self.child.id()).expect("a process id");
        // SAFETY: kill takes plain numbers; the child is ours and not reaped yet.
        assert_eq!(unsafe { libc::kill(pid, signal) }, 0, "the worker is there");
    }

    /// SIGTERM: it ends with 0.
    pub(crate) fn stop(mut self) {
        self.signal(libc::SIGTERM);
        until("the worker ends", PATIENCE, || self.child.try_wait().is_ok_and(|status| status.is_some()))
            .expect("an end");
        assert!(self.child.wait().expect("its status").success(), "it ends in order");
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.kill();
    }
}
