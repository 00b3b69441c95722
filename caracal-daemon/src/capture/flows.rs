//! Takes the source of an accepted connection or of a query; gives the [`Flow`] that the kernel wrote down for it.
//! A missing entry is a refusal, never a guess.
//!
//! Reads the maps with the bare system call: from Linux 5.19 a descriptor is enough, no capability is needed. Before, the
//! keeper is asked.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};

use caracal_common::flow::{COMM_LEN, Flow, Source};

use crate::agent::{CgroupId, Process};
use crate::keeper::flows::{Question, RemoteFlows};

const MAP_LOOKUP_ELEM: libc::c_int = 1;
const MAP_DELETE_ELEM: libc::c_int = 3;

/// The kernel's memory of who connected from where.
#[derive(Debug)]
pub struct Flows {
    connections: OwnedFd,
    queries: OwnedFd,
    /// Where this process may not read maps itself.
    road: Option<RemoteFlows>,
}

impl Flows {
    /// Over the descriptors of the two maps, or over the road to the keeper where the kernel lets us read no map.
    #[must_use]
    pub fn new(connections: OwnedFd, queries: OwnedFd, road: RemoteFlows) -> Flows {
        let tried = lookup(&connections, &Source::default());
        let denied = tried.is_err_and(|error| error.raw_os_error() == Some(libc::EPERM));
        Flows { connections, queries, road: denied.then_some(road) }
    }

    /// The flow of a connection that `peer` made to our listener in the namespace with this cookie. The same source
    /// address may be in use in every namespace at once.
    #[must_use]
    pub fn connection(&self, netns: u64, peer: SocketAddr) -> Option<Flow> {
        let source = source(netns, peer);
        match &self.road {
            None => lookup(&self.connections, &source).ok(),
            Some(road) => road.ask(Question::Connection, &source),
        }
    }

    /// The same, for the listener that accepts each connection once: the entry is taken out, so that what an agent holds
    /// open or half closed fills no map that all agents share.
    #[must_use]
    pub fn take_connection(&self, netns: u64, peer: SocketAddr) -> Option<Flow> {
        let source = source(netns, peer);
        if let Some(road) = &self.road {
            return road.ask(Question::Take, &source);
        }
        let flow = lookup(&self.connections, &source).ok()?;
        remove(&self.connections, &source);
        Some(flow)
    }

    /// The flow of a DNS query that came from `peer`; a TCP query is a connection.
    #[must_use]
    pub fn query(&self, netns: u64, peer: SocketAddr) -> Option<Flow> {
        let source = source(netns, peer);
        match &self.road {
            None => lookup(&self.queries, &source).ok(),
            Some(road) => road.ask(Question::Query, &source),
        }
    }
}

fn source(netns: u64, peer: SocketAddr) -> Source {
    Source { netns, addr: mapped(peer.ip()), port: peer.port(), pad: [0; 6] }
}

/// The address that the caller asked for. An IPv4-mapped one is given as IPv4.
#[must_use]
pub fn original(flow: &Flow) -> SocketAddr {
    SocketAddr::new(IpAddr::from(flow.addr).to_canonical(), flow.port)
}

/// Who connected.
#[must_use]
pub fn process(flow: &Flow) -> Process {
    let end = flow.comm.iter().position(|byte| *byte == 0).unwrap_or(COMM_LEN);
    Process {
        cgroup: CgroupId(flow.cgroup),
        pid: flow.pid,
        tgid: flow.tgid,
        uid: flow.uid,
        comm: String::from_utf8_lossy(flow.comm.get(..end).unwrap_or_default()).into_owned(),
        netns: flow.netns,
    }
}

fn mapped(addr: IpAddr) -> [u8; 16] {
    match addr {
        IpAddr::V4(addr) => addr.to_ipv6_mapped().octets(),
        IpAddr::V6(addr) => addr.octets(),
    }
}

/// `BPF_MAP_LOOKUP_ELEM`.
pub(crate) fn lookup(map: &OwnedFd, key: &Source) -> io::Result<Flow> {
    let mut flow = Flow::default();
    element(MAP_LOOKUP_ELEM, map, key, &raw mut flow)?;
    Ok(flow)
}

/// `BPF_MAP_DELETE_ELEM`. An entry that is gone already was the socket's end.
pub(crate) fn remove(map: &OwnedFd, key: &Source) {
    let _ = element(MAP_DELETE_ELEM, map, key, std::ptr::null_mut());
}

/// A command on one element of a map: `linux/bpf.h`.
fn element(command: libc::c_int, map: &OwnedFd, key: &Source, value: *mut Flow) -> io::Result<()> {
    #[repr(C)]
    struct Attr {
        map: u32,
        pad: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let attr = Attr {
        map: u32::try_from(map.as_raw_fd()).map_err(io::Error::other)?,
        pad: 0,
        key: std::ptr::from_ref(key) as u64,
        value: value as u64,
        flags: 0,
    };
    // SAFETY: key and value are as long as the map's, which the loader has checked, and live across the call; a null
    // value is given only with the command that takes none.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, &raw const attr, size_of::<Attr>()) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mapped_address_is_given_as_ipv4_and_the_name_ends_at_its_nul() {
        let flow = Flow {
            addr: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 203, 0, 113, 10],
            port: 443,
            comm: *b"curl\0garbage\0\0\0\0",
            ..Flow::default()
        };
        assert_eq!(original(&flow), "203.0.113.10:443".parse().expect("an address"));
        assert_eq!(process(&flow).comm, "curl");
    }
}
