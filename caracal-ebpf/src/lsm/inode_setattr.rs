//! `inode_setattr(idmap, dentry, attributes)`, before 6.3 without the first: mode, owner, size and times of the daemon's
//! property stay.

use aya_ebpf::EbpfContext;
use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::Hook;

use super::{governed, house};
use crate::context::word64;
use crate::memory::layout;

#[lsm(hook = "inode_setattr")]
pub fn lsm_inode_setattr(ctx: LsmContext) -> i32 {
    let Some(agent) = governed() else { return 0 };
    // The branch that does not fit this kernel is never verified: a constant closes it.
    let second = layout!(setattr_dentry) == 1;
    // SAFETY: the hook's own context, and each argument is one word.
    let dentry = unsafe { if second { word64::<8, _>(ctx.as_ptr()) } else { word64::<0, _>(ctx.as_ptr()) } };
    house::change(agent, dentry, Hook::InodeSetattr)
}
