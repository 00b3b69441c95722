//! Ways to hang a daemon that runs: all of a process, single threads of it, or the file system below its journal.

use std::fs::File;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

/// `FIFREEZE` and `FITHAW` of linux/fs.h.
const FIFREEZE: libc::c_ulong = 0xc004_5877;
const FITHAW: libc::c_ulong = 0xc004_5878;

/// What hangs, until this is dropped.
pub(crate) struct Hang {
    /// When it began, nanoseconds of `CLOCK_MONOTONIC`.
    since: u64,
    release: Option<Box<dyn FnOnce() + Send>>,
}

impl Hang {
    /// When it began, nanoseconds of `CLOCK_MONOTONIC`.
    pub(crate) fn since(&self) -> u64 {
        self.since
    }

    /// Lets it go on, and gives the nanoseconds of `CLOCK_MONOTONIC` just before.
    pub(crate) fn release(mut self) -> u64 {
        let at = monotonic_ns();
        if let Some(release) = self.release.take() {
            release();
        }
        at
    }
}

impl Drop for Hang {
    fn drop(&mut self) {
        if let Some(release) = self.release.take() {
            release();
        }
    }
}

/// Nanoseconds of `CLOCK_MONOTONIC`, as the programs under test read it.
pub(crate) fn monotonic_ns() -> u64 {
    let now = nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).expect("a clock");
    u64::try_from(now.tv_sec()).expect("since boot") * 1_000_000_000
        + u64::try_from(now.tv_nsec()).expect("nanoseconds")
}

/// Stops these processes.
pub(crate) fn processes(pids: Vec<i32>) -> Hang {
    let signal = |pids: &[i32], signal: i32| {
        for pid in pids {
            // SAFETY: kill takes integers; the pids are the daemon's.
            unsafe { libc::kill(*pid, signal) };
        }
    };
    signal(&pids, libc::SIGSTOP);
    // A stopped process executes nothing from here on; on a busy machine the call itself may have waited.
    let since = monotonic_ns();
    Hang { since, release: Some(Box::new(move || signal(&pids, libc::SIGCONT))) }
}

/// The threads of a process with this name; at most 15 letters of a name are kept.
pub(crate) fn threads(pid: i32, name: &str) -> Vec<i32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).expect("the process's threads");
    let named = tasks
        .flatten()
        .filter(|task| std::fs::read_to_string(task.path().join("comm")).is_ok_and(|comm| comm.trim() == name));
    named.filter_map(|task| task.file_name().to_str()?.parse().ok()).collect()
}

/// Stops single threads, as a debugger does; the others of their process run on.
///
/// # Panics
/// When there is none, or one cannot be stopped.
#[track_caller]
pub(crate) fn only(tids: Vec<i32>) -> Hang {
    assert!(!tids.is_empty(), "no such thread");
    let (release, wait) = sync_channel::<()>(1);
    let (stopped, ready) = sync_channel::<()>(1);
    // Whoever traces a thread is itself one thread, and has to stay.
    let tracer = std::thread::spawn(move || {
        for tid in &tids {
            // SAFETY: integers only; the thread is the daemon's.
            unsafe {
                assert_eq!(libc::ptrace(libc::PTRACE_SEIZE, *tid, 0, 0), 0, "{}", std::io::Error::last_os_error());
                assert_eq!(libc::ptrace(libc::PTRACE_INTERRUPT, *tid, 0, 0), 0, "{}", std::io::Error::last_os_error());
                let mut status = 0;
                assert_eq!(libc::waitpid(*tid, &raw mut status, libc::__WALL), *tid);
            }
        }
        stopped.send(()).expect("somebody waits");
        let _asked = wait.recv();
        for tid in &tids {
            // SAFETY: as above; this thread traces it.
            unsafe { libc::ptrace(libc::PTRACE_DETACH, *tid, 0, 0) };
        }
    });
    ready.recv().expect("the threads stop");
    let since = monotonic_ns();
    Hang { since, release: Some(Box::new(move || let_go(&release, tracer))) }
}

fn let_go(release: &SyncSender<()>, tracer: JoinHandle<()>) {
    let _told = release.send(());
    let _ended = tracer.join();
}

/// Freezes the file system below a directory of a process's: writes and syncs wait.
///
/// # Panics
/// When it cannot be frozen.
#[track_caller]
pub(crate) fn file_system(process: i32, directory: &Path) -> Hang {
    let path = format!("/proc/{process}/root{}", directory.display());
    // Opened before: whoever thaws it must not wait for it.
    let mount = File::open(&path).unwrap_or_else(|error| panic!("{path}: {error}"));
    // SAFETY: an open directory, and no argument that the kernel reads.
    assert_eq!(unsafe { libc::ioctl(mount.as_raw_fd(), FIFREEZE, 0) }, 0, "{}", std::io::Error::last_os_error());
    let thaw = move || {
        // SAFETY: as above.
        unsafe { libc::ioctl(mount.as_raw_fd(), FITHAW, 0) };
    };
    // It has been written out first, and went on until then.
    Hang { since: monotonic_ns(), release: Some(Box::new(thaw)) }
}
