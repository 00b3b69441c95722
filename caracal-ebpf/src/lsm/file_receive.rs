//! `file_receive(file)`: a descriptor comes in over a unix socket or by `pidfd_getfd`. A socket that was made outside stays
//! outside.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::{Hook, Why};

use super::file_permission::is_socket;
use super::sockets::{UNIX, is_own};
use super::{NOT_PERMITTED, governed, learns, refuse};
use crate::memory::{layout, word16, word64};

#[lsm(hook = "file_receive")]
pub fn lsm_file_receive(ctx: LsmContext) -> i32 {
    let Some(agent) = governed() else { return 0 };
    let file: u64 = ctx.arg(0);
    if !is_socket(file) {
        return 0;
    }
    let sock = word64(word64(file, layout!(file_private)), layout!(socket_sock));
    let family = word16(sock, layout!(sock_family));
    if is_own(agent, sock) || (family == UNIX && learns(agent)) {
        return 0;
    }
    refuse(agent, Why::Foreign, Hook::FileReceive, family, NOT_PERMITTED)
}
