//! `inode_rename(old_directory, old, new_directory, new)`: the daemon's property is neither moved nor replaced.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::Hook;

use super::{governed, house};

#[lsm(hook = "inode_rename")]
pub fn lsm_inode_rename(ctx: LsmContext) -> i32 {
    let Some(agent) = governed() else { return 0 };
    let refused = house::change(agent, ctx.arg(1), Hook::InodeRename);
    if refused != 0 {
        return refused;
    }
    house::change(agent, ctx.arg(3), Hook::InodeRename)
}
