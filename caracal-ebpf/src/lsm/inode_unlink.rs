//! `inode_unlink(directory, dentry)`: the daemon's property is not removed.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::Hook;

use super::{governed, house};

#[lsm(hook = "inode_unlink")]
pub fn lsm_inode_unlink(ctx: LsmContext) -> i32 {
    let Some(agent) = governed() else { return 0 };
    house::change(agent, ctx.arg(1), Hook::InodeUnlink)
}
