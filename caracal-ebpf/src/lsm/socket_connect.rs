//! `socket_connect(sock, address, length)`: a socket that was made outside connects nowhere; `cgroup/connect` does not see it.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::Hook;

use super::sockets::use_of;

#[lsm(hook = "socket_connect")]
pub fn lsm_socket_connect(ctx: LsmContext) -> i32 {
    use_of(ctx.arg(0), Hook::SocketConnect)
}
