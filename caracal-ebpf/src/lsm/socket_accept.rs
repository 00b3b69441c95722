//! `socket_accept(sock, new)`: a listener that was made outside (socket activation) hands no connection in.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::Hook;

use super::sockets::use_of;

#[lsm(hook = "socket_accept")]
pub fn lsm_socket_accept(ctx: LsmContext) -> i32 {
    use_of(ctx.arg(0), Hook::SocketAccept)
}
