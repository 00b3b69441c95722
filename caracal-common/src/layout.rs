//! Where this kernel keeps what the LSM programs read. The keeper takes the offsets from the kernel's own type
//! information and hands them in before the programs are verified, so that one object fits every kernel.

/// The kernel has no such field.
pub const ABSENT: u32 = u32::MAX;

macro_rules! layout {
    ($($(#[$about:meta])* $field:ident,)*) => {
        /// Offsets in bytes; [`ABSENT`] where this kernel has none.
        #[repr(C)]
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub struct Layout { $($(#[$about])* pub $field: u32,)* }

        impl Layout {
            /// Nothing is known.
            pub const UNKNOWN: Layout = Layout { $($field: ABSENT,)* };
        }
    };
}

layout! {
    /// `task_struct.cgroups`.
    task_cgroups,
    /// `css_set.dfl_cgrp`.
    css_set_cgroup,
    /// `cgroup.kn`.
    cgroup_node,
    /// `cgroup.self`.
    cgroup_self,
    /// `cgroup.self.parent`: points at the parent's `self`.
    cgroup_parent,
    /// `cgroup.level`.
    cgroup_level,
    /// `cgroup.ancestor_ids`: before 6.1; the only way down where LSM programs lack the helper (before 5.15).
    cgroup_ancestor_ids,
    /// `kernfs_node.id`.
    node_id,
    /// `kernfs_node.parent`, later `__parent`.
    node_parent,
    /// `socket.sk`.
    socket_sock,
    /// `sock.sk_cgrp_data`.
    sock_cgroup,
    /// `sock.__sk_common.skc_family`.
    sock_family,
    /// `sock.__sk_common.skc_num`.
    sock_port,
    /// `sock.sk_protocol`.
    sock_protocol,
    /// `unix_sock.addr`.
    unix_address,
    /// `unix_address.len`.
    unix_length,
    /// `unix_address.name`.
    unix_name,
    /// `file.f_inode`.
    file_inode,
    /// `file.private_data`.
    file_private,
    /// `file.f_path.dentry`.
    file_dentry,
    /// `file.f_mode`.
    file_mode,
    /// `inode.i_mode`.
    inode_mode,
    /// `inode.i_sb`.
    inode_super,
    /// `inode.i_ino`.
    inode_number,
    /// `inode.i_private`.
    inode_private,
    /// `super_block.s_magic`.
    super_magic,
    /// `super_block.s_dev`.
    super_device,
    /// `dentry.d_inode`.
    dentry_inode,
    /// `dentry.d_parent`.
    dentry_parent,
    /// `dentry.d_name.name`.
    dentry_name,
    /// `proc_inode.vfs_inode`: a process's files in procfs.
    proc_inode,
    /// `proc_inode.pid`.
    proc_pid,
    /// `pid.tasks`: the first list is of the one task with this number.
    pid_tasks,
    /// `task_struct.pid_links`: where that list goes through.
    task_pid_links,
    /// `vfsmount.mnt_sb`.
    mount_super,
    /// `vfsmount.mnt_root`.
    mount_root,
    /// Not an offset: which argument of `inode_setattr` is the dentry (0, from 6.3 on 1).
    setattr_dentry,
    /// Not an offset: 1 where LSM programs have `bpf_get_current_ancestor_cgroup_id` (5.15), else 0.
    has_ancestor_helper,
    /// Not an offset: a socket protocol number that nobody uses, by which the keeper knows that these programs run, and
    /// its entries of the house from those of a keeper before it.
    canary,
    /// Not an offset: four of the letters by which the keeper enrols its property.
    secret_low,
    /// The other four.
    secret_high,
}
