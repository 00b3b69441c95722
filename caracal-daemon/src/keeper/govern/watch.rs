//! The watch over what is governed. Asks the kernel what it runs in each governed directory, mends what can be mended,
//! sends the canary, and takes over a directory that was removed and made again. Never opens the door: it takes its word
//! back, and the data path does not renew the lease.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Path, PathBuf};

use super::Governor;
use crate::agent::{Agent, CgroupId};
use crate::keeper::canary::{self, Canary};
use crate::keeper::cgroup::Cgroup;
use crate::keeper::cgroup_v1;
use crate::keeper::control::AttachOptions;
use crate::keeper::order::{Answer, Order};
use crate::keeper::serve::mount_bpffs;
use crate::keeper::truth::{Truth, Work};
use crate::keeper::upgrade::try_program;

/// A directory that is watched: the slice, or an attached cgroup.
#[derive(Debug)]
struct Tree {
    path: String,
    /// Whose it is; nobody's where it is the slice.
    agent: Option<(Agent, AttachOptions)>,
}

/// A cgroup that was removed and made again, to be attached as the same agent.
#[derive(Clone, Debug)]
pub struct Again {
    agent: Agent,
    options: AttachOptions,
}

/// The canary on its way, and the leaves that it visits.
#[derive(Debug, Default)]
pub struct Flights {
    canary: Option<Canary>,
    leaves: BTreeMap<String, CgroupId>,
}

impl Governor {
    /// What is known of the kernel.
    #[must_use]
    pub fn truth(&self) -> &Truth {
        &self.truth
    }

    /// Has the main thread upgrade; it may only be asked once the program has said its version.
    ///
    /// # Errors
    /// When the program in our place does not.
    pub fn upgrade(&self) -> Answer {
        let version = try_program(&self.began.1)?;
        nix::sys::signal::kill(nix::unistd::Pid::this(), nix::sys::signal::Signal::SIGUSR2)
            .map_err(|error| error.to_string())?;
        Ok(serde_json::json!({ "program": self.began.1, "version": version, "began_ns": self.began.0 }))
    }

    fn trees(&self) -> Vec<Tree> {
        let slice = Tree { path: self.slice.path.clone(), agent: None };
        let governed = self.governed();
        let attached = governed.values().filter(|one| !one.leaf);
        let attached =
            attached.map(|one| Tree { path: one.cgroup.path.clone(), agent: Some((one.agent.clone(), one.options)) });
        std::iter::once(slice).chain(attached).collect()
    }

    /// Looks at every tree once.
    pub fn look_at_programs(&self) {
        let (mut faults, mut notes) = (BTreeSet::new(), BTreeSet::new());
        // Before the first class is set nothing has left yet; afterwards the canary gets out.
        match cgroup_v1::unbinds() {
            Some(why) if self.allow_degraded => drop(notes.insert(format!("{why} (degraded)"))),
            why => faults.extend(why),
        }
        for tree in self.trees() {
            let opened = match &tree.agent {
                None => self.hierarchy.make(&tree.path).map_err(|error| error.to_string()),
                Some(_) if !self.hierarchy.root().join(tree.path.trim_start_matches('/')).exists() => {
                    notes.insert(format!("{} is gone; it is governed again when it is back", tree.path));
                    continue;
                }
                Some(_) => self.hierarchy.open(Path::new(&tree.path)).map_err(|error| error.to_string()),
            };
            match opened.and_then(|cgroup| self.look_at_tree(&tree, &cgroup, &mut notes)) {
                Ok(None) => {}
                Ok(Some(fault)) | Err(fault) => {
                    faults.insert(fault);
                }
            }
        }
        self.truth.looked(faults, notes);
    }

    /// Looks at one; gives what is wrong and cannot be mended.
    fn look_at_tree(
        &self,
        tree: &Tree,
        cgroup: &Cgroup,
        notes: &mut BTreeSet<String>,
    ) -> Result<Option<String>, String> {
        let mut kernel = self.kernel();
        // Released since the list was made: a release takes it off the list before it asks for the kernel.
        if tree.agent.is_some() && !self.is_watched(&tree.path) {
            return Ok(None);
        }
        let text = |error: crate::keeper::KeeperError| error.to_string();
        if !kernel.governed().any(|id| id == cgroup.id) {
            // Shut at once; who is in it is looked at without haste.
            kernel.govern(cgroup).map_err(text)?;
            self.truth.record(format!("{} was removed and made again: it is governed anew", cgroup.path));
            if let Some((agent, options)) = tree.agent.clone() {
                self.truth.hand_over(Work::Again(Again { agent, options }));
            }
        }
        let mut look = kernel.look(cgroup).map_err(text)?;
        if !look.missing.is_empty() || look.unpinned.is_some() {
            let what = match (&look.missing[..], &look.unpinned) {
                ([], Some(pin)) => format!("the pin {} was gone", pin.display()),
                (missing, _) => format!("the kernel did not run {} for {}", missing.join(", "), cgroup.path),
            };
            let _ = kernel.close_lease();
            mount_bpffs().map_err(text)?;
            kernel.mend(cgroup, &look.missing).map_err(|error| format!("{what}, and cannot be put back: {error}"))?;
            look = kernel.look(cgroup).map_err(text)?;
            if !look.missing.is_empty() || look.unpinned.is_some() {
                return Ok(Some(format!("{what}, and putting it back did not help")));
            }
            self.truth.record(format!("the door was shut for a moment: {what}; it is put back"));
        }
        drop(kernel);
        let degraded = tree.agent.as_ref().map_or(self.allow_degraded, |(_, options)| options.allow_degraded);
        let mut undoing = Vec::new();
        for other in look.others {
            let what = format!("program {:?} of somebody else's at {}", other.name, other.hook);
            if other.undoes && !degraded {
                undoing.push(what);
            } else {
                let means = if other.undoes { "could undo a refusal (degraded)" } else { "can only refuse more" };
                notes.insert(format!("{what} of {} {means}", cgroup.path));
            }
        }
        Ok((!undoing.is_empty()).then(|| {
            format!(
                "{} runs after ours in {} and could undo a refusal: take it off (`bpftool cgroup tree` shows where it is), or \
                 set allow_degraded = true to go on all the same and have that recorded",
                undoing.join(", "),
                cgroup.path
            )
        }))
    }

    /// Attaches a cgroup that was made again as the agent that it was. What cannot be attached stays shut.
    pub fn attach_again(&self, again: &Again) {
        let Again { agent, options } = again;
        if !self.is_watched(&agent.path) {
            return;
        }
        match self.attach_as(Path::new(&agent.path), Some(&agent.name), *options, Some(agent.cgroup)) {
            Ok(_) => {
                let mut kernel = self.kernel();
                // The kernel took its programs off when the directory went; what is left is ours.
                let _ = kernel.dismiss(agent.cgroup).and_then(|()| kernel.release(agent.cgroup));
                drop(kernel);
                let _ = self.order(&Order::Dismiss(agent.cgroup));
            }
            Err(why) => {
                self.truth.record(format!("{} stays shut, every packet of it is refused: {why}", agent.path));
            }
        }
    }

    /// Sends the canary through every tree once.
    pub fn send_canaries(&self, flights: &mut Flights) {
        let trees = self.trees();
        let places: BTreeSet<String> = trees.iter().map(|tree| tree.path.clone()).collect();
        self.truth.watch_only(&places);
        let gone: Vec<String> = flights.leaves.keys().filter(|path| !places.contains(*path)).cloned().collect();
        for path in gone {
            if let Some(id) = flights.leaves.remove(&path) {
                let _ = self.kernel().dismiss_canary(id);
            }
            let leaf = self.hierarchy.root().join(path.trim_start_matches('/')).join(canary::LEAF);
            let _ = std::fs::remove_dir(leaf);
        }
        for path in places {
            let Ok(cgroup) = self.hierarchy.open(Path::new(&path)) else { continue };
            // One that was just made again is not governed yet: the watch comes first.
            if !self.kernel().governed().any(|id| id == cgroup.id) {
                continue;
            }
            match self.send_canary(flights, &path) {
                // Released while it was on its way: then it was right to get out.
                Ok(through) if !through.is_empty() && !self.kernel().governed().any(|id| id == cgroup.id) => {}
                Ok(through) => self.truth.tried(&path, &through),
                Err(error) => {
                    flights.canary = None;
                    self.truth.blind(&path, error.to_string());
                }
            }
        }
    }

    fn send_canary(&self, flights: &mut Flights, path: &str) -> io::Result<Vec<String>> {
        let text = |error: crate::keeper::KeeperError| io::Error::other(error.to_string());
        let leaf = self.hierarchy.make(&format!("{path}/{}", canary::LEAF)).map_err(text)?;
        if flights.leaves.get(path) != Some(&leaf.id) {
            self.kernel().admit_canary(leaf.id, leaf.level).map_err(text)?;
            if let Some(old) = flights.leaves.insert(path.to_owned(), leaf.id) {
                self.kernel().dismiss_canary(old).map_err(text)?;
            }
        }
        let canary = match &mut flights.canary {
            Some(canary) => canary,
            None => flights.canary.insert(Canary::start(self.home()?)?),
        };
        canary.try_in(&leaf)
    }

    /// The directory of the keeper's own cgroup.
    fn home(&self) -> io::Result<PathBuf> {
        let own = self.hierarchy.of_process(std::process::id())?;
        Ok(self.hierarchy.root().join(own.trim_start_matches('/')))
    }
}
