//! Links between programs and cgroups, straight from the system call: `linux/bpf.h`, `BPF_LINK_CREATE`, `BPF_LINK_UPDATE`,
//! `BPF_OBJ_PIN`, `BPF_OBJ_GET`, `BPF_LINK_DETACH`, `BPF_RAW_TRACEPOINT_OPEN`, `BPF_PROG_QUERY`. Own code, because a link that is
//! adopted and updated in place is what keeps the door shut over a restart.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

const OBJ_PIN: libc::c_int = 6;
const OBJ_GET: libc::c_int = 7;
const PROG_GET_FD_BY_ID: libc::c_int = 13;
const OBJ_GET_INFO_BY_FD: libc::c_int = 15;
const PROG_QUERY: libc::c_int = 16;
const RAW_TRACEPOINT_OPEN: libc::c_int = 17;
const LINK_CREATE: libc::c_int = 28;
const LINK_UPDATE: libc::c_int = 29;
const LINK_DETACH: libc::c_int = 34;

/// Where a program is attached: `enum bpf_attach_type`.
///
/// # Errors
/// When the program is not one of ours.
pub fn attach_type(program: &str) -> io::Result<u32> {
    Ok(match program {
        "ingress" | "foreign_ingress" => 0,
        "egress" | "foreign_egress" => 1,
        "sock_create" => 2,
        "sock_ops" => 3,
        "device" => 6,
        "bind4" => 8,
        "bind6" => 9,
        "connect4" => 10,
        "connect6" => 11,
        "sendmsg4" => 14,
        "sendmsg6" => 15,
        "recvmsg4" => 19,
        "recvmsg6" => 20,
        "setsockopt" => 22,
        "getpeername4" => 29,
        "getpeername6" => 30,
        _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("no attach type for {program}"))),
    })
}

/// `BPF_F_QUERY_EFFECTIVE`: what runs, wherever it is attached.
const EFFECTIVE: u32 = 1;
/// Programs that one query tells of; the kernel takes 64 at each level.
const MOST: usize = 1_024;

/// The ids of the programs that the kernel runs for this kind of event in a cgroup, in the order in which it runs them:
/// its own and those of every cgroup above.
///
/// # Errors
/// What the kernel says; `ENOSPC` when they are more than can be judged.
pub fn effective(cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Vec<u32>> {
    let mut ids = vec![0_u32; MOST];
    let mut attr = [0u8; 64];
    put(&mut attr, 0, cgroup.as_raw_fd() as u32);
    put(&mut attr, 4, attach_type);
    put(&mut attr, 8, EFFECTIVE);
    attr[16..24].copy_from_slice(&(ids.as_mut_ptr() as u64).to_ne_bytes());
    put(&mut attr, 24, u32::try_from(ids.len()).unwrap_or(0));
    call(PROG_QUERY, &mut attr)?;
    let count = u32::from_ne_bytes([attr[24], attr[25], attr[26], attr[27]]);
    ids.truncate(usize::try_from(count).unwrap_or(MOST));
    Ok(ids)
}

/// The name of the loaded program with this id: `struct bpf_prog_info`. Whoever loaded it chose it.
///
/// # Errors
/// When there is none any more.
pub fn program_name(id: u32) -> io::Result<String> {
    let mut attr = [0u8; 64];
    put(&mut attr, 0, id);
    let program = bpf(PROG_GET_FD_BY_ID, &mut attr)?;
    let mut info = [0u8; 128];
    let mut attr = [0u8; 64];
    put(&mut attr, 0, program.as_raw_fd() as u32);
    put(&mut attr, 4, u32::try_from(info.len()).unwrap_or(0));
    attr[8..16].copy_from_slice(&(info.as_mut_ptr() as u64).to_ne_bytes());
    call(OBJ_GET_INFO_BY_FD, &mut attr)?;
    let name = &info[64..80];
    let end = name.iter().position(|byte| *byte == 0).unwrap_or(name.len());
    Ok(String::from_utf8_lossy(&name[..end]).escape_debug().to_string())
}

/// What a pin holds: a map, a program or a link.
///
/// # Errors
/// When there is none.
pub fn open_pin(pin: &Path) -> io::Result<OwnedFd> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = [0u8; 64];
    attr[..8].copy_from_slice(&(path.as_ptr() as u64).to_ne_bytes());
    bpf(OBJ_GET, &mut attr)
}

/// Pins a map, a program or a link.
///
/// # Errors
/// When the path is not in bpffs, or taken.
pub fn pin(object: BorrowedFd<'_>, pin: &Path) -> io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attr = [0u8; 64];
    attr[..8].copy_from_slice(&(path.as_ptr() as u64).to_ne_bytes());
    put(&mut attr, 8, object.as_raw_fd() as u32);
    call(OBJ_PIN, &mut attr).map(drop)
}

/// A program attached to a cgroup for as long as this, or a pin, exists.
#[derive(Debug)]
pub struct Link(OwnedFd);

impl Link {
    /// Attaches. Flags 0: links are always "multi", a child cgroup can add a program but not take ours away.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn create(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>, attach_type: u32) -> io::Result<Link> {
        let mut attr = [0u8; 64];
        put(&mut attr, 0, program.as_raw_fd() as u32);
        put(&mut attr, 4, cgroup.as_raw_fd() as u32);
        put(&mut attr, 8, attach_type);
        bpf(LINK_CREATE, &mut attr).map(Link)
    }

    /// Attaches a program of the LSM to its hook. Every kernel takes it through this call.
    ///
    /// # Errors
    /// What the kernel says: `E2BIG` when 38 programs are at the hook already.
    pub fn create_lsm(program: BorrowedFd<'_>) -> io::Result<Link> {
        let mut attr = [0u8; 64];
        put(&mut attr, 8, program.as_raw_fd() as u32);
        bpf(RAW_TRACEPOINT_OPEN, &mut attr).map(Link)
    }

    /// The id of the program that the kernel runs for this link: `struct bpf_link_info`.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn program_id(&self) -> io::Result<u32> {
        let mut info = [0u8; 128];
        let mut attr = [0u8; 64];
        put(&mut attr, 0, self.0.as_raw_fd() as u32);
        put(&mut attr, 4, u32::try_from(info.len()).unwrap_or(0));
        attr[8..16].copy_from_slice(&(info.as_mut_ptr() as u64).to_ne_bytes());
        call(OBJ_GET_INFO_BY_FD, &mut attr)?;
        Ok(u32::from_ne_bytes([info[8], info[9], info[10], info[11]]))
    }

    /// Opens a pinned link.
    ///
    /// # Errors
    /// When there is none.
    pub fn open(pin: &Path) -> io::Result<Link> {
        open_pin(pin).map(Link)
    }

    /// Pins the link.
    ///
    /// # Errors
    /// When the path is not in bpffs, or taken.
    pub fn pin(&self, path: &Path) -> io::Result<()> {
        pin(self.0.as_fd(), path)
    }

    /// Puts another program in the place of the one attached, in one step.
    ///
    /// # Errors
    /// `ENOLINK` when the cgroup is gone.
    pub fn update(&self, program: BorrowedFd<'_>) -> io::Result<()> {
        let mut attr = [0u8; 64];
        put(&mut attr, 0, self.0.as_raw_fd() as u32);
        put(&mut attr, 4, program.as_raw_fd() as u32);
        call(LINK_UPDATE, &mut attr).map(drop)
    }

    /// Takes the program off the cgroup before this returns. Closing the last descriptor would do it too, but later: the
    /// kernel defers the work when a pin is what went last, and a child between fork and exec may hold a copy.
    ///
    /// # Errors
    /// What the kernel says; a link whose cgroup is gone counts as detached.
    pub fn detach(&self) -> io::Result<()> {
        let mut attr = [0u8; 64];
        put(&mut attr, 0, self.0.as_raw_fd() as u32);
        call(LINK_DETACH, &mut attr).map(drop)
    }
}

fn put(attr: &mut [u8; 64], at: usize, value: u32) {
    attr[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

fn bpf(command: libc::c_int, attr: &mut [u8; 64]) -> io::Result<OwnedFd> {
    let fd = call(command, attr)?;
    // SAFETY: these commands return a new descriptor that nobody else has.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn call(command: libc::c_int, attr: &mut [u8; 64]) -> io::Result<i32> {
    // SAFETY: `attr` is larger than what each of these commands reads, and zero behind what was put.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), attr.len()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(result).unwrap_or(-1)) }
}
