//! One service's directory: its data, its log, its port, its process.

use std::{
    fs::{self, OpenOptions},
    io::{ErrorKind, Read as _, Seek as _, SeekFrom, Write as _},
    net::{Ipv4Addr, TcpListener, TcpStream},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};

use crate::progress::Wait;

/// How long a service may take to answer after its start, or to end.
const PATIENCE: Duration = Duration::from_secs(300);
const GLANCE: Duration = Duration::from_millis(20);

/// Where one service lives.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    name: &'static str,
}

impl Place {
    pub(super) fn new(base: &Path, name: &'static str) -> Place {
        Place { dir: base.join(name), name }
    }

    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its port, kept from its first start on, so that clients find it again.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub(super) fn port(&self) -> Result<u16> {
        self.port_named("port")
    }

    /// A second port.
    ///
    /// # Errors
    /// When the directory cannot be written.
    pub(super) fn port_named(&self, file: &str) -> Result<u16> {
        let path = self.dir.join(file);
        match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse().with_context(|| path.display().to_string()),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs::create_dir_all(&self.dir).with_context(|| self.dir.display().to_string())?;
                let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
                fs::write(&path, port.to_string())?;
                Ok(port)
            }
            Err(error) => Err(error).with_context(|| path.display().to_string()),
        }
    }

    /// The port of a service that was started before.
    ///
    /// # Errors
    /// When it was not.
    pub(super) fn known_port(&self) -> Result<u16> {
        if !self.dir.join("port").exists() {
            bail!("{} was never started here: `cargo xtask services start`", self.name);
        }
        self.port()
    }

    /// Starts `command` as a process of its own, which outlives this one, and waits until `ready` says so.
    ///
    /// # Errors
    /// When it does not start, ends, or does not get ready in time; the text ends with its log.
    pub(super) fn launch(&self, command: &mut Command, ready: impl Fn(u16) -> bool) -> Result<Child> {
        let (port, log) = (self.port()?, self.log());
        let mut out =
            OpenOptions::new().create(true).append(true).open(&log).with_context(|| log.display().to_string())?;
        let began = out.seek(SeekFrom::End(0))?;
        writeln!(out, "--- start")?;
        let mut wait = Wait::start(format!("starting {}", self.name));
        let mut child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .current_dir(&self.dir)
            .process_group(0)
            .spawn()
            .with_context(|| format!("{} does not start", command.get_program().display()))?;
        fs::write(self.dir.join("pid"), child.id().to_string())?;
        let deadline = Instant::now() + PATIENCE;
        while !ready(port) {
            if let Some(status) = child.try_wait()? {
                bail!("{} ended with {status}:\n{}", self.name, self.tail(began));
            }
            if Instant::now() > deadline {
                bail!("{} runs but does not answer on port {port}:\n{}", self.name, self.tail(began));
            }
            wait.glance();
        }
        wait.done();
        Ok(child)
    }

    /// Whether its process is there.
    pub(super) fn runs(&self) -> bool {
        self.pid().is_some()
    }

    /// Sends a signal and waits for the end; nothing to do if it does not run.
    ///
    /// # Errors
    /// When it does not end.
    pub(super) fn stop(&self, signal: &str) -> Result<()> {
        let Some(pid) = self.pid() else { return Ok(()) };
        send(signal, &[pid])?;
        let deadline = Instant::now() + PATIENCE;
        // Until its number is free: PostgreSQL takes one that is still there, though dead, for its predecessor.
        let process = PathBuf::from(format!("/proc/{pid}"));
        while process.exists() {
            if Instant::now() > deadline {
                bail!("{} (process {pid}) does not end after SIG{signal}", self.name);
            }
            thread::sleep(GLANCE);
        }
        let _ = fs::remove_file(self.dir.join("pid"));
        Ok(())
    }

    /// Sends a signal to it and to the processes that it started.
    ///
    /// # Errors
    /// When it does not run.
    pub(super) fn signal_all(&self, signal: &str) -> Result<()> {
        let pid = self.pid().with_context(|| format!("{} does not run", self.name))?;
        let mut all = vec![pid];
        for entry in fs::read_dir("/proc")?.flatten() {
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let parent = stat.rsplit_once(')').and_then(|(_, rest)| rest.split_whitespace().nth(1)?.parse().ok());
            if parent == Some(pid)
                && let Some(child) = entry.file_name().to_str().and_then(|name| name.parse().ok())
            {
                all.push(child);
            }
        }
        send(signal, &all)
    }

    /// Deletes all of it.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub(super) fn remove(&self) -> Result<()> {
        match fs::remove_dir_all(&self.dir) {
            Err(error) if error.kind() != ErrorKind::NotFound => {
                Err(error).with_context(|| self.dir.display().to_string())
            }
            _ => Ok(()),
        }
    }

    fn log(&self) -> PathBuf {
        self.dir.join("log")
    }

    /// The process that was started here, if it still runs: its working directory is ours, so that a number that was
    /// given away is not taken for it.
    fn pid(&self) -> Option<u32> {
        let pid: u32 = fs::read_to_string(self.dir.join("pid")).ok()?.trim().parse().ok()?;
        let process = PathBuf::from(format!("/proc/{pid}"));
        let stat = fs::read_to_string(process.join("stat")).ok()?;
        let state = stat.rsplit_once(')')?.1.trim_start().chars().next()?;
        let dir = fs::canonicalize(&self.dir).ok()?;
        // A zombie has no working directory any more.
        (state != 'Z' && fs::read_link(process.join("cwd")).ok()?.starts_with(dir)).then_some(pid)
    }

    fn tail(&self, from: u64) -> String {
        let mut text = String::new();
        let read = OpenOptions::new().read(true).open(self.log()).and_then(|mut log| {
            log.seek(SeekFrom::Start(from))?;
            log.read_to_string(&mut text)
        });
        if read.is_err() {
            return format!("its log is {}", self.log().display());
        }
        let lines: Vec<&str> = text.lines().collect();
        lines.iter().skip(lines.len().saturating_sub(20)).map(|line| format!("  | {line}\n")).collect()
    }
}

/// Whether somebody listens on this port of loopback.
#[expect(clippy::disallowed_methods, reason = "a service of the tests, on loopback")]
pub(super) fn listens(port: u16) -> Option<TcpStream> {
    TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
}

/// Sends a signal; one that has just ended is no failure.
pub(super) fn send(signal: &str, pids: &[u32]) -> Result<()> {
    let status = Command::new("kill").arg(format!("-{signal}")).args(pids.iter().map(u32::to_string)).status()?;
    if !status.success()
        && pids.len() == 1
        && Path::new(&format!("/proc/{}", pids.first().copied().unwrap_or(0))).exists()
    {
        bail!("cannot send SIG{signal} to process {pids:?}");
    }
    Ok(())
}
