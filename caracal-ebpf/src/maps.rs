//! Every map. Names are [`caracal_common::name`]'s; layouts are `caracal_common`'s.

use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, RingBuf};
use caracal_common::counter::CounterKey;
use caracal_common::flow::{Flow, Source};
use caracal_common::house::{Inode, MAX_PROPERTY};
use caracal_common::inbound::{Inbound, MAX_INBOUND};
use caracal_common::settings::{
    AgentEntry, DENIAL_RING_BYTES, Foreign, Lease, MAX_AGENTS, MAX_COUNTERS, MAX_FLOWS, MAX_NAMESPACES, Settings,
};
use caracal_common::unix::{MAX_RULES, UnixName};

/// `BPF_F_MMAPABLE`: the data path renews the lease by a store into memory, without a system call or a capability.
const MMAPABLE: u32 = 1 << 10;

#[map]
pub static SETTINGS: Array<Settings> = Array::pinned(1, 0);
#[map]
pub static LEASE: Array<Lease> = Array::pinned(1, MMAPABLE);
#[map]
pub static AGENTS: HashMap<u64, AgentEntry> = HashMap::pinned(MAX_AGENTS, 0);
#[map]
pub static NAMESPACES: HashMap<u64, u8> = HashMap::pinned(MAX_NAMESPACES, 0);
#[map]
pub static INBOUND: HashMap<Inbound, u8> = HashMap::pinned(MAX_INBOUND, 0);
/// Not pinned: read by the keeper that attached `netns_cookie` a moment ago.
#[map]
pub static COOKIE: Array<u64> = Array::with_max_entries(1, 0);
#[map]
pub static SOURCES: HashMap<Source, Flow> = HashMap::pinned(MAX_FLOWS, 0);
/// Datagram sockets have no closing state to hook: the oldest entry makes room. Losing one refuses a lookup, no more.
#[map]
pub static RESOLVING: LruHashMap<Source, Flow> = LruHashMap::pinned(MAX_FLOWS, 0);
#[map]
pub static DENIALS: RingBuf = RingBuf::pinned(DENIAL_RING_BYTES, 0);
#[map]
pub static COUNTERS: HashMap<CounterKey, u64> = HashMap::pinned(MAX_COUNTERS, 0);
#[map]
pub static GOVERNED: HashMap<u64, AgentEntry> = HashMap::pinned(MAX_AGENTS, 0);
#[map]
pub static LEVELS: Array<u32> = Array::pinned(1, 0);
#[map]
pub static HOUSE: HashMap<Inode, u32> = HashMap::pinned(MAX_PROPERTY, 0);
#[map]
pub static UNIX_ALLOWED: LpmTrie<UnixName, u8> = LpmTrie::pinned(MAX_RULES, 0);
/// What each governed socket asked for, kept on the socket itself: it can neither outlive it nor be evicted.
#[btf_map]
pub static SOCKETS: SkStorage<Flow> = SkStorage::new();
/// Sockets that a governed process holds and that were made elsewhere, marked by the keeper.
#[btf_map]
pub static FOREIGN: SkStorage<Foreign> = SkStorage::new();
