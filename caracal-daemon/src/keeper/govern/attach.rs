//! Cgroups that exist: attached, released, and adopted from an earlier keeper. A cgroup is governed before anything in
//! it is looked at, and what cannot be governed whole is not an agent.

use std::path::Path;
use std::sync::Arc;

use serde_json::json;

use super::{Governed, Governor, check_name, sanitise};
use crate::agent::{Agent, CgroupId};
use crate::keeper::canary;
use crate::keeper::cgroup::within;
use crate::keeper::control::AttachOptions;
use crate::keeper::level::Level;
use crate::keeper::order::{Answer, Order};
use crate::keeper::serve::{Registry, load};

impl Governor {
    /// Governs a cgroup.
    ///
    /// # Errors
    /// When it is not a cgroup, is governed already (by itself, from above or from below), the kernel refuses, or, unless
    /// `allow_degraded` is set, a root process in it shares our mount namespace or a socket in it cannot be fenced.
    pub fn attach(&self, path: &Path, name: Option<&str>, options: AttachOptions) -> Answer {
        self.attach_as(path, name, options, None)
    }

    /// The same; `again` is the id that the directory had before it was made again. What fails then stays shut.
    pub(super) fn attach_as(
        &self,
        path: &Path,
        name: Option<&str>,
        options: AttachOptions,
        again: Option<CgroupId>,
    ) -> Answer {
        let allow_degraded = options.allow_degraded;
        let cgroup = self.hierarchy.open(path).map_err(|error| error.to_string())?;
        let fallback = cgroup.absolute.file_name().map(|name| sanitise(&name.to_string_lossy())).unwrap_or_default();
        let name = name.unwrap_or(&fallback).to_owned();
        check_name(&name)?;
        if within(&self.slice.path, &cgroup.path) || within(&cgroup.path, &self.slice.path) {
            return Err(format!(
                "{} holds, or is held by, the slice of `caracald run`; name another cgroup",
                cgroup.path
            ));
        }
        if let Some(other) = self
            .governed()
            .values()
            .filter(|one| Some(one.agent.cgroup) != again)
            .find(|one| within(&one.cgroup.path, &cgroup.path) || within(&cgroup.path, &one.cgroup.path))
        {
            return Err(format!("{} is governed already, as agent {:?}", other.cgroup.path, &*other.agent.name));
        }
        // The LSM's programs keep even root from pins and keys.
        let full = Level::of(&self.kernel()).lacks.is_none();
        let root = cgroup.root_process().filter(|_| !full);
        if let (Some(pid), false) = (root, allow_degraded) {
            return Err(format!(
                "process {pid} in {} is root in the host's mount namespace: it could remove the pins and go free. Run the \
                 agent as an ordinary user, or say --allow-degraded to govern it all the same; that is recorded. A mount \
                 namespace of its own hides such a process from this check and does not hold it",
                cgroup.path
            ));
        }
        let agent =
            Agent { name: Arc::from(name), cgroup: cgroup.id, path: cgroup.path.clone(), uid: 0, learn: options.learn };
        {
            let mut kernel = self.kernel();
            kernel.govern(&cgroup).map_err(|error| error.to_string())?;
            let others = kernel.look(&cgroup).map_err(|error| error.to_string())?.others;
            if let (Some(other), false) = (others.iter().find(|other| other.undoes), allow_degraded) {
                if again.is_none() {
                    kernel.release(cgroup.id).map_err(|error| error.to_string())?;
                }
                return Err(format!(
                    "program {:?} of somebody else's runs at {} of {} after ours and could undo a refusal: take it off, or say \
                     --allow-degraded to govern it all the same; that is recorded",
                    other.name, other.hook, cgroup.path
                ));
            }
            kernel.admit(&agent, cgroup.level).map_err(|error| error.to_string())?;
        }
        // New sockets are governed from here on. Now for those that are there.
        let report = match self.live.attach(&self.kernel, &cgroup, &agent, options) {
            Ok(report) => report,
            Err(why) => {
                let mut kernel = self.kernel();
                let _ = kernel.dismiss(cgroup.id);
                if again.is_none() {
                    let _ = kernel.release(cgroup.id);
                }
                return Err(why);
            }
        };
        let told = self.order(&Order::Admit(agent.clone()));
        let mut value = json!({ "agent": &*agent.name, "cgroup": cgroup.path, "id": cgroup.id, "learn": agent.learn });
        let degraded = root.map(|pid| format!(", degraded: process {pid} is root in the host's mount namespace"));
        let learns =
            if agent.learn { ", which learns: the host allow list is lifted for it until it is detached" } else { "" };
        let message =
            format!("attached agent {}{learns}{}; {}", agent.name, degraded.unwrap_or_default(), report.summary());
        let _ = self.order(&Order::Lifecycle(message));
        {
            let mut governed = self.governed();
            if let Some(before) = again {
                governed.remove(&before);
            }
            governed.insert(cgroup.id, Governed { agent, cgroup, leaf: false, options });
        }
        self.register();
        self.open_inbound();
        self.namespaces.look(None);
        value["live"] = report.to_json();
        told.map(|_| value)
    }

    /// Takes an attached cgroup off the list of what is watched.
    fn forget(&self, path: &str) -> Option<(CgroupId, Governed)> {
        let mut governed = self.governed();
        let id = governed.iter().find(|(_, one)| !one.leaf && one.cgroup.path == path).map(|(id, _)| *id)?;
        governed.remove(&id).map(|one| (id, one))
    }

    /// Whether the cgroup at this path is on the list of what is watched.
    pub(super) fn is_watched(&self, path: &str) -> bool {
        self.governed().values().any(|one| !one.leaf && one.cgroup.path == path)
    }

    /// Whether there is such a cgroup.
    #[must_use]
    pub fn is_there(&self, path: &Path) -> bool {
        self.hierarchy.open(path).is_ok()
    }

    /// Whether this very cgroup is an attached agent already.
    #[must_use]
    pub fn is_attached(&self, path: &Path) -> bool {
        self.hierarchy.open(path).is_ok_and(|cgroup| self.governed().contains_key(&cgroup.id))
    }

    /// Releases an attached cgroup. Of one that learned the answer has what `run` says at its end.
    ///
    /// # Errors
    /// When it is not governed.
    pub fn detach(&self, path: &Path) -> Answer {
        let cgroup = self.hierarchy.open(path).map_err(|error| error.to_string())?;
        if cgroup.id == self.slice.id || !self.kernel().governed().any(|id| id == cgroup.id) {
            return Err(format!("{} is not an attached cgroup; `caracald status` lists them", cgroup.path));
        }
        // Before the kernel lets go: the watch would take it for a cgroup that was removed and made again.
        let released = self.forget(&cgroup.path);
        let freed = {
            let mut kernel = self.kernel();
            kernel.dismiss(cgroup.id).and_then(|()| kernel.release(cgroup.id))
        };
        if let Err(error) = freed {
            self.governed().extend(released);
            return Err(error.to_string());
        }
        self.live.detach(&self.kernel, &cgroup)?;
        let _ = std::fs::remove_dir(cgroup.absolute.join(canary::LEAF));
        let learned = released.as_ref().is_some_and(|(_, one)| one.agent.learn);
        let learned = learned.then(|| self.order(&Order::Summary(cgroup.id)));
        let learned = learned.map(|told| told.unwrap_or_else(|why| json!({ "text": format!("no summary: {why}") })));
        let name = released.map(|(_, one)| one.agent.name);
        self.register();
        self.open_inbound();
        let _ = self.order(&Order::Dismiss(cgroup.id));
        let _ = self.order(&Order::Lifecycle(format!("released agent {}", name.as_deref().unwrap_or("?"))));
        Ok(json!({ "cgroup": cgroup.path, "learned": learned }))
    }

    /// Takes over what an earlier keeper governed: leaves of the slice that are still populated, and attached cgroups.
    /// What is not in the registry is dismissed: it stays governed, and everything in it is refused.
    pub fn adopt(&self) {
        let names: Registry = load(&self.registry);
        let admitted = self.kernel().admitted().unwrap_or_default();
        for id in admitted {
            let known = names.get(&id.0).cloned();
            let opened = known.as_ref().and_then(|agent| self.hierarchy.open(Path::new(&agent.path)).ok());
            match (known, opened) {
                (Some(agent), Some(cgroup)) if cgroup.id == id => {
                    let leaf = within(&cgroup.path, &self.slice.path);
                    // An earlier version may have attached fewer programs.
                    let governs = if leaf { Ok(()) } else { self.kernel().govern(&cgroup) };
                    if let Err(error) = governs {
                        tracing::error!(%error, agent = &*agent.name, "Cannot govern an agent whole; it is refused everything.");
                        let _ = self.kernel().dismiss(id);
                        continue;
                    }
                    if let Err(error) = self.kernel().allow_unix(&agent) {
                        tracing::warn!(%error, agent = &*agent.name, "Cannot allow an agent's unix sockets.");
                    }
                    if !leaf {
                        self.live.adopt(id);
                    }
                    let options =
                        AttachOptions { allow_degraded: self.allow_degraded, trust_system: false, learn: agent.learn };
                    self.governed().insert(id, Governed { agent, cgroup, leaf, options });
                }
                _ => {
                    let _ = self.kernel().dismiss(id);
                }
            }
        }
        self.open_inbound();
    }
}
