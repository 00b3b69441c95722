//! Who is an agent, what is governed, and what each agent may reach: the maps that the programs decide by.

use std::collections::BTreeSet;
use std::path::Path;

use aya::maps::{Array, HashMap, Map, MapData, MapError};
use caracal_common::counter::CounterKey;
use caracal_common::inbound::Inbound;
use caracal_common::name;
use caracal_common::settings::{AgentEntry, CANARY, LEARN};

use super::{Kernel, Shared, chain, kernel};
use crate::agent::{Agent, CgroupId};
use crate::config::UnixRule;
use crate::keeper::{KeeperError, lsm};

impl Kernel {
    /// Makes it an agent: from now on its sockets are redirected rather than refused.
    ///
    /// # Errors
    /// When a map is full.
    pub fn admit(&mut self, agent: &Agent, level: u32) -> Result<(), KeeperError> {
        self.allow_unix(agent)?;
        let flags = if agent.learn { LEARN } else { 0 };
        self.agents()?
            .insert(agent.cgroup.0, Shared(AgentEntry { level, flags }), 0)
            .map_err(|error| kernel(format!("cannot admit another agent: {}", chain(&error))))
    }

    /// Takes the agent's standing away: everything in its cgroup is refused.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn dismiss(&mut self, id: CgroupId) -> Result<(), KeeperError> {
        self.set_unix(id, &[])?;
        match self.agents()?.remove(&id.0) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(kernel(format!("cannot dismiss an agent: {}", chain(&error)))),
        }
    }

    /// The agents admitted by an earlier keeper.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn admitted(&mut self) -> Result<Vec<CgroupId>, KeeperError> {
        let entries = self.agents()?;
        let agents = entries.iter().filter_map(Result::ok).filter(|(_, entry)| entry.0.flags & CANARY == 0);
        Ok(agents.map(|(id, _)| CgroupId(id)).collect())
    }

    /// Makes it a canary's: what is refused in it is counted by itself, and no agent's.
    ///
    /// # Errors
    /// When a map is full.
    pub fn admit_canary(&mut self, id: CgroupId, level: u32) -> Result<(), KeeperError> {
        self.agents()?
            .insert(id.0, Shared(AgentEntry { level, flags: CANARY }), 0)
            .map_err(|error| kernel(format!("cannot admit a canary: {}", chain(&error))))
    }

    /// The cgroups of canaries.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn canaries(&mut self) -> Result<BTreeSet<u64>, KeeperError> {
        let entries = self.agents()?;
        let canaries = entries.iter().filter_map(Result::ok).filter(|(_, entry)| entry.0.flags & CANARY != 0);
        Ok(canaries.map(|(id, _)| id).collect())
    }

    /// Forgets a canary's cgroup and what was counted for it: in this order, so that nothing is taken for an agent's.
    ///
    /// # Errors
    /// When a map cannot be written.
    pub fn dismiss_canary(&mut self, id: CgroupId) -> Result<(), KeeperError> {
        let mut counters: HashMap<_, Shared<CounterKey>, u64> = self.typed(name::COUNTERS)?;
        let of_canary: Vec<_> =
            counters.keys().filter_map(Result::ok).filter(|key: &Shared<CounterKey>| key.0.agent == id.0).collect();
        for key in of_canary {
            counters.remove(&key).map_err(|error| kernel(chain(&error)))?;
        }
        self.dismiss(id)
    }

    /// The canaries of an earlier keeper.
    pub(super) fn forget_canaries(&mut self) -> Result<(), KeeperError> {
        self.canaries()?.into_iter().try_for_each(|id| self.dismiss_canary(CgroupId(id)))
    }

    /// Makes these the ports that others may connect to, and no others.
    ///
    /// # Errors
    /// When they are more than the map takes; those that fit are open then.
    pub fn set_inbound(&mut self, wanted: &BTreeSet<Inbound>) -> Result<(), KeeperError> {
        let mut map: HashMap<_, Shared<Inbound>, u8> = self.typed(name::INBOUND)?;
        let there: BTreeSet<Inbound> = map.keys().filter_map(Result::ok).map(|key| key.0).collect();
        for gone in there.difference(wanted) {
            map.remove(&Shared(*gone)).map_err(|error| kernel(chain(&error)))?;
        }
        for fresh in wanted.difference(&there) {
            map.insert(Shared(*fresh), 1, 0)
                .map_err(|error| kernel(format!("cannot open another inbound port: {}", chain(&error))))?;
        }
        Ok(())
    }

    /// The rules for unix sockets, for agents that are admitted from now on.
    pub fn set_unix_rules(&mut self, rules: Vec<UnixRule>) {
        self.unix = rules;
    }

    /// Brings an agent's unix sockets in line with the rules.
    ///
    /// # Errors
    /// When the map is full.
    pub fn allow_unix(&mut self, agent: &Agent) -> Result<(), KeeperError> {
        let rules = self.unix.iter().filter(|rule| rule.is_for(&agent.name));
        let sockets: Vec<String> = rules.flat_map(|rule| rule.sockets.clone()).collect();
        self.set_unix(agent.cgroup, &sockets)
    }

    fn set_unix(&mut self, id: CgroupId, sockets: &[String]) -> Result<(), KeeperError> {
        let map = self.map(name::UNIX_ALLOWED)?;
        let mut map = map.try_into().map_err(|error| kernel(chain(&error)))?;
        lsm::allow_unix(&mut map, id.0, sockets.iter().map(String::as_str))
    }

    /// Says that the directory is governed, agent or not: the LSM's programs ask.
    pub(super) fn set_governed(&mut self, id: CgroupId, level: u32) -> Result<(), KeeperError> {
        self.governed_map()?
            .insert(id.0, Shared(AgentEntry { level, flags: 0 }), 0)
            .map_err(|error| kernel(format!("cannot govern another cgroup: {}", chain(&error))))?;
        self.set_levels()
    }

    pub(super) fn unset_governed(&mut self, id: CgroupId) -> Result<(), KeeperError> {
        match self.governed_map()?.remove(&id.0) {
            Ok(()) | Err(MapError::KeyNotFound) => self.set_levels(),
            Err(error) => Err(kernel(format!("cannot release a cgroup: {}", chain(&error)))),
        }
    }

    /// Says in the pinned map, while no keeper runs, that a directory is not governed any more.
    ///
    /// # Errors
    /// When there is such a map and it cannot be written.
    pub fn unset_pinned(pins: &Path, id: CgroupId) -> Result<(), KeeperError> {
        let pin = pins.join("maps").join(name::GOVERNED);
        if !pin.exists() {
            return Ok(());
        }
        let map = MapData::from_pin(&pin).map(Map::HashMap).map_err(|error| kernel(chain(&error)))?;
        let mut map: HashMap<_, u64, Shared<AgentEntry>> = map.try_into().map_err(|error| kernel(chain(&error)))?;
        match map.remove(&id.0) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(kernel(format!("cannot release a cgroup: {}", chain(&error)))),
        }
    }

    /// Directories that are gone are not governed.
    pub(super) fn forget_gone(&mut self) -> Result<(), KeeperError> {
        let known: Vec<u64> = self.governed_map()?.keys().filter_map(Result::ok).collect();
        let links = self.pins.join("links");
        for id in known.into_iter().filter(|id| !links.join(id.to_string()).exists()) {
            self.unset_governed(CgroupId(id))?;
        }
        self.set_levels()
    }

    /// At which depths anything is governed: a task elsewhere is let through after one look.
    fn set_levels(&mut self) -> Result<(), KeeperError> {
        let entries: Vec<(u64, Shared<AgentEntry>)> = self.governed_map()?.iter().filter_map(Result::ok).collect();
        let levels = entries.iter().fold(0_u32, |levels, (_, entry)| levels | 1 << entry.0.level.min(31));
        let map = self.map(name::LEVELS)?;
        let mut map: Array<_, u32> = map.try_into().map_err(|error| kernel(chain(&error)))?;
        map.set(0, levels, 0).map_err(|error| kernel(chain(&error)))
    }

    fn governed_map(&mut self) -> Result<HashMap<&mut MapData, u64, Shared<AgentEntry>>, KeeperError> {
        self.map(name::GOVERNED)?.try_into().map_err(|error| kernel(chain(&error)))
    }

    fn agents(&mut self) -> Result<HashMap<&mut MapData, u64, Shared<AgentEntry>>, KeeperError> {
        self.typed(name::AGENTS)
    }
}
