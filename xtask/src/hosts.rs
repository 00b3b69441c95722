//! Two hosts on one machine, for the demo and the benchmark: clients and proxies in one, the internet in the other.
//!
//! Every address that the near host sends to arrives at the far one, so nothing leaves the machine. Needs root. Dropping
//! the pair removes it, with whatever files it was given.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{self, Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// The name server's address at the far host.
pub(crate) const NAME_SERVER: &str = "203.0.113.53";
/// An address at the far host for the one provider that is called.
pub(crate) const PROVIDER: &str = "203.0.113.10";

/// A user without any right: what root may do, an agent may not.
pub(crate) const AS_NOBODY: [&str; 6] = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"];

/// The pair, and a directory for its files that every user can reach into.
#[derive(Debug)]
pub(crate) struct Hosts {
    near: String,
    far: String,
    files: PathBuf,
}

impl Hosts {
    /// Makes both; `what` becomes part of their names.
    ///
    /// # Errors
    /// When not root, or `ip` fails.
    pub(crate) fn new(what: &str) -> Result<Self> {
        let id = process::id();
        sweep(what);
        // On a disk: /tmp may be memory, and a journal there would cost nothing.
        let files = PathBuf::from(format!("/var/tmp/caracal-{what}-{id}"));
        fs::create_dir(&files).with_context(|| files.display().to_string())?;
        fs::set_permissions(&files, fs::Permissions::from_mode(0o711))?;
        let hosts = Self { near: format!("caracal-{what}-near-{id}"), far: format!("caracal-{what}-far-{id}"), files };
        hosts.join()?;
        Ok(hosts)
    }

    fn join(&self) -> Result<()> {
        let (near, far) = (&self.near, &self.far);
        for line in [
            format!("netns add {near}"),
            format!("netns add {far}"),
            format!("-n {near} link add road type veth peer name road netns {far}"),
            format!("-n {near} link set lo up"),
            format!("-n {near} link set road up"),
            format!("-n {near} addr add 203.0.113.1/32 dev road"),
            format!("-n {near} route add default via {NAME_SERVER} dev road onlink src 203.0.113.1"),
            format!("-n {far} link set lo up"),
            format!("-n {far} link set road up"),
            format!("-n {far} addr add {NAME_SERVER}/32 dev road"),
            format!("-n {far} addr add {PROVIDER}/32 dev road"),
            format!("-n {far} route add 203.0.113.1 dev road"),
            // Whatever address a packet from the near host carries, it has arrived.
            format!("-n {far} rule add iif road lookup 100"),
            format!("-n {far} route add local 0.0.0.0/0 dev lo table 100"),
        ] {
            let output = Command::new("ip").args(line.split(' ')).output().context("ip does not start")?;
            if !output.status.success() {
                bail!("ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
        }
        let loose = "for i in all road; do echo 0 >/proc/sys/net/ipv4/conf/$i/rp_filter; done";
        let status = self.far("sh").args(["-c", loose]).status()?;
        if !status.success() {
            bail!("the far host's address check cannot be switched off");
        }
        Ok(())
    }

    /// In this process's own mount namespace: an empty bpffs, and the far host as resolver. Both end with the process and
    /// everything that it started; the machine's own are not touched.
    ///
    /// # Errors
    /// When mount fails.
    pub(crate) fn mount(&self) -> Result<()> {
        mount(&["-t", "bpf", "bpf", "/sys/fs/bpf"])?;
        let resolver = self.file("resolv.conf", &format!("nameserver {NAME_SERVER}\n"))?;
        let system = fs::canonicalize("/etc/resolv.conf").context("/etc/resolv.conf")?;
        mount(&["--bind", &resolver.display().to_string(), &system.display().to_string()])
    }

    /// A directory for files; every user can read what is in it by name.
    pub(crate) fn files(&self) -> &Path {
        &self.files
    }

    /// Writes a file that every user can read.
    pub(crate) fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.files.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        Ok(path)
    }

    /// Copies a program to where every user can run it: a checkout in somebody's home need not be.
    pub(crate) fn copy(&self, program: &Path) -> Result<PathBuf> {
        let copy = self.files.join(program.file_name().unwrap_or_default());
        fs::copy(program, &copy).with_context(|| program.display().to_string())?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        Ok(copy)
    }

    /// A program on the host of clients and proxies.
    pub(crate) fn near(&self, program: impl AsRef<OsStr>) -> Command {
        within(&self.near, program)
    }

    /// A program on the host that is the internet.
    pub(crate) fn far(&self, program: impl AsRef<OsStr>) -> Command {
        within(&self.far, program)
    }
}

/// Removes what runs left behind that were killed.
fn sweep(what: &str) {
    let prefix = format!("caracal-{what}-");
    for place in ["/run/netns", "/var/tmp"] {
        for entry in fs::read_dir(place).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            let id = name.strip_prefix(&prefix).and_then(|rest| rest.rsplit('-').next()?.parse::<u32>().ok());
            if id.is_none_or(|id| Path::new(&format!("/proc/{id}")).exists()) {
                continue;
            }
            if place == "/var/tmp" {
                drop(fs::remove_dir_all(entry.path()));
            } else {
                // A namespace that ended with the mount namespace of its run has left an empty file.
                drop(Command::new("ip").args(["netns", "del", &name]).stderr(Stdio::null()).status());
                drop(fs::remove_file(entry.path()));
            }
        }
    }
}

fn mount(arguments: &[&str]) -> Result<()> {
    let output = Command::new("mount").args(arguments).output().context("mount does not start")?;
    if !output.status.success() {
        bail!("mount {arguments:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// nsenter ends in an exec: the process that we start is the program itself. Unlike `ip netns exec` it leaves /sys, and
/// with it the cgroups, as they are.
fn within(host: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/run/netns/{host}"));
    // What was started here ends when we are killed.
    command.args(["setpriv", "--pdeathsig", "KILL"]).arg(program).stdin(Stdio::null());
    command
}

impl Drop for Hosts {
    fn drop(&mut self) {
        for name in [&self.near, &self.far] {
            // Best effort: there is nobody left to tell.
            drop(Command::new("ip").args(["netns", "del", name]).status());
        }
        drop(fs::remove_dir_all(&self.files));
    }
}
