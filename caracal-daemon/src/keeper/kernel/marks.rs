//! Marks on sockets that were made elsewhere, for the fence.

use std::os::fd::BorrowedFd;
use std::path::Path;

use aya::maps::{Map, MapData, SkStorage};
use caracal_common::flow::Flow;
use caracal_common::name;
use caracal_common::settings::Foreign;

use super::{Kernel, Shared, chain, kernel};
use crate::agent::CgroupId;
use crate::keeper::KeeperError;

impl Kernel {
    /// Marks a socket as held by the agent with this cgroup.
    ///
    /// # Errors
    /// When the kernel keeps no storage for the socket.
    pub fn mark_foreign(&mut self, socket: BorrowedFd<'_>, agent: CgroupId, level: u32) -> Result<(), KeeperError> {
        let mark = Shared(Foreign { agent: agent.0, level, pad: 0 });
        self.marks()?.insert(&socket, mark, 0).map_err(|error| kernel(chain(&error)))
    }

    /// Takes the mark of an agent off a socket, where there is one.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn unmark_foreign(&mut self, socket: BorrowedFd<'_>, agent: CgroupId) -> Result<(), KeeperError> {
        unmark(&mut self.marks()?, socket, agent)
    }

    /// Whether the socket was made by a governed process after its cgroup was governed.
    pub fn has_owner(&mut self, socket: BorrowedFd<'_>) -> bool {
        let Ok(map) = self.typed::<SkStorage<_, Shared<Flow>>>(name::SOCKETS) else { return false };
        map.get(&socket, 0).is_ok_and(|flow| flow.0.agent != 0)
    }

    fn marks(&mut self) -> Result<SkStorage<&mut MapData, Shared<Foreign>>, KeeperError> {
        self.typed(name::FOREIGN)
    }
}

/// The marks of an instance whose keeper does not run.
pub struct Marks(SkStorage<MapData, Shared<Foreign>>);

impl std::fmt::Debug for Marks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Marks").finish_non_exhaustive()
    }
}

impl Marks {
    /// Opens the pinned map.
    ///
    /// # Errors
    /// When there is none.
    pub fn pinned(pins: &Path) -> Result<Marks, KeeperError> {
        let data = MapData::from_pin(pins.join("maps").join(name::FOREIGN)).map_err(|error| kernel(chain(&error)))?;
        Map::SkStorage(data).try_into().map(Marks).map_err(|error| kernel(chain(&error)))
    }

    /// Takes the mark of an agent off a socket, where there is one.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn remove(&mut self, socket: BorrowedFd<'_>, agent: CgroupId) -> Result<(), KeeperError> {
        unmark(&mut self.0, socket, agent)
    }
}

fn unmark<T: std::borrow::BorrowMut<MapData>>(
    marks: &mut SkStorage<T, Shared<Foreign>>,
    socket: BorrowedFd<'_>,
    agent: CgroupId,
) -> Result<(), KeeperError> {
    match marks.get(&socket, 0) {
        Ok(mark) if mark.0.agent == agent.0 => marks.remove(&socket).map_err(|error| kernel(chain(&error))),
        _ => Ok(()),
    }
}
