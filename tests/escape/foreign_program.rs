//! A BPF program that is not the daemon's, attached to a cgroup as another tool would: made of a few instructions, with
//! the system call itself (`linux/bpf.h`).

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;

const PROG_LOAD: libc::c_int = 5;
const PROG_ATTACH: libc::c_int = 8;
const PROG_DETACH: libc::c_int = 9;
const ALLOW_MULTI: u32 = 2;

/// Where it is attached, and as what it is loaded: `enum bpf_attach_type` and `enum bpf_prog_type`.
#[derive(Clone, Copy, Debug)]
pub(crate) enum At {
    /// `BPF_CGROUP_INET_EGRESS`, a `BPF_PROG_TYPE_CGROUP_SKB`.
    Egress,
    /// `BPF_CGROUP_INET4_CONNECT`, a `BPF_PROG_TYPE_CGROUP_SOCK_ADDR`.
    Connect4,
}

impl At {
    fn numbers(self) -> (u32, u32) {
        match self {
            At::Egress => (1, 8),
            At::Connect4 => (10, 18),
        }
    }
}

/// Attached until this is dropped.
#[derive(Debug)]
pub(crate) struct ForeignProgram {
    program: OwnedFd,
    cgroup: File,
    at: At,
}

impl ForeignProgram {
    /// Attaches one that lets everything pass; at connect it also takes the refusals back of whoever ran before it
    /// (`bpf_set_retval(0)`, helper 187).
    ///
    /// # Panics
    /// When the kernel does not take it.
    #[track_caller]
    pub(crate) fn attach(cgroup: &Path, at: At) -> ForeignProgram {
        // r1 = 0; call 187; r0 = 1; exit
        let take_back = [[0xb7, 0x01, 0, 0, 0, 0, 0, 0], [0x85, 0, 0, 0, 187, 0, 0, 0]];
        let allow = [[0xb7, 0, 0, 0, 1, 0, 0, 0], [0x95, 0, 0, 0, 0, 0, 0, 0]];
        let instructions: Vec<[u8; 8]> = match at {
            At::Egress => allow.to_vec(),
            At::Connect4 => [take_back, allow].concat(),
        };
        let (attach_type, kind) = at.numbers();
        let licence = CString::new("GPL").expect("no zero");
        let mut attr = [0_u8; 128];
        put(&mut attr, 0, kind);
        put(&mut attr, 4, u32::try_from(instructions.len()).expect("few"));
        attr[8..16].copy_from_slice(&(instructions.as_ptr() as u64).to_ne_bytes());
        attr[16..24].copy_from_slice(&(licence.as_ptr() as u64).to_ne_bytes());
        attr[48..48 + 8].copy_from_slice(b"somebody");
        put(&mut attr, 68, attach_type);
        let program = bpf(PROG_LOAD, &mut attr).expect("the kernel takes the program");
        // SAFETY: a new descriptor of the program, nobody else's.
        let program = unsafe { OwnedFd::from_raw_fd(program) };
        let cgroup = File::open(cgroup).expect("the cgroup");
        let foreign = ForeignProgram { program, cgroup, at };
        foreign.call(PROG_ATTACH).expect("it is attached");
        foreign
    }

    fn call(&self, command: libc::c_int) -> io::Result<i32> {
        let mut attr = [0_u8; 128];
        put(&mut attr, 0, u32::try_from(self.cgroup.as_raw_fd()).expect("a descriptor"));
        put(&mut attr, 4, u32::try_from(self.program.as_raw_fd()).expect("a descriptor"));
        put(&mut attr, 8, self.at.numbers().0);
        if command == PROG_ATTACH {
            put(&mut attr, 12, ALLOW_MULTI);
        }
        bpf(command, &mut attr)
    }
}

impl Drop for ForeignProgram {
    fn drop(&mut self) {
        let _gone = self.call(PROG_DETACH);
    }
}

fn put(attr: &mut [u8; 128], at: usize, value: u32) {
    attr[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

fn bpf(command: libc::c_int, attr: &mut [u8; 128]) -> io::Result<i32> {
    // SAFETY: longer than what these commands read, zero behind what was put, and every pointer in it is alive.
    let done = unsafe { libc::syscall(libc::SYS_bpf, command, attr.as_mut_ptr(), attr.len()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(i32::try_from(done).unwrap_or(-1)) }
}
