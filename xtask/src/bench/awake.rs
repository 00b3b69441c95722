//! Keeps the cores awake while one connection is measured, whatever it goes through.
//!
//! With one connection every step waits for another, so the cores sleep between them, and a virtual core needs longer to wake
//! than the step takes: the machine would be measured, not the proxy. A program of the idle class (sched(7), SCHED_IDLE)
//! turns in circles on each core and gives way to everything else.

use std::{
    process::{Child, Command, Stdio},
    thread,
};

use anyhow::{Context, Result};

/// Ends with whoever started it. The builtin `kill -0` asks whether that is still there.
const CIRCLES: &str = "while kill -0 $PPID 2>/dev/null; do n=0; while [ $n -lt 20000 ]; do n=$((n + 1)); done; done";

/// The programs; they end when this is dropped.
pub(super) struct Awake(Vec<Child>);

impl Awake {
    /// One for each core.
    ///
    /// # Errors
    /// When one cannot be started.
    pub(super) fn keep() -> Result<Awake> {
        let cores = thread::available_parallelism().context("the number of cores")?.get();
        let mut awake = Awake(Vec::with_capacity(cores));
        for core in 0..cores {
            let core = core.to_string();
            let mut circles = Command::new("chrt");
            circles.args(["--idle", "0", "taskset", "--cpu-list", &core, "sh", "-c", CIRCLES]);
            awake.0.push(circles.stdout(Stdio::null()).spawn().context("chrt (util-linux)")?);
        }
        Ok(awake)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for circles in &mut self.0 {
            drop(circles.kill());
            drop(circles.wait());
        }
    }
}
