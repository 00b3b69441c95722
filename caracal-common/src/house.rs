//! The daemon's own property, which no governed task may touch.

/// An inode as the kernel numbers it (not as `stat` does: those differ on btrfs and overlayfs).
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Inode {
    /// `super_block.s_dev`.
    pub device: u64,
    /// `inode.i_ino`; 0 marks the device as one that holds property.
    pub number: u64,
}

/// Cannot be opened, changed, moved or removed; for a directory: nor anything below it.
pub const SHUT: u32 = 1;
/// Cannot be changed, moved or removed; for a directory: nor anything below it.
pub const READ_ONLY: u32 = 2;

/// The bits of an entry's value that say its kind; those above say which start of the keeper enrolled it.
pub const KIND_BITS: u32 = 8;

/// How the keeper says that an inode is property: it asks for the extended attribute of this name, with the eight secret
/// letters of [`crate::layout::Layout`] and a digit, the kind, behind it. Only root may ask for a `trusted.` attribute.
pub const ATTRIBUTE: &str = "trusted.";

/// Inodes at most.
pub const MAX_PROPERTY: u32 = 4_096;
/// How far below an entry a file may lie and still be recognised as property.
pub const MAX_DEPTH: u32 = 8;
