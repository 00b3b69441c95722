//! The two hosts of the benchmark with the provider in the far one.
//!
//! Every peer uses the same cable, so that none is nearer to the provider than another. Dropping the scene ends what
//! it started.

use std::{
    fs,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, ChildStdout, Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use super::crypto;
use crate::hosts::{Hosts, NAME_SERVER, PROVIDER};

/// The hosts, this program where every user may run it, and the provider.
#[derive(Debug)]
pub(super) struct Scene {
    // Fields are dropped in this order: the provider before its host.
    _provider: Server,
    own: PathBuf,
    pub(super) hosts: Hosts,
}

/// A process that serves until it is dropped.
#[derive(Debug)]
pub(super) struct Server {
    child: Child,
    /// Kept open: a server that prints must not be ended by it.
    _output: Option<BufReader<ChildStdout>>,
}

impl Scene {
    pub(super) fn new() -> Result<Self> {
        let hosts = Hosts::new("bench")?;
        hosts.mount()?;
        let own = hosts.copy(&std::env::current_exe()?)?;
        for name in ["provider", "floor", "squid"] {
            crypto::authority(hosts.files(), name)?;
        }
        let mut command = hosts.far(&own);
        command.args(["bench-provider", "--listen", &format!("{PROVIDER}:443")]);
        command.args(["--dns", &format!("{NAME_SERVER}:53"), "--identity"]).arg(hosts.files().join("provider"));
        Ok(Self { _provider: Server::start("the provider", &mut command)?, own, hosts })
    }

    /// The files of this run.
    pub(super) fn files(&self) -> &Path {
        self.hosts.files()
    }

    /// A program on the host of clients and proxies.
    pub(super) fn program(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        self.hosts.near(program)
    }

    /// Waits until something listens on the near host's `address`.
    ///
    /// # Errors
    /// When the server ends before, or the time is over; with the end of its log.
    pub(super) fn wait_until_listening(
        &self,
        server: &mut Server,
        address: &str,
        limit: Duration,
        log: &Path,
    ) -> Result<()> {
        let started = Instant::now();
        loop {
            let sockets = self.program("ss").args(["-Hltn", "src", address]).output();
            if sockets.is_ok_and(|output| !output.stdout.is_empty()) {
                return Ok(());
            }
            if server.ended().is_some() || started.elapsed() > limit {
                let text = fs::read_to_string(log).unwrap_or_default();
                let last: Vec<&str> = text.lines().rev().take(5).collect();
                bail!("it does not listen: {}", last.into_iter().rev().collect::<Vec<_>>().join(" / "));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// This program, where every user may run it.
    pub(super) fn own_path(&self) -> &Path {
        &self.own
    }
}

impl Server {
    /// Starts it and waits until it prints `ready`.
    pub(super) fn start(what: &str, command: &mut Command) -> Result<Self> {
        let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("{what} does not start"))?;
        let mut output = BufReader::new(child.stdout.take().context("the server has no output")?);
        let mut line = String::new();
        output.read_line(&mut line)?;
        let server = Self { child, _output: Some(output) };
        if line.trim() != "ready" {
            bail!("{what} is not ready: `{}`", line.trim());
        }
        Ok(server)
    }

    /// Takes a process that tells by other means when it is ready. It must write to a file or to nothing: it would stop
    /// at a pipe that nobody reads.
    pub(super) fn adopt(child: Child) -> Self {
        Self { child, _output: None }
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it has ended, and how.
    pub(super) fn ended(&mut self) -> Option<ExitStatus> {
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
