//! A world of two hosts for one test, without names and without leftovers.
//!
//! `A` is the host under test: the daemon and the agents run there. `B` is the rest of the internet: the stand-in and
//! the canaries listen there, and every address on earth that `A` sends to arrives there. Two cables join them:
//!
//! ```text
//!            road   203.0.113.1  -> 203.0.113.53     only sockets of the daemon's own user are routed here
//!  A                                                                                                        B
//!            leak   198.51.100.1 -> 198.51.100.2     everything else
//! ```
//! Which cable a packet takes is the kernel's choice by the socket's owner (`ip rule uidrange`). So a packet on `leak`
//! was not sent by the data path, whatever addresses it carries: that is what [`crate::wire`] judges by.
//!
//! The namespaces have no names: they live as long as a descriptor or a process in them, so a killed test leaves nothing
//! behind. `A` has its own mount namespace with its own resolv.conf, passwd and an empty bpffs: pins die with the test.

use anyhow::{Context as _, Result, bail, ensure};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, RawFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// The user that agents run as: no privileges, no group that the host gives a meaning.
pub const AGENT_UID: u32 = 4_242;

/// The name server and the address of the stand-in that `road` leads to.
pub const NAME_SERVER: &str = "203.0.113.53";

/// Two hosts.
#[derive(Debug)]
pub struct Net {
    /// The host under test.
    pub a: Host,
    /// Everything else.
    pub b: Host,
    // Dropped last: files that are bind-mounted in A.
    files: tempfile::TempDir,
}

/// One namespace pair, held by descriptors.
#[derive(Debug)]
pub struct Host {
    net: File,
    mnt: File,
}

impl Net {
    /// Makes both hosts and the cables.
    ///
    /// # Errors
    /// When not root, or `ip` fails.
    pub fn new() -> Result<Net> {
        // SAFETY: geteuid has no preconditions.
        let user = unsafe { libc::geteuid() };
        ensure!(user == 0, "these tests make network namespaces: run them as root, with `cargo xtask test`");
        let files = tempfile::Builder::new().prefix("caracal-net-").tempdir()?;
        open_to_all(files.path())?;
        std::fs::write(
            files.path().join("resolv.conf"),
            format!("nameserver {NAME_SERVER}\noptions timeout:2 attempts:2\n"),
        )?;
        std::fs::write(files.path().join("passwd"), passwd()?)?;
        let b = Host::new(|| Ok(()))?;
        let resolver = files.path().join("resolv.conf");
        let users = files.path().join("passwd");
        let a = Host::new(move || {
            mount(Some(&resolver), &std::fs::canonicalize("/etc/resolv.conf")?, None, libc::MS_BIND)?;
            mount(Some(&users), Path::new("/etc/passwd"), None, libc::MS_BIND)?;
            // The host's goes first: a test that unmounts its own must find nothing below it.
            while umount(Path::new("/sys/fs/bpf")) {}
            mount(Some(Path::new("bpf")), Path::new("/sys/fs/bpf"), Some("bpf"), 0)
        })?;
        let net = Net { a, b, files };
        net.cables()?;
        Ok(net)
    }

    fn cables(&self) -> Result<()> {
        self.a.setup(&[
            &format!("link add road type veth peer name road netns /proc/self/fd/{}", self.b.net.as_raw_fd()),
            &format!("link add leak type veth peer name leak netns /proc/self/fd/{}", self.b.net.as_raw_fd()),
            "link set lo up",
            "link set road up",
            "link set leak up",
            "addr add 203.0.113.1/32 dev road",
            "addr add 2001:db8:ca::1/128 dev road nodad",
            "addr add 198.51.100.1/24 dev leak",
            "addr add 2001:db8:1ea::1/64 dev leak nodad",
            "route add default via 198.51.100.2 dev leak src 198.51.100.1",
            "-6 route add default via 2001:db8:1ea::2 dev leak src 2001:db8:1ea::1",
            "route add default via 203.0.113.53 dev road src 203.0.113.1 table 200 onlink",
            "-6 route add default via 2001:db8:ca::53 dev road src 2001:db8:ca::1 table 200 onlink",
        ])?;
        self.b.setup(&[
            "link set lo up",
            "link set road up",
            "link set leak up",
            "addr add 203.0.113.53/32 dev road",
            "addr add 2001:db8:ca::53/128 dev road nodad",
            "addr add 198.51.100.2/32 dev leak",
            "addr add 2001:db8:1ea::2/128 dev leak nodad",
            // Every address on earth is B's, but those of A: the longest prefix wins within a table.
            "route add 203.0.113.1/32 dev road table local",
            "route add 198.51.100.1/32 dev leak table local",
            "route add local 0.0.0.0/0 dev lo table local",
            "-6 route add 2001:db8:ca::1/128 dev road table local",
            "-6 route add 2001:db8:1ea::1/128 dev leak table local",
            "-6 route add fe80::/64 dev road table local",
            "-6 route append fe80::/64 dev leak table local",
            "-6 route add local ::/0 dev lo table local",
        ])?;
        let loose = "for i in all road leak; do echo 0 > /proc/sys/net/ipv4/conf/$i/rp_filter; done";
        self.b.shell(loose)?;
        // Unprivileged ping sockets exist on many hosts: the contract is that a governed process cannot use them.
        self.a.shell(&format!("{loose}; echo '0 2147483647' > /proc/sys/net/ipv4/ping_group_range"))?;
        Ok(())
    }

    /// Sends the packets of sockets that `uid` owns over `road`.
    ///
    /// # Errors
    /// When `ip rule` fails.
    pub fn road_for(&self, uid: u32) -> Result<()> {
        ensure!(uid != 0 && uid != AGENT_UID, "the data path must run as a user of its own, it runs as uid {uid}");
        let rule = format!("rule add uidrange {uid}-{uid} lookup 200");
        self.a.setup(&[&rule, &format!("-6 {rule}")])
    }

    /// A directory that every user of A may enter.
    #[must_use]
    pub fn files(&self) -> &Path {
        self.files.path()
    }
}

/// Lets every user pass through a scratch directory.
///
/// # Errors
/// When its mode cannot be changed.
pub fn open_to_all(dir: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    Ok(std::fs::set_permissions(dir, std::fs::Permissions::from_mode(0o755))?)
}

fn passwd() -> Result<String> {
    let host = std::fs::read_to_string("/etc/passwd")?;
    let daemon = if host.lines().any(|line| line.starts_with("caracal:")) {
        ""
    } else {
        "caracal:x:4300:4300:data path:/:/usr/sbin/nologin\n"
    };
    Ok(format!("{host}agent:x:{AGENT_UID}:{AGENT_UID}:test agent:/tmp:/bin/bash\n{daemon}"))
}

fn mount(source: Option<&Path>, target: &Path, kind: Option<&str>, flags: libc::c_ulong) -> Result<()> {
    use std::os::unix::ffi::OsStrExt as _;
    let text = |path: &OsStr| CString::new(path.as_bytes());
    let source = source.map(|path| text(path.as_os_str())).transpose()?;
    let kind = kind.map(CString::new).transpose()?;
    let place = text(target.as_os_str())?;
    let or_null = |value: &Option<CString>| value.as_ref().map_or(std::ptr::null(), |value| value.as_ptr());
    // SAFETY: every pointer is null or a C string that outlives the call.
    let done = unsafe { libc::mount(or_null(&source), place.as_ptr(), or_null(&kind), flags, std::ptr::null()) };
    ensure!(done == 0, "mounting {}: {}", target.display(), io::Error::last_os_error());
    Ok(())
}

/// Takes the topmost file system off; whether there was one.
fn umount(target: &Path) -> bool {
    use std::os::unix::ffi::OsStrExt as _;
    let Ok(place) = CString::new(target.as_os_str().as_bytes()) else { return false };
    // SAFETY: a C string that outlives the call.
    unsafe { libc::umount2(place.as_ptr(), libc::MNT_DETACH) == 0 }
}

impl Host {
    /// New namespaces; `mounts` runs inside, once.
    fn new(mounts: impl FnOnce() -> Result<()> + Send) -> Result<Host> {
        // A thread of its own: unshare changes the calling thread only, and the thread ends here.
        std::thread::scope(|scope| {
            let made = scope.spawn(|| {
                // SAFETY: unshare has no memory effects; CLONE_NEWNS also gives this thread its own root and directory.
                let done = unsafe { libc::unshare(libc::CLONE_NEWNET | libc::CLONE_NEWNS) };
                ensure!(done == 0, "unshare: {}", io::Error::last_os_error());
                mount(None, Path::new("/"), None, libc::MS_REC | libc::MS_SLAVE)?;
                mounts()?;
                Ok(Host { net: File::open("/proc/thread-self/ns/net")?, mnt: File::open("/proc/thread-self/ns/mnt")? })
            });
            made.join().map_err(|_| anyhow::anyhow!("the thread that made the namespaces panicked"))?
        })
    }

    fn setup(&self, lines: &[&str]) -> Result<()> {
        for line in lines {
            // `ip` names the other namespace by a descriptor.
            let named = line.split_once("/proc/self/fd/").and_then(|(_, rest)| rest.split(' ').next()?.parse().ok());
            let output = self.run("ip").args(line.split_whitespace()).keep_descriptor(named).output()?;
            ensure!(output.status.success(), "ip {line}: {}", String::from_utf8_lossy(&output.stderr));
        }
        Ok(())
    }

    /// Runs a shell line as root and gives what it printed.
    ///
    /// # Errors
    /// When it fails.
    pub fn shell(&self, line: &str) -> Result<String> {
        let output = self.run("sh").args(["-c", line]).output()?;
        ensure!(output.status.success(), "{line}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// A program that will run inside.
    #[must_use]
    pub fn run(&self, program: impl AsRef<OsStr>) -> Run {
        Run {
            command: Command::new(program),
            net: self.net.as_raw_fd(),
            mnt: self.mnt.as_raw_fd(),
            uid: 0,
            dir: PathBuf::from("/"),
            keep: None,
            limit: Duration::from_secs(600),
            cgroup: None,
        }
    }

    /// Runs `work` on a thread that is inside, for sockets that this process itself opens.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or what `work` says.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let net = self.net.as_raw_fd();
        std::thread::scope(|scope| {
            let done = scope.spawn(move || {
                // SAFETY: the descriptor is a network namespace and stays open: `self` outlives the scope.
                ensure!(unsafe { libc::setns(net, libc::CLONE_NEWNET) } == 0, "setns: {}", io::Error::last_os_error());
                work()
            });
            done.join().map_err(|_| anyhow::anyhow!("the thread inside the namespace panicked"))?
        })
    }
}

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

    fn keep_descriptor(mut self, fd: Option<RawFd>) -> Run {
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

/// Waits until `done` says so.
///
/// # Errors
/// When it does not within `limit`.
pub fn until(what: &str, limit: Duration, mut done: impl FnMut() -> bool) -> Result<()> {
    let end = Instant::now() + limit;
    while !done() {
        if Instant::now() > end {
            bail!("{what}: not within {limit:?}");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
