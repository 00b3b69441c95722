//! Inbound rules, as the kernel enforces them: which loopback ports of which agent others on the host may connect to.

use std::collections::BTreeSet;
use std::sync::PoisonError;

use caracal_common::inbound::Inbound;
use serde_json::json;

use super::{Answer, Governor, Order};
use crate::config::{Config, InboundRule};

impl Governor {
    /// These are the rules about inbound connections from now on.
    pub fn set_inbound(&self, rules: &[InboundRule]) {
        rules.clone_into(&mut self.inbound.lock().unwrap_or_else(PoisonError::into_inner));
        self.open_inbound();
    }

    /// Opens the ports that the rules name for the agents that there are, and closes all others.
    pub(super) fn open_inbound(&self) {
        let rules = self.inbound.lock().unwrap_or_else(PoisonError::into_inner);
        let wanted: BTreeSet<Inbound> = self
            .agents()
            .iter()
            .flat_map(|agent| {
                let of_agent = rules.iter().filter(|rule| rule.allows(&agent.name));
                let ports = of_agent.flat_map(|rule| &rule.ports);
                ports.map(|port| Inbound { agent: agent.cgroup.0, port: *port, pad: [0; 6] })
            })
            .collect();
        if let Err(error) = self.kernel().set_inbound(&wanted) {
            tracing::error!(%error, "Not every inbound rule is in force.");
        }
    }

    /// Reads the configuration's rules again: the data path its policy, then the keeper what the kernel enforces. Answers with
    /// the policy set's hash; where keys changed that wait for a restart, beside their names.
    ///
    /// # Errors
    /// When either says no; what it had stays in force.
    pub fn reload(&self) -> Answer {
        let answer = self.order(&Order::Reload)?;
        let config = Config::load(&self.config.file).map_err(|error| error.to_string())?;
        let waiting = self.config.waiting_for_restart(&config);
        self.set_inbound(&config.inbound);
        self.set_unix_rules(config.unix);
        Ok(if waiting.is_empty() { answer } else { json!({ "policy_set": answer, "waiting_for_restart": waiting }) })
    }
}
