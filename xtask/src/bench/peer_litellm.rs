//! LiteLLM's proxy: it counts tokens and money as well, and its clients are configured to call it, without TLS.

use std::{fs::File, net::SocketAddr, path::Path, time::Duration};

use anyhow::{Context, Result};

use super::{
    PeerName,
    load::MODEL,
    peer::Peer,
    scene::{Scene, Server},
};

const ADDRESS: &str = "127.0.0.1:8446";
/// It reads much before it listens.
const READY: Duration = Duration::from_secs(180);

pub(super) fn start(scene: &Scene, tools: &Path) -> Result<Peer> {
    let address: SocketAddr = ADDRESS.parse()?;
    let config = scene.hosts.file(
        "litellm.yaml",
        &format!(
            "model_list:\n  - model_name: {MODEL}\n    litellm_params:\n      model: openai/{MODEL}\n      \
             api_key: sk-bench\n"
        ),
    )?;
    let log = scene.files().join("litellm.log");
    let output = File::create(&log)?;
    let child = scene
        .program(tools.join("litellm/bin/litellm"))
        .args(["--host", &address.ip().to_string(), "--port", &address.port().to_string(), "--config"])
        .arg(&config)
        .env("SSL_CERT_FILE", scene.files().join("provider/ca.pem"))
        // It would ask the internet for its price table, which is not there.
        .env("LITELLM_LOCAL_MODEL_COST_MAP", "True")
        // Without a key it serves everybody who can reach it: nobody but the load can.
        .env("LITELLM_DANGEROUSLY_PERMIT_WEAK_OR_UNSET_MASTER_KEY", "true")
        .stdout(output.try_clone()?)
        .stderr(output)
        .spawn()
        .context("litellm does not start")?;
    let mut server = Server::adopt(child);
    scene.wait_until_listening(&mut server, ADDRESS, READY, &log)?;
    Ok(Peer {
        name: PeerName::Litellm,
        address,
        tunnel: false,
        plain: true,
        // Not used without TLS, but the load wants one.
        trust: Some(scene.files().join("provider/ca.pem")),
        before_load: Vec::new(),
        servers: vec![server],
    })
}
