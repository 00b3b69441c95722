//! Takes bound sockets; answers queries on them, a bounded number at a time.
//! Refuses an asker that no agent accounts for, more queries than there are permits, and more queries or connections of one
//! agent than its share: those of one agent that wait are not in others' way.

use crate::agent::{Agent, CgroupId};
use crate::dns::answer::{self, Transport};
use crate::dns::resolve::Resolver;
use crate::policy::{Decision, Engine};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Queries in work at once, over UDP.
const MOST_QUERIES: usize = 1_024;
/// Connections open at once, over TCP.
const MOST_CONNECTIONS: usize = 1_024;
/// Connections of one agent open at once, over TCP.
pub(crate) const MOST_OF_ONE_AGENT: usize = 64;
/// Queries of one agent in work at once, over UDP.
pub(crate) const MOST_QUERIES_OF_ONE_AGENT: usize = 128;
/// Queries on one connection.
const MOST_ON_ONE: usize = 256;
/// How long a connection may be idle, and a query or an answer may take to pass.
const IDLE: Duration = Duration::from_secs(10);
/// How long to wait after an accept that failed.
const PAUSE: Duration = Duration::from_millis(20);
/// A UDP query longer than this is not read whole and so is malformed.
const MOST_DATAGRAM: usize = 4_097;

/// Tells whose socket an address is in the namespace with this cookie. A port of TCP and the same port of UDP may be two
/// agents'.
pub type Who = dyn Fn(u64, SocketAddr, Transport) -> Option<Arc<Agent>> + Send + Sync;
/// Is told of a decision before the agent is: agent, name, decision, and the addresses of an allowed name.
pub type Decided = dyn Fn(&Arc<Agent>, &str, &Decision, Vec<IpAddr>) + Send + Sync;

/// What the loops need to answer.
pub struct Desk {
    /// The policy in force.
    pub policy: Arc<Engine>,
    /// Who knows the addresses.
    pub resolver: Arc<Resolver>,
    /// Whose socket an address is.
    pub who: Box<Who>,
    /// Told of each decision.
    pub decided: Box<Decided>,
    /// Bounds what is in work at once, in all namespaces together.
    pub places: Places,
}

impl Desk {
    /// Whether a query is being answered.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        self.places.is_busy()
    }
}

/// Places for queries over UDP and for connections over TCP.
#[derive(Debug)]
pub struct Places {
    queries: Arc<Semaphore>,
    query_shares: Shares,
    connections: Arc<Semaphore>,
    connection_shares: Shares,
}

impl Places {
    /// Whether a query is being answered.
    fn is_busy(&self) -> bool {
        self.queries.available_permits() < MOST_QUERIES
    }

    /// A place for a query over UDP, of the agent's share and of all; whoever has its share takes none of the others'.
    fn for_query(&self, agent: Option<&Arc<Agent>>) -> Option<(Share, OwnedSemaphorePermit)> {
        let share = self.query_shares.take(agent)?;
        Some((share, self.queries.clone().try_acquire_owned().ok()?))
    }
}

impl Default for Places {
    fn default() -> Places {
        Places {
            queries: Arc::new(Semaphore::new(MOST_QUERIES)),
            query_shares: Shares::new(MOST_QUERIES_OF_ONE_AGENT),
            connections: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
            connection_shares: Shares::new(MOST_OF_ONE_AGENT),
        }
    }
}

impl std::fmt::Debug for Desk {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Desk").finish_non_exhaustive()
    }
}

impl Desk {
    /// The answer to a query of this agent's; one of nobody's that we know is refused.
    async fn answer(&self, query: &[u8], agent: Option<Arc<Agent>>, transport: Transport) -> Option<Vec<u8>> {
        let Some(agent) = agent else { return answer::refused(query) };
        let policy = self.policy.current();
        let answer = answer::answer(query, transport, &agent, &policy, &self.resolver).await?;
        if let Some((host, decision)) = &answer.decided {
            (self.decided)(&agent, host, decision, answer.addresses);
        }
        Some(answer.bytes)
    }
}

/// Answers datagrams until the socket fails; `netns` is the cookie of its namespace.
///
/// # Errors
/// The socket's error.
pub async fn udp(socket: Arc<UdpSocket>, netns: u64, desk: Arc<Desk>) -> std::io::Result<()> {
    let mut buffer = vec![0_u8; MOST_DATAGRAM];
    loop {
        let (length, from) = match socket.recv_from(&mut buffer).await {
            Ok(received) => received,
            // An asker that left before its last answer came: the error is about that one, not about the socket.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionRefused => continue,
            Err(error) => return Err(error),
        };
        let query = buffer.get(..length).unwrap_or_default().to_vec();
        let agent = (desk.who)(netns, from, Transport::Udp);
        let Some(place) = desk.places.for_query(agent.as_ref()) else {
            if let Some(bytes) = answer::refused(&query) {
                socket.try_send_to(&bytes, from).ok();
            }
            continue;
        };
        let (socket, desk) = (socket.clone(), desk.clone());
        tokio::spawn(async move {
            if let Some(bytes) = desk.answer(&query, agent, Transport::Udp).await {
                socket.send_to(&bytes, from).await.ok();
            }
            drop(place);
        });
    }
}

/// Answers connections; `netns` is the cookie of the listener's namespace.
pub async fn tcp(listener: TcpListener, netns: u64, desk: Arc<Desk>) {
    loop {
        let (stream, from) = match listener.accept().await {
            Ok(accepted) => accepted,
            // Out of descriptors, or an asker that left: no reason to stop for everybody.
            Err(error) => {
                tracing::error!(%error, "Cannot accept a connection for DNS.");
                tokio::time::sleep(PAUSE).await;
                continue;
            }
        };
        // Without a permit or a share the connection is closed at once: the asker tries again or goes without.
        let Ok(permit) = desk.places.connections.clone().try_acquire_owned() else { continue };
        // Once, and asked of the connection after the look-up: see `capture::listen::Gate::accept`.
        let agent = (desk.who)(netns, from, Transport::Tcp).filter(|_| stream.peer_addr().is_ok());
        let Some(share) = desk.places.connection_shares.take(agent.as_ref()) else { continue };
        let desk = desk.clone();
        tokio::spawn(async move {
            one_connection(stream, agent, &desk).await;
            drop((permit, share));
        });
    }
}

/// How many queries or connections each agent has; those that no agent accounts for share one count.
#[derive(Clone, Debug)]
struct Shares {
    most: usize,
    taken: Arc<Mutex<HashMap<Option<CgroupId>, usize>>>,
}

/// A query or a connection of an agent's.
struct Share {
    shares: Shares,
    agent: Option<CgroupId>,
}

impl Shares {
    fn new(most: usize) -> Shares {
        Shares { most, taken: Arc::default() }
    }

    fn take(&self, agent: Option<&Arc<Agent>>) -> Option<Share> {
        let agent = agent.map(|agent| agent.cgroup);
        let mut open = self.taken.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.entry(agent).or_default();
        if *count >= self.most {
            return None;
        }
        *count += 1;
        Some(Share { shares: self.clone(), agent })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut open = self.shares.taken.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = open.entry(self.agent) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

/// Messages with a length of two bytes before each (RFC 1035 4.2.2).
async fn one_connection(mut stream: TcpStream, agent: Option<Arc<Agent>>, desk: &Desk) {
    for _ in 0..MOST_ON_ONE {
        let Ok(Ok(query)) = tokio::time::timeout(IDLE, read_message(&mut stream)).await else { return };
        let Some(bytes) = desk.answer(&query, agent.clone(), Transport::Tcp).await else { return };
        let Ok(length) = u16::try_from(bytes.len()) else { return };
        let mut framed = Vec::with_capacity(bytes.len() + 2);
        framed.extend_from_slice(&length.to_be_bytes());
        framed.extend_from_slice(&bytes);
        let Ok(Ok(())) = tokio::time::timeout(IDLE, stream.write_all(&framed)).await else { return };
    }
}

async fn read_message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0_u8; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}
