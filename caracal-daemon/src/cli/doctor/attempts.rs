//! One attempt to get out, made by a process of its own: `caracald doctor --attempt NAME --place DIR`. Takes the sockets
//! that [`super::outside`] holds open; gives 0 when every step of it worked, or the error number that stopped it. Sends
//! nothing beyond loopback: the process is in a network namespace that has nothing else.

use std::ffi::CString;
use std::fs;
use std::io::{self, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, MsgFlags, SockFlag, SockType, SockaddrStorage, UnixAddr, accept, bind, connect, listen,
    send, sendto, setsockopt, socket, sockopt,
};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::outside;

type Done = io::Result<()>;

/// What this process was told.
struct Place {
    dir: PathBuf,
    wait: bool,
}

type Attempt = fn(&Place) -> Done;

/// By name; those called `socket:FAMILY:TYPE:PROTOCOL` only open one, and `device:MAJOR:MINOR` a character device.
const ATTEMPTS: &[(&str, Attempt)] = &[
    ("tcp", tcp),
    ("fast_open", fast_open),
    ("udp", udp),
    ("udp_connected", udp_connected),
    ("loopback_udp", loopback_udp),
    ("inbound", inbound),
    ("join", join),
    ("inherited_socket", inherited_socket),
    ("inherited_listener", inherited_listener),
    ("passed_socket", passed_socket),
    ("pidfd_getfd", pidfd_getfd),
    ("process_memory", process_memory),
    ("created_before", created_before),
    ("connected_before", connected_before),
    ("cgroup_procs", cgroup_procs),
    ("clone_into_cgroup", clone_into_cgroup),
    ("unix_stream", unix_stream),
    ("unix_datagram", unix_datagram),
    ("unix_seqpacket", unix_seqpacket),
    ("unix_abstract", unix_abstract),
    ("tun", tun),
    ("disk", disk),
    ("fifo", fifo),
    ("file", file),
    ("queue", queue),
    ("prog_detach", prog_detach),
    ("pin_opened", pin_opened),
    ("pins_unlinked", pins_unlinked),
];

/// Whether an attempt has this name.
#[must_use]
pub fn is_known(name: &str) -> bool {
    name.starts_with("socket:") || name.starts_with("device:") || ATTEMPTS.iter().any(|(known, _)| *known == name)
}

/// Makes the attempt. With `wait` it first writes a byte and reads one: it is being moved in between. Gives the exit code.
#[must_use]
pub fn run(name: &str, dir: &Path, wait: bool) -> i32 {
    let place = Place { dir: dir.to_owned(), wait };
    // These two make their sockets before they are moved.
    if wait && !matches!(name, "created_before" | "connected_before") && place.moved().is_err() {
        return libc::EPIPE;
    }
    let done = match (name.split_once(':'), ATTEMPTS.iter().find(|(known, _)| *known == name)) {
        (Some(("socket", numbers)), _) => open_socket(numbers),
        (Some(("device", numbers)), _) => open_device(&place, SFlag::S_IFCHR, numbers),
        (_, Some((_, attempt))) => attempt(&place),
        (_, None) => Err(io::Error::from_raw_os_error(libc::ENOTSUP)),
    };
    done.map_or_else(|error| error.raw_os_error().unwrap_or(libc::EIO), |()| 0)
}

impl Place {
    /// Says that it may be moved now, and waits until it is.
    fn moved(&self) -> Done {
        if !self.wait {
            return Ok(());
        }
        let mut out = io::stdout();
        out.write_all(b"r").and_then(|()| out.flush())?;
        io::stdin().read_exact(&mut [0])
    }

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

fn open_socket(numbers: &str) -> Done {
    let mut words = numbers.split(':').filter_map(|word| word.parse::<i32>().ok());
    let (Some(family), Some(kind), Some(protocol)) = (words.next(), words.next(), words.next()) else {
        return Err(io::Error::from_raw_os_error(libc::ENOTSUP));
    };
    // SAFETY: integers only.
    owned(unsafe { libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol) }.into()).map(drop)
}

fn opened(to: &SocketAddr, kind: SockType) -> io::Result<OwnedFd> {
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, kind, SockFlag::SOCK_CLOEXEC, None)?;
    let limit = TimeVal::milliseconds(500);
    setsockopt(&fd, sockopt::ReceiveTimeout, &limit)?;
    setsockopt(&fd, sockopt::SendTimeout, &limit)?;
    Ok(fd)
}

fn name(to: &SocketAddr) -> SockaddrStorage {
    SockaddrStorage::from(*to)
}

/// An address that is not loopback, an IPv6 one, and the first as IPv6 sees it.
fn everywhere(port: u16) -> [SocketAddr; 3] {
    let ips = [IpAddr::V4(outside::ADDRESS), IpAddr::V6(Ipv6Addr::LOCALHOST), outside::ADDRESS.to_ipv6_mapped().into()];
    ips.map(|ip| SocketAddr::new(ip, port))
}

/// Ok when one family gets through.
fn any(to: impl IntoIterator<Item = SocketAddr>, one: impl Fn(&SocketAddr) -> Done) -> Done {
    let results: Vec<Done> = to.into_iter().map(|to| one(&to)).collect();
    if results.iter().any(Result::is_ok) { Ok(()) } else { results.into_iter().next().unwrap_or(Ok(())) }
}

fn tcp(_: &Place) -> Done {
    let loopback = SocketAddr::from((Ipv4Addr::LOCALHOST, outside::TCP));
    any(everywhere(outside::TCP).into_iter().chain([loopback]), |to| {
        Ok(connect(opened(to, SockType::Stream)?.as_raw_fd(), &name(to))?)
    })
}

fn fast_open(_: &Place) -> Done {
    any(everywhere(outside::TCP), |to| {
        let fd = opened(to, SockType::Stream)?;
        sendto(fd.as_raw_fd(), b"canary", &name(to), MsgFlags::from_bits_retain(libc::MSG_FASTOPEN))?;
        Ok(())
    })
}

fn datagram(to: &SocketAddr) -> Done {
    sendto(opened(to, SockType::Datagram)?.as_raw_fd(), b"canary", &name(to), MsgFlags::empty())?;
    Ok(())
}

fn connected(to: &SocketAddr) -> io::Result<OwnedFd> {
    let fd = opened(to, SockType::Datagram)?;
    connect(fd.as_raw_fd(), &name(to))?;
    Ok(fd)
}

fn says(fd: &OwnedFd) -> Done {
    send(fd.as_raw_fd(), b"canary", MsgFlags::MSG_NOSIGNAL)?;
    Ok(())
}

fn udp(_: &Place) -> Done {
    let [four, _, mapped] = everywhere(outside::UDP);
    any([four, mapped], datagram)
}

fn udp_connected(_: &Place) -> Done {
    any(everywhere(outside::UDP), |to| says(&connected(to)?))
}

fn loopback_udp(_: &Place) -> Done {
    let to =
        [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)].map(|ip| SocketAddr::new(ip, outside::UDP));
    any(to, |to| datagram(to).or_else(|_| says(&connected(to)?)))
}

/// Listens where somebody outside keeps calling.
fn inbound(_: &Place) -> Done {
    let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, outside::CALLED));
    let fd = opened(&at, SockType::Stream)?;
    setsockopt(&fd, sockopt::ReuseAddr, &true)?;
    bind(fd.as_raw_fd(), &name(&at))?;
    listen(&fd, Backlog::new(1)?)?;
    take_call(fd.as_raw_fd())
}

fn take_call(listener: i32) -> Done {
    let caller = accept(listener)?;
    // SAFETY: the kernel has just given it to us.
    says(&unsafe { OwnedFd::from_raw_fd(caller) })
}

fn join(_: &Place) -> Done {
    let fd = opened(&SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)), SockType::Datagram)?;
    // The loopback device has number 1 in every namespace; struct ip_mreqn.
    let request: [u8; 12] = [239, 9, 9, 9, 0, 0, 0, 0, 1, 0, 0, 0];
    // SAFETY: the value is as long as said.
    let set = unsafe {
        libc::setsockopt(fd.as_raw_fd(), libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, request.as_ptr().cast(), 12)
    };
    check(set.into()).map(drop)
}

/// A descriptor that was open when this process began.
fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: gives a new descriptor or an error, also for a number that is not open.
    owned(unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 100) }.into())
}

fn inherited_socket(_: &Place) -> Done {
    says(&inherited(outside::INHERITED_SOCKET)?)
}

fn inherited_listener(_: &Place) -> Done {
    take_call(inherited(outside::INHERITED_LISTENER)?.as_raw_fd())
}

fn reach(place: &Place, kind: SockType, file: &str) -> io::Result<OwnedFd> {
    let fd = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&fd, sockopt::ReceiveTimeout, &TimeVal::milliseconds(500))?;
    connect(fd.as_raw_fd(), &UnixAddr::new(&place.dir.join(file))?)?;
    Ok(fd)
}

fn passed_socket(place: &Place) -> Done {
    let giver = reach(place, SockType::Stream, outside::GIVER)?;
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut byte = [0_u8; 1];
    let mut words = [io::IoSliceMut::new(&mut byte)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let message = nix::sys::socket::recvmsg::<()>(giver.as_raw_fd(), &mut words, Some(&mut space), flags)?;
    for part in message.cmsgs()? {
        if let nix::sys::socket::ControlMessageOwned::ScmRights(fds) = part
            && let Some(fd) = fds.first()
        {
            // SAFETY: the kernel has just given it to us.
            return says(&unsafe { OwnedFd::from_raw_fd(*fd) });
        }
    }
    Err(io::Error::from_raw_os_error(libc::EACCES))
}

fn pidfd_getfd(place: &Place) -> Done {
    let numbers = place.numbers(outside::PROCESS)?;
    let [pid, fd, _] = numbers.as_slice() else { return Err(io::Error::from_raw_os_error(libc::EIO)) };
    // SAFETY: integers only.
    let socket = unsafe {
        let process = owned(libc::syscall(libc::SYS_pidfd_open, *pid, 0))?;
        owned(libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), *fd, 0))?
    };
    says(&socket)
}

fn process_memory(place: &Place) -> Done {
    let numbers = place.numbers(outside::PROCESS)?;
    let [pid, _, at] = numbers.as_slice() else { return Err(io::Error::from_raw_os_error(libc::EIO)) };
    let byte = [7_u8];
    let local = libc::iovec { iov_base: byte.as_ptr().cast_mut().cast(), iov_len: 1 };
    let remote = libc::iovec { iov_base: std::ptr::without_provenance_mut(*at), iov_len: 1 };
    let pid = i32::try_from(*pid).map_err(io::Error::other)?;
    // SAFETY: reads our byte; the kernel checks the other side's address, which is a place kept for this.
    let written = unsafe { libc::process_vm_writev(pid, &raw const local, 1, &raw const remote, 1, 0) };
    check(i64::try_from(written).unwrap_or(-1)).map(drop)
}

fn created_before(place: &Place) -> Done {
    let to = SocketAddr::from((outside::ADDRESS, outside::TCP));
    let fd = opened(&to, SockType::Stream)?;
    place.moved()?;
    connect(fd.as_raw_fd(), &name(&to))?;
    says(&fd)
}

fn connected_before(place: &Place) -> Done {
    let to = SocketAddr::from((outside::ADDRESS, outside::TCP));
    let fd = opened(&to, SockType::Stream)?;
    connect(fd.as_raw_fd(), &name(&to))?;
    place.moved()?;
    says(&fd)
}

fn cgroup_procs(place: &Place) -> Done {
    fs::write(Path::new(&place.text(outside::BESIDE)?).join("cgroup.procs"), "0")
}

fn clone_into_cgroup(place: &Place) -> Done {
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

fn unix_stream(place: &Place) -> Done {
    says(&reach(place, SockType::Stream, outside::STREAM)?)
}

fn unix_datagram(place: &Place) -> Done {
    says(&reach(place, SockType::Datagram, outside::DATAGRAM)?)
}

fn unix_seqpacket(place: &Place) -> Done {
    says(&reach(place, SockType::SeqPacket, outside::PACKETS)?)
}

fn unix_abstract(place: &Place) -> Done {
    let fd = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    connect(fd.as_raw_fd(), &UnixAddr::new_abstract(place.dir.as_os_str().as_bytes())?)?;
    says(&fd)
}

fn tun(_: &Place) -> Done {
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    outside::claim_tunnel(&device)
}

/// Opens a device by its numbers, to read: nothing is read.
fn open_device(place: &Place, kind: SFlag, numbers: &str) -> Done {
    let mut words = numbers.trim().split(':').filter_map(|word| word.parse::<u64>().ok());
    let (Some(major), Some(minor)) = (words.next(), words.next()) else {
        return Err(io::Error::from_raw_os_error(libc::ENOTSUP));
    };
    let node = place.dir.join(format!("node-{}", std::process::id()));
    mknod(&node, kind, Mode::S_IRUSR, nix::sys::stat::makedev(major, minor))?;
    let opened = fs::File::open(&node);
    fs::remove_file(&node)?;
    opened.map(drop)
}

/// A disk that is neither a process's memory nor its file.
fn disk(place: &Place) -> Done {
    let own = |name: &str| ["loop", "ram"].iter().any(|kind| name.starts_with(kind));
    for entry in fs::read_dir("/sys/class/block")?.flatten() {
        if !own(&entry.file_name().to_string_lossy()) {
            return open_device(place, SFlag::S_IFBLK, &fs::read_to_string(entry.path().join("dev"))?);
        }
    }
    Err(io::Error::from_raw_os_error(libc::ENODEV))
}

fn fifo(place: &Place) -> Done {
    let mut options = fs::OpenOptions::new();
    options.write(true).custom_flags(libc::O_NONBLOCK).open(place.dir.join(outside::FIFO))?.write_all(b"canary")
}

fn file(place: &Place) -> Done {
    fs::write(place.dir.join(outside::FILE), "canary")
}

fn queue(place: &Place) -> Done {
    let numbers = place.numbers(outside::QUEUE)?;
    let queue = numbers.first().and_then(|number| i32::try_from(*number).ok()).unwrap_or(-1);
    let message = [1_u64, 0];
    // SAFETY: struct msgbuf: a long, then eight bytes.
    check(unsafe { libc::msgsnd(queue, message.as_ptr().cast(), 8, libc::IPC_NOWAIT) }.into()).map(drop)
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

fn prog_detach(place: &Place) -> Done {
    const PROG_DETACH: libc::c_int = 9;
    let own = fs::File::open(place.text(outside::GOVERNED)?)?;
    for kind in 0_u32..48 {
        let _not_ours = bpf(PROG_DETACH, &[(0, &own.as_raw_fd().to_ne_bytes()), (8, &kind.to_ne_bytes())]);
    }
    udp(place).or_else(|_| udp_connected(place)).or_else(|_| tcp(place))
}

fn pin_opened(place: &Place) -> Done {
    const OBJ_GET: libc::c_int = 7;
    let pin = CString::new(place.text(outside::PIN)?)?;
    owned(bpf(OBJ_GET, &[(0, &(pin.as_ptr() as u64).to_ne_bytes())])?).map(drop)
}

fn pins_unlinked(place: &Place) -> Done {
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
