//! The few steps that need root: said aloud, asked for once, and kept out of the checkout.

use std::{
    ffi::OsStr,
    fs,
    os::unix::fs::MetadataExt,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

/// Whether we are root already; then no sudo is needed.
pub(crate) fn am_root() -> bool {
    fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// `PROGRAM` as root.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    if am_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("--").arg(program);
    command
}

/// Says why root is needed and lets sudo ask for a password, before a spinner would hide the question.
///
/// # Errors
/// When there is no sudo, or it says no.
pub(crate) fn ask(why: &str) -> Result<()> {
    if am_root() {
        return Ok(());
    }
    let silent = Command::new("sudo").args(["-n", "true"]).stdout(Stdio::null()).stderr(Stdio::null()).status();
    match silent {
        Ok(status) if status.success() => return Ok(()),
        Ok(_) => {}
        Err(error) => {
            return Err(error).with_context(|| format!("sudo is needed {why}; without it, run this step as root"));
        }
    }
    eprintln!("sudo is needed {why}");
    let status = Command::new("sudo").arg("-v").status().context("sudo does not start")?;
    if !status.success() {
        bail!("sudo said no; it is needed {why}");
    }
    Ok(())
}
