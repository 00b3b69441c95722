//! A program in one of the two hosts: as which user, in which cgroup, for how long; and what it did.

use super::Host;
use anyhow::{Context as _, Result};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A program to be run in a [`Host`].
#[derive(Debug)]
pub struct Run {
    command: Command,
    net: RawFd,
    mnt: RawFd,
    uid: u32,
    dir: PathBuf,
    keep: Option<RawFd>,
    limit: Duration,
    cgroup: Option<File>,
}

/// What a program did.
#[derive(Debug)]
pub struct Ran {
    /// Exit code; `None` when a signal or the time limit ended it.
    pub code: Option<i32>,
    /// What it printed.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

impl Ran {
    /// Both outputs, for messages of failed tests and for sentences that may be on either.
    #[must_use]
    pub fn screen(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }

    /// The outputs of a program that must have succeeded.
    ///
    /// # Panics
    /// When it did not.
    #[must_use]
    #[track_caller]
    pub fn ok(self) -> Ran {
        assert_eq!(self.code, Some(0), "{}", self.screen());
        self
    }
}

impl Run {
    pub(super) fn of(host: &Host, program: impl AsRef<OsStr>) -> Run {
        Run {
            command: Command::new(program),
            net: host.net.as_raw_fd(),
            mnt: host.mnt.as_raw_fd(),
            uid: 0,
            dir: PathBuf::from("/"),
            keep: None,
            limit: Duration::from_secs(600),
            cgroup: None,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Run {
        self.command.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Run {
        self.command.args(args);
        self
    }

    /// Sets a variable.
    #[must_use]
    pub fn env(mut self, key: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Run {
        self.command.env(key, value);
        self
    }

    /// Starts from an empty environment with a path.
    #[must_use]
    pub fn clean_env(mut self) -> Run {
        self.command
            .env_clear()
            .env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("LANG", "C.UTF-8");
        self
    }

    /// Runs as this user instead of root.
    #[must_use]
    pub fn user(mut self, uid: u32) -> Run {
        self.uid = uid;
        self
    }

    /// Runs in this directory.
    #[must_use]
    pub fn dir(mut self, dir: impl Into<PathBuf>) -> Run {
        self.dir = dir.into();
        self
    }

    /// Runs in this cgroup from its first instruction on.
    ///
    /// # Panics
    /// When it is no cgroup.
    #[must_use]
    #[track_caller]
    pub fn cgroup(mut self, cgroup: &Path) -> Run {
        let file = File::options().write(true).open(cgroup.join("cgroup.procs"));
        self.cgroup = Some(file.expect("the cgroup"));
        self
    }

    /// Ends it after this time; a program that has to be ended has failed.
    #[must_use]
    pub fn limit(mut self, limit: Duration) -> Run {
        self.limit = limit;
        self
    }

    pub(super) fn keep_descriptor(mut self, fd: Option<RawFd>) -> Run {
        self.keep = fd;
        self
    }

    /// Starts it.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(mut self, stdout: Stdio, stderr: Stdio) -> Result<Child> {
        let inside = Inside {
            net: self.net,
            mnt: self.mnt,
            uid: self.uid,
            keep: self.keep,
            cgroup: self.cgroup.as_ref().map(|file| file.as_raw_fd()),
        };
        use std::os::unix::ffi::OsStrExt as _;
        let dir = CString::new(self.dir.as_os_str().as_bytes())?;
        let program = self.command.get_program().to_owned();
        // SAFETY: the closure runs between fork and exec and calls only async-signal-safe system calls on values that
        // were made before the fork.
        unsafe {
            self.command.pre_exec(move || enter(&inside, &dir));
        }
        self.command.stdin(Stdio::null()).stdout(stdout).stderr(stderr);
        self.command.process_group(0);
        self.command.spawn().with_context(|| format!("starting {}", program.display()))
    }

    /// Runs it to its end.
    ///
    /// # Errors
    /// When it cannot be started, or is still running at its limit.
    pub fn output(self) -> Result<Output> {
        let limit = self.limit;
        let mut child = self.spawn(Stdio::piped(), Stdio::piped())?;
        let (mut out, mut err) = (child.stdout.take(), child.stderr.take());
        let read = |pipe: Option<&mut dyn io::Read>| {
            let mut bytes = Vec::new();
            pipe.map(|pipe| pipe.read_to_end(&mut bytes));
            bytes
        };
        std::thread::scope(|scope| {
            let stdout = scope.spawn(move || read(out.as_mut().map(|pipe| pipe as &mut dyn io::Read)));
            let stderr = scope.spawn(move || read(err.as_mut().map(|pipe| pipe as &mut dyn io::Read)));
            let status = wait(&mut child, limit)?;
            let join = |handle: std::thread::ScopedJoinHandle<'_, Vec<u8>>| handle.join().unwrap_or_default();
            Ok(Output { status, stdout: join(stdout), stderr: join(stderr) })
        })
    }

    /// Runs it to its end, outputs as text.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    #[track_caller]
    pub fn ran(self) -> Ran {
        let output = self.output().expect("the program runs");
        Ran {
            code: output.status.code(),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }
}

/// Waits; at the limit the whole process group is killed and what it had printed is kept.
fn wait(child: &mut Child, limit: Duration) -> Result<std::process::ExitStatus> {
    let end = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() > end {
            let group = i32::try_from(child.id())?;
            // SAFETY: the group is the child's own, which has not been waited for.
            unsafe { libc::kill(-group, libc::SIGKILL) };
            return Ok(child.wait()?);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// What the child does before it becomes the program.
struct Inside {
    net: RawFd,
    mnt: RawFd,
    uid: u32,
    keep: Option<RawFd>,
    cgroup: Option<RawFd>,
}

fn enter(inside: &Inside, dir: &CString) -> io::Result<()> {
    let Inside { net, mnt, uid, keep, cgroup } = *inside;
    let check = |done: libc::c_int| if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: plain system calls on integers and a C string; the child has one thread.
    unsafe {
        // Nothing that a test started outlives it.
        check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        if let Some(procs) = cgroup {
            check(if libc::write(procs, c"0".as_ptr().cast(), 1) == 1 { 0 } else { -1 })?;
        }
        check(libc::setns(mnt, libc::CLONE_NEWNS))?;
        check(libc::setns(net, libc::CLONE_NEWNET))?;
        if let Some(fd) = keep {
            check(libc::fcntl(fd, libc::F_SETFD, 0))?;
        }
        if uid != 0 {
            check(libc::setgroups(0, std::ptr::null()))?;
            check(libc::setgid(uid))?;
            check(libc::setuid(uid))?;
            // A change of user clears it.
            check(libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL))?;
        }
        check(libc::chdir(dir.as_ptr()))
    }
}
