//! A company's HTTP proxy: CONNECT to any name leads to this machine's own hosts. Every tunnel is logged, with the
//! credentials that were shown.

use super::World;
use anyhow::{Context as _, Result};
use serde_json::json;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};

/// Listens on `address`; a tunnel to port 443 of any name ends at `tls_port` here.
///
/// # Errors
/// When the port cannot be bound.
pub async fn serve(world: Arc<World>, address: SocketAddr, tls_port: u16) -> Result<()> {
    let listener = TcpListener::bind(address).await.with_context(|| format!("binding the proxy to {address}"))?;
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let world = Arc::clone(&world);
            // A client that breaks off is no news.
            tokio::spawn(async move { tunnel(&world, stream, tls_port).await.ok() });
        }
    });
    Ok(())
}

async fn tunnel(world: &World, stream: TcpStream, tls_port: u16) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut head = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 || head.len() > 100 {
            return Ok(());
        }
        if line.trim().is_empty() {
            break;
        }
        head.push(line.trim().to_owned());
    }
    let target = head.first().and_then(|line| line.strip_prefix("CONNECT ")?.split(' ').next()).unwrap_or_default();
    let shown = head.iter().find_map(|line| line.strip_prefix("Proxy-Authorization: "));
    world.log.write(&json!({"event": "connect", "target": target, "authorization": shown}));
    if !target.ends_with(":443") {
        return stream.write_all(b"HTTP/1.1 403 Forbidden\r\ncontent-length: 0\r\n\r\n").await;
    }
    let mut host = TcpStream::connect((Ipv4Addr::LOCALHOST, tls_port)).await?;
    stream.write_all(b"HTTP/1.1 200 Connection established\r\n\r\n").await?;
    tokio::io::copy_bidirectional(&mut stream, &mut host).await.map(drop)
}
