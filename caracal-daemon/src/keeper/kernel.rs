//! Takes the compiled programs; gives governed cgroups. Pins before it reports, adopts pins on restart, swaps programs
//! in place. Never detaches a cgroup that nobody asked to release.
//!
//! Layout below the pin directory: `maps/NAME`, and `links/CGROUP_ID/PROGRAM` for each governed directory. A pin is
//! named by the cgroup's id, so that a directory removed and made again is seen to be another one. The LSM's programs
//! have links of their own (`lsm.rs`).

mod agents;
mod cookies;
pub(super) mod lines;
mod links;
mod marks;
mod proof;

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use aya::maps::{Array, HashMap, Map, MapData, MapError, RingBuf};
use aya::programs::{Program, ProgramError};
use aya::{Ebpf, EbpfLoader, Pod};
use caracal_common::counter::CounterKey;
use caracal_common::flow::Flow;
use caracal_common::house::Inode;
use caracal_common::inbound::Inbound;
use caracal_common::layout::Layout;
use caracal_common::settings::{AgentEntry, Foreign, Lease, Settings};
use caracal_common::unix::UnixName;
use caracal_common::{ABI_VERSION, name};

use super::KeeperError;
use super::bpf_link::Link;
use super::lsm::{self, Lsm};
use crate::agent::CgroupId;
use crate::config::{Require, UnixRule};

pub use marks::Marks;
pub use proof::{Look, Other};

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

/// Without these nothing is governed, at any level.
const NEEDED: [&str; 5] = ["connect4", "connect6", "sock_create", "egress", "sock_ops"];

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
    /// The pinned maps, to be pinned again.
    maps: Vec<(PathBuf, OwnedFd)>,
    /// The kernel's number of each of our programs.
    ids: BTreeMap<&'static str, u32>,
    /// Those of the level `network` that this kernel takes, in the order of their links.
    programs: Vec<&'static str>,
    /// Those that it refuses, and why.
    refused: Vec<(&'static str, String)>,
}

impl std::fmt::Debug for Kernel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Kernel").field("pins", &self.pins).field("governed", &self.links.len()).finish_non_exhaustive()
    }
}

impl Kernel {
    /// Loads the programs with the maps pinned below `pins` (made on first use), and swaps them into every link that is
    /// pinned there already. The lease is left as it is: empty where the maps are new. The LSM's programs are loaded and attached only when `require` is
    /// `full`; otherwise those of an earlier keeper go.
    ///
    /// # Errors
    /// When bpffs is not there, the kernel refuses a program that nothing works without, or a pinned map has another
    /// layout.
    pub fn load(pins: &Path, settings: Settings, require: Require) -> Result<Kernel, KeeperError> {
        Kernel::load_object(OBJECT, lines::level(), pins, settings, require)
    }

    /// Loads these programs, which say what they decide at this level and above.
    fn load_object(
        object: &[u8],
        say: u8,
        pins: &Path,
        settings: Settings,
        require: Require,
    ) -> Result<Kernel, KeeperError> {
        let layout = if require == Require::Full { lsm::layout() } else { Layout::UNKNOWN };
        let mut ebpf = Kernel::open(object, say, pins, layout)?;
        let (mut programs, mut refused) = (Vec::new(), Vec::new());
        for name in name::PROGRAMS.into_iter().chain(name::FENCE) {
            let program = ebpf.program_mut(name).ok_or_else(|| kernel(format!("the program {name} is missing")))?;
            match load(program) {
                Ok(()) if name::FENCE.contains(&name) => {}
                Ok(()) => programs.push(name),
                Err(error) if NEEDED.contains(&name) || name::FENCE.contains(&name) => {
                    return Err(kernel(format!("the kernel refuses the program {name}: {}", chain(&error))));
                }
                Err(error) => refused.push((name, chain(&error).lines().next().unwrap_or_default().to_owned())),
            }
        }
        let lsm = match require {
            Require::Full => {
                let missing = lsm::load(&mut ebpf, &layout);
                Lsm::attach(&ebpf, &layout, pins, missing)
            }
            Require::Network => Lsm::not_required(pins)?,
        };
        let (links, unix, fence) = (BTreeMap::new(), Vec::new(), Vec::new());
        let maps = proof::pinned(&pins.join("maps"))?;
        let ids = proof::ids(&ebpf, &programs)?;
        let pins = pins.to_owned();
        let mut kernel = Kernel { ebpf, pins, links, lsm, unix, fence, maps, ids, programs, refused };
        kernel.configure(settings)?;
        kernel.adopt()?;
        kernel.forget_gone()?;
        kernel.forget_canaries()?;
        Ok(kernel)
    }

    /// The object with its maps pinned below `pins`; no program is loaded yet.
    fn open(object: &[u8], say: u8, pins: &Path, layout: Layout) -> Result<Ebpf, KeeperError> {
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
            .override_global(aya_log::LEVEL, &say, false)
            .load(object)
            .map_err(|error| kernel(format!("the programs do not load: {}", chain(&error))))
    }

    /// Tries every program on this kernel, with maps of its own, and leaves nothing behind.
    ///
    /// # Errors
    /// When bpffs is not there, or this is not root.
    pub fn try_programs() -> Result<Tried, KeeperError> {
        let pins = Kernel::pin_directory(&format!("doctor-{}", std::process::id()));
        let layout = lsm::layout();
        let tried = Kernel::open(OBJECT, lines::level(), &pins, layout).map(|mut ebpf| {
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

    /// Ends the lease now: every program denies until the data path has proved itself again.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn close_lease(&mut self) -> Result<(), KeeperError> {
        self.set_lease(0)
    }

    /// Sets the deadline of the lease, nanoseconds of `CLOCK_MONOTONIC`: for a hand-over, in which nobody renews it.
    ///
    /// # Errors
    /// When the map cannot be written.
    pub fn set_lease(&mut self, deadline_ns: u64) -> Result<(), KeeperError> {
        let mut map: Array<_, Shared<Lease>> = self.typed(name::LEASE)?;
        map.set(0, Shared(Lease { deadline_ns }), 0).map_err(|error| kernel(chain(&error)))
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

    /// The reader of what programs with lines say (`kernel/lines.rs`); none for those that ship. Can be taken once.
    ///
    /// # Errors
    /// When there are lines and they cannot be read.
    pub(crate) fn take_lines(&mut self) -> Result<Option<lines::Reader>, KeeperError> {
        lines::take(&mut self.ebpf)
    }

    /// Programs of the level `network` that this kernel refuses, and why. Whether to go on without is not decided here.
    #[must_use]
    pub fn refused(&self) -> &[(&'static str, String)] {
        &self.refused
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

    fn configure(&mut self, settings: Settings) -> Result<(), KeeperError> {
        let mut map: Array<_, Shared<Settings>> = self.typed(name::SETTINGS)?;
        map.set(0, Shared(settings), 0).map_err(|error| kernel(chain(&error)))
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
mod tests;
