//! What the kernel really runs. Takes a governed cgroup; gives what is missing of ours, whose programs run beside it, and
//! whether the pins stand. A pin or a link in hand is no proof: the effective programs are.

use std::collections::BTreeMap;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::Ebpf;
use caracal_common::name;

use super::{Kernel, chain, kernel};
use crate::keeper::KeeperError;
use crate::keeper::bpf_link::{self, Link, attach_type};
use crate::keeper::cgroup::Cgroup;

/// One look at a governed cgroup.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Look {
    /// Programs of ours that the kernel does not run there.
    pub missing: Vec<&'static str>,
    /// Programs of others that it runs there.
    pub others: Vec<Other>,
    /// The first pin that is not there, of the cgroup's and of what the instance shares.
    pub unpinned: Option<PathBuf>,
}

/// Somebody else's program.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Other {
    /// Where it runs, by the name of our program there.
    pub hook: &'static str,
    /// What its owner called it.
    pub name: String,
    /// Whether it could undo what ours decided; the others can only refuse more.
    pub undoes: bool,
}

/// Whether a program of another's at this hook can undo ours. One that runs later may write another address into the
/// call and, since Linux 5.18, take a refusal back (`bpf_set_retval`); one at `sock_ops` may hand the socket to a map
/// that bytes leave by. At `egress` and `ingress` every program has to agree, and the rest only show addresses.
fn undoes(hook: &str, later: bool) -> bool {
    match hook {
        "connect4" | "connect6" | "sendmsg4" | "sendmsg6" | "sock_create" | "bind4" | "bind6" | "setsockopt" => later,
        "sock_ops" => true,
        _ => false,
    }
}

/// Others among the programs that run at a hook, in their order; `None`: ours is not among them.
fn judge(hook: &'static str, ours: u32, known: &[u32], running: &[u32]) -> Option<Vec<(u32, bool)>> {
    let own = running.iter().position(|id| *id == ours)?;
    let others = running.iter().enumerate().filter(|(_, id)| !known.contains(id));
    Some(others.map(|(at, id)| (*id, undoes(hook, at > own))).collect())
}

/// The maps that are pinned, each held by a descriptor.
pub(super) fn pinned(maps: &Path) -> Result<Vec<(PathBuf, OwnedFd)>, KeeperError> {
    let failed = |error: std::io::Error| kernel(format!("{}: {error}", maps.display()));
    let mut held = Vec::new();
    for entry in fs::read_dir(maps).map_err(failed)?.flatten() {
        held.push((entry.path(), bpf_link::open_pin(&entry.path()).map_err(failed)?));
    }
    Ok(held)
}

/// The numbers of our loaded programs.
pub(super) fn ids(ebpf: &Ebpf, programs: &[&'static str]) -> Result<BTreeMap<&'static str, u32>, KeeperError> {
    let mut ids = BTreeMap::new();
    for name in programs.iter().copied().chain(name::FENCE) {
        let program = ebpf.program(name).ok_or_else(|| kernel(format!("the program {name} is missing")))?;
        ids.insert(name, program.info().map_err(|error| kernel(chain(&error)))?.id());
    }
    Ok(ids)
}

impl Kernel {
    /// Asks the kernel what it runs in a cgroup.
    ///
    /// # Errors
    /// When it does not say.
    pub fn look(&self, cgroup: &Cgroup) -> Result<Look, KeeperError> {
        let known: Vec<u32> = self.ids.values().copied().collect();
        let mut look = Look { unpinned: self.unpinned(cgroup), ..Look::default() };
        for &hook in &self.programs {
            let asked = attach_type(hook).and_then(|kind| bpf_link::effective(cgroup.directory.as_fd(), kind));
            let running =
                asked.map_err(|error| kernel(format!("cannot ask what runs at {hook} of {}: {error}", cgroup.path)))?;
            let ours = self.ids.get(hook).copied().unwrap_or(0);
            let Some(others) = judge(hook, ours, &known, &running) else {
                look.missing.push(hook);
                continue;
            };
            // A program that ended in between is no other's.
            let named = |(id, undoes)| Some(Other { hook, name: bpf_link::program_name(id).ok()?, undoes });
            look.others.extend(others.into_iter().filter_map(named));
        }
        look.others.sort();
        look.others.dedup();
        Ok(look)
    }

    fn unpinned(&self, cgroup: &Cgroup) -> Option<PathBuf> {
        let links = self.pins.join("links").join(cgroup.id.0.to_string());
        let fence = self.fence.iter().zip(name::FENCE).map(|(_, name)| self.pins.join("fence").join(name));
        let maps = self.maps.iter().map(|(pin, _)| pin.clone());
        let mut all = self.programs.iter().map(|name| links.join(name)).chain(fence).chain(maps);
        all.find(|pin| !pin.exists()).or_else(|| self.lsm.unpinned(&self.pins))
    }

    /// Attaches again what is missing in a governed cgroup, and pins again what lost its pin.
    ///
    /// # Errors
    /// When the kernel refuses; what is done stays.
    pub fn mend(&mut self, cgroup: &Cgroup, missing: &[&'static str]) -> Result<(), KeeperError> {
        let failed = |what: &str, error: std::io::Error| kernel(format!("{what} of {}: {error}", cgroup.path));
        let pins = self.pins.join("links").join(cgroup.id.0.to_string());
        let mut links = self.links.remove(&cgroup.id).unwrap_or_default();
        let result = (|| {
            if links.len() != self.programs.len() {
                links = self.attach(&self.programs, &cgroup.directory, &pins)?;
                return Ok(());
            }
            for (link, name) in links.iter_mut().zip(self.programs.iter().copied()) {
                if !missing.contains(&name) {
                    continue;
                }
                let program = self.program(name).map_err(|error| failed(name, error))?;
                // Another program was put into our link; or it was taken off, and there has to be another link.
                if link.update(program).is_err() {
                    let kind = attach_type(name).map_err(|error| failed(name, error))?;
                    *link =
                        Link::create(program, cgroup.directory.as_fd(), kind).map_err(|error| failed(name, error))?;
                    let _ = fs::remove_file(pins.join(name));
                }
            }
            Ok(())
        })();
        self.links.insert(cgroup.id, links);
        result.and_then(|()| self.pin_again())
    }

    /// Pins whatever has lost its pin: of every cgroup, and the maps.
    fn pin_again(&self) -> Result<(), KeeperError> {
        let put = |pin: &Path, object: &dyn Fn(&Path) -> std::io::Result<()>| {
            if pin.exists() {
                return Ok(());
            }
            if let Some(directory) = pin.parent() {
                fs::create_dir_all(directory).map_err(|error| kernel(error.to_string()))?;
            }
            object(pin).map_err(|error| kernel(format!("cannot pin {}: {error}", pin.display())))
        };
        for (pin, map) in &self.maps {
            put(pin, &|pin| bpf_link::pin(map.as_fd(), pin))?;
        }
        for (id, links) in &self.links {
            let pins = self.pins.join("links").join(id.0.to_string());
            for (link, name) in links.iter().zip(&self.programs) {
                // A cgroup that is gone has dead links: their pins mean nothing, and neither does a failure.
                let _ = put(&pins.join(name), &|pin| link.pin(pin));
            }
        }
        for (link, name) in self.fence.iter().zip(name::FENCE) {
            put(&self.pins.join("fence").join(name), &|pin| link.pin(pin))?;
        }
        self.lsm.pin_again(&self.pins).map_err(|error| kernel(format!("cannot pin the LSM's programs: {error}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_runs_later_may_undo_and_a_packet_filter_may_not() {
        let known = [7, 8];
        assert_eq!(judge("connect4", 7, &known, &[1, 7, 8, 2]), Some(vec![(1, false), (2, true)]));
        assert_eq!(judge("egress", 7, &known, &[7, 2]), Some(vec![(2, false)]));
        assert_eq!(judge("sock_ops", 7, &known, &[1, 7]), Some(vec![(1, true)]));
        assert_eq!(judge("connect4", 7, &known, &[1, 8]), None, "ours does not run");
    }
}
