//! `cgroup/connect4` and `cgroup/connect6`: TCP goes to the daemon, DNS to its resolver.
//!
//! Other UDP connects pass: they send nothing (getaddrinfo makes two per lookup to sort addresses), and every packet
//! that would follow is refused at egress.

use aya_ebpf::EbpfContext;
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr, bpf_sock_tuple};
use aya_ebpf::helpers::generated::{bpf_sk_lookup_tcp, bpf_sk_release};
use aya_ebpf::macros::cgroup_sock_addr;
use aya_ebpf::programs::SockAddrContext;
use caracal_common::denial::{Hook, Why};
use caracal_common::flow::{AF_INET, AF_INET6, DNS_PORT, Flow};
use core::mem::offset_of;

use crate::context::{set_word, word};
use crate::decide::{
    LOOPBACK_DEVICE, bytes, caller, is_loopback, is_v4, lease, mapped, remember, settings, socket_flow,
};
#[cfg(feature = "log")]
use crate::log::pid;
use crate::log::{apart, debug, decided};
use crate::refuse::{by_current, count, denial, refused, report};

const TCP: u32 = 6;
const UDP: u32 = 17;
/// `BPF_F_CURRENT_NETNS`.
const THIS_NETNS: u64 = u64::MAX;
const IP6: usize = offset_of!(bpf_sock_addr, user_ip6);
/// Where the context keeps the port.
pub const PORT: usize = offset_of!(bpf_sock_addr, user_port);
const PROTOCOL: usize = offset_of!(bpf_sock_addr, protocol);

#[cgroup_sock_addr(connect4)]
pub fn connect4(ctx: SockAddrContext) -> i32 {
    let addr = asked4(&ctx);
    answer(&ctx, AF_INET, addr)
}

#[cgroup_sock_addr(connect6)]
pub fn connect6(ctx: SockAddrContext) -> i32 {
    let addr = asked6(&ctx);
    answer(&ctx, AF_INET6, addr)
}

/// The IPv4 address that the caller asked for.
#[inline(always)]
pub fn asked4(ctx: &SockAddrContext) -> [u8; 16] {
    // SAFETY: the context is the hook's own.
    mapped(unsafe { word::<{ offset_of!(bpf_sock_addr, user_ip4) }, _>(ctx.sock_addr) })
}

/// The IPv6 address that the caller asked for.
#[inline(always)]
pub fn asked6(ctx: &SockAddrContext) -> [u8; 16] {
    let sa = ctx.sock_addr;
    // SAFETY: the context is the hook's own.
    unsafe {
        bytes([word::<IP6, _>(sa), word::<{ IP6 + 4 }, _>(sa), word::<{ IP6 + 8 }, _>(sa), word::<{ IP6 + 12 }, _>(sa)])
    }
}

/// The port that the caller asked for, host byte order.
#[inline(always)]
pub fn asked_port(ctx: &SockAddrContext) -> u16 {
    // SAFETY: the context is the hook's own. The kernel keeps the port in network order in the low half.
    u16::from_be(unsafe { word::<PORT, _>(ctx.sock_addr) } as u16)
}

#[inline(always)]
fn answer(ctx: &SockAddrContext, family: u16, addr: [u8; 16]) -> i32 {
    #[cfg(feature = "log")]
    let asked = asked_port(ctx);
    match decided!(decide(ctx, family, addr)) {
        Ok(()) => {
            debug!("connect: {:i} port {} goes to port {}, pid {}", addr, asked, asked_port(ctx), pid());
            1
        }
        Err((agent, why)) => apart!(|ctx: &SockAddrContext, agent: u64, why: Why, addr: [u8; 16]| -> i32 {
            let mut denial = by_current(denial(agent, why, Hook::Connect));
            denial.addr = addr;
            denial.port = asked_port(ctx);
            // SAFETY: the context is the hook's own.
            denial.protocol = unsafe { word::<PROTOCOL, _>(ctx.sock_addr) } as u16;
            report(&denial, Hook::Connect);
            refused(ctx)
        }),
    }
}

#[inline(always)]
fn decide(ctx: &SockAddrContext, family: u16, addr: [u8; 16]) -> Result<(), (u64, Why)> {
    let sa: *mut bpf_sock_addr = ctx.sock_addr;
    // SAFETY: the context is the hook's own.
    let (protocol, sk) = unsafe { (word::<PROTOCOL, _>(sa), (*sa).__bindgen_anon_1.sk) };
    let port = asked_port(ctx);
    if protocol == UDP && port != DNS_PORT {
        return Ok(());
    }
    if protocol != TCP && protocol != UDP {
        return Err((0, Why::SocketKind));
    }
    let mut flow = caller(ctx, sk)?;
    let agent = flow.agent;
    let settings = settings().map_err(|why| (agent, why))?;
    // Its source address would be the redirected packets' too, and the daemon's answers, and the resets of the kernel, would
    // be routed to wherever that is: a source may be chosen freely (IP_FREEBIND).
    if !from_here(sk, family) {
        return Err((agent, Why::Packet));
    }
    if protocol == TCP && is_loopback(&addr) && own_listener(ctx, agent, &addr, port) {
        forget(sk.cast());
        return Ok(());
    }
    // Bound to another device, the redirected packets would leave by it, whatever address they carry.
    // SAFETY: the hook's own socket.
    if unsafe { (*sk).bound_dev_if } > LOOPBACK_DEVICE {
        return Err((agent, Why::Packet));
    }
    lease().map_err(|why| (agent, why))?;
    flow.addr = addr;
    flow.port = port;
    flow.family = family;
    remember(sk.cast(), &mut flow).map_err(|why| (agent, why))?;
    let to = if port == DNS_PORT { settings.dns_port } else { settings.tcp_port };
    redirect(sa, family, is_v4(&addr), to);
    count(agent, 0, Hook::Connect);
    Ok(())
}

/// Whether the socket has no source address yet, or a loopback one.
#[inline(always)]
fn from_here(sk: *mut bpf_sock, family: u16) -> bool {
    const FOUR: usize = offset_of!(bpf_sock, src_ip4);
    const SIX: usize = offset_of!(bpf_sock, src_ip6);
    // SAFETY: the hook's own socket, which the kernel lets be read word by word.
    let addr = unsafe {
        if family == AF_INET {
            mapped(word::<FOUR, _>(sk))
        } else {
            bytes([
                word::<SIX, _>(sk),
                word::<{ SIX + 4 }, _>(sk),
                word::<{ SIX + 8 }, _>(sk),
                word::<{ SIX + 12 }, _>(sk),
            ])
        }
    };
    is_loopback(&addr)
}

/// Sends the connect to this namespace's loopback instead.
#[inline(always)]
pub fn redirect(sa: *mut bpf_sock_addr, family: u16, v4: bool, port: u16) {
    // SAFETY: the context is the hook's own; these fields are writable in connect and sendmsg hooks.
    unsafe {
        if family == AF_INET {
            set_word::<{ offset_of!(bpf_sock_addr, user_ip4) }, _>(sa, u32::from_be(0x7f00_0001));
        } else {
            let (third, last) = if v4 { (0x0000_ffff, 0x7f00_0001) } else { (0, 1) };
            set_words(sa, [0, 0, u32::from_be(third), u32::from_be(last)]);
        }
        set_word::<PORT, _>(sa, u32::from(port.to_be()));
    }
}

/// Writes an IPv6 address into the context.
///
/// # Safety
/// In a hook whose context takes one.
#[inline(always)]
pub unsafe fn set_words(sa: *mut bpf_sock_addr, words: [u32; 4]) {
    // SAFETY: the caller says that the fields are writable.
    unsafe {
        set_word::<IP6, _>(sa, words[0]);
        set_word::<{ IP6 + 4 }, _>(sa, words[1]);
        set_word::<{ IP6 + 8 }, _>(sa, words[2]);
        set_word::<{ IP6 + 12 }, _>(sa, words[3]);
    }
}

/// A loopback connect that is not redirected asks for nothing: what an earlier attempt asked is wiped.
#[inline(always)]
fn forget(sk: *mut core::ffi::c_void) {
    if let Some(flow) = socket_flow(sk) {
        // SAFETY: the storage lives as long as the socket, which the hook holds.
        unsafe { (*flow).port = 0 };
    }
}

/// Whether the socket that listens at this loopback address is the same agent's.
#[inline(always)]
fn own_listener(ctx: &SockAddrContext, agent: u64, addr: &[u8; 16], port: u16) -> bool {
    // SAFETY: all zero is a valid tuple.
    let mut tuple: bpf_sock_tuple = unsafe { core::mem::zeroed() };
    let size = if is_v4(addr) {
        let last = u32::from_ne_bytes([addr[12], addr[13], addr[14], addr[15]]);
        tuple.__bindgen_anon_1.ipv4.saddr = u32::from_be(0x7f00_0001);
        tuple.__bindgen_anon_1.ipv4.daddr = if last == 0 { u32::from_be(0x7f00_0001) } else { last };
        tuple.__bindgen_anon_1.ipv4.dport = port.to_be();
        12
    } else {
        tuple.__bindgen_anon_1.ipv6.saddr = [0, 0, 0, u32::from_be(1)];
        tuple.__bindgen_anon_1.ipv6.daddr = [0, 0, 0, u32::from_be(1)];
        tuple.__bindgen_anon_1.ipv6.dport = port.to_be();
        36
    };
    // SAFETY: the context is the hook's own; the tuple is as long as said.
    let found = unsafe { bpf_sk_lookup_tcp(ctx.as_ptr(), &raw mut tuple, size, THIS_NETNS, 0) };
    if found.is_null() {
        return false;
    }
    let owned = match socket_flow(found.cast()) {
        // SAFETY: the lookup holds the socket until it is released below.
        Some(flow) => unsafe { (*flow).agent == agent },
        None => false,
    };
    // SAFETY: gives back what the lookup took.
    unsafe { bpf_sk_release(found.cast()) };
    owned
}

/// The flow of this socket for hooks that answer "who is the peer".
#[inline(always)]
pub fn flow_of(ctx: &SockAddrContext) -> Option<&Flow> {
    // SAFETY: the context is the hook's own; the storage lives as long as the socket.
    unsafe {
        let sk = (*ctx.sock_addr).__bindgen_anon_1.sk;
        socket_flow(sk.cast()).map(|flow| &*flow).filter(|flow| flow.port != 0)
    }
}
