//! Links of the kernel: attached, pinned, adopted, mended. Never takes one off a cgroup that nobody asked to release.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use caracal_common::name;

use super::{Kernel, kernel};
use crate::agent::CgroupId;
use crate::keeper::KeeperError;
use crate::keeper::bpf_link::{Link, attach_type};
use crate::keeper::cgroup::Cgroup;

impl Kernel {
    /// Governs a cgroup: attaches and pins every program that is not attached yet.
    ///
    /// # Errors
    /// When the kernel refuses; programs attached so far stay (they deny).
    pub fn govern(&mut self, cgroup: &Cgroup) -> Result<(), KeeperError> {
        let (id, directory) = (cgroup.id, &cgroup.directory);
        self.set_governed(id, cgroup.level)?;
        if self.links.contains_key(&id) {
            return Ok(());
        }
        let pins = self.pins.join("links").join(id.0.to_string());
        let links = self.attach(&self.programs, directory, &pins)?;
        self.links.insert(id, links);
        Ok(())
    }

    /// Releases a governed cgroup: its processes connect directly from now on.
    ///
    /// # Errors
    /// When a program cannot be taken off, or a pin cannot be removed.
    pub fn release(&mut self, id: CgroupId) -> Result<(), KeeperError> {
        self.unset_governed(id)?;
        detach(self.links.remove(&id).unwrap_or_default(), &self.pins.join("links").join(id.0.to_string()))
    }

    /// The cgroups whose programs are attached.
    pub fn governed(&self) -> impl Iterator<Item = CgroupId> + '_ {
        self.links.keys().copied()
    }

    /// Puts the fence up at the `root` of the hierarchy, unless it stands: from now on marks bite.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn raise_fence(&mut self, root: &File) -> Result<(), KeeperError> {
        if !self.fence.is_empty() {
            return Ok(());
        }
        self.fence = self.attach(&name::FENCE, root, &self.pins.join("fence"))?;
        Ok(())
    }

    /// Takes the fence down: marks that are left on sockets mean nothing any more.
    ///
    /// # Errors
    /// When a program cannot be taken off, or a pin cannot be removed.
    pub fn lower_fence(&mut self) -> Result<(), KeeperError> {
        detach(std::mem::take(&mut self.fence), &self.pins.join("fence"))
    }

    /// Opens the pinned links of earlier keepers and puts the new programs into them, one atomic step each.
    pub(super) fn adopt(&mut self) -> Result<(), KeeperError> {
        let fence: Vec<Link> =
            name::FENCE.iter().filter_map(|name| Link::open(&self.pins.join("fence").join(name)).ok()).collect();
        if fence.len() == name::FENCE.len() {
            for (link, name) in fence.iter().zip(name::FENCE) {
                self.program(name)
                    .and_then(|program| link.update(program))
                    .map_err(|error| kernel(format!("cannot swap {name}: {error}")))?;
            }
            self.fence = fence;
        }
        let Ok(entries) = fs::read_dir(self.pins.join("links")) else { return Ok(()) };
        for entry in entries.flatten() {
            let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()).map(CgroupId) else {
                continue;
            };
            if let Some(links) = self.adopt_cgroup(&entry.path())? {
                self.links.insert(id, links);
            }
        }
        Ok(())
    }

    /// The links of one cgroup, or `None` when the cgroup is gone (the kernel detached them; the pins are removed) or
    /// a keeper died while attaching (what is missing is attached again by [`Kernel::govern`]).
    fn adopt_cgroup(&mut self, pins: &Path) -> Result<Option<Vec<Link>>, KeeperError> {
        let mut links = Vec::with_capacity(self.programs.len());
        for name in self.programs.clone() {
            let Ok(link) = Link::open(&pins.join(name)) else { return Ok(None) };
            match self.program(name).and_then(|program| link.update(program)) {
                Ok(()) => links.push(link),
                Err(error) if error.raw_os_error() == Some(libc::ENOLINK) => {
                    fs::remove_dir_all(pins).map_err(|error| kernel(error.to_string()))?;
                    return Ok(None);
                }
                Err(error) => return Err(kernel(format!("cannot swap {name}: {error}"))),
            }
        }
        Ok(Some(links))
    }

    /// Attaches and pins these programs at `directory`.
    pub(super) fn attach(&self, names: &[&str], directory: &File, pins: &Path) -> Result<Vec<Link>, KeeperError> {
        fs::create_dir_all(pins).map_err(|error| kernel(format!("cannot make {}: {error}", pins.display())))?;
        let mut links = Vec::with_capacity(names.len());
        for name in names {
            let pin = pins.join(name);
            let link = attach_type(name)
                .and_then(|kind| Link::create(self.program(name)?, directory.as_fd(), kind))
                .map_err(|error| kernel(format!("cannot attach {name}: {error}")))?;
            // A pin that an interrupted attach left, or of a cgroup that is gone and whose id was given again.
            let _ = fs::remove_file(&pin);
            link.pin(&pin).map_err(|error| kernel(format!("cannot pin {name} at {}: {error}", pin.display())))?;
            links.push(link);
        }
        Ok(links)
    }
}

/// Takes the programs off, then removes their pins.
fn detach(links: Vec<Link>, pins: &Path) -> Result<(), KeeperError> {
    for link in links {
        link.detach()
            .map_err(|error| kernel(format!("cannot detach what is pinned at {}: {error}", pins.display())))?;
    }
    match fs::remove_dir_all(pins) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(kernel(format!("cannot remove the pins at {}: {error}", pins.display())))
        }
        _ => Ok(()),
    }
}
