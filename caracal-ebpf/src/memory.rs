//! Reads of the kernel's own structures, at the offsets that the keeper found in this kernel's type information.
//!
//! Each read is checked by the kernel: an address that is none gives zero, and every caller takes zero for "not ours".

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use caracal_common::layout::Layout;

/// Set by the loader before the programs are verified.
#[unsafe(no_mangle)]
pub static LAYOUT: Layout = Layout::UNKNOWN;

/// A word of [`LAYOUT`].
macro_rules! layout {
    ($field:ident) => {
        // SAFETY: a read of a global that the loader has set.
        unsafe { core::ptr::read_volatile(&raw const $crate::memory::LAYOUT.$field) }
    };
}
pub(crate) use layout;

/// The 64-bit word `at` bytes behind `base`.
#[inline(always)]
pub fn word64(base: u64, at: u32) -> u64 {
    let mut value = 0u64;
    // SAFETY: the helper checks the address; it writes 8 bytes, zeros where it fails.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 8, (base + u64::from(at)) as *const _) };
    value
}

/// The 32-bit word `at` bytes behind `base`.
#[inline(always)]
pub fn word32(base: u64, at: u32) -> u32 {
    let mut value = 0u32;
    // SAFETY: as above, 4 bytes.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 4, (base + u64::from(at)) as *const _) };
    value
}

/// The 16-bit word `at` bytes behind `base`.
#[inline(always)]
pub fn word16(base: u64, at: u32) -> u16 {
    let mut value = 0u16;
    // SAFETY: as above, 2 bytes.
    unsafe { bpf_probe_read_kernel((&raw mut value).cast(), 2, (base + u64::from(at)) as *const _) };
    value
}
