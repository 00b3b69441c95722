//! `file_open(file)`: keys, journal, ledger and pins are not opened at all, the rest of the daemon's property not for writing,
//! and of procfs nothing that shows another's memory.

use aya_ebpf::macros::lsm;
use aya_ebpf::programs::LsmContext;
use caracal_common::denial::{Hook, Why};
use caracal_common::house::{READ_ONLY, SHUT};

use super::{NOT_PERMITTED, governed, house, procfs, refuse};
use crate::memory::{layout, word32, word64};

/// `FMODE_WRITE`.
const FOR_WRITING: u32 = 2;

#[lsm(hook = "file_open")]
pub fn lsm_file_open(ctx: LsmContext) -> i32 {
    let Some(agent) = governed() else { return 0 };
    let file: u64 = ctx.arg(0);
    let kind = house::kind_below(word64(file, layout!(file_dentry)));
    let writes = word32(file, layout!(file_mode)) & FOR_WRITING != 0;
    if kind & SHUT != 0 || writes && kind & READ_ONLY != 0 {
        return refuse(agent, Why::Property, Hook::FileOpen, 0, NOT_PERMITTED);
    }
    if procfs::shows_memory_of_others(file, agent) {
        return refuse(agent, Why::Trace, Hook::FileOpen, 0, NOT_PERMITTED);
    }
    0
}
