//! Classes 16, 17 and 24: a process outside that does as it is told. The accomplice plays all of them.

use super::inbound::inherited;
use super::transport::connected;
use crate::raw::{self, Step as _, Tried, check, pass, receive, send, socket};
use crate::runner::{PAIRS, Try};
use socket2::{SockAddr, Socket};
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::time::Duration;
use support::catalogue::{PORT, VECTORS};

/// The accomplice's sockets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    Stream,
    Datagram,
    Packets,
    Nscd,
    Varlink,
    Giver,
    Taker,
}

impl Kind {
    pub(crate) const ALL: [Kind; 7] =
        [Kind::Stream, Kind::Datagram, Kind::Packets, Kind::Nscd, Kind::Varlink, Kind::Giver, Kind::Taker];

    /// The file's name.
    pub(crate) fn file(self) -> &'static str {
        match self {
            Kind::Stream => "stream",
            Kind::Datagram => "datagram",
            Kind::Packets => "packets",
            Kind::Nscd => "nscd",
            Kind::Varlink => "io.systemd.Resolve",
            Kind::Giver => "giver",
            Kind::Taker => "taker",
        }
    }

    /// The socket's type.
    pub(crate) fn of(self) -> i32 {
        match self {
            Kind::Datagram => libc::SOCK_DGRAM,
            Kind::Packets => libc::SOCK_SEQPACKET,
            _ => libc::SOCK_STREAM,
        }
    }
}

/// The name of the accomplice's abstract socket.
pub(crate) fn abstract_name(dir: &Path) -> SockAddr {
    let name = dir.file_name().unwrap_or_default().to_string_lossy().into_owned();
    SockAddr::unix(format!("\0caracal-outside-{name}"))
        .unwrap_or_else(|_| SockAddr::from(SocketAddr::from(([0; 4], 0))))
}

fn reach(this: &Try, kind: Kind) -> Tried<Socket> {
    let socket = socket(libc::AF_UNIX, kind.of(), 0)?;
    let at = SockAddr::unix(this.dir.join(kind.file())).at("connect")?;
    socket.connect(&at).at("connect")?;
    let _set = socket.set_read_timeout(Some(Duration::from_millis(800)));
    Ok(socket)
}

/// The end of this attempt's socket pair, whose other end somebody outside has: nothing is connected to reach him.
fn pair(this: &Try) -> Tried<Socket> {
    let name = VECTORS.get(this.aim.vector).map_or("", |vector| vector.name);
    let number = PAIRS.iter().find(|(of, ..)| *of == name).map_or(-1, |(.., number)| *number);
    let socket = inherited(number)?;
    let _set = socket.set_read_timeout(Some(Duration::from_millis(800)));
    Ok(socket)
}

/// Sends bytes to one of the accomplice's sockets and waits for a word.
pub(super) fn tell(this: &Try, kind: Kind, bytes: &[u8]) -> Tried {
    say(&reach(this, kind)?, bytes)
}

fn say(mut socket: &Socket, bytes: &[u8]) -> Tried {
    send(socket, bytes)?;
    let _answer = socket.read(&mut [0; 64]);
    Ok(())
}

/// Asks the accomplice for a socket, or for a place in its memory.
pub(super) fn ask_giver(this: &Try, what: &str) -> Tried<(String, Option<OwnedFd>)> {
    ask(&reach(this, Kind::Giver)?, what)
}

/// Asks whoever has the other end of this attempt's socket pair.
pub(super) fn ask_pair(this: &Try, what: &str) -> Tried<(String, Option<OwnedFd>)> {
    ask(&pair(this)?, what)
}

fn ask(socket: &Socket, what: &str) -> Tried<(String, Option<OwnedFd>)> {
    send(socket, what.as_bytes())?;
    let mut answer = [0; 128];
    let (length, fd) = receive(socket, &mut answer)?;
    Ok((String::from_utf8_lossy(answer.get(..length).unwrap_or_default()).into_owned(), fd))
}

pub(super) fn unix_stream(this: &Try) -> Tried {
    tell(this, Kind::Stream, &this.token())
}

pub(super) fn unix_datagram(this: &Try) -> Tried {
    let socket = socket(libc::AF_UNIX, libc::SOCK_DGRAM, 0)?;
    let at = SockAddr::unix(this.dir.join(Kind::Datagram.file())).at("send")?;
    socket.send_to(&this.token(), &at).at("send")?;
    std::thread::sleep(Duration::from_millis(50));
    Ok(())
}

pub(super) fn unix_seqpacket(this: &Try) -> Tried {
    tell(this, Kind::Packets, &this.token())
}

pub(super) fn unix_abstract(this: &Try) -> Tried {
    let socket = socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    socket.connect(&abstract_name(&this.dir)).at("connect")?;
    send(&socket, &this.token())?;
    let _set = socket.set_read_timeout(Some(Duration::from_millis(500)));
    let _answer = (&socket).read(&mut [0; 64]);
    Ok(())
}

pub(super) fn unix_pass_out(this: &Try) -> Tried {
    hand_out(this, &reach(this, Kind::Taker)?)
}

pub(super) fn pair_pass_out(this: &Try) -> Tried {
    hand_out(this, &pair(this)?)
}

fn hand_out(this: &Try, mut taker: &Socket) -> Tried {
    let own = connected(&SocketAddr::from((this.aim.ip4(), PORT)))?;
    pass(taker, &this.token(), own.as_raw_fd())?;
    let _answer = taker.read(&mut [0; 64]);
    Ok(())
}

pub(super) fn pair_deputy(this: &Try) -> Tried {
    say(&pair(this)?, &this.token())
}

pub(super) fn unix_own(this: &Try) -> Tried {
    let (one, two) = Socket::pair(socket2::Domain::UNIX, socket2::Type::STREAM, None).at("socket")?;
    send(&one, &this.token())?;
    (&two).read_exact(&mut vec![0; this.token().len()]).at("receive")?;
    let at = SockAddr::unix(format!("\0caracal-own-{}", this.aim.token())).at("listen")?;
    let listener = socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    listener.bind(&at).and_then(|()| listener.listen(1)).at("listen")?;
    let caller = socket(libc::AF_UNIX, libc::SOCK_STREAM, 0)?;
    caller.connect(&at).at("connect")?;
    send(&caller, &this.token())
}

pub(super) fn setuid_program(this: &Try) -> Tried {
    let words = [this.aim.privilege.name(), this.aim.phase.name()];
    let status = std::process::Command::new(this.dir.join("set-uid-probe")).arg("set-uid").args(words).status();
    match status.at("socket")?.code() {
        Some(0) => Ok(()),
        Some(10) => raw::fail("socket", libc::EPERM),
        _ => raw::fail("send", libc::EPERM),
    }
}

pub(super) fn spooled_job(this: &Try) -> Tried {
    let spool = this.dir.join("spool");
    // Whole at once: the service must not find it half written.
    let (new, job) = (spool.join(format!("{}.new", this.aim.token())), spool.join(format!("{}.job", this.aim.token())));
    std::fs::write(&new, this.token()).at("write")?;
    std::fs::rename(&new, &job).at("rename")?;
    std::thread::sleep(Duration::from_millis(150));
    Ok(())
}

pub(super) fn fifo(this: &Try) -> Tried {
    let mut options = std::fs::OpenOptions::new();
    let mut pipe = options.write(true).custom_flags(libc::O_NONBLOCK).open(this.dir.join("fifo")).at("open")?;
    pipe.write_all(&this.token()).at("write")?;
    std::thread::sleep(Duration::from_millis(50));
    Ok(())
}

pub(super) fn shared_file(this: &Try) -> Tried {
    let mut file = std::fs::OpenOptions::new().append(true).open(this.dir.join("shared")).at("open")?;
    file.write_all(&this.token()).at("write")?;
    std::thread::sleep(Duration::from_millis(150));
    Ok(())
}

/// A message of System V: `struct msgbuf`.
#[repr(C)]
pub(crate) struct Message {
    pub(crate) kind: libc::c_long,
    pub(crate) text: [u8; 64],
}

pub(super) fn message_queue(this: &Try) -> Tried {
    let text = std::fs::read_to_string(this.dir.join("queue")).at("open")?;
    let queue: i32 = text.trim().parse().unwrap_or(-1);
    let mut message = Message { kind: 1, text: [0; 64] };
    let token = this.token();
    message.text[..token.len()].copy_from_slice(&token);
    // SAFETY: the structure is as long as said, its type aside.
    check(unsafe { libc::msgsnd(queue, (&raw const message).cast(), 64, libc::IPC_NOWAIT) }.into()).at("send")?;
    std::thread::sleep(Duration::from_millis(50));
    Ok(())
}
