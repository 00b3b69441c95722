//! `inode_setattr(idmap, dentry, attributes)`, before 6.3 without the first: mode, owner, size and times of the daemon's
//! property stay.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::Hook;

use super::{governed, house};
use crate::memory::layout;

#[lsm(hook = "inode_setattr")]
pub fn lsm_inode_setattr(ctx: LsmContext) -> i32 {
    let Some(agent) = governed() else { return 0 };
    // The branch that does not fit this kernel is never verified: a constant closes it.
    let dentry: u64 = if layout!(setattr_dentry) == 1 { ctx.arg(1) } else { ctx.arg(0) };
    house::change(agent, dentry, Hook::InodeSetattr)
}
