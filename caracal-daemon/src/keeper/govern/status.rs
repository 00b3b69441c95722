//! What `status` shows: doors, levels, agents, and what the kernel counted for each.

use std::collections::BTreeMap;
use std::path::Path;

use caracal_common::counter::CounterKey;
use caracal_common::denial::{Hook, Why};
use serde_json::{Value, json};

use super::Governor;
use crate::keeper::cgroup::Cgroup;
use crate::keeper::level::Level;
use crate::keeper::order::{Answer, Order};

impl Governor {
    /// The names of a user's agents.
    #[must_use]
    pub fn agents_of(&self, uid: u32) -> Vec<String> {
        self.governed().values().filter(|one| one.agent.uid == uid).map(|one| one.agent.name.to_string()).collect()
    }

    /// What is governed, and whether the door is open; with `own`, only the agents of that user.
    ///
    /// # Errors
    /// Never; a data path that does not answer is part of the answer.
    pub fn status(&self, own: Option<u32>) -> Answer {
        let deadline = self.kernel().lease_deadline().unwrap_or(0);
        let counters = self.kernel().counters().unwrap_or_default();
        let level = Level::of(&self.kernel());
        let full = level.lacks.is_none();
        let agents = self.agents().into_iter().filter(|agent| own.is_none_or(|uid| agent.uid == uid));
        let agents: Vec<Value> = agents
            .map(|agent| {
                let there = self.hierarchy.open(Path::new(&agent.path)).ok().filter(|there| there.id == agent.cgroup);
                let of_agent = || counters.iter().filter(|(key, _)| key.agent == agent.cgroup.0);
                let count = |wanted: fn(&CounterKey) -> bool| -> u64 {
                    of_agent().filter(|(key, _)| wanted(key)).map(|(_, count)| count).sum()
                };
                let mut reasons: BTreeMap<&str, u64> = BTreeMap::new();
                for (key, count) in of_agent().filter(|(key, _)| key.why != 0) {
                    *reasons.entry(Why::from_number(key.why).map_or("unknown", Why::code)).or_default() += count;
                }
                json!({
                    "agent": &*agent.name, "cgroup": agent.path, "uid": agent.uid, "learn": agent.learn,
                    "populated": there.as_ref().is_some_and(Cgroup::populated),
                    "root_process": there.filter(|_| !full).and_then(|there| there.root_process()),
                    "live": self.live.status(agent.cgroup),
                    "redirected": count(|key| key.why == 0 && key.hook != Hook::Ingress as u32),
                    "inbound": count(|key| key.why == 0 && key.hook == Hook::Ingress as u32),
                    "refused_by_kernel": count(|key| key.why != 0), "refused_for": reasons,
                })
            })
            .collect();
        let data_path = self.order(&Order::Status);
        Ok(json!({
            "version": env!("CARGO_PKG_VERSION"),
            "door": if crate::clock::monotonic_ns() < deadline { "open" } else { "shut" },
            "began_ns": self.began.0,
            "slice": self.slice.path,
            "level": level.name(),
            "enforced": level.to_json(),
            "truth": self.truth.to_json(),
            "agents": agents,
            "namespaces": self.namespaces.status(),
            "data_path": data_path.unwrap_or_else(|why| json!({ "error": why })),
        }))
    }
}
