//! The few steps that need root: said aloud, asked for once, and kept out of the checkout.

use std::{
    ffi::OsStr,
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};

use crate::checkout::Checkout;

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

/// Holds the verbs that run something as root to their promise: it left no file of root's in a person's checkout.
///
/// # Errors
/// When it did; the text names the first.
pub(crate) fn left_nothing(checkout: &Checkout) -> Result<()> {
    if am_root() {
        return Ok(());
    }
    for place in [&checkout.root, &checkout.target] {
        if let Some(path) = owned_by(0, place).with_context(|| place.display().to_string())? {
            bail!("{} belongs to root now, and must not: that is a mistake of ours", path.display());
        }
    }
    Ok(())
}

/// The first file below `place` that belongs to `uid`. What ends meanwhile is passed over.
fn owned_by(uid: u32, place: &Path) -> io::Result<Option<PathBuf>> {
    let mut places = vec![place.to_path_buf()];
    while let Some(path) = places.pop() {
        let file = match fs::symlink_metadata(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if file.uid() == uid {
            return Ok(Some(path));
        }
        if file.is_dir() {
            for entry in fs::read_dir(&path)? {
                places.push(entry?.path());
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_anothers_is_found_however_deep() {
        let top = std::env::temp_dir().join(format!("caracal-owner-{}", std::process::id()));
        fs::create_dir_all(top.join("a/b")).unwrap();
        fs::write(top.join("a/b/file"), "").unwrap();
        let me = fs::metadata(&top).unwrap().uid();
        assert!(owned_by(me, &top).unwrap().is_some());
        assert_eq!(owned_by(me ^ 1, &top).unwrap(), None);
        if am_root() {
            std::os::unix::fs::chown(top.join("a/b/file"), Some(4_711), None).unwrap();
            assert_eq!(owned_by(4_711, &top).unwrap(), Some(top.join("a/b/file")));
        }
        fs::remove_dir_all(top).unwrap();
    }
}
