//! Class 12: lets itself be called from outside, and answers.

use crate::raw::{self, Step as _, Tried, send};
use crate::runner::{INHERITED, Try};
use socket2::Socket;
use std::net::SocketAddr;
use std::os::fd::FromRawFd as _;
use std::time::Duration;

/// Longer than the caller tries, so that no closed port answers it.
const PATIENCE: Duration = Duration::from_secs(4);

fn answer(this: &Try, listener: &Socket) -> Tried {
    let port = listener.local_addr().at("listen")?.as_socket().map_or(0, |at| at.port());
    this.dial("tcp", port);
    listener.set_read_timeout(Some(PATIENCE)).at("accept")?;
    let (caller, _) = listener.accept().at("accept")?;
    send(&caller, &this.token())?;
    std::thread::sleep(Duration::from_millis(50));
    Ok(())
}

pub(super) fn listen_autobind(this: &Try) -> Tried {
    let listener = raw::socket(libc::AF_INET, libc::SOCK_STREAM, 0)?;
    listener.listen(1).at("listen")?;
    answer(this, &listener)
}

pub(super) fn listen_bound(this: &Try) -> Tried {
    let at = SocketAddr::from(([0, 0, 0, 0], this.aim.inbound_port()));
    let listener = raw::tcp(&at)?;
    listener.bind(&at.into()).and_then(|()| listener.listen(1)).at("listen")?;
    answer(this, &listener)
}

pub(super) fn udp_answer(this: &Try) -> Tried {
    let at = SocketAddr::from(([0, 0, 0, 0], this.aim.inbound_port()));
    let socket = std::net::UdpSocket::bind(at).at("bind")?;
    this.dial("udp", at.port());
    socket.set_read_timeout(Some(PATIENCE)).at("receive")?;
    let (_, caller) = socket.recv_from(&mut [0; 64]).at("receive")?;
    socket.send_to(&this.token(), caller).at("send").map(drop)
}

pub(super) fn activated_listener(this: &Try) -> Tried {
    answer(this, &inherited(INHERITED[3])?)
}

/// A descriptor that was open when this program started.
pub(super) fn inherited(number: i32) -> Tried<Socket> {
    // SAFETY: F_DUPFD gives a new descriptor or an error, also for a number that is not open.
    let copy = unsafe { libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 100) };
    raw::check(copy.into()).at("inherited")?;
    // SAFETY: the copy is new and nobody else's.
    Ok(unsafe { Socket::from_raw_fd(copy) })
}
