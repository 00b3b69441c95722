//! Reads and writes of a hook's context, one 32-bit word at a fixed offset each.
//!
//! In assembly, because the verifier of every kernel wants exactly that, and the compiler, left alone, computes a
//! pointer into the context first ("dereference of modified ctx ptr").

use core::arch::asm;

/// The word at `AT` bytes into the context.
///
/// # Safety
/// `context` is the hook's own context and has a readable 32-bit field at `AT`.
#[inline(always)]
pub unsafe fn word<const AT: usize, C>(context: *const C) -> u32 {
    let value: u64;
    // SAFETY: the caller says that the field is there.
    unsafe {
        asm!("{value} = *(u32 *)({context} + {at})", value = out(reg) value, context = in(reg) context, at = const AT);
    }
    value as u32
}

/// The 64-bit word at `AT` bytes into the context: an argument of an LSM hook.
///
/// # Safety
/// `context` is the hook's own context and has such a field at `AT`.
#[inline(always)]
pub unsafe fn word64<const AT: usize, C>(context: *const C) -> u64 {
    let value: u64;
    // SAFETY: the caller says that the field is there.
    unsafe {
        asm!("{value} = *(u64 *)({context} + {at})", value = out(reg) value, context = in(reg) context, at = const AT);
    }
    value
}

/// Writes the word at `AT` bytes into the context.
///
/// # Safety
/// `context` is the hook's own context and has a writable 32-bit field at `AT`.
#[inline(always)]
pub unsafe fn set_word<const AT: usize, C>(context: *mut C, value: u32) {
    // SAFETY: the caller says that the field is there.
    unsafe {
        asm!("*(u32 *)({context} + {at}) = {value}", context = in(reg) context, at = const AT, value = in(reg) u64::from(value));
    }
}
