//! The daemon's own property: an inode that the keeper enrolled, or a file not far below one.

use caracal_common::denial::{Hook, Why};
use caracal_common::house::{Inode, MAX_DEPTH, READ_ONLY, SHUT};

use super::{NOT_PERMITTED, refuse};
use crate::maps::HOUSE;
use crate::memory::{layout, word32, word64};

/// What kind of property the inode itself is; 0: none.
#[inline(always)]
pub fn kind(inode: u64) -> u32 {
    kind_at(device(inode), inode)
}

/// What kinds of property the dentry (`struct dentry`) and what it lies in are, together.
#[inline(always)]
pub fn kind_below(dentry: u64) -> u32 {
    let mut dentry = dentry;
    let mut inode = word64(dentry, layout!(dentry_inode));
    let mut kinds = 0;
    if inode == 0 {
        // A name that is not there yet: its directory says where.
        dentry = word64(dentry, layout!(dentry_parent));
        inode = word64(dentry, layout!(dentry_inode));
    }
    let device = device(inode);
    if !holds_property(device) {
        return 0;
    }
    let mut depth = 0;
    while depth < MAX_DEPTH {
        kinds |= kind_at(device, inode);
        let parent = word64(dentry, layout!(dentry_parent));
        if parent == dentry || parent == 0 {
            break;
        }
        dentry = parent;
        inode = word64(dentry, layout!(dentry_inode));
        depth += 1;
    }
    kinds
}

/// Refuses a governed task that would change what lies at the dentry.
#[inline(always)]
pub fn change(agent: u64, dentry: u64, hook: Hook) -> i32 {
    if kind_below(dentry) & (SHUT | READ_ONLY) == 0 {
        return 0;
    }
    refuse(agent, Why::Property, hook, 0, NOT_PERMITTED)
}

#[inline(always)]
pub fn device(inode: u64) -> u64 {
    u64::from(word32(word64(inode, layout!(inode_super)), layout!(super_device)))
}

/// Whether anything on this device is property at all.
#[inline(always)]
fn holds_property(device: u64) -> bool {
    HOUSE.get_ptr(Inode { device, number: 0 }).is_some()
}

#[inline(always)]
fn kind_at(device: u64, inode: u64) -> u32 {
    let number = word64(inode, layout!(inode_number));
    match HOUSE.get_ptr(Inode { device, number }) {
        // SAFETY: not null; the map is preallocated.
        Some(kind) if number != 0 => unsafe { core::ptr::read_volatile(kind) },
        _ => 0,
    }
}
