//! One attempt to get out, made by a process of its own: a child of [`super::zygote`]. Takes the sockets
//! that [`super::outside`] holds open; gives 0 when every step of it worked, or the error number that stopped it. Sends
//! nothing beyond loopback: the process is in a network namespace that has nothing else.

mod deputies;
mod devices;
mod enforcement;
mod foreign;
mod sockets;
mod uring;

use std::fs;
use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};

type Done = io::Result<()>;

/// What this process was told.
struct Place {
    dir: PathBuf,
    /// Returns when this process is where the attempt is to be made from.
    moved: fn() -> Done,
}

type Attempt = fn(&Place) -> Done;

/// By name; those called `socket:FAMILY:TYPE:PROTOCOL` only open one, and `device:MAJOR:MINOR` a character device.
const ATTEMPTS: &[(&str, Attempt)] = &[
    ("tcp", sockets::tcp),
    ("fast_open", sockets::fast_open),
    ("mptcp_fast_open", sockets::mptcp_fast_open),
    ("udp", sockets::udp),
    ("udp_connected", sockets::udp_connected),
    ("loopback_udp", sockets::loopback_udp),
    ("inbound", sockets::inbound),
    ("join", sockets::join),
    ("marked", sockets::marked),
    ("uring_socket", uring::uring_socket),
    ("uring_join", uring::uring_join),
    ("older_cgroup", sockets::older_cgroup),
    ("inherited_socket", foreign::inherited_socket),
    ("inherited_listener", foreign::inherited_listener),
    ("passed_socket", foreign::passed_socket),
    ("pair_passed_socket", foreign::pair_passed_socket),
    ("pair_deputy", foreign::pair_deputy),
    ("pidfd_getfd", foreign::pidfd_getfd),
    ("process_memory", foreign::process_memory),
    ("created_before", foreign::created_before),
    ("connected_before", foreign::connected_before),
    ("cgroup_procs", enforcement::cgroup_procs),
    ("clone_into_cgroup", enforcement::clone_into_cgroup),
    ("unix_stream", deputies::unix_stream),
    ("unix_datagram", deputies::unix_datagram),
    ("unix_seqpacket", deputies::unix_seqpacket),
    ("unix_abstract", deputies::unix_abstract),
    ("tun", devices::tun),
    ("disk", devices::disk),
    ("fifo", deputies::fifo),
    ("file", deputies::file),
    ("queue", deputies::queue),
    ("prog_detach", enforcement::prog_detach),
    ("pin_opened", enforcement::pin_opened),
    ("pins_unlinked", enforcement::pins_unlinked),
];

/// Those that begin before their process is governed. What `run` starts never was ungoverned.
pub const MOVED_HALF_WAY: [&str; 2] = ["created_before", "connected_before"];

/// Whether an attempt has this name.
#[must_use]
pub fn is_known(name: &str) -> bool {
    name.starts_with("socket:") || name.starts_with("device:") || ATTEMPTS.iter().any(|(known, _)| *known == name)
}

/// Makes the attempt, once `moved` has returned: it waits until this process is where the attempt is to be made from. Gives the
/// exit code.
#[must_use]
pub fn run(name: &str, dir: &Path, moved: fn() -> io::Result<()>) -> i32 {
    let place = Place { dir: dir.to_owned(), moved };
    // These make their sockets before they are moved.
    if !MOVED_HALF_WAY.contains(&name) && moved().is_err() {
        return libc::EPIPE;
    }
    let done = match (name.split_once(':'), ATTEMPTS.iter().find(|(known, _)| *known == name)) {
        (Some(("socket", numbers)), _) => sockets::open_socket(numbers),
        (Some(("device", numbers)), _) => devices::character(&place, numbers),
        (_, Some((_, attempt))) => attempt(&place),
        (_, None) => Err(io::Error::from_raw_os_error(libc::ENOTSUP)),
    };
    done.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0)
}

impl Place {
    fn text(&self, file: &str) -> io::Result<String> {
        Ok(fs::read_to_string(self.dir.join(file))?.trim().to_owned())
    }

    fn numbers(&self, file: &str) -> io::Result<Vec<usize>> {
        Ok(self.text(file)?.split(' ').filter_map(|word| word.parse().ok()).collect())
    }
}

fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: libc::c_long) -> io::Result<OwnedFd> {
    let fd = i32::try_from(check(result)?).map_err(io::Error::other)?;
    // SAFETY: the kernel has just given it to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}
