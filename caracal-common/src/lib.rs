//! Words that the kernel programs and the daemon share: layouts, map and program names, reason codes.
//!
//! Only `repr(C)` integers and byte arrays cross the line; conversion to rich types lives in the daemon and can fail.
//! A change to any layout here changes [`ABI_VERSION`], which is part of the pin directory's name.
#![no_std]

pub mod counter;
pub mod denial;
pub mod flow;
pub mod house;
pub mod inbound;
pub mod layout;
pub mod name;
pub mod settings;
pub mod unix;

/// Version of every layout in this crate.
pub const ABI_VERSION: u32 = 1;
