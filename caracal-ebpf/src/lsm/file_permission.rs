//! `file_permission(file, mask)`: before 6.5 sendfile and splice write to a socket without `socket_sendmsg`. Later kernels do not
//! get this program.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::Hook;

use super::governed;
use super::sockets::answer;
use crate::memory::{layout, word16, word64};

/// `MAY_WRITE`.
const WRITE: i32 = 2;
/// `S_IFMT` and `S_IFSOCK`.
const KIND: u16 = 0o170_000;
const SOCKET: u16 = 0o140_000;

#[lsm(hook = "file_permission")]
pub fn lsm_file_permission(ctx: LsmContext) -> i32 {
    let mask: i32 = ctx.arg(1);
    if mask & WRITE == 0 {
        return 0;
    }
    let Some(agent) = governed() else { return 0 };
    let file: u64 = ctx.arg(0);
    if !is_socket(file) {
        return 0;
    }
    answer(agent, word64(file, layout!(file_private)), Hook::FilePermission)
}

/// Whether the file is a socket made by a socket call (its name in a directory is a file of its own).
#[inline(always)]
pub fn is_socket(file: u64) -> bool {
    word16(word64(file, layout!(file_inode)), layout!(inode_mode)) & KIND == SOCKET
}
