//! mitmproxy as a forward proxy, without any add-on of ours.

use std::{fs::File, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result};

use super::{
    PeerName,
    peer::Peer,
    scene::{Scene, Server},
};

const ADDRESS: &str = "127.0.0.1:8445";
const READY: Duration = Duration::from_secs(60);

pub(super) fn start(scene: &Scene, tools: &Path) -> Result<Peer> {
    let address: SocketAddr = ADDRESS.parse()?;
    let home = scene.files().join("mitmproxy");
    let log = home.with_extension("log");
    let output = File::create(&log)?;
    let child = scene
        .program(tools.join("mitmproxy/bin/mitmdump"))
        .args(["-q", "--listen-host", &address.ip().to_string(), "--listen-port", &address.port().to_string()])
        .args(["--set", &format!("confdir={}", home.display())])
        .args(["--set", &format!("ssl_verify_upstream_trusted_ca={}", scene.files().join("provider/ca.pem").display())])
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .context("mitmdump does not start")?;
    let mut server = Server::adopt(child);
    scene.wait_until_listening(&mut server, ADDRESS, READY, &log)?;
    Ok(Peer {
        name: PeerName::Mitmproxy,
        address,
        tunnel: true,
        plain: false,
        trust: Some(home.join("mitmproxy-ca-cert.pem")),
        before_load: Vec::new(),
        servers: vec![server],
    })
}
