//! `socket_sendmsg(sock, message, size)`: nothing is sent through a socket that was made outside. `write`, `sendfile` (from 6.5
//! on) and io_uring come here as well.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::Hook;

use super::sockets::use_of;

#[lsm(hook = "socket_sendmsg")]
pub fn lsm_socket_sendmsg(ctx: LsmContext) -> i32 {
    use_of(ctx.arg(0), Hook::SocketSendmsg)
}
