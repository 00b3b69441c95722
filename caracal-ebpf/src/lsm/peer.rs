//! Unix sockets, by the peer's cgroup: the same agent's pass, one that a rule names passes, all others are refused. A
//! name alone proves nothing (whoever listens chooses it); the cgroup of the listener is the kernel's word.

use aya_ebpf::helpers::generated::bpf_probe_read_kernel;
use aya_ebpf::maps::lpm_trie::Key;
use caracal_common::denial::{Hook, NamedDenial, Why};
use caracal_common::unix::{NAME_LEN, UnixName, WHOLE_BITS};

use super::sockets::{UNIX, is_own};
use super::{NO_ACCESS, learns};
use crate::maps::{DENIALS, UNIX_ALLOWED};
use crate::memory::{layout, word32, word64};
use crate::refuse::{by_current, count, denial};

/// Decides about a governed task's way to the unix socket `sock` (`struct sock`).
#[inline(always)]
pub fn answer(agent: u64, sock: u64, hook: Hook) -> i32 {
    if sock != 0 && is_own(agent, sock) {
        return 0;
    }
    let mut key = Key::new(WHOLE_BITS, UnixName { agent, name: [0; NAME_LEN] });
    read_name(sock, &mut key.data.name);
    if UNIX_ALLOWED.get(&key).is_some() {
        return 0;
    }
    let learning = learns(agent);
    let why = if learning { Why::UnixPeerLearned } else { Why::UnixPeer };
    count(agent, why as u32, hook);
    tell(agent, why, hook, &key.data.name);
    if learning { 0 } else { NO_ACCESS }
}

/// The name that a unix socket is bound to: zeros where it has none.
#[inline(always)]
fn read_name(sock: u64, name: &mut [u8; NAME_LEN]) {
    let address = word64(sock, layout!(unix_address));
    if address == 0 {
        return;
    }
    // The family stands before the name.
    let mut length = u64::from(word32(address, layout!(unix_length)).wrapping_sub(2));
    // In assembly: the verifier wants to see the bound, and the compiler knows other ways to say it.
    // SAFETY: changes one register.
    unsafe { core::arch::asm!("{length} &= 127", length = inout(reg) length) };
    let from = (address + u64::from(layout!(unix_name)) + 2) as *const _;
    // SAFETY: at most 127 bytes into 128; the helper checks the address.
    unsafe { bpf_probe_read_kernel(name.as_mut_ptr().cast(), length as u32, from) };
}

/// Reports it with the name; the ring may be full, the count is exact.
#[inline(always)]
fn tell(agent: u64, why: Why, hook: Hook, name: &[u8; NAME_LEN]) {
    let Some(mut entry) = DENIALS.reserve::<NamedDenial>(0) else { return };
    let mut denial = by_current(denial(agent, why, hook));
    denial.family = u32::from(UNIX);
    // SAFETY: the entry is as large as a NamedDenial, and written whole before it is submitted.
    unsafe {
        let to = entry.as_mut_ptr();
        (&raw mut (*to).denial).write(denial);
        (&raw mut (*to).name).write(*name);
    }
    entry.submit(0);
}
