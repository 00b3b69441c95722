//! Takes the kernel's own type information (BTF, `Documentation/bpf/btf.rst`); gives where it keeps what the LSM programs
//! read. Own code: the maintained crate is LGPL, and what is needed is a walk over one table.
//!
//! The bytes are the kernel's. A table that is not as documented gives nothing, and nothing means that no LSM program is
//! loaded.

use std::collections::HashMap;

use caracal_common::layout::{ABSENT, Layout};

/// Where the running kernel shows it.
pub const KERNEL: &str = "/sys/kernel/btf/vmlinux";

const MAGIC: u16 = 0xeb9f;
const STRUCT: u32 = 4;
const UNION: u32 = 5;
const FUNC: u32 = 12;
const FUNC_PROTO: u32 = 13;
/// Typedef, volatile, const, restrict, type tag: stand for the type that they name.
const STANDS_FOR: [u32; 5] = [8, 9, 10, 11, 18];
/// Anonymous structs in one another, and modifiers of one another, at most.
const MAX_NESTING: u32 = 16;

/// The table, indexed.
#[derive(Debug)]
pub struct Types<'a> {
    bytes: &'a [u8],
    strings: &'a [u8],
    /// Where each type begins in `bytes`; type ids count from 1.
    at: Vec<u32>,
    /// Structs, unions and the LSM's functions by name: the first of each.
    named: HashMap<&'a [u8], u32>,
}

impl<'a> Types<'a> {
    /// Reads a table.
    #[must_use]
    pub fn read(bytes: &'a [u8]) -> Option<Types<'a>> {
        if u16::from_ne_bytes(bytes.get(..2)?.try_into().ok()?) != MAGIC {
            return None;
        }
        let header = |at| word(bytes, at);
        let start = header(4)?;
        let section = |from: u32, length: u32| -> Option<&'a [u8]> {
            let from = usize::try_from(start.checked_add(from)?).ok()?;
            bytes.get(from..from.checked_add(usize::try_from(length).ok()?)?)
        };
        let mut types = Types {
            bytes: section(header(8)?, header(12)?)?,
            strings: section(header(16)?, header(20)?)?,
            at: Vec::new(),
            named: HashMap::new(),
        };
        types.index()?;
        Some(types)
    }

    fn index(&mut self) -> Option<()> {
        let mut at = 0;
        while at < self.bytes.len() {
            let here = u32::try_from(at).ok()?;
            self.at.push(here);
            let id = u32::try_from(self.at.len()).ok()?;
            let (kind, count) = self.kind(here)?;
            if matches!(kind, STRUCT | UNION | FUNC) {
                let name = self.text(word(self.bytes, at)?)?;
                // Of the many functions only those that LSM programs are attached to.
                if !name.is_empty() && (kind != FUNC || name.starts_with(b"bpf_lsm_")) {
                    self.named.entry(name).or_insert(id);
                }
            }
            let behind = match kind {
                1 | 14 | 17 => 4,
                3 => 12,
                STRUCT | UNION | 15 | 19 => 12 * count,
                6 | FUNC_PROTO => 8 * count,
                0..=19 => 0,
                _ => return None,
            };
            at = at.checked_add(12)?.checked_add(usize::try_from(behind).ok()?)?;
        }
        Some(())
    }

    /// The offset in bytes of a field, named by a path of members such as `["sock", "__sk_common", "skc_family"]`.
    /// Members of anonymous structs and unions count as members of what holds them, as in C.
    #[must_use]
    pub fn offset(&self, path: &[&str]) -> Option<u32> {
        let (root, members) = path.split_first()?;
        let mut id = *self.named.get(root.as_bytes())?;
        let mut bits = 0_u32;
        for name in members {
            let (offset, of) = self.member(id, name.as_bytes(), MAX_NESTING)?;
            bits = bits.checked_add(offset)?;
            id = of;
        }
        Some(bits / 8)
    }

    /// Which parameter of a function has this name, counted from 0.
    #[must_use]
    pub fn parameter(&self, function: &str, name: &str) -> Option<u32> {
        let proto = self.word_of(*self.named.get(function.as_bytes())?, 8)?;
        let at = *self.at.get(usize::try_from(proto.checked_sub(1)?).ok()?)?;
        let (kind, count) = self.kind(at)?;
        let is = |index: &u32| self.text_at(at + 12 + 8 * index).is_some_and(|text| text == name.as_bytes());
        (kind == FUNC_PROTO).then(|| (0..count).find(is)).flatten()
    }

    /// Offset in bits and type of a member.
    fn member(&self, id: u32, name: &[u8], nesting: u32) -> Option<(u32, u32)> {
        let nesting = nesting.checked_sub(1)?;
        let at = *self.at.get(usize::try_from(id.checked_sub(1)?).ok()?)?;
        let (kind, count) = self.kind(at)?;
        if STANDS_FOR.contains(&kind) {
            return self.member(self.word_of(id, 8)?, name, nesting);
        }
        if !matches!(kind, STRUCT | UNION) {
            return None;
        }
        let packed = self.word_of(id, 4)? >> 31 == 1;
        (0..count).find_map(|index| {
            let entry = at + 12 + 12 * index;
            let named = self.text_at(entry)?;
            let of = word(self.bytes, usize::try_from(entry + 4).ok()?)?;
            let offset = word(self.bytes, usize::try_from(entry + 8).ok()?)?;
            let offset = if packed { offset & 0x00ff_ffff } else { offset };
            if named == name {
                return Some((offset, of));
            }
            if !named.is_empty() {
                return None;
            }
            let (inner, of) = self.member(of, name, nesting)?;
            Some((offset.checked_add(inner)?, of))
        })
    }

    /// Kind and count of entries of the type that begins `at` here.
    fn kind(&self, at: u32) -> Option<(u32, u32)> {
        let info = word(self.bytes, usize::try_from(at).ok()?.checked_add(4)?)?;
        Some(((info >> 24) & 0x1f, info & 0xffff))
    }

    fn word_of(&self, id: u32, at: usize) -> Option<u32> {
        let begins = *self.at.get(usize::try_from(id.checked_sub(1)?).ok()?)?;
        word(self.bytes, usize::try_from(begins).ok()?.checked_add(at)?)
    }

    fn text_at(&self, at: u32) -> Option<&'a [u8]> {
        self.text(word(self.bytes, usize::try_from(at).ok()?)?)
    }

    fn text(&self, at: u32) -> Option<&'a [u8]> {
        let rest = self.strings.get(usize::try_from(at).ok()?..)?;
        rest.split(|byte| *byte == 0).next()
    }
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// Where this kernel keeps what the LSM programs read; [`ABSENT`] where its types have no such field.
#[must_use]
pub fn layout(types: &Types<'_>) -> Layout {
    let at = |path: &[&str]| types.offset(path).unwrap_or(ABSENT);
    Layout {
        task_cgroups: at(&["task_struct", "cgroups"]),
        css_set_cgroup: at(&["css_set", "dfl_cgrp"]),
        cgroup_node: at(&["cgroup", "kn"]),
        cgroup_self: at(&["cgroup", "self"]),
        cgroup_parent: at(&["cgroup", "self", "parent"]),
        cgroup_level: at(&["cgroup", "level"]),
        cgroup_ancestor_ids: at(&["cgroup", "ancestor_ids"]),
        node_id: at(&["kernfs_node", "id"]),
        node_parent: types.offset(&["kernfs_node", "__parent"]).unwrap_or_else(|| at(&["kernfs_node", "parent"])),
        socket_sock: at(&["socket", "sk"]),
        sock_cgroup: at(&["sock", "sk_cgrp_data"]),
        sock_family: at(&["sock", "__sk_common", "skc_family"]),
        sock_port: at(&["sock", "__sk_common", "skc_num"]),
        sock_protocol: at(&["sock", "sk_protocol"]),
        unix_address: at(&["unix_sock", "addr"]),
        unix_length: at(&["unix_address", "len"]),
        unix_name: at(&["unix_address", "name"]),
        file_inode: at(&["file", "f_inode"]),
        file_private: at(&["file", "private_data"]),
        file_dentry: at(&["file", "f_path", "dentry"]),
        file_mode: at(&["file", "f_mode"]),
        inode_mode: at(&["inode", "i_mode"]),
        inode_super: at(&["inode", "i_sb"]),
        inode_number: at(&["inode", "i_ino"]),
        inode_private: at(&["inode", "i_private"]),
        super_magic: at(&["super_block", "s_magic"]),
        super_device: at(&["super_block", "s_dev"]),
        dentry_inode: at(&["dentry", "d_inode"]),
        dentry_parent: at(&["dentry", "d_parent"]),
        dentry_name: at(&["dentry", "d_name", "name"]),
        proc_inode: at(&["proc_inode", "vfs_inode"]),
        proc_pid: at(&["proc_inode", "pid"]),
        pid_tasks: at(&["pid", "tasks"]),
        task_pid_links: at(&["task_struct", "pid_links"]),
        mount_super: at(&["vfsmount", "mnt_sb"]),
        mount_root: at(&["vfsmount", "mnt_root"]),
        setattr_dentry: types.parameter("bpf_lsm_inode_setattr", "dentry").unwrap_or(ABSENT),
        ..Layout::UNKNOWN
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Needs a kernel with BTF: it fails without.
    #[test]
    fn this_kernel_has_every_field_and_fields_are_where_they_are() {
        let bytes = std::fs::read(KERNEL).expect("the kernel's BTF");
        let types = Types::read(&bytes).expect("it is as documented");
        let found = layout(&types);
        let ids = Layout {
            cgroup_ancestor_ids: 0,
            has_ancestor_helper: 0,
            canary: 0,
            secret_low: 0,
            secret_high: 0,
            ..found
        };
        let text = format!("{ids:?}");
        assert!(!text.contains(&ABSENT.to_string()), "{text}");
        // `struct sock_common` begins with two addresses, a hash and two ports of 8, 4 and 4 bytes: socket's ABI for years.
        assert_eq!(types.offset(&["sock", "__sk_common", "skc_family"]), Some(16));
        assert_eq!(types.offset(&["sock", "__sk_common", "skc_num"]), Some(14));
        assert_eq!(types.offset(&["sock", "no_such_field"]), None);
        assert_eq!(types.parameter("bpf_lsm_inode_rename", "old_dentry"), Some(1));
        assert_eq!(types.parameter("bpf_lsm_inode_rename", "new_dentry"), Some(3));
    }

    #[test]
    fn broken_tables_give_nothing() {
        assert!(Types::read(&[]).is_none());
        assert!(Types::read(&[0x9f, 0xeb, 1, 0]).is_none());
        let bytes = std::fs::read(KERNEL).expect("the kernel's BTF");
        assert!(Types::read(&bytes[..bytes.len() / 2]).is_none());
        let mut skewed = bytes;
        for at in (24..skewed.len()).step_by(4_099) {
            skewed[at] = !skewed[at];
        }
        if let Some(types) = Types::read(&skewed) {
            let _ = layout(&types);
        }
    }
}
