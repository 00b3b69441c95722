//! Takes the compiled programs; gives governed cgroups. Pins before it reports, adopts pins on restart, swaps programs
//! in place. Never detaches a cgroup that nobody asked to release.
//!
//! Layout below the pin directory: `maps/NAME`, and `links/CGROUP_ID/PROGRAM` for each governed directory. A pin is
//! named by the cgroup's id, so that a directory removed and made again is seen to be another one. The LSM's programs
//! have links of their own (`lsm.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, MapError, RingBuf, SkStorage};
use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader, Pod};
use caracal_common::counter::CounterKey;
use caracal_common::flow::Flow;
use caracal_common::house::Inode;
use caracal_common::inbound::Inbound;
use caracal_common::layout::Layout;
use caracal_common::settings::{AgentEntry, Foreign, LEARN, Lease, Settings};
use caracal_common::unix::UnixName;
use caracal_common::{ABI_VERSION, name};

use super::KeeperError;
use super::bpf_link::{Link, attach_type};
use super::cgroup::Cgroup;
use super::lsm::{self, Lsm};
use crate::agent::{Agent, CgroupId};
use crate::config::{Require, UnixRule};

/// The programs, aligned as the ELF reader wants them.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/caracal.o"));

/// Kernel memory layouts that the kernel programs share with us.
#[repr(transparent)]
#[derive(Clone, Copy)]
pub(super) struct Shared<T: Copy>(pub(super) T);

// SAFETY: `caracal-common`'s layouts are `repr(C)` integers and byte arrays without padding.
unsafe impl Pod for Shared<Settings> {}
// SAFETY: as above.
unsafe impl Pod for Shared<Lease> {}
// SAFETY: as above.
unsafe impl Pod for Shared<AgentEntry> {}
// SAFETY: as above.
unsafe impl Pod for Shared<CounterKey> {}
// SAFETY: as above.
unsafe impl Pod for Shared<Layout> {}
// SAFETY: as above.
unsafe impl Pod for Shared<Inode> {}
// SAFETY: as above.
unsafe impl Pod for Shared<UnixName> {}
// SAFETY: as above.
unsafe impl Pod for Shared<Foreign> {}
// SAFETY: as above.
unsafe impl Pod for Shared<Flow> {}
// SAFETY: as above.
unsafe impl Pod for Shared<Inbound> {}

/// Which programs this kernel takes: each name, and why it is not taken.
#[derive(Clone, Debug)]
pub struct Tried {
    /// What the level `network` needs.
    pub network: Vec<(&'static str, Option<String>)>,
    /// What `full` needs beside it: hooks of the LSM.
    pub full: Vec<(&'static str, Option<String>)>,
}

/// The loaded programs, their maps, and every link. Holding the links is the second guard beside the pins.
pub struct Kernel {
    ebpf: Ebpf,
    pins: PathBuf,
    links: BTreeMap<CgroupId, Vec<Link>>,
    /// Of the level `full`; nothing of it is loaded for `network`.
    lsm: Lsm,
    unix: Vec<UnixRule>,
    /// At the root of the hierarchy, while sockets that were made elsewhere are fenced in.
    fence: Vec<Link>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("pins", &self.pins).field("governed", &self.links.len()).finish_non_exhaustive()
    }
}

impl Kernel {
    /// Loads the programs with the maps pinned below `pins` (made on first use), and swaps them into every link that is
    /// pinned there already. The lease is left closed. The LSM's programs are loaded and attached only when `require` is
    /// `full`; otherwise those of an earlier keeper go.
    ///
    /// # Errors
    /// When bpffs is not there, the kernel refuses a program, or a pinned map has another layout.
    pub fn load(pins: &Path, settings: Settings, require: Require) -> Result<Kernel, KeeperError> {
        let layout = if require == Require::Full { lsm::layout() } else { Layout::UNKNOWN };
        let mut ebpf = Kernel::open(pins, layout)?;
        for name in name::PROGRAMS.into_iter().chain(name::FENCE) {
            let program = ebpf.program_mut(name).ok_or_else(|| kernel(format!("the program {name} is missing")))?;
            load(program)
                .map_err(|error| kernel(format!("the kernel refuses the program {name}: {}", chain(&error))))?;
        }
        let lsm = match require {
            Require::Full => {
                let missing = lsm::load(&mut ebpf, &layout);
                Lsm::attach(&ebpf, &layout, pins, missing)
            }
            Require::Network => Lsm::not_required(pins)?,
        };
        let (links, unix, fence) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut kernel = Kernel { ebpf, pins: pins.to_owned(), links, lsm, unix, fence };
        kernel.close_lease()?;
        kernel.configure(settings)?;
        kernel.adopt()?;
        kernel.forget_gone()?;
        Ok(kernel)
    }

    /// The object with its maps pinned below `pins`; no program is loaded yet.
    fn open(pins: &Path, layout: Layout) -> Result<Ebpf, KeeperError> {
        let maps = pins.join("maps");
        fs::create_dir_all(&maps).and_then(|()| fs::create_dir_all(pins.join("links"))).map_err(|error| {
            kernel(format!(
                "cannot make {}: {error}; is bpffs mounted (mount -t bpf bpf /sys/fs/bpf), and is this root?",
                maps.display()
            ))
        })?;
        let has_set_retval = u32::from(kernel_at_least(5, 18));
        let has_current_task = u32::from(kernel_at_least(6, 1));
        EbpfLoader::new()
            .default_map_pin_directory(&maps)
            .map_pin_path(name::SOCKETS, maps.join(name::SOCKETS))
            .map_pin_path(name::FOREIGN, maps.join(name::FOREIGN))
            .override_global("HAS_SET_RETVAL", &has_set_retval, true)
            .override_global("LAYOUT", &Shared(layout), true)
            .override_global("HAS_CURRENT_TASK", &has_current_task, true)
            .load(OBJECT)
            .map_err(|error| kernel(format!("the programs do not load: {}", chain(&error))))
    }

    /// Tries every program on this kernel, with maps of its own, and leaves nothing behind.
    ///
    /// # Errors
    /// When bpffs is not there, or this is not root.
    pub fn try_programs() -> Result<Tried, KeeperError> {
        let pins = Kernel::pin_directory(&format!("doctor-{}", std::process::id()));
        let layout = lsm::layout();
        let tried = Kernel::open(&pins, layout).map(|mut ebpf| {
            let result = |name: &'static str| match ebpf.program_mut(name).map(load) {
                Some(Ok(())) => (name, None),
                Some(Err(error)) => (name, chain(&error).lines().next().map(ToOwned::to_owned)),
                None => (name, Some("missing".to_owned())),
            };
            let network = name::PROGRAMS.into_iter().chain(name::FENCE).map(result).collect();
            Tried { network, full: lsm::try_all(&mut ebpf, &layout) }
        });
        let _ = fs::remove_dir_all(&pins);
        tried
    }

    /// The directory of an instance's pins, which names the layout version.
    #[must_use]
    pub fn pin_directory(instance: &str) -> PathBuf {
        PathBuf::from(format!("/sys/fs/bpf/caracal/{instance}-v{ABI_VERSION}"))
    }

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
        let links = self.attach(&name::PROGRAMS, directory, &pins)?;
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
        Ok(self.agents()?.keys().filter_map(Result::ok).map(CgroupId).collect())
    }

    /// Says that the namespace with this cookie has our listeners.
    ///
    /// # Errors
    /// When the map is full.
    pub fn admit_namespace(&mut self, cookie: u64) -> Result<(), KeeperError> {
        let mut map: HashMap<_, u64, u8> = self.typed(name::NAMESPACES)?;
        map.insert(cookie, 1, 0).map_err(|error| kernel(format!("cannot admit a namespace: {}", chain(&error))))
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

    /// Says that the namespace with this cookie has our listeners no longer.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn withdraw_namespace(&mut self, cookie: u64) -> Result<(), KeeperError> {
        let mut map: HashMap<_, u64, u8> = self.typed(name::NAMESPACES)?;
        match map.remove(&cookie) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(error) => Err(kernel(format!("cannot withdraw a namespace: {}", chain(&error)))),
        }
    }

    /// Says that the namespace with this cookie has our listeners, and no other.
    ///
    /// # Errors
    /// When the map cannot be read or written.
    pub fn keep_namespace(&mut self, cookie: u64) -> Result<(), KeeperError> {
        let map: HashMap<_, u64, u8> = self.typed(name::NAMESPACES)?;
        let others: Vec<u64> = map.keys().filter_map(Result::ok).filter(|other| *other != cookie).collect();
        others.into_iter().try_for_each(|other| self.withdraw_namespace(other))?;
        self.admit_namespace(cookie)
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

    /// The program that tells cookies, loaded.
    ///
    /// # Errors
    /// When the kernel refuses it.
    pub fn cookie_program(&mut self) -> Result<BorrowedFd<'_>, KeeperError> {
        let program =
            self.ebpf.program_mut(name::NETNS_COOKIE).ok_or_else(|| kernel("a program is missing".to_owned()))?;
        if program.fd().is_err() {
            load(program).map_err(|error| kernel(chain(&error)))?;
        }
        self.program(name::NETNS_COOKIE).map_err(|error| kernel(error.to_string()))
    }

    /// What that program saw last, 0 if nothing; forgotten from now on.
    ///
    /// # Errors
    /// When the map cannot be read or written.
    pub fn take_cookie(&mut self) -> Result<u64, KeeperError> {
        let mut map: Array<_, u64> = self.typed(name::COOKIE)?;
        let cookie = map.get(&0, 0).map_err(|error| kernel(chain(&error)))?;
        map.set(0, 0, 0).map_err(|error| kernel(chain(&error)))?;
        Ok(cookie)
    }

    /// Ends the lease now: every program denies until the data path has proved itself again.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn close_lease(&mut self) -> Result<(), KeeperError> {
        let mut map: Array<_, Shared<Lease>> = self.typed(name::LEASE)?;
        map.set(0, Shared(Lease { deadline_ns: 0 }), 0).map_err(|error| kernel(chain(&error)))
    }

    /// The deadline of the lease, nanoseconds of `CLOCK_MONOTONIC`.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn lease_deadline(&mut self) -> Result<u64, KeeperError> {
        let map: Array<_, Shared<Lease>> = self.typed(name::LEASE)?;
        Ok(map.get(&0, 0).map_err(|error| kernel(chain(&error)))?.0.deadline_ns)
    }

    /// Every counter.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&mut self) -> Result<Vec<(CounterKey, u64)>, KeeperError> {
        let map: HashMap<_, Shared<CounterKey>, u64> = self.typed(name::COUNTERS)?;
        Ok(map.iter().filter_map(Result::ok).map(|(key, count)| (key.0, count)).collect())
    }

    /// Tells these counters from others that were made before a boot, or before the pins were removed.
    #[must_use]
    pub fn counters_name(&self) -> String {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        let map = self.ebpf.map(name::COUNTERS);
        let id = match map {
            Some(Map::HashMap(data)) => data.info().map_or(0, |info| info.id()),
            _ => 0,
        };
        format!("{} {id}", boot.trim())
    }

    /// A descriptor of a map for the data path.
    ///
    /// # Errors
    /// When there is no such map or no descriptor left.
    pub fn map_descriptor(&mut self, name: &str) -> Result<OwnedFd, KeeperError> {
        let data = match self.map(name)? {
            Map::Array(data) | Map::HashMap(data) | Map::LruHashMap(data) => data,
            _ => return Err(kernel(format!("{name} is not a map that the data path reads"))),
        };
        data.fd().as_fd().try_clone_to_owned().map_err(|error| kernel(error.to_string()))
    }

    /// The ring of denials. Can be taken once.
    ///
    /// # Errors
    /// When it was taken.
    pub fn take_denials(&mut self) -> Result<RingBuf<MapData>, KeeperError> {
        let map = self.ebpf.take_map(name::DENIALS).ok_or_else(|| kernel("the denial ring was taken".to_owned()))?;
        RingBuf::try_from(map).map_err(|error| kernel(chain(&error)))
    }

    /// The LSM programs.
    #[must_use]
    pub fn lsm(&self) -> &Lsm {
        &self.lsm
    }

    /// Enrols the daemon's own files, so that no governed task opens or changes them.
    ///
    /// # Errors
    /// When the LSM's programs do not run here.
    pub fn enrol(&mut self, property: &[(PathBuf, u32)]) -> Result<(), KeeperError> {
        let map = self.ebpf.map_mut(name::HOUSE).ok_or_else(|| kernel("the map HOUSE is missing".to_owned()))?;
        let mut house: HashMap<_, Shared<Inode>, u32> = map.try_into().map_err(|error| kernel(chain(&error)))?;
        self.lsm.enrol(&mut house, property).map_err(|error| kernel(error.to_string()))
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

    fn configure(&mut self, settings: Settings) -> Result<(), KeeperError> {
        let mut map: Array<_, Shared<Settings>> = self.typed(name::SETTINGS)?;
        map.set(0, Shared(settings), 0).map_err(|error| kernel(chain(&error)))
    }

    /// Opens the pinned links of earlier keepers and puts the new programs into them, one atomic step each.
    fn adopt(&mut self) -> Result<(), KeeperError> {
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
        let mut links = Vec::with_capacity(name::PROGRAMS.len());
        for name in name::PROGRAMS {
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

    /// Says that the directory is governed, agent or not: the LSM's programs ask.
    fn set_governed(&mut self, id: CgroupId, level: u32) -> Result<(), KeeperError> {
        self.governed_map()?
            .insert(id.0, Shared(AgentEntry { level, flags: 0 }), 0)
            .map_err(|error| kernel(format!("cannot govern another cgroup: {}", chain(&error))))?;
        self.set_levels()
    }

    fn unset_governed(&mut self, id: CgroupId) -> Result<(), KeeperError> {
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
    fn forget_gone(&mut self) -> Result<(), KeeperError> {
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

    fn program(&self, name: &str) -> io::Result<BorrowedFd<'_>> {
        let program = self.ebpf.program(name).ok_or_else(|| io::Error::other(format!("{name} is missing")))?;
        program.fd().map(AsFd::as_fd).map_err(io::Error::other)
    }

    fn map(&mut self, name: &str) -> Result<&mut Map, KeeperError> {
        self.ebpf.map_mut(name).ok_or_else(|| kernel(format!("the map {name} is missing")))
    }

    /// A map as what it is.
    fn typed<'a, T: TryFrom<&'a mut Map, Error = MapError>>(&'a mut self, name: &str) -> Result<T, KeeperError> {
        self.map(name)?.try_into().map_err(|error| kernel(chain(&error)))
    }

    /// Attaches and pins these programs at `directory`.
    fn attach(&self, names: &[&str], directory: &File, pins: &Path) -> Result<Vec<Link>, KeeperError> {
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

    fn agents(&mut self) -> Result<HashMap<&mut MapData, u64, Shared<AgentEntry>>, KeeperError> {
        self.typed(name::AGENTS)
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

fn load(program: &mut Program) -> Result<(), ProgramError> {
    match program {
        Program::CgroupSockAddr(program) => program.load(),
        Program::CgroupSock(program) => program.load(),
        Program::CgroupSkb(program) => program.load(),
        Program::SockOps(program) => program.load(),
        Program::CgroupSockopt(program) => program.load(),
        Program::CgroupDevice(program) => program.load(),
        _ => Err(ProgramError::UnexpectedProgramType),
    }
}

pub(super) fn kernel(why: String) -> KeeperError {
    KeeperError::Kernel(why)
}

/// An error and its causes in one line.
pub(super) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Whether the running kernel is at least `major.minor`.
#[must_use]
pub fn kernel_at_least(major: u32, minor: u32) -> bool {
    let Ok(name) = nix::sys::utsname::uname() else { return false };
    let release = name.release().to_string_lossy().into_owned();
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).filter_map(|part| part.parse::<u32>().ok());
    let running = (parts.next().unwrap_or(0), parts.next().unwrap_or(0));
    running >= (major, minor)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keeper::cgroup::Hierarchy;
    use std::process::Command;

    /// Runs a shell command inside a cgroup.
    fn inside(cgroup: &Path, script: &str) -> bool {
        let script = format!("echo $$ > {}/cgroup.procs && {script}", cgroup.display());
        Command::new("bash").arg("-c").arg(script).status().expect("bash runs").success()
    }

    /// Needs root, bpffs and cgroup v2: it fails without them.
    #[test]
    fn a_governed_cgroup_is_shut_without_a_lease_and_stays_shut_by_its_pins() {
        // Names of this run alone: two checkouts may be tried at once.
        let name = format!("unit-test-{}", std::process::id());
        let pins = Kernel::pin_directory(&name);
        let hierarchy = Hierarchy::find().expect("a cgroup v2 mount");
        let cgroup = hierarchy.make(&format!("caracal-{name}")).expect("a cgroup");
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a listener");
        let port = listener.local_addr().expect("an address").port();
        let connect = format!("exec 3<>/dev/tcp/127.0.0.1/{port}");
        assert!(inside(&cgroup.absolute, &connect), "the control connects");

        let settings = Settings { abi: ABI_VERSION, tcp_port: port, dns_port: 1 };
        let mut kernel = Kernel::load(&pins, settings, Require::Network).expect("the programs load; is this root?");
        kernel.govern(&cgroup).expect("attaches");
        assert!(!inside(&cgroup.absolute, &connect), "an unknown agent is refused");
        let agent = Agent { name: "unit".into(), cgroup: cgroup.id, path: cgroup.path.clone(), uid: 0, learn: false };
        kernel.admit(&agent, cgroup.level).expect("admits");
        kernel.admit_namespace(crate::keeper::listeners::netns_cookie().expect("a cookie")).expect("admits");
        assert!(!inside(&cgroup.absolute, &connect), "no lease, no connect");
        drop(kernel);
        assert!(!inside(&cgroup.absolute, &connect), "the pins hold without a process");

        let mut kernel = Kernel::load(&pins, settings, Require::Network).expect("loads again");
        assert_eq!(kernel.governed().collect::<Vec<_>>(), [cgroup.id], "the pins are adopted");
        assert_eq!(kernel.admitted().expect("reads"), [cgroup.id]);
        assert!(kernel.counters().expect("reads").iter().map(|(_, count)| count).sum::<u64>() >= 3);
        kernel.release(cgroup.id).expect("releases");
        assert!(inside(&cgroup.absolute, &connect), "a released cgroup connects directly");
        drop(kernel);
        assert!(cgroup.remove());
        fs::remove_dir_all(&pins).expect("the pins go");
    }
}
