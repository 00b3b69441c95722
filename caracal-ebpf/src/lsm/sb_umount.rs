//! `sb_umount(mount, flags)`: the BPF file system with the pins is not unmounted, nor is a mount of the daemon's property.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::{Hook, Why};

use super::inode_permission::BPFFS;
use super::{NOT_PERMITTED, governed, house, refuse};
use crate::memory::{layout, word64};

#[lsm(hook = "sb_umount")]
pub fn lsm_sb_umount(ctx: LsmContext) -> i32 {
    let Some(agent) = governed() else { return 0 };
    let mount: u64 = ctx.arg(0);
    let root = word64(word64(mount, layout!(mount_root)), layout!(dentry_inode));
    if word64(word64(mount, layout!(mount_super)), layout!(super_magic)) != BPFFS && house::kind(root) == 0 {
        return 0;
    }
    refuse(agent, Why::Property, Hook::SbUmount, 0, NOT_PERMITTED)
}
