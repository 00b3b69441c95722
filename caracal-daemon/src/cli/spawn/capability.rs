//! Which capabilities a root command keeps. Takes nothing; gives a list. A capability that is not named here, also one
//! that a later kernel invents, is dropped from every set.

/// Capabilities of `linux/capability.h` that a root command keeps, with their numbers: what package managers and
/// builds need of files, users and their own processes.
///
/// Dropped, among others, and why:
/// - `SYS_ADMIN`, `BPF`, `PERFMON`: mounts, `setns`, detaching or replacing programs, reading others' memory by probes
/// - `NET_ADMIN`, `NET_RAW`: routes, packet sockets, `SO_MARK`, `SO_BINDTODEVICE` around the redirect
/// - `SYS_PTRACE`: taking a socket or running code in a process that is not governed
/// - `DAC_READ_SEARCH`: `open_by_handle_at` reaches files behind a mount that hides them
/// - `SYS_MODULE`, `SYS_RAWIO`, `SYS_BOOT`, `SYS_TIME`, `SYSLOG`: the kernel, its memory, its clock
/// - `MKNOD`: devices of the host; `MAC_ADMIN`, `MAC_OVERRIDE`: the LSMs; `AUDIT_CONTROL`: their log
/// - `SYS_RESOURCE`, `SYS_NICE`, `IPC_LOCK`: limits that protect the host from one agent
/// - `LINUX_IMMUTABLE`, `LEASE`, `SYS_PACCT`, `SYS_TTY_CONFIG`, `WAKE_ALARM`, `BLOCK_SUSPEND`, `CHECKPOINT_RESTORE`:
///   no program needs them
pub const ROOT_KEEPS: &[u32] = &[
    0,  // CHOWN
    1,  // DAC_OVERRIDE
    3,  // FOWNER
    4,  // FSETID
    5,  // KILL
    6,  // SETGID
    7,  // SETUID
    8,  // SETPCAP: only takes away from its own sets
    10, // NET_BIND_SERVICE
    18, // SYS_CHROOT
    29, // AUDIT_WRITE
    31, // SETFCAP: no_new_privs makes file capabilities void in here
];

/// The mask of `keep`, low and high half, as `capset` takes it.
#[must_use]
pub fn mask(keep: &[u32]) -> [u32; 2] {
    let bits = keep.iter().filter(|cap| **cap < 64).fold(0_u64, |all, cap| all | 1 << cap);
    [bits as u32, (bits >> 32) as u32]
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_mask_has_one_bit_for_each() {
        assert_eq!(super::mask(&[]), [0, 0]);
        assert_eq!(super::mask(&[0, 31, 32, 40]), [0x8000_0001, 0x101]);
    }

    #[test]
    fn nothing_dangerous_is_kept() {
        // DAC_READ_SEARCH, NET_ADMIN, NET_RAW, SYS_MODULE, SYS_RAWIO, SYS_PTRACE, SYS_ADMIN, SYS_BOOT, SYS_TIME, MKNOD,
        // MAC_OVERRIDE, MAC_ADMIN, PERFMON, BPF
        for cap in [2, 12, 13, 16, 17, 19, 21, 22, 25, 27, 32, 33, 38, 39] {
            assert!(!super::ROOT_KEEPS.contains(&cap), "{cap}");
        }
    }
}
