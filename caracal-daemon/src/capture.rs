//! Takes an accepted socket; gives [`Captured`]: the socket, where it wanted to go, and who made it.
//! Refuses a connection without a flow or an agent. Never believes anything a process says of itself. Next: `tls`.

pub mod flows;
pub mod lease;
pub mod listen;
pub mod roster;

use crate::agent::{Agent, Process};
use std::net::SocketAddr;
use std::sync::Arc;

/// One redirected connection.
#[derive(Debug)]
pub struct Captured {
    /// The agent's socket.
    pub stream: tokio::net::TcpStream,
    /// Where it wanted to go. An IPv4-mapped address is given as IPv4.
    pub original: SocketAddr,
    /// Whose it is.
    pub agent: Arc<Agent>,
    /// Who connected.
    pub process: Process,
}
