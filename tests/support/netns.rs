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

mod run;

pub use run::{Ran, Run};

use anyhow::{Result, bail, ensure};
use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
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
        Run::of(self, program)
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
