//! Classes 20, 21 and 28: the programs themselves, their pins, the daemon, and posing as it.

use super::transport::{tcp_connect, udp_connected, udp_sendto};
use crate::raw::{Step as _, Tried, check, connect, fail, owned, send, tcp};
use crate::runner::Try;
use std::ffi::CString;
use std::fs::File;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

const PROG_LOAD: i32 = 5;
const OBJ_GET: i32 = 7;
const PROG_ATTACH: i32 = 8;
const PROG_DETACH: i32 = 9;
const LINK_DETACH: i32 = 34;

/// Sends in every way that needs no more than a socket.
fn sends(this: &Try) -> Tried {
    let first = udp_sendto(this);
    let second = tcp_connect(this);
    udp_connected(this).or(first).or(second)
}

fn bpf(command: i32, attributes: &[u8; 128]) -> std::io::Result<i64> {
    // SAFETY: the attributes are zero behind what was put.
    check(unsafe { libc::syscall(libc::SYS_bpf, command, attributes.as_ptr(), 128) })
}

fn put(attributes: &mut [u8; 128], at: usize, bytes: &[u8]) {
    attributes[at..at + bytes.len()].copy_from_slice(bytes);
}

/// The cgroup v2 directory of this process.
fn own_cgroup() -> Tried<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").at("open")?;
    let mount =
        mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>()).find(|words| words.get(2) == Some(&"cgroup2"));
    let Some(mount) = mount.and_then(|words| words.get(1).map(ToString::to_string)) else {
        return fail("open", libc::ENOENT);
    };
    let own = std::fs::read_to_string("/proc/self/cgroup").at("open")?;
    let own = own.lines().find_map(|line| line.strip_prefix("0::/")).unwrap_or_default().to_owned();
    Ok(Path::new(&mount).join(own))
}

/// `r0 = 1; exit`: allow.
fn allow(kind: u32, expected: u32) -> std::io::Result<OwnedFd> {
    let program: [u8; 16] = [0xb7, 0, 0, 0, 1, 0, 0, 0, 0x95, 0, 0, 0, 0, 0, 0, 0];
    let mut attributes = [0; 128];
    put(&mut attributes, 0, &kind.to_ne_bytes());
    put(&mut attributes, 4, &2_u32.to_ne_bytes());
    put(&mut attributes, 8, &(program.as_ptr() as u64).to_ne_bytes());
    put(&mut attributes, 16, &(c"GPL".as_ptr() as u64).to_ne_bytes());
    put(&mut attributes, 68, &expected.to_ne_bytes());
    owned(bpf(PROG_LOAD, &attributes)?)
}

/// Whatever of it succeeds, what counts is whether the bytes leave.
pub(super) fn bpf_child_program(this: &Try) -> Tried {
    const KINDS: [(u32, u32); 5] = [(8, 1), (18, 10), (18, 14), (18, 15), (9, 2)];
    let below = own_cgroup()?.join(this.aim.token());
    let _there = std::fs::create_dir(&below);
    if let Ok(directory) = File::open(&below) {
        for (kind, attach) in KINDS {
            let Ok(program) = allow(kind, attach) else { continue };
            for flags in [1_u32, 2, 0] {
                let mut attributes = [0; 128];
                put(&mut attributes, 0, &directory.as_raw_fd().to_ne_bytes());
                put(&mut attributes, 4, &program.as_raw_fd().to_ne_bytes());
                put(&mut attributes, 8, &attach.to_ne_bytes());
                put(&mut attributes, 12, &flags.to_ne_bytes());
                let _attached = bpf(PROG_ATTACH, &attributes);
            }
        }
        let _moved = std::fs::write(below.join("cgroup.procs"), "0");
    }
    sends(this)
}

pub(super) fn bpf_prog_detach(this: &Try) -> Tried {
    if let Ok(directory) = own_cgroup().and_then(|path| File::open(path).at("open")) {
        for attach in 0_u32..48 {
            let mut attributes = [0; 128];
            put(&mut attributes, 0, &directory.as_raw_fd().to_ne_bytes());
            put(&mut attributes, 8, &attach.to_ne_bytes());
            let _detached = bpf(PROG_DETACH, &attributes);
        }
    }
    sends(this)
}

/// Every file below every bpffs that this process can see.
fn pins() -> Vec<PathBuf> {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    let roots = mounts.lines().filter_map(|line| {
        let words: Vec<&str> = line.split(' ').collect();
        (words.get(2) == Some(&"bpf")).then(|| words.get(1).map(PathBuf::from)).flatten()
    });
    let mut left: Vec<PathBuf> = roots.collect();
    let mut found = Vec::new();
    while let Some(directory) = left.pop() {
        for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() { left.push(path) } else { found.push(path) }
        }
    }
    found
}

/// For the tests' own use: what `link_detached` does, to these files.
pub(crate) fn detach_files(files: &[&str]) -> ExitCode {
    for file in files {
        if let Err(error) = detach(Path::new(file)) {
            eprintln!("{file}: {error}");
            return ExitCode::from(1);
        }
    }
    ExitCode::SUCCESS
}

fn detach(pin: &Path) -> std::io::Result<()> {
    let path = CString::new(pin.as_os_str().as_bytes())?;
    let mut attributes = [0; 128];
    put(&mut attributes, 0, &(path.as_ptr() as u64).to_ne_bytes());
    let link = owned(bpf(OBJ_GET, &attributes)?)?;
    let mut attributes = [0; 128];
    put(&mut attributes, 0, &link.as_raw_fd().to_ne_bytes());
    bpf(LINK_DETACH, &attributes).map(drop)
}

pub(super) fn link_detached(this: &Try) -> Tried {
    for pin in pins() {
        let _detached = detach(&pin);
    }
    sends(this)
}

pub(super) fn pins_unlinked(this: &Try) -> Tried {
    for pin in pins() {
        let _gone = std::fs::remove_file(&pin);
    }
    sends(this)
}

/// Only the processes that the test names: others' daemons are none of its business.
pub(super) fn daemon_killed(this: &Try) -> Tried {
    let pids = std::fs::read_to_string(this.dir.join("daemon")).unwrap_or_default();
    for pid in pids.split_whitespace().filter_map(|word| word.parse::<i32>().ok()) {
        // SAFETY: kill takes integers.
        unsafe { libc::kill(pid, libc::SIGKILL) };
    }
    std::thread::sleep(std::time::Duration::from_millis(100));
    sends(this)
}

pub(super) fn daemon_uid(this: &Try) -> Tried {
    let users = std::fs::read_to_string("/etc/passwd").at("open")?;
    let line = users.lines().find(|line| line.starts_with("caracal:")).unwrap_or_default().to_owned();
    let mut numbers = line.split(':').skip(2).filter_map(|word| word.parse::<u32>().ok());
    let (Some(uid), Some(gid)) = (numbers.next(), numbers.next()) else { return fail("open", libc::ENOENT) };
    nix::unistd::setgid(gid.into()).at("setgid")?;
    nix::unistd::setuid(uid.into()).at("setuid")?;
    sends(this)
}

pub(super) fn daemon_port_outside(this: &Try) -> Tried {
    let one = |port| {
        this.each(port, |to| {
            let socket = tcp(&to)?;
            connect(&socket, &to)?;
            send(&socket, &this.token())
        })
    };
    let first = one(15_001);
    one(15_053).or(first)
}
