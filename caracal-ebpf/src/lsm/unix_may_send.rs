//! `unix_may_send(sock, other)`: a datagram, or a connect of a datagram socket; `other` is the receiver.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::Hook;

use super::{governed, peer};
use crate::memory::{layout, word64};

#[lsm(hook = "unix_may_send")]
pub fn lsm_unix_may_send(ctx: LsmContext) -> i32 {
    let Some(agent) = governed() else { return 0 };
    let other: u64 = ctx.arg(1);
    peer::answer(agent, word64(other, layout!(socket_sock)), Hook::UnixMaySend)
}
