//! The road from the data path to an agent's own network namespace. Takes a namespace's cookie and addresses; gives an
//! unconnected TCP socket in that namespace for each address that is the namespace's own: loopback, and what its devices
//! have. The data path connects them: the keeper makes sockets and reads nothing of what goes over them.
//!
//! Such a socket is bound to the loopback device. In a namespace of its own an agent may be root, and route or translate
//! 127.0.0.1 to a place outside; a socket that is bound to loopback reaches nothing outside whatever the routes say.

use std::collections::HashSet;
use std::ffi::OsString;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socket, sockopt};
use serde::{Deserialize, Serialize};
use tokio::sync::Mutex;

use super::frame;
use super::govern::Governor;
use super::namespaces::inside;
use crate::address::is_loopback;

/// How long the keeper may take before the data path gives the road up.
const PATIENCE: Duration = Duration::from_secs(5);

/// What the data path asks for.
#[derive(Debug, Serialize, Deserialize)]
struct Request {
    netns: u64,
    addresses: Vec<IpAddr>,
}

/// For each address, whether a socket for it comes with the answer; or a sentence that says why none does.
type Answer = Result<Vec<bool>, String>;

/// The data path's side.
#[derive(Debug)]
pub struct Sockets(Arc<Mutex<Option<UnixStream>>>);

impl Sockets {
    /// Over this end of the pair.
    ///
    /// # Errors
    /// When the socket takes no time limit.
    pub fn new(stream: UnixStream) -> io::Result<Sockets> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Sockets(Arc::new(Mutex::new(Some(stream)))))
    }

    /// Sockets in the namespace with this cookie, one for each address that is its own; eight at most.
    ///
    /// # Errors
    /// When the namespace is not served, a socket cannot be made, or the keeper is gone.
    pub async fn of(&self, netns: u64, addresses: &[IpAddr]) -> Result<Vec<Option<OwnedFd>>, String> {
        let addresses = addresses.iter().copied().take(frame::MAX_DESCRIPTORS).collect();
        let request = Request { netns, addresses };
        // One at a time, so that one thread at most waits for the keeper.
        let mut road = Arc::clone(&self.0).lock_owned().await;
        let asked = tokio::task::spawn_blocking(move || {
            let Some(stream) = road.as_mut() else { return Err("the keeper does not answer".to_owned()) };
            let exchanged = frame::write(stream, &request).and_then(|()| frame::read_with::<Answer>(stream));
            // An answer that comes late would be taken for the next one's.
            let (answer, descriptors) = exchanged.map_err(|error| {
                *road = None;
                format!("the keeper does not answer: {error}")
            })?;
            let mut descriptors = descriptors.into_iter();
            Ok(answer?.into_iter().map(|there| if there { descriptors.next() } else { None }).collect())
        });
        asked.await.map_err(|error| error.to_string())?
    }
}

/// The keeper's side: answers until the data path closes its end.
pub fn serve(mut stream: UnixStream, governor: &Governor) {
    while let Ok(request) = frame::read::<Request>(&mut stream) {
        let sockets = make(governor, &request);
        let descriptors: Vec<_> = sockets.iter().flatten().flatten().map(AsFd::as_fd).collect();
        let answer: Answer = match &sockets {
            Ok(sockets) => Ok(sockets.iter().map(Option::is_some).collect()),
            Err(why) => Err(why.clone()),
        };
        if frame::write_with(&mut stream, &answer, &descriptors).is_err() {
            return;
        }
    }
}

fn make(governor: &Governor, request: &Request) -> Result<Vec<Option<OwnedFd>>, String> {
    let door = governor.namespaces().door(request.netns).ok_or("no governed process is in its network namespace")?;
    let made = inside(&door, || -> nix::Result<Vec<Option<OwnedFd>>> {
        let own = addresses()?;
        let wanted = request.addresses.iter().take(frame::MAX_DESCRIPTORS);
        wanted
            .map(|address| (is_loopback(*address) || own.contains(address)).then(|| bound(*address)).transpose())
            .collect()
    });
    made.map_err(|error| error.to_string())?.map_err(|error| format!("no socket in its network namespace: {error}"))
}

/// The addresses of the calling thread's namespace, from the kernel and not by trying to bind: `ip_nonlocal_bind` is a
/// setting of whoever is root there.
fn addresses() -> nix::Result<HashSet<IpAddr>> {
    let all = nix::ifaddrs::getifaddrs()?.filter_map(|one| {
        let address = one.address?;
        let four = address.as_sockaddr_in().map(|four| IpAddr::from(four.ip()));
        four.or_else(|| address.as_sockaddr_in6().map(|six| IpAddr::from(six.ip())))
    });
    Ok(all.collect())
}

fn bound(address: IpAddr) -> nix::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let fd = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK, None)?;
    setsockopt(&fd, sockopt::BindToDevice, &OsString::from("lo"))?;
    Ok(fd)
}
