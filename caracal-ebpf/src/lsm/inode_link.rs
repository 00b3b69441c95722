//! `inode_link(old, directory, new)`: the daemon's property gets no second name.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::Hook;

use super::{governed, house};

#[lsm(hook = "inode_link")]
pub fn lsm_inode_link(ctx: LsmContext) -> i32 {
    let Some(agent) = governed() else { return 0 };
    house::change(agent, ctx.arg(0), Hook::InodeLink)
}
