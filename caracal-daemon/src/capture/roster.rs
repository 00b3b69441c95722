//! The agents by cgroup id, as the keeper announced them. An unknown cgroup is a refusal.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::agent::{Agent, CgroupId};

/// Every agent that is governed now.
#[derive(Debug, Default)]
pub struct Roster(RwLock<HashMap<CgroupId, Arc<Agent>>>);

impl Roster {
    /// Adds an agent.
    pub fn admit(&self, agent: Agent) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).insert(agent.cgroup, Arc::new(agent));
    }

    /// Removes one.
    pub fn dismiss(&self, id: CgroupId) {
        self.0.write().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    /// The agent with this cgroup.
    #[must_use]
    pub fn agent(&self, id: CgroupId) -> Option<Arc<Agent>> {
        self.0.read().unwrap_or_else(PoisonError::into_inner).get(&id).cloned()
    }
}
