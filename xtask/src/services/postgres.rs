//! PostgreSQL as the distribution has it, with a cluster of its own that syncs as a real one does.

use std::{
    fs,
    os::unix::fs::chown,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use super::place::Place;
use crate::root;

/// One directory for each version: Debian keeps the programs away from PATH.
const VERSIONS: &str = "/usr/lib/postgresql";
const DATABASE: &str = "caracal";

/// Makes its cluster on the first start, and starts it.
///
/// # Errors
/// When a program fails; the text says which.
pub(super) fn start(place: &Place) -> Result<()> {
    let port = place.port()?;
    let data = place.dir().join("data");
    if root::am_root() {
        // It refuses to run as root.
        let id = user()?;
        chown(place.dir(), Some(id), Some(id)).with_context(|| place.dir().display().to_string())?;
    }
    if !data.join("PG_VERSION").exists() {
        let _ = fs::remove_dir_all(&data);
        // Loopback only, for tests only: whoever reaches it is trusted.
        let made = program("initdb")?
            .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-D"])
            .arg(&data)
            .current_dir(place.dir())
            .output()?;
        if !made.status.success() {
            bail!("initdb: {}", String::from_utf8_lossy(&made.stderr));
        }
    }
    let mut server = program("postgres")?;
    server.arg("-D").arg(&data).args(["-p", &port.to_string(), "-c", "listen_addresses=127.0.0.1", "-k"]);
    server.arg(place.dir()).args(["-c", "max_wal_size=512MB", "-c", "shared_buffers=128MB"]);
    let is_ready = newest("pg_isready")?;
    place.launch(&mut server, |port| {
        Command::new(&is_ready)
            .args(["-q", "-h", "127.0.0.1", "-p", &port.to_string()])
            .stdout(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    })?;
    let exists = query(port, &format!("SELECT count(*) FROM pg_database WHERE datname = '{DATABASE}'"))?;
    if exists.trim() == "0" {
        query(port, &format!("CREATE DATABASE {DATABASE}"))?;
    }
    Ok(())
}

fn query(port: u16, sql: &str) -> Result<String> {
    let ran = Command::new(newest("psql")?)
        .args(["-h", "127.0.0.1", "-U", "postgres", "-p", &port.to_string(), "-XAtc", sql, "postgres"])
        .stdin(Stdio::null())
        .output()
        .context("psql does not start")?;
    if !ran.status.success() {
        bail!("psql: {}", String::from_utf8_lossy(&ran.stderr));
    }
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}

fn program(name: &str) -> Result<Command> {
    let path = newest(name)?;
    if !root::am_root() {
        return Ok(Command::new(path));
    }
    let id = user()?.to_string();
    let mut command = Command::new("setpriv");
    command.args(["--reuid", &id, "--regid", &id, "--clear-groups"]).arg(path);
    Ok(command)
}

/// A program of the newest version that has it.
fn newest(name: &str) -> Result<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = fs::read_dir(VERSIONS)
        .with_context(|| format!("{VERSIONS}: is the package postgresql installed?"))?
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin").join(name))))
        .filter(|(_, path)| path.is_file())
        .collect();
    found.sort_unstable();
    found.pop().map(|(_, path)| path).with_context(|| format!("no {name} below {VERSIONS}: install postgresql"))
}

/// Debian's package makes this user; its group has the same number or is not needed.
fn user() -> Result<u32> {
    let output = Command::new("id").args(["-u", "postgres"]).output()?;
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .context("there is no user `postgres`: is postgresql installed?")
}
