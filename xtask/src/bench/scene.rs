//! Two hosts joined by one cable: clients and proxies in one, the provider in the other.
//!
//! Every peer uses the same cable, so that none is nearer to the provider than another. Dropping the scene ends what
//! it started and removes the namespaces.

use std::{
    ffi::OsStr,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{self, Child, ChildStdout, Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::crypto;

/// The provider and its name server.
pub(super) const PROVIDER: &str = "203.0.113.10:443";
pub(super) const NAME_SERVER: &str = "203.0.113.10:53";

/// The two hosts, the files of the run, and the provider.
#[derive(Debug)]
pub(super) struct Scene {
    near: String,
    far: String,
    files: PathBuf,
    /// A copy of this program that every user may run.
    own: PathBuf,
    /// Ended before the namespaces are removed.
    provider: Option<Server>,
}

/// A process that serves until it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    /// Kept open: a server that prints must not be ended by it.
    _output: BufReader<ChildStdout>,
}

impl Scene {
    pub(super) fn new() -> Result<Self> {
        let id = process::id();
        // On a disk: /tmp may be memory, and a journal there would cost nothing.
        let files = PathBuf::from(format!("/var/tmp/caracal-bench-{id}"));
        fs::create_dir(&files).with_context(|| files.display().to_string())?;
        // squid and the governed load run as other users and must reach their own files.
        fs::set_permissions(&files, fs::Permissions::from_mode(0o711))?;
        let mut scene = Self {
            near: format!("caracal-near-{id}"),
            far: format!("caracal-far-{id}"),
            own: files.join("xtask"),
            files,
            provider: None,
        };
        scene.copy(&std::env::current_exe()?)?;
        scene.build()?;
        for name in ["provider", "floor"] {
            crypto::authority(&scene.files, name)?;
        }
        let identity = scene.files.join("provider");
        let mut provider = within(&scene.far, scene.own_path());
        provider.arg("bench-provider");
        provider
            .args(["--listen", PROVIDER, "--dns", NAME_SERVER, "--identity"])
            .arg(&identity);
        scene.provider = Some(Server::start("the provider", &mut provider)?);
        Ok(scene)
    }

    fn build(&self) -> Result<()> {
        let (near, far) = (&self.near, &self.far);
        for line in [
            format!("netns add {near}"),
            format!("netns add {far}"),
            format!("-n {near} link add road type veth peer name road netns {far}"),
            format!("-n {near} link set lo up"),
            format!("-n {far} link set lo up"),
            format!("-n {near} link set road up"),
            format!("-n {far} link set road up"),
            format!("-n {near} addr add 203.0.113.1/24 dev road"),
            format!("-n {far} addr add 203.0.113.10/24 dev road"),
            format!("-n {near} route add default via 203.0.113.10"),
        ] {
            let output = Command::new("ip")
                .args(line.split(' '))
                .output()
                .context("ip does not start")?;
            if !output.status.success() {
                bail!("ip {line}: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
        }
        Ok(())
    }

    /// The files of this run; removed at its end.
    pub(super) fn files(&self) -> &Path {
        &self.files
    }

    /// A file of this run that every user may read.
    pub(super) fn file(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.files.join(name);
        fs::write(&path, text).with_context(|| path.display().to_string())?;
        Ok(path)
    }

    /// A program on the host of clients and proxies.
    pub(super) fn program(&self, program: impl AsRef<OsStr>) -> Command {
        within(&self.near, program)
    }

    /// This program, where every user may run it.
    pub(super) fn own_path(&self) -> &Path {
        &self.own
    }

    /// Copies a program to where every user may run it.
    pub(super) fn copy(&self, program: &Path) -> Result<PathBuf> {
        let copy = self.files.join(program.file_name().unwrap_or_default());
        fs::copy(program, &copy).with_context(|| program.display().to_string())?;
        fs::set_permissions(&copy, fs::Permissions::from_mode(0o755))?;
        Ok(copy)
    }
}

/// nsenter ends in an exec: the process that we start is the program itself. Unlike `ip netns exec` it leaves /sys, and
/// with it the cgroups, as they are.
fn within(host: &str, program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("nsenter");
    command
        .arg(format!("--net=/run/netns/{host}"))
        .arg(program)
        .stdin(Stdio::null());
    command
}

impl Drop for Scene {
    fn drop(&mut self) {
        self.provider = None;
        for name in [&self.near, &self.far] {
            // Best effort: there is nobody left to tell.
            drop(Command::new("ip").args(["netns", "del", name]).status());
        }
        drop(fs::remove_dir_all(&self.files));
    }
}

impl Server {
    /// Starts it and waits until it prints `ready`.
    pub(super) fn start(what: &str, command: &mut Command) -> Result<Self> {
        let mut child = command
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("{what} does not start"))?;
        let output = child.stdout.take().with_context(|| format!("{what} has no output"))?;
        let mut server = Self {
            child,
            _output: BufReader::new(output),
        };
        let mut line = String::new();
        server._output.read_line(&mut line)?;
        if line.trim() != "ready" {
            bail!("{what} is not ready: `{}`", line.trim());
        }
        Ok(server)
    }

    /// Takes a process that tells by other means when it is ready.
    pub(super) fn adopt(mut child: Child) -> Result<Self> {
        let output = child.stdout.take().context("the server has no output")?;
        Ok(Self {
            child,
            _output: BufReader::new(output),
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, and how.
    pub(super) fn ended(&mut self) -> Option<process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may have ended by itself; either way it is gone afterwards.
        drop(self.child.kill());
        drop(self.child.wait());
    }
}
