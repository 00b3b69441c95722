//! By leaving the cgroup, or by taking off what governs it.

use super::sockets::{tcp, udp, udp_connected};
use super::{Done, Place, check, owned};
use crate::cli::doctor::outside;
use std::ffi::CString;
use std::fs;
use std::io;
use std::os::fd::AsRawFd as _;
use std::path::Path;
use std::time::Duration;

pub(super) fn cgroup_procs(place: &Place) -> Done {
    fs::write(Path::new(&place.text(outside::BESIDE)?).join("cgroup.procs"), "0")
}

pub(super) fn clone_into_cgroup(place: &Place) -> Done {
    const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;
    let beside = fs::File::open(place.text(outside::BESIDE)?)?;
    // struct clone_args: flags first, the exit signal fifth, the cgroup last.
    let mut arguments = [0_u64; 11];
    arguments[0] = CLONE_INTO_CGROUP;
    arguments[4] = 17; // SIGCHLD
    arguments[10] = u64::try_from(beside.as_raw_fd()).unwrap_or(0);
    // SAFETY: without CLONE_VM this is fork; the child ends at once.
    unsafe {
        if check(libc::syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)))? == 0 {
            libc::_exit(0)
        }
    }
    Ok(())
}

/// The bpf system call, with the attributes' bytes at their offsets.
fn bpf(command: libc::c_int, parts: &[(usize, &[u8])]) -> io::Result<libc::c_long> {
    let mut attributes = [0_u8; 128];
    for (at, bytes) in parts {
        attributes.get_mut(*at..at + bytes.len()).ok_or(io::ErrorKind::InvalidInput)?.copy_from_slice(bytes);
    }
    // SAFETY: the attributes are zero behind what was put.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), attributes.len()) })
}

pub(super) fn prog_detach(place: &Place) -> Done {
    const PROG_DETACH: libc::c_int = 9;
    let own = fs::File::open(place.text(outside::GOVERNED)?)?;
    for kind in 0_u32..48 {
        let _not_ours = bpf(PROG_DETACH, &[(0, &own.as_raw_fd().to_ne_bytes()), (8, &kind.to_ne_bytes())]);
    }
    udp(place).or_else(|_| udp_connected(place)).or_else(|_| tcp(place))
}

pub(super) fn pin_opened(place: &Place) -> Done {
    const OBJ_GET: libc::c_int = 7;
    let pin = CString::new(place.text(outside::PIN)?)?;
    owned(bpf(OBJ_GET, &[(0, &(pin.as_ptr() as u64).to_ne_bytes())])?).map(drop)
}

pub(super) fn pins_unlinked(place: &Place) -> Done {
    if let Ok(pin) = place.text(outside::PIN)
        && let Some(directory) = Path::new(&pin).parent()
    {
        for entry in fs::read_dir(directory).into_iter().flatten().flatten() {
            let _shut = fs::remove_file(entry.path());
        }
    }
    // A link that is not held elsewhere goes a moment after its pin.
    std::thread::sleep(Duration::from_millis(50));
    udp(place).or_else(|_| udp_connected(place)).or_else(|_| tcp(place))
}
