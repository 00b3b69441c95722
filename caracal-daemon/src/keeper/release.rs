//! Releases cgroups while no keeper runs: the pins of a dead one keep their processes shut in, and only this lets them
//! out. Takes the instance's lock, so that it never works beside a keeper. What was released is written down for the
//! next keeper, which records it.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::KeeperError;
use super::cgroup::{Cgroup, Hierarchy};
use super::kernel::{Kernel, Marks};
use super::serve::{Places, Registry, load, lock, save};
use super::sweep::unmark;
use super::trust::Store;
use crate::config::Config;

/// Releases these cgroups, or everything that the instance governs: the slice of `caracald run` as well.
/// Gives the names of what was released.
///
/// # Errors
/// Without root, beside a running keeper, or when a cgroup is not governed or a pin cannot be removed.
pub fn release(config: &Config, cgroups: &[PathBuf]) -> Result<Vec<String>, KeeperError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(KeeperError::NotRoot);
    }
    let places = Places::of(config);
    fs::create_dir_all(&places.runtime)
        .map_err(|error| KeeperError::Refused(format!("{}: {error}", places.runtime.display())))?;
    let _lock = lock(&places)?;
    let pins = Kernel::pin_directory(config.instance.as_str());
    let mut agents: Registry = load(&places.registry());
    // What an attach changed for trust was written down before it was done.
    let trust = Store::open(&places, config.instance.as_str(), "")?;
    let released = if cgroups.is_empty() {
        agents.clear();
        trust.withdraw(None).map_err(KeeperError::Refused)?;
        all(&pins)?
    } else {
        let hierarchy = Hierarchy::find()?;
        let mut released = Vec::new();
        for path in cgroups {
            let cgroup = hierarchy.open(path)?;
            trust.withdraw(Some(cgroup.id.0)).map_err(KeeperError::Refused)?;
            released.push(one(&pins, &cgroup, &mut agents)?);
        }
        released
    };
    save(&places.registry(), &agents);
    let mut told: Vec<String> = load(&places.released());
    told.extend(released.iter().map(|what| format!("released {what} while no daemon ran")));
    save(&places.released(), &told);
    Ok(released)
}

fn one(pins: &Path, cgroup: &Cgroup, agents: &mut Registry) -> Result<String, KeeperError> {
    let links = pins.join("links").join(cgroup.id.0.to_string());
    if !links.is_dir() {
        return Err(KeeperError::Cgroup(format!("{} is not governed", cgroup.path)));
    }
    agents.remove(&cgroup.id.0);
    Kernel::unset_pinned(pins, cgroup.id)?;
    remove(&links)?;
    let _ = fs::remove_dir(cgroup.absolute.join(super::canary::LEAF));
    if let Ok(mut marks) = Marks::pinned(pins) {
        unmark(cgroup, |socket| marks.remove(socket, cgroup.id))?;
    }
    Ok(cgroup.path.clone())
}

/// The links first: a map that goes before them would leave programs that refuse everything.
fn all(pins: &Path) -> Result<Vec<String>, KeeperError> {
    let links = pins.join("links");
    let ids: Vec<u64> = match fs::read_dir(&links) {
        Ok(entries) => entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(KeeperError::Kernel(format!("{}: {error}", links.display()))),
    };
    let root = Hierarchy::find()?.root().to_owned();
    remove(pins)?;
    Ok(ids.into_iter().map(|id| name(&root, &root, id, 0).unwrap_or_else(|| format!("the cgroup {id}"))).collect())
}

/// The path of the cgroup with this id.
fn name(root: &Path, below: &Path, id: u64, level: u32) -> Option<String> {
    for entry in fs::read_dir(below).ok()?.flatten() {
        if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            continue;
        }
        let path = entry.path();
        if fs::metadata(&path).is_ok_and(|facts| facts.ino() == id) {
            return path.strip_prefix(root).ok().map(|path| format!("/{}", path.display()));
        }
        if level < caracal_common::settings::MAX_LEVEL
            && let Some(found) = name(root, &path, id, level + 1)
        {
            return Some(found);
        }
    }
    None
}

fn remove(directory: &Path) -> Result<(), KeeperError> {
    match fs::remove_dir_all(directory) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(KeeperError::Kernel(format!("cannot remove the pins at {}: {error}", directory.display())))
        }
        _ => Ok(()),
    }
}
