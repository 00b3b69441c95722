//! One attempt to get bytes out, and what became of it.
//!
//! ```text
//! probe tcp ADDR:PORT        connect, send, read the echo
//! probe peer ADDR:PORT       connect, print what getpeername says
//! probe udp ADDR:PORT        unconnected sendto, wait for the echo
//! probe udp-connected ADDR:PORT
//! probe raw ADDR             an ICMP socket of type SOCK_RAW
//! probe ping ADDR            an ICMP socket of type SOCK_DGRAM
//! probe udplite ADDR:PORT    a UDP-Lite socket
//! probe pair                 listen on loopback, connect to it, talk
//! probe join ADDR            joins a multicast group on the card with this address: the kernel announces it
//! probe bind ADDR:PORT       take a port
//! probe tcp-bound DEVICE ADDR:PORT      a TCP socket bound to a network card
//! probe udp-bound DEVICE ADDR:PORT      a datagram to ADDR:53, then to the resolver's port, by a network card
//! probe burst TIMES KIND TO  the start of an attempt, TIMES times; prints `refused N of TIMES`. For `device` TO is a node
//! probe hear TIMES ADDR:PORT END  waits for so many datagrams, or for the file END; prints `ready`, then `heard N of TIMES`
//! probe swarm TIMES ADDR     TIMES connections from eight threads to ADDR+1, ADDR+2 ..., over IPv4, IPv6 and IPv4-mapped;
//!                            a line for each: address, port, pid, uid, comm
//! ```
//! Prints `sent`, then `answered` when an echo came, or `refused WHERE ERRNO-NAME`. Exit code 0 when answered, 3 when
//! refused, 4 when sent without an answer.

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd as _, FromRawFd as _, OwnedFd};
use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

/// What every attempt sends: what must never be seen outside.
const CANARY: &[u8] = b"caracal-canary-5b1f";
const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn run(words: &[&str]) -> ExitCode {
    match words {
        ["tcp", to] => tcp(to),
        ["peer", to] => peer(to),
        ["udp", to] => udp(to, false),
        ["udp-connected", to] => udp(to, true),
        ["raw", to] => datagram(to, libc::SOCK_RAW, icmp_protocol(to)),
        ["ping", to] => datagram(to, libc::SOCK_DGRAM, icmp_protocol(to)),
        ["udplite", to] => datagram(to, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE),
        ["pair"] => pair(),
        ["join", by] => join(by),
        ["bind", to] => match bind(to) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => refused("bind", &error),
        },
        ["tcp-bound", device, to] => bound(device, to, libc::SOCK_STREAM),
        ["udp-bound", device, to] => bound(device, to, libc::SOCK_DGRAM),
        ["burst", times, kind, to] => burst(times.parse().unwrap_or(0), kind, to),
        ["hear", times, at, end] => hear(times.parse().unwrap_or(0), at, Path::new(end)),
        ["swarm", times, to] => swarm(times.parse().unwrap_or(0), address(to)),
        _ => {
            eprintln!("the first lines of probe/main.rs and probe/single.rs say what it takes");
            ExitCode::from(2)
        }
    }
}

fn refused(place: &str, error: &std::io::Error) -> ExitCode {
    println!("refused {place} {error}");
    ExitCode::from(3)
}

fn verdict(answer: std::io::Result<usize>) -> ExitCode {
    println!("sent");
    match answer {
        Ok(length) if length > 0 => {
            println!("answered");
            ExitCode::SUCCESS
        }
        Ok(_) => ExitCode::from(4),
        Err(error) => {
            println!("no answer: {error}");
            ExitCode::from(4)
        }
    }
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap_or_else(|_| SocketAddr::new(text.parse().unwrap_or(IpAddr::from([0, 0, 0, 0])), 0))
}

fn tcp(to: &str) -> ExitCode {
    let mut stream = match TcpStream::connect_timeout(&address(to), 3 * SECOND) {
        Ok(stream) => stream,
        Err(error) => return refused("connect", &error),
    };
    if let Err(error) = stream.write_all(CANARY) {
        return refused("send", &error);
    }
    let _set = stream.set_read_timeout(Some(2 * SECOND));
    let mut buffer = [0; 64];
    let answer = stream.read(&mut buffer);
    // An answer that is not the echo came from somebody in between.
    let echo = answer.map(|length| if buffer.get(..length) == Some(CANARY) { length } else { 0 });
    verdict(echo)
}

fn peer(to: &str) -> ExitCode {
    match TcpStream::connect_timeout(&address(to), 3 * SECOND).and_then(|stream| stream.peer_addr()) {
        Ok(peer) => {
            println!("{peer}");
            ExitCode::SUCCESS
        }
        Err(error) => refused("connect", &error),
    }
}

fn udp(to: &str, connected: bool) -> ExitCode {
    let to = address(to);
    let any: IpAddr = if to.is_ipv4() { IpAddr::from([0, 0, 0, 0]) } else { IpAddr::from([0_u16; 8]) };
    let socket = match UdpSocket::bind((any, 0)) {
        Ok(socket) => socket,
        Err(error) => return refused("bind", &error),
    };
    let sent =
        if connected { socket.connect(to).and_then(|()| socket.send(CANARY)) } else { socket.send_to(CANARY, to) };
    if let Err(error) = sent {
        return refused("send", &error);
    }
    let _set = socket.set_read_timeout(Some(SECOND));
    verdict(socket.recv(&mut [0; 64]))
}

fn icmp_protocol(to: &str) -> libc::c_int {
    if address(to).is_ipv4() { libc::IPPROTO_ICMP } else { libc::IPPROTO_ICMPV6 }
}

fn opened(family: libc::c_int, kind: libc::c_int, protocol: libc::c_int) -> std::io::Result<OwnedFd> {
    // SAFETY: socket takes integers; the result is checked before it is owned.
    unsafe {
        let fd = libc::socket(family, kind | libc::SOCK_CLOEXEC, protocol);
        if fd < 0 { Err(std::io::Error::last_os_error()) } else { Ok(OwnedFd::from_raw_fd(fd)) }
    }
}

/// Sends one packet of any IP protocol and waits for whatever comes back.
fn datagram(to: &str, kind: libc::c_int, protocol: libc::c_int) -> ExitCode {
    let to = address(to);
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let socket = match opened(family, kind, protocol) {
        Ok(socket) => UdpSocket::from(socket),
        Err(error) => return refused("socket", &error),
    };
    // An echo request: type 8, or 128 over IPv6; the checksum is right for this payload over IPv4.
    let request: Vec<u8> = match protocol {
        libc::IPPROTO_ICMP => [&[8, 0][..], &checksum(CANARY).to_be_bytes(), &[0, 1, 0, 1], CANARY].concat(),
        libc::IPPROTO_ICMPV6 => [&[128, 0, 0, 0, 0, 1, 0, 1][..], CANARY].concat(),
        _ => CANARY.to_vec(),
    };
    if let Err(error) = socket.send_to(&request, to) {
        return refused("send", &error);
    }
    let _set = socket.set_read_timeout(Some(SECOND));
    verdict(socket.recv(&mut [0; 256]))
}

/// RFC 1071, over an echo request with identifier 1 and sequence 1.
fn checksum(payload: &[u8]) -> u16 {
    let words = [0x0800_u32, 1, 1].into_iter().chain(
        payload
            .chunks(2)
            .map(|pair| u32::from(*pair.first().unwrap_or(&0)) << 8 | u32::from(*pair.get(1).unwrap_or(&0))),
    );
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !u16::try_from(sum).unwrap_or(0)
}

fn pair() -> ExitCode {
    let listener = match TcpListener::bind("127.0.0.1:0") {
        Ok(listener) => listener,
        Err(error) => return refused("bind", &error),
    };
    let Ok(address) = listener.local_addr() else { return ExitCode::from(2) };
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
        }
    });
    tcp(&address.to_string())
}

/// Gives the socket, which is a member for as long as it is open.
fn joined(by: &str) -> std::io::Result<UdpSocket> {
    let IpAddr::V4(by) = address(by).ip() else { return Err(std::io::ErrorKind::InvalidInput.into()) };
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    socket.join_multicast_v4(&std::net::Ipv4Addr::new(239, 1, 2, 3), &by)?;
    Ok(socket)
}

fn join(by: &str) -> ExitCode {
    match joined(by) {
        Ok(_member) => {
            println!("sent");
            std::thread::sleep(SECOND);
            ExitCode::from(4)
        }
        Err(error) => refused("join", &error),
    }
}

fn bind(to: &str) -> std::io::Result<()> {
    UdpSocket::bind(address(to)).map(drop)
}

/// Sends the canary by `device`, whatever the routes say (socket(7), SO_BINDTODEVICE: no privilege is needed).
fn bound(device: &str, to: &str, kind: libc::c_int) -> ExitCode {
    let to = address(to);
    let family = if to.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let socket = match opened(family, kind, 0) {
        Ok(socket) => socket,
        Err(error) => return refused("socket", &error),
    };
    // SAFETY: the option is as long as said; the descriptor is ours.
    let set = unsafe {
        let length = u32::try_from(device.len()).unwrap_or(0);
        libc::setsockopt(socket.as_raw_fd(), libc::SOL_SOCKET, libc::SO_BINDTODEVICE, device.as_ptr().cast(), length)
    };
    if set != 0 {
        return refused("setsockopt", &std::io::Error::last_os_error());
    }
    if kind == libc::SOCK_DGRAM {
        let socket = UdpSocket::from(socket);
        // First a look-up, so that the socket is known to have asked for one.
        let _asked = socket.connect(SocketAddr::new(to.ip(), 53)).and_then(|()| socket.send(CANARY));
        if let Err(error) = socket.connect(to).and_then(|()| socket.send(CANARY)) {
            return refused("send", &error);
        }
        let _set = socket.set_read_timeout(Some(SECOND));
        return verdict(socket.recv(&mut [0; 64]));
    }
    let stream = TcpStream::from(socket);
    let _set = stream.set_nonblocking(true);
    let SocketAddr::V4(four) = to else { return ExitCode::from(2) };
    // SAFETY: all zero is a valid address.
    let mut name: libc::sockaddr_in = unsafe { std::mem::zeroed() };
    name.sin_family = libc::sa_family_t::try_from(family).unwrap_or(0);
    name.sin_port = four.port().to_be();
    name.sin_addr.s_addr = u32::from_ne_bytes(four.ip().octets());
    // SAFETY: the name is as long as said; the descriptor is open.
    let connected = unsafe {
        let length = u32::try_from(size_of::<libc::sockaddr_in>()).unwrap_or(0);
        libc::connect(stream.as_raw_fd(), (&raw const name).cast(), length)
    };
    let error = std::io::Error::last_os_error();
    if connected != 0 && error.raw_os_error() != Some(libc::EINPROGRESS) {
        return refused("connect", &error);
    }
    std::thread::sleep(SECOND);
    let _set = (&stream).write_all(CANARY);
    println!("sent");
    ExitCode::from(4)
}

/// As many of these as are refused, without waiting for an answer.
fn burst(times: u64, kind: &str, to: &str) -> ExitCode {
    let socket = UdpSocket::bind("0.0.0.0:0");
    let one = || -> std::io::Result<()> {
        match kind {
            "udp" => socket.as_ref().map_err(|error| error.kind())?.send_to(CANARY, address(to)).map(drop),
            "udp-connected" => {
                let socket = UdpSocket::bind("0.0.0.0:0")?;
                socket.connect(address(to))?;
                socket.send(CANARY).map(drop)
            }
            "raw" => opened(libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP).map(drop),
            "bind" => bind(to),
            "join" => joined(to).map(drop),
            "device" => std::fs::File::open(to).map(drop),
            _ => TcpStream::connect_timeout(&address(to), 3 * SECOND).map(drop),
        }
    };
    let refused = (0..times).filter(|_| one().is_err()).count();
    println!("refused {refused} of {times}");
    ExitCode::SUCCESS
}

fn hear(times: u64, at: &str, end: &Path) -> ExitCode {
    let socket = match UdpSocket::bind(address(at)) {
        Ok(socket) => socket,
        Err(error) => return refused("bind", &error),
    };
    let _set = socket.set_read_timeout(Some(SECOND / 10));
    println!("ready");
    let (mut heard, mut last) = (0, false);
    while heard < times {
        match socket.recv(&mut [0; 256]) {
            Ok(_) => heard += 1,
            // What had come before the end is in the socket.
            Err(_) if last => break,
            Err(_) => last = end.exists(),
        }
    }
    println!("heard {heard} of {times}");
    ExitCode::SUCCESS
}

fn swarm(times: u32, base: SocketAddr) -> ExitCode {
    const THREADS: u32 = 8;
    let IpAddr::V4(base) = base.ip() else { return ExitCode::from(2) };
    // SAFETY: no preconditions.
    let (pid, uid) = (std::process::id(), unsafe { libc::getuid() });
    let worker = |thread: u32| {
        let comm = format!("swarm-{thread}");
        for number in (thread..times).step_by(THREADS as usize) {
            let four = std::net::Ipv4Addr::from(u32::from(base) + number);
            let ip = match number % 3 {
                0 => IpAddr::V4(four),
                1 => IpAddr::V6(four.to_ipv6_mapped()),
                _ => {
                    let [a, b] =
                        [u32::from(base) >> 16, u32::from(base) & 0xffff].map(|half| u16::try_from(half).unwrap_or(0));
                    IpAddr::from([0x2001, 0xdb8, 0xca, a, b, 0, 0, u16::try_from(number).unwrap_or(0)])
                }
            };
            let port = u16::try_from(1_024 + number).unwrap_or(1);
            let connect = || TcpStream::connect_timeout(&SocketAddr::new(ip, port), 30 * SECOND);
            let mut stream = connect();
            for _ in 0..100 {
                // Refused while a lease is being renewed, on a busy machine: asked again.
                if stream.as_ref().map_or_else(std::io::Error::raw_os_error, |_| None) != Some(libc::EPERM) {
                    break;
                }
                std::thread::sleep(SECOND / 20);
                stream = connect();
            }
            // No protocol that anybody knows; the connection is closed after it was judged.
            let told = stream.and_then(|mut stream| {
                stream.write_all(&[0; 64])?;
                stream.set_read_timeout(Some(30 * SECOND))?;
                Ok(stream.read(&mut [0; 8]).unwrap_or(0))
            });
            let shown = ip.to_canonical();
            match told {
                Ok(_) => println!(
                    "{{\"address\":\"{shown}\",\"port\":{port},\"pid\":{pid},\"uid\":{uid},\"comm\":\"{comm}\"}}"
                ),
                Err(error) => eprintln!("{ip}:{port}: {error}"),
            }
        }
    };
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let named = std::thread::Builder::new().name(format!("swarm-{thread}"));
            let _started = named.spawn_scoped(scope, move || worker(thread));
        }
    });
    ExitCode::SUCCESS
}
