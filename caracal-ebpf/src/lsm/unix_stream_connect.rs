//! `unix_stream_connect(sock, other, new)`: `other` is the listening socket.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::Hook;

use super::{governed, peer};

#[lsm(hook = "unix_stream_connect")]
pub fn lsm_unix_stream_connect(ctx: LsmContext) -> i32 {
    let Some(agent) = governed() else { return 0 };
    peer::answer(agent, ctx.arg(1), Hook::UnixStreamConnect)
}
