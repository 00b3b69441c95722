//! What a peer is to the measurement: a way to reach the provider, and processes whose use is counted.

use std::{
    ffi::OsString,
    net::SocketAddr,
    path::{Path, PathBuf},
};

use anyhow::Result;

use super::{
    PeerName, peer_caracal, peer_floor, peer_litellm, peer_mitmproxy, peer_squid,
    scene::{Scene, Server},
};
use crate::hosts::PROVIDER;

/// A peer that is ready to be measured.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) name: PeerName,
    /// Where the load connects to.
    pub(super) address: SocketAddr,
    /// Whether the load asks for a tunnel first.
    pub(super) tunnel: bool,
    /// Whether the load speaks HTTP without TLS.
    pub(super) plain: bool,
    /// The authority of the certificates that the load is shown; `None`: its environment names it.
    pub(super) trust: Option<PathBuf>,
    /// What stands before the load's command, to put it where the peer's clients must be.
    pub(super) before_load: Vec<OsString>,
    /// The peer's processes; all their descendants count as well.
    pub(super) servers: Vec<Server>,
}

impl Peer {
    pub(super) fn pids(&self) -> Vec<u32> {
        self.servers.iter().map(Server::pid).collect()
    }
}

/// Starts a peer.
///
/// # Errors
/// When it does not come up; the text is the reason that the report gives for leaving it out.
pub(super) fn start(name: PeerName, scene: &Scene, caracald: &Path, tools: &Path) -> Result<Peer> {
    match name {
        PeerName::Direct => direct(scene),
        PeerName::Floor => peer_floor::start(scene),
        PeerName::Squid => peer_squid::start(scene),
        PeerName::Mitmproxy => peer_mitmproxy::start(scene, tools),
        PeerName::Litellm => peer_litellm::start(scene, tools),
        PeerName::Caracal => peer_caracal::start(scene, caracald),
    }
}

fn direct(scene: &Scene) -> Result<Peer> {
    Ok(Peer {
        name: PeerName::Direct,
        address: provider()?,
        tunnel: false,
        plain: false,
        trust: Some(scene.files().join("provider/ca.pem")),
        before_load: Vec::new(),
        servers: Vec::new(),
    })
}

/// The provider itself.
pub(super) fn provider() -> Result<SocketAddr> {
    Ok(SocketAddr::new(PROVIDER.parse()?, 443))
}
