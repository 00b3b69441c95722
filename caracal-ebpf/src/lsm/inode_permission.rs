//! `inode_permission(inode, mask)`, writes only: no write to a cgroup that is not the agent's own or below it (so no move out,
//! also not by `CLONE_INTO_CGROUP`, and no kill or freeze of others), none to a BPF file system, none to the daemon's property.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::{Hook, Why};

use super::{NOT_PERMITTED, governed, house, refuse};
use crate::memory::{layout, word64};

/// `MAY_WRITE`.
const WRITE: i32 = 2;
/// `linux/magic.h`.
pub const CGROUP2: u64 = 0x6367_7270;
pub const BPFFS: u64 = 0xcafe_4a11;
/// A governed directory lies at most 16 deep; what an agent makes below it may be deeper than is looked, and is refused.
const MAX_DEPTH: u32 = 32;

#[lsm(hook = "inode_permission")]
pub fn lsm_inode_permission(ctx: LsmContext) -> i32 {
    let (inode, mask): (u64, i32) = (ctx.arg(0), ctx.arg(1));
    if mask & WRITE == 0 {
        return 0;
    }
    let Some(agent) = governed() else { return 0 };
    let why = match word64(word64(inode, layout!(inode_super)), layout!(super_magic)) {
        CGROUP2 if is_below(word64(inode, layout!(inode_private)), agent) => return 0,
        CGROUP2 => Why::CgroupWrite,
        BPFFS => Why::Property,
        _ if house::kind(inode) == 0 => return 0,
        _ => Why::Property,
    };
    refuse(agent, why, Hook::InodePermission, 0, NOT_PERMITTED)
}

/// Whether a `kernfs_node` is the directory with this cgroup id, or in it, or below.
#[inline(always)]
fn is_below(node: u64, id: u64) -> bool {
    let mut node = node;
    let mut depth = 0;
    while depth < MAX_DEPTH {
        if node == 0 {
            return false;
        }
        if word64(node, layout!(node_id)) == id {
            return true;
        }
        node = word64(node, layout!(node_parent));
        depth += 1;
    }
    false
}
