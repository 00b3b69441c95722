//! `probe`: one attempt to get bytes out, and what became of it.
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
//! ```
//! Prints `sent`, then `answered` when an echo came, or `refused WHERE ERRNO-NAME`. Exit code 0 when answered, 3 when
//! refused, 4 when sent without an answer.

#![expect(clippy::disallowed_methods, reason = "what connects here is what is tried")]

use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{FromRawFd as _, OwnedFd};
use std::process::ExitCode;
use std::time::Duration;

/// What every attempt sends: what must never be seen outside.
const CANARY: &[u8] = b"caracal-canary-5b1f";
const SECOND: Duration = Duration::from_secs(1);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["tcp", to] => tcp(to),
        ["peer", to] => peer(to),
        ["udp", to] => udp(to, false),
        ["udp-connected", to] => udp(to, true),
        ["raw", to] => datagram(to, libc::SOCK_RAW, icmp_protocol(to)),
        ["ping", to] => datagram(to, libc::SOCK_DGRAM, icmp_protocol(to)),
        ["udplite", to] => datagram(to, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE),
        ["pair"] => pair(),
        _ => {
            eprintln!("the first lines of probe/main.rs say what it takes");
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
