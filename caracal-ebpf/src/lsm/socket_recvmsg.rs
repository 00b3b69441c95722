//! `socket_recvmsg(sock, message, size, flags)`: nothing is read from a socket that was made outside.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::Hook;

use super::sockets::use_of;

#[lsm(hook = "socket_recvmsg")]
pub fn lsm_socket_recvmsg(ctx: LsmContext) -> i32 {
    use_of(ctx.arg(0), Hook::SocketRecvmsg)
}
