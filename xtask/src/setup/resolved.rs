//! systemd-resolved for the contracts about names: Debian's package, unpacked below the target directory. Installed, it would
//! take over the name resolution of this host.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result};

use crate::{checkout::Checkout, progress};

/// Where the package may have it.
const PLACES: [&str; 2] = ["usr/lib/systemd/systemd-resolved", "lib/systemd/systemd-resolved"];

/// Fetches and unpacks it where that was not done yet; gives the program's path.
///
/// # Errors
/// When apt has no such package, or it cannot be unpacked.
pub(super) fn unpack(checkout: &Checkout) -> Result<PathBuf> {
    let installed = PLACES.map(|place| Path::new("/").join(place));
    if let Some(program) = installed.into_iter().find(|program| program.is_file()) {
        return Ok(program);
    }
    let home = checkout.tools().join("resolved");
    let program = home.join("systemd-resolved");
    if program.is_file() {
        return Ok(program);
    }
    let unpacked = home.join("unpacked");
    fs::create_dir_all(&unpacked).with_context(|| home.display().to_string())?;
    let mut apt = Command::new("apt-get");
    apt.args(["download", "systemd-resolved"]).current_dir(&home);
    progress::quietly("fetching systemd-resolved", &mut apt, &checkout.log("resolved"))?;
    let archive = fs::read_dir(&home)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "deb"))
        .context("apt-get download left no package")?;
    let mut dpkg = Command::new("dpkg-deb");
    dpkg.arg("-x").arg(&archive).arg(&unpacked);
    progress::quietly("unpacking systemd-resolved", &mut dpkg, &checkout.log("resolved"))?;
    let found = PLACES.map(|place| unpacked.join(place)).into_iter().find(|path| path.is_file());
    let found = found.context("the package has no systemd-resolved")?;
    // Last: from here on it counts as there.
    fs::rename(&found, &program).with_context(|| program.display().to_string())?;
    Ok(program)
}
