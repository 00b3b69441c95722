//! What the attempts try to reach: sockets, files and a process that nobody governs, in a network namespace that has
//! nothing but loopback. Takes a scratch directory; gives it all back when dropped. Never sends anything to a network.

use std::fs;
use std::io::{self, Read as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use nix::sys::socket::{
    AddressFamily, Backlog, SockFlag, SockType, SockaddrStorage, UnixAddr, bind, connect, listen, socket,
};

/// An address that is not loopback (RFC 5737), on the loopback device.
pub const ADDRESS: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// A TCP listener.
pub const TCP: u16 = 7_801;
/// A UDP socket.
pub const UDP: u16 = 7_802;
/// A TCP listener that attempts inherit.
pub const OFFERED: u16 = 7_803;
/// A port at which somebody keeps calling.
pub const CALLED: u16 = 7_804;
/// The number of a connected datagram socket that attempts inherit.
pub const INHERITED_SOCKET: i32 = 50;
/// The number of a listener that attempts inherit.
pub const INHERITED_LISTENER: i32 = 51;
/// The number of the end of a unix socket pair that attempts inherit: for each word, its other end hands out a socket.
pub const INHERITED_PAIR: i32 = 52;
/// File names below the scratch directory.
pub const STREAM: &str = "stream";
/// A datagram socket.
pub const DATAGRAM: &str = "datagram";
/// A socket of packets.
pub const PACKETS: &str = "packets";
/// A socket that hands out a descriptor.
pub const GIVER: &str = "giver";
/// A named pipe.
pub const FIFO: &str = "fifo";
/// A plain file.
pub const FILE: &str = "file";
/// Text: the number of a System V queue.
pub const QUEUE: &str = "queue";
/// Text: a process, a descriptor of its, an address of its.
pub const PROCESS: &str = "process";
/// Text: a cgroup that nobody governs.
pub const BESIDE: &str = "beside";
/// Text: the cgroup that is governed.
pub const GOVERNED: &str = "governed";
/// Text: a pinned link.
pub const PIN: &str = "pin";

/// What other processes may write over.
static MEMORY: AtomicU8 = AtomicU8::new(0);

/// Holds everything open.
#[derive(Debug)]
pub struct Outside {
    queue: i32,
    stop: Arc<AtomicBool>,
    offered: TcpListener,
    _kept: Vec<OwnedFd>,
}

impl Outside {
    /// Puts this process into a network namespace of its own and opens everything in it.
    ///
    /// # Errors
    /// When this is not root, or something does not open.
    pub fn open(dir: &Path) -> io::Result<Outside> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET)?;
        raise_loopback()?;
        // Echo sockets for everybody, as most distributions have it.
        let _older = fs::write("/proc/sys/net/ipv4/ping_group_range", "0 2147483647");
        let tcp = TcpListener::bind((Ipv6Addr::UNSPECIFIED, TCP))?;
        let udp = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, UDP))?;
        let connected = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
        connected.connect((ADDRESS, UDP))?;
        let offered = TcpListener::bind((Ipv4Addr::UNSPECIFIED, OFFERED))?;
        inherit(connected.as_raw_fd(), INHERITED_SOCKET)?;
        inherit(offered.as_raw_fd(), INHERITED_LISTENER)?;
        // Of datagrams each would be asked about as it is sent (`unix_may_send`).
        let (near, mut far) = UnixStream::pair()?;
        near.set_read_timeout(Some(Duration::from_millis(500)))?;
        inherit(near.as_raw_fd(), INHERITED_PAIR)?;
        let passed = connected.try_clone()?;
        std::thread::spawn(move || {
            while far.read(&mut [0; 16]).is_ok_and(|length| length > 0) {
                give(far.as_raw_fd(), &passed);
            }
        });
        fs::write(
            dir.join(PROCESS),
            format!("{} {} {}", std::process::id(), connected.as_raw_fd(), MEMORY.as_ptr().addr()),
        )?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        std::thread::spawn(move || call(&stopped));

        // Nobody accepts: what waits in a backlog can be written to, and is not hung up on.
        let [stream, nameless] = [UnixListener::bind(dir.join(STREAM))?, abstract_listener(dir)?];
        let giver = UnixListener::bind(dir.join(GIVER))?;
        std::thread::spawn(move || giver.incoming().flatten().for_each(|stream| give(stream.as_raw_fd(), &connected)));
        let datagrams = UnixDatagram::bind(dir.join(DATAGRAM))?;
        let packets = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
        bind(packets.as_raw_fd(), &UnixAddr::new(&dir.join(PACKETS))?)?;
        listen(&packets, Backlog::new(16)?)?;
        nix::unistd::mkfifo(&dir.join(FIFO), nix::sys::stat::Mode::from_bits_truncate(0o666))?;
        let fifo = fs::OpenOptions::new().read(true).write(true).open(dir.join(FIFO))?;
        // SAFETY: integers only.
        let queue = unsafe { libc::msgget(libc::IPC_PRIVATE, 0o666) };
        fs::write(dir.join(QUEUE), queue.to_string())?;
        if let Err(error) = tunnel() {
            tracing::debug!(%error, "No tunnel device to try.");
        }
        let kept = [tcp.into(), udp.into(), stream.into(), nameless.into(), datagrams.into(), packets, fifo.into()];
        Ok(Outside { queue, stop, offered, _kept: kept.into() })
    }

    /// Leaves a connection waiting at the listener that attempts inherit.
    ///
    /// # Errors
    /// When it cannot be made.
    pub fn offer(&self) -> io::Result<OwnedFd> {
        let fd = socket(AddressFamily::Inet, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        connect(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::from((Ipv4Addr::LOCALHOST, OFFERED))))?;
        Ok(fd)
    }

    /// Takes back what was offered and not taken.
    pub fn withdraw(&self) {
        let _set = self.offered.set_nonblocking(true);
        while self.offered.accept().is_ok() {}
        let _set = self.offered.set_nonblocking(false);
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        // SAFETY: integers, and no structure for this command.
        unsafe { libc::msgctl(self.queue, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// A copy under a number that survives exec.
fn inherit(fd: i32, number: i32) -> io::Result<()> {
    // SAFETY: both are numbers of this process; nothing else uses the second.
    check(unsafe { libc::dup2(fd, number) })
}

/// Brings `lo` up and gives it [`ADDRESS`] beside its own (netdevice(7)).
fn raise_loopback() -> io::Result<()> {
    let control = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))?;
    let request = |name: &str, bytes: &[u8]| {
        let mut request = [0_u8; 40];
        let put = |into: Option<&mut [u8]>, from: &[u8]| into.map(|into| into.copy_from_slice(from));
        put(request.get_mut(..name.len()), name.as_bytes());
        put(request.get_mut(16..16 + bytes.len()), bytes);
        request
    };
    let call = |number: libc::c_ulong, mut request: [u8; 40]| {
        // SAFETY: struct ifreq is 40 bytes.
        check(unsafe { libc::ioctl(control.as_raw_fd(), number as _, request.as_mut_ptr()) })
    };
    call(libc::SIOCSIFFLAGS, request("lo", &(libc::IFF_UP as u16).to_ne_bytes()))?;
    let family = (libc::AF_INET as u16).to_ne_bytes();
    let address = [&family[..], &[0, 0], &ADDRESS.octets()].concat();
    call(libc::SIOCSIFADDR, request("lo:1", &address))
}

fn abstract_listener(dir: &Path) -> io::Result<UnixListener> {
    use std::os::linux::net::SocketAddrExt as _;
    let name = std::os::unix::net::SocketAddr::from_abstract_name(dir.as_os_str().as_bytes())?;
    UnixListener::bind_addr(&name)
}

fn give(to: i32, socket: &UdpSocket) {
    let fds = [socket.as_raw_fd()];
    let parts = [nix::sys::socket::ControlMessage::ScmRights(&fds)];
    let words = [io::IoSlice::new(b"g")];
    let _gone = nix::sys::socket::sendmsg::<()>(to, &words, &parts, nix::sys::socket::MsgFlags::MSG_NOSIGNAL, None);
}

/// Calls [`CALLED`] again and again, without waiting for an answer that a dropped packet would never bring.
fn call(stop: &AtomicBool) {
    let to = SockaddrStorage::from(SocketAddr::from((Ipv4Addr::LOCALHOST, CALLED)));
    while !stop.load(Ordering::SeqCst) {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(AddressFamily::Inet, SockType::Stream, flags, None);
        if let Ok(fd) = &fd {
            let _going = connect(fd.as_raw_fd(), &to);
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;
const TUNSETOWNER: libc::c_ulong = 0x4004_54cc;

/// A tunnel device that is root's, as somebody makes one for a virtual machine.
fn tunnel() -> io::Result<()> {
    let device = fs::OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    claim_tunnel(&device)?;
    // SAFETY: integers only.
    unsafe {
        check(libc::ioctl(device.as_raw_fd(), TUNSETOWNER as _, 0))?;
        check(libc::ioctl(device.as_raw_fd(), TUNSETPERSIST as _, 1))
    }
}

/// Takes the device for the open file.
///
/// # Errors
/// When it is somebody else's, or the kernel has none.
pub fn claim_tunnel(device: &fs::File) -> io::Result<()> {
    const IFF_TUN_NO_PI: u16 = 0x1001;
    let mut request = [0_u8; 40];
    for (place, byte) in request.iter_mut().zip(b"caracal-doctor") {
        *place = *byte;
    }
    for (place, byte) in request.iter_mut().skip(16).zip(IFF_TUN_NO_PI.to_ne_bytes()) {
        *place = byte;
    }
    // SAFETY: struct ifreq is 40 bytes.
    check(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF as _, request.as_mut_ptr()) })
}
