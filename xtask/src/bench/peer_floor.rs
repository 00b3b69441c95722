//! The floor as a peer.

use anyhow::Result;

use super::{
    PeerName,
    peer::{Peer, provider},
    scene::{Scene, Server},
};

const ADDRESS: &str = "127.0.0.1:8443";

pub(super) fn start(scene: &Scene) -> Result<Peer> {
    let mut command = scene.program(scene.own_path());
    command
        .arg("bench-floor")
        .args(["--listen", ADDRESS, "--upstream", &provider()?.to_string(), "--identity"])
        .arg(scene.files().join("floor"))
        .arg("--trust")
        .arg(scene.files().join("provider/ca.pem"));
    Ok(Peer {
        name: PeerName::Floor,
        address: ADDRESS.parse()?,
        tunnel: false,
        plain: false,
        trust: Some(scene.files().join("floor/ca.pem")),
        before_load: Vec::new(),
        servers: vec![Server::start("the floor", &mut command)?],
    })
}
