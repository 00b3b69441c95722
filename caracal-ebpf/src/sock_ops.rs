//! `sock_ops`: when a redirected connect has its source port, writes down which flow that is; when it closes, forgets it.

use aya_ebpf::bindings::bpf_sock_ops;
use aya_ebpf::macros::sock_ops;
use aya_ebpf::programs::SockOpsContext;
use caracal_common::denial::{Hook, Why};
use caracal_common::flow::{Flow, Source};
use core::mem::offset_of;

use crate::context::word;
use crate::decide::{bytes, is_v4, mapped, socket_flow};
use crate::maps::SOURCES;
use crate::refuse::count;

/// `BPF_SOCK_OPS_TCP_CONNECT_CB`: the SYN is about to be sent, the source port is chosen.
const CONNECTING: u32 = 3;
/// `BPF_SOCK_OPS_STATE_CB`.
const STATE: u32 = 10;
/// `BPF_SOCK_OPS_STATE_CB_FLAG`.
const WATCH_STATE: i32 = 1 << 2;
/// `BPF_TCP_SYN_SENT`.
const SYN_SENT: u32 = 2;
/// `BPF_TCP_CLOSE`.
const CLOSE: u32 = 7;
const IP6: usize = offset_of!(bpf_sock_ops, local_ip6);

#[sock_ops]
pub fn sock_ops(ctx: SockOpsContext) -> u32 {
    // SAFETY: the context is the hook's own.
    let (op, before, state) = unsafe { (word::<0, _>(ctx.ops), word::<4, _>(ctx.ops), word::<8, _>(ctx.ops)) };
    match op {
        CONNECTING => connecting(&ctx),
        STATE if state == CLOSE => closed(&ctx, before),
        _ => {}
    }
    1
}

#[inline(always)]
fn connecting(ctx: &SockOpsContext) {
    let Some(flow) = flow_of(ctx.ops) else { return };
    if SOURCES.insert(source(ctx.ops, flow), flow, 0).is_err() {
        // The daemon finds no flow for the connection and refuses it.
        count(flow.agent, Why::MapFull as u32, Hook::Connect);
        return;
    }
    let _ = ctx.set_cb_flags(WATCH_STATE);
}

#[inline(always)]
fn closed(ctx: &SockOpsContext, before: u32) {
    if let Some(flow) = flow_of(ctx.ops) {
        // Redirected, and nobody was there: the daemon died within its lease, or is overrun.
        if before == SYN_SENT {
            count(flow.agent, Why::DaemonAbsent as u32, Hook::Connect);
        }
        let _ = SOURCES.remove(source(ctx.ops, flow));
    }
}

#[inline(always)]
fn flow_of<'a>(ops: *mut bpf_sock_ops) -> Option<&'a Flow> {
    // SAFETY: the context is the hook's own.
    let sk = unsafe { (*ops).__bindgen_anon_2.sk };
    let flow = socket_flow(sk.cast())?;
    // SAFETY: the storage lives as long as the socket.
    let flow = unsafe { &*flow };
    (flow.port != 0).then_some(flow)
}

/// The source of this connection as the daemon's listener will see it.
#[inline(always)]
fn source(ops: *mut bpf_sock_ops, flow: &Flow) -> Source {
    // SAFETY: the context is the hook's own.
    let (addr, port) = unsafe {
        let addr = if is_v4(&flow.addr) {
            mapped(word::<{ offset_of!(bpf_sock_ops, local_ip4) }, _>(ops))
        } else {
            bytes([
                word::<IP6, _>(ops),
                word::<{ IP6 + 4 }, _>(ops),
                word::<{ IP6 + 8 }, _>(ops),
                word::<{ IP6 + 12 }, _>(ops),
            ])
        };
        (addr, word::<{ offset_of!(bpf_sock_ops, local_port) }, _>(ops) as u16)
    };
    Source { netns: flow.netns, addr, port, pad: [0; 6] }
}
