//! The shared decision: is there a lease, whose socket is this, and where does it go instead.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::bpf_sock;
use aya_ebpf::helpers::generated::{
    bpf_get_current_ancestor_cgroup_id, bpf_get_current_cgroup_id, bpf_get_netns_cookie, bpf_ktime_get_ns,
    bpf_sk_storage_get,
};
use aya_ebpf::helpers::{bpf_get_current_comm, bpf_get_current_pid_tgid, bpf_get_current_uid_gid};
use caracal_common::ABI_VERSION;
use caracal_common::denial::Why;
use caracal_common::flow::Flow;
use caracal_common::inbound::Inbound;
use caracal_common::settings::{MAX_LEVEL, Settings};
use core::ffi::c_void;

use crate::maps::{AGENTS, INBOUND, LEASE, NAMESPACES, SETTINGS, SOCKETS};

/// `LOOPBACK_IFINDEX`: the same in every network namespace.
pub const LOOPBACK_DEVICE: u32 = 1;
/// `BPF_SK_STORAGE_GET_F_CREATE`.
const CREATE: u64 = 1;

/// The daemon's settings, if they are there and of this version.
#[inline(always)]
pub fn settings() -> Result<Settings, Why> {
    match SETTINGS.get(0) {
        Some(settings) if settings.abi == ABI_VERSION => Ok(*settings),
        _ => Err(Why::NotConfigured),
    }
}

/// Ok while the daemon has lately proved that its data path works.
#[inline(always)]
pub fn lease() -> Result<(), Why> {
    let Some(lease) = LEASE.get_ptr(0) else { return Err(Why::LeaseExpired) };
    // SAFETY: an array's only entry is always there; the daemon stores the deadline as one aligned word.
    let deadline = unsafe { core::ptr::read_volatile(&raw const (*lease).deadline_ns) };
    // SAFETY: takes nothing and cannot fail.
    if unsafe { bpf_ktime_get_ns() } < deadline { Ok(()) } else { Err(Why::LeaseExpired) }
}

/// The governed cgroup that the current task is in or below; the deepest where several are nested.
#[inline(always)]
pub fn current_agent() -> Option<u64> {
    let mut found = None;
    let mut level = 1;
    while level <= MAX_LEVEL {
        // SAFETY: any level is accepted; a level below the task's own cgroup reads 0.
        let id = unsafe { bpf_get_current_ancestor_cgroup_id(level as i32) };
        if id == 0 {
            break;
        }
        if admitted(id, level) {
            found = Some(id);
        }
        level += 1;
    }
    found
}

/// Whether the cgroup with this id, this deep, is an agent.
#[inline(always)]
pub fn admitted(id: u64, level: u32) -> bool {
    let Some(entry) = AGENTS.get_ptr(id) else { return false };
    // Reading the entry also keeps the compiler from merging null checks of a loop's rounds with an OR of pointers,
    // which the verifier of every kernel forbids.
    // SAFETY: not null; the map is preallocated, so the entry can be stale but never freed.
    unsafe { core::ptr::read_volatile(&raw const (*entry).level) == level }
}

/// Who calls: facts about the current task.
#[inline(always)]
pub fn identity(agent: u64) -> Flow {
    let pid_tgid = bpf_get_current_pid_tgid();
    let uid_gid = bpf_get_current_uid_gid();
    Flow {
        agent,
        // SAFETY: takes nothing and cannot fail.
        cgroup: unsafe { bpf_get_current_cgroup_id() },
        // SAFETY: takes nothing and cannot fail.
        at_ns: unsafe { bpf_ktime_get_ns() },
        pid: pid_tgid as u32,
        tgid: (pid_tgid >> 32) as u32,
        uid: uid_gid as u32,
        gid: (uid_gid >> 32) as u32,
        comm: bpf_get_current_comm().unwrap_or_default(),
        ..Flow::default()
    }
}

/// The identity of a caller that may be redirected from here: it has an agent and a namespace with a listener.
#[inline(always)]
pub fn caller<C: EbpfContext>(ctx: &C, sk: *mut bpf_sock) -> Result<Flow, (u64, Why)> {
    let agent = match current_agent() {
        Some(agent) => agent,
        // The socket is governed (the hook ran) but its user is not: it was passed out of the cgroup.
        None => match socket_flow(sk.cast()) {
            // SAFETY: the storage lives as long as the socket, which the hook holds.
            Some(flow) => unsafe { (*flow).agent },
            None => return Err((0, Why::UnknownAgent)),
        },
    };
    let mut flow = identity(agent);
    // SAFETY: the context is the hook's own.
    flow.netns = unsafe { bpf_get_netns_cookie(ctx.as_ptr()) };
    if !listened(flow.netns) {
        return Err((agent, Why::UnknownNamespace));
    }
    Ok(flow)
}

/// Whether the network namespace with this cookie has the daemon's listeners.
#[inline(always)]
pub fn listened(netns: u64) -> bool {
    NAMESPACES.get_ptr(netns).is_some()
}

/// Whether others on the host may connect to this port of the agent's.
#[inline(always)]
pub fn inbound(agent: u64, port: u16) -> bool {
    INBOUND.get_ptr(Inbound { agent, port, pad: [0; 6] }).is_some()
}

/// The storage map as helpers take it.
#[inline(always)]
fn storage() -> *mut c_void {
    (&raw const SOCKETS).cast_mut().cast()
}

/// What the socket asked for last, if it is a governed one.
#[inline(always)]
pub fn socket_flow(sk: *mut c_void) -> Option<*mut Flow> {
    if sk.is_null() {
        return None;
    }
    // SAFETY: `sk` is a full socket that the hook holds; a missing entry reads as null.
    let flow = unsafe { bpf_sk_storage_get(storage(), sk, core::ptr::null_mut(), 0) };
    (!flow.is_null()).then_some(flow.cast::<Flow>())
}

/// Writes down what the socket asks for.
#[inline(always)]
pub fn remember(sk: *mut c_void, flow: &mut Flow) -> Result<(), Why> {
    // SAFETY: `sk` is a full socket that the hook holds; the initial value is copied.
    let kept = unsafe { bpf_sk_storage_get(storage(), sk, core::ptr::from_mut(flow).cast(), CREATE) };
    if kept.is_null() {
        return Err(Why::MapFull);
    }
    // The entry may have been there already, made when the socket was.
    // SAFETY: not null, and as large as a Flow.
    unsafe { *kept.cast::<Flow>() = *flow };
    Ok(())
}

/// An address as flows, sources and denials keep it: 16 bytes, IPv4 behind `::ffff:`.
#[inline(always)]
pub fn mapped(ip4: u32) -> [u8; 16] {
    let b = ip4.to_ne_bytes();
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, b[0], b[1], b[2], b[3]]
}

/// The four words of an IPv6 address as 16 bytes.
#[inline(always)]
pub fn bytes(words: [u32; 4]) -> [u8; 16] {
    let mut out = [0u8; 16];
    let mut i = 0;
    while i < 4 {
        let b = words[i].to_ne_bytes();
        out[i * 4] = b[0];
        out[i * 4 + 1] = b[1];
        out[i * 4 + 2] = b[2];
        out[i * 4 + 3] = b[3];
        i += 1;
    }
    out
}

/// An IPv4 address behind `::ffff:`, if it is one.
#[inline(always)]
pub fn is_v4(addr: &[u8; 16]) -> bool {
    let mut i = 0;
    while i < 10 {
        if addr[i] != 0 {
            return false;
        }
        i += 1;
    }
    addr[10] == 0xff && addr[11] == 0xff
}

/// 127.0.0.1 or `::1`, where the daemon's listeners are and nobody else's: 127/8 has many more addresses.
#[inline(always)]
pub fn is_listeners(addr: &[u8; 16]) -> bool {
    let last = u32::from_be_bytes([addr[12], addr[13], addr[14], addr[15]]);
    if is_v4(addr) { last == 0x7f00_0001 } else { is_loopback(addr) && last == 1 }
}

/// Whether packets to it go to this namespace's loopback: 127/8, `::1`, and the unspecified addresses.
#[inline(always)]
pub fn is_loopback(addr: &[u8; 16]) -> bool {
    if is_v4(addr) {
        return addr[12] == 127 || (addr[12] | addr[13] | addr[14] | addr[15]) == 0;
    }
    let mut i = 0;
    while i < 15 {
        if addr[i] != 0 {
            return false;
        }
        i += 1;
    }
    addr[15] <= 1
}
