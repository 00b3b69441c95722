//! Redis 7 as Debian has it, with an append-only file: what a kill takes is at most the last second.

use std::{
    io::{Read as _, Write as _},
    process::Command,
    time::Duration,
};

use anyhow::Result;

use super::place::{Place, listens};

/// Starts it.
///
/// # Errors
/// When it does not come up.
pub(super) fn start(place: &Place) -> Result<()> {
    let port = place.port()?.to_string();
    let mut server = Command::new("redis-server");
    server.args(["--port", &port, "--bind", "127.0.0.1", "--save", "", "--appendonly", "yes", "--dir"]);
    server.arg(place.dir()).args(["--appendfsync", "everysec", "--maxmemory-policy", "noeviction"]);
    place.launch(&mut server, answers).map(drop)
}

/// It says PONG: after a start it may still read its file, and says so.
fn answers(port: u16) -> bool {
    let ask = || -> std::io::Result<bool> {
        let Some(mut stream) = listens(port) else { return Ok(false) };
        stream.set_read_timeout(Some(Duration::from_secs(2)))?;
        stream.write_all(b"PING\r\n")?;
        let mut answer = [0_u8; 7];
        stream.read_exact(&mut answer)?;
        Ok(&answer == b"+PONG\r\n")
    };
    ask().unwrap_or(false)
}
