//! `inode_getxattr(dentry, name)`: how the keeper says which inodes are its property: it asks for an attribute with a secret
//! name. The numbers that `stat` shows are not the kernel's own on every file system.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::house::{ATTRIBUTE, Inode, KIND_BITS, READ_ONLY, SHUT};

use super::house;
use crate::maps::HOUSE;
use crate::memory::{layout, word16, word32, word64};

/// Where the secret stands in the name.
const SECRET: u32 = ATTRIBUTE.len() as u32;

#[lsm(hook = "inode_getxattr")]
pub fn lsm_inode_getxattr(ctx: LsmContext) -> i32 {
    let (dentry, name): (u64, u64) = (ctx.arg(0), ctx.arg(1));
    if word32(name, SECRET) != layout!(secret_low) || word32(name, SECRET + 4) != layout!(secret_high) {
        return 0;
    }
    let kind = u32::from(word16(name, SECRET + 8) as u8).wrapping_sub(u32::from(b'0'));
    if kind != SHUT && kind != READ_ONLY {
        return 0;
    }
    let inode = word64(dentry, layout!(dentry_inode));
    let device = house::device(inode);
    let start = layout!(canary) << KIND_BITS;
    let _ = HOUSE.insert(Inode { device, number: word64(inode, layout!(inode_number)) }, start | kind, 0);
    let _ = HOUSE.insert(Inode { device, number: 0 }, start, 0);
    0
}
