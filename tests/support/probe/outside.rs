//! The accomplice: a process of the same user that nobody governs, and that sends what it is told. It plays a proxy on
//! loopback, a name service cache, a stub resolver, a service manager, cron, and whoever else listens on a host.
//!
//! Wherever bytes reach it, it looks for a token and sends that to the other host: the judge knows by the token whose
//! bytes they were. It prints `ready` when all of it listens.

use crate::raw::{self, Step as _, Tried, check, pass, receive, socket};
use crate::vectors::deputies::{Kind, Message, abstract_name};
use socket2::{SockAddr, Socket};
use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;
use support::catalogue::{PORT, RELAY_PORT, TOKEN};

/// The other host's end of the cable.
const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 2);

/// What `probe outside` does.
pub(crate) fn run(dir: &Path) -> ExitCode {
    if let Err(fail) = listen(dir) {
        eprintln!("outside: {}: {}", fail.step, fail.error);
        return ExitCode::from(1);
    }
    println!("ready");
    loop {
        std::thread::park();
    }
}

/// Sends every token in `bytes`.
fn forward(bytes: &[u8]) {
    for place in 0..bytes.len() {
        let Some(rest) = bytes.get(place..).filter(|rest| rest.starts_with(TOKEN.as_bytes())) else { continue };
        let length = rest.iter().position(|byte| *byte == b'x').map_or(0, |at| at + 1);
        let Ok(socket) = UdpSocket::bind("0.0.0.0:0") else { return };
        let _sent = socket.send_to(rest.get(..length).unwrap_or_default(), (OUTSIDE, PORT));
    }
}

fn listen(dir: &Path) -> Tried {
    let relay = TcpListener::bind((Ipv6Addr::UNSPECIFIED, RELAY_PORT)).at("relay")?;
    std::thread::spawn(move || relay.incoming().flatten().for_each(|stream| conversation(&stream.into())));
    let relay = UdpSocket::bind((Ipv6Addr::UNSPECIFIED, RELAY_PORT)).at("relay")?;
    std::thread::spawn(move || datagrams(&relay.into()));
    let stub = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 53), 53));
    let listener = TcpListener::bind(stub).at("stub")?;
    std::thread::spawn(move || listener.incoming().flatten().for_each(|stream| conversation(&stream.into())));
    let stub = UdpSocket::bind(stub).at("stub")?;
    std::thread::spawn(move || datagrams(&stub.into()));

    for kind in Kind::ALL {
        let listener = socket(libc::AF_UNIX, kind.of(), 0)?;
        let path = dir.join(kind.file());
        listener.bind(&SockAddr::unix(&path).at("unix")?).at("unix")?;
        open(&path, 0o666)?;
        serve(kind, listener)?;
    }
    let listener = socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    listener.bind(&abstract_name(dir)).at("abstract")?;
    serve(Kind::Stream, listener)?;

    let spool = dir.join("spool");
    std::fs::create_dir(&spool).at("spool")?;
    open(&spool, 0o777)?;
    let shared = dir.join("shared");
    std::fs::write(&shared, "").at("shared")?;
    open(&shared, 0o666)?;
    std::thread::spawn(move || files(&spool, &shared));

    let fifo = dir.join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::from_bits_truncate(0o666)).at("fifo")?;
    open(&fifo, 0o666)?;
    // Also for writing: otherwise each writer's end would be the last.
    let mut pipe = std::fs::OpenOptions::new().read(true).write(true).custom_flags(0).open(&fifo).at("fifo")?;
    std::thread::spawn(move || {
        let mut buffer = [0; 4_096];
        while let Ok(length @ 1..) = pipe.read(&mut buffer) {
            forward(buffer.get(..length).unwrap_or_default());
        }
    });

    // SAFETY: integers only.
    let queue = check(unsafe { libc::msgget(libc::IPC_PRIVATE, 0o666) }.into()).at("queue")?;
    let queue = i32::try_from(queue).unwrap_or(-1);
    std::fs::write(dir.join("queue"), queue.to_string()).at("queue")?;
    std::thread::spawn(move || messages(queue));
    Ok(())
}

fn open(path: &Path, mode: u32) -> Tried {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).at("chmod")
}

fn serve(kind: Kind, listener: Socket) -> Tried {
    if matches!(kind, Kind::Datagram) {
        std::thread::spawn(move || datagrams(&listener));
        return Ok(());
    }
    listener.listen(64).at("listen")?;
    std::thread::spawn(move || {
        while let Ok((stream, _)) = listener.accept() {
            std::thread::spawn(move || converse(kind, &stream));
        }
    });
    Ok(())
}

/// Does what a socket of this kind is for, as often as it is asked.
pub(crate) fn converse(kind: Kind, stream: &Socket) {
    match kind {
        Kind::Giver => while give(stream).is_ok() {},
        Kind::Taker => while take(stream).is_ok() {},
        _ => answer(stream),
    }
}

fn conversation(stream: &Socket) {
    let Ok(stream) = stream.try_clone() else { return };
    std::thread::spawn(move || answer(&stream));
}

/// Forwards what comes, and says that it did.
fn answer(mut stream: &Socket) {
    let mut buffer = [0; 4_096];
    while let Ok(length @ 1..) = stream.read(&mut buffer) {
        forward(buffer.get(..length).unwrap_or_default());
        let _gone = stream.write_all(b"done");
    }
}

fn datagrams(mut socket: &Socket) {
    let mut buffer = [0; 4_096];
    while let Ok(length) = socket.read(&mut buffer) {
        forward(buffer.get(..length).unwrap_or_default());
    }
}

fn files(spool: &Path, shared: &Path) {
    let mut known = 0;
    loop {
        std::thread::sleep(Duration::from_millis(10));
        let jobs = std::fs::read_dir(spool).into_iter().flatten().flatten().map(|entry| entry.path());
        for job in jobs.filter(|path| path.extension().is_some_and(|ending| ending == "job")) {
            forward(&std::fs::read(&job).unwrap_or_default());
            let _done = std::fs::remove_file(&job);
        }
        let text = std::fs::read(shared).unwrap_or_default();
        forward(text.get(known..).unwrap_or_default());
        known = text.len();
    }
}

fn messages(queue: i32) {
    loop {
        let mut message = Message { kind: 0, text: [0; 64] };
        // SAFETY: the structure is as long as said, its type aside.
        let got = unsafe { libc::msgrcv(queue, (&raw mut message).cast(), 64, 0, 0) };
        if got < 0 {
            return;
        }
        forward(&message.text);
    }
}

/// What another process may write over.
static BEACON: [AtomicU8; 64] = [const { AtomicU8::new(0) }; 64];

/// Gives away a socket, or says where one is.
fn give(stream: &Socket) -> Tried {
    let mut buffer = [0; 128];
    let (length, _) = receive(stream, &mut buffer)?;
    if length == 0 {
        return raw::fail("receive", libc::ECONNRESET);
    }
    let text = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default()).into_owned();
    let pid = std::process::id();
    let (what, to) = text.split_once(' ').unwrap_or((text.as_str(), "-"));
    let to: Option<SocketAddr> = to.parse().ok();
    let any = SocketAddr::from(([0; 4], 0));
    match what {
        "udp" | "tcp" | "hold" => {
            let socket = if what == "tcp" { raw::tcp(&any)? } else { raw::udp(&any)? };
            if let Some(to) = to {
                raw::connect(&socket, &to)?;
            }
            if what == "hold" {
                raw::send(stream, format!("{pid} {}", socket.as_raw_fd()).as_bytes())?;
                std::thread::sleep(Duration::from_secs(3));
                return Ok(());
            }
            pass(stream, b"here", socket.as_raw_fd())
        }
        "beacon" => {
            raw::send(stream, format!("{pid} {}", BEACON.as_ptr().addr()).as_bytes())?;
            for _ in 0..80 {
                std::thread::sleep(Duration::from_millis(10));
                let bytes: Vec<u8> = BEACON.iter().map(|byte| byte.load(Ordering::SeqCst)).collect();
                if bytes.starts_with(TOKEN.as_bytes()) {
                    forward(&bytes);
                    BEACON.iter().for_each(|byte| byte.store(0, Ordering::SeqCst));
                }
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// Takes a socket and sends by it.
fn take(stream: &Socket) -> Tried {
    let mut buffer = [0; 128];
    let (length, fd) = receive(stream, &mut buffer)?;
    if length == 0 {
        return raw::fail("receive", libc::ECONNRESET);
    }
    if let Some(fd) = fd {
        let _sent = raw::send(&Socket::from(fd), buffer.get(..length).unwrap_or_default());
    }
    raw::send(stream, b"done")
}
