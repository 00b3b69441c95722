//! Takes a host and a port; gives a connection to it, with TLS verified where it is asked for. The only place that dials.
//! Refuses addresses that no rule names, and certificates that do not verify. Never takes an address from an agent's
//! look-up: `dns::resolve` gives them.

pub mod proxy;

use crate::address::{is_loopback, is_private};
use crate::dns::resolve::Resolver;
use crate::keeper::child::is_reserved;
use crate::keeper::sockets::Sockets;
use crate::refusal::{Reason, Refusal, Side, Stage};
use proxy::Proxy;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::Arc;
use std::time::Duration;
use tokio::net::{TcpSocket, TcpStream};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

/// How long all tries to connect may take together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a handshake may take.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// The head start of each address over the next (RFC 8305 5).
const STAGGER: Duration = Duration::from_millis(250);
/// Addresses of one name that are tried.
const MOST_ADDRESSES: usize = 8;

/// The protocol that two sides agreed on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// HTTP/2.
    H2,
    /// HTTP/1.1, agreed on or by default.
    Http1,
}

/// The protocols to offer the upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// `h2`, then `http/1.1`.
    Either,
    /// `http/1.1`.
    Http1,
}

/// Where to.
#[derive(Clone, Copy, Debug)]
pub struct Route<'a> {
    /// A DNS name in lower case without a trailing dot, or an address as text.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// The rule names a private, loopback or metadata address on purpose.
    pub private: bool,
    /// Cookie of the agent's network namespace where that is another one than ours and `private` is set: loopback, and
    /// what else is the namespace's own, is reached there and never here.
    pub netns: Option<u64>,
    /// The address that the agent asked for: tried before the others, if it is one of the host's.
    pub first: Option<IpAddr>,
}

/// `[upstream]`, read.
#[derive(Debug, Default)]
pub struct Settings {
    /// Trust the system's roots.
    pub system_roots: bool,
    /// Further roots.
    pub roots: Vec<CertificateDer<'static>>,
    /// A client certificate (chain and key) by host.
    pub client_certificates: HashMap<String, (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)>,
    /// An HTTP proxy to go through.
    pub proxy: Option<Proxy>,
    /// The road to sockets in agents' namespaces.
    pub sockets: Option<Sockets>,
    /// How long a connection may take; 10 s where none is said.
    pub connect_timeout: Option<Duration>,
    /// How long a handshake may take; 10 s where none is said.
    pub handshake_timeout: Option<Duration>,
}

/// Why a dialer could not be built.
#[derive(Debug, thiserror::Error)]
pub enum DialerError {
    /// A root cannot be used.
    #[error("`[upstream] roots`: {0}")]
    Root(rustls::Error),
    /// A client certificate cannot be used.
    #[error("`[upstream]` client certificate of {host}: {why}")]
    ClientCertificate {
        /// Whose.
        host: String,
        /// Why.
        why: rustls::Error,
    },
    /// No root at all.
    #[error("no root certificate is trusted: install ca-certificates or set `[upstream] roots`")]
    NoRoots,
    /// The TLS library refused our settings.
    #[error("TLS settings: {0}")]
    Settings(rustls::Error),
}

/// Dials.
pub struct Dialer {
    resolver: Arc<Resolver>,
    config: Arc<ClientConfig>,
    by_host: HashMap<String, Arc<ClientConfig>>,
    proxy: Option<Proxy>,
    sockets: Option<Sockets>,
    connect_timeout: Duration,
    handshake_timeout: Duration,
}

impl std::fmt::Debug for Dialer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dialer").field("proxy", &self.proxy).finish_non_exhaustive()
    }
}

impl Dialer {
    /// A dialer for `settings`.
    ///
    /// # Errors
    /// When there is no usable root, or a certificate cannot be used.
    pub fn new(settings: Settings, resolver: Arc<Resolver>) -> Result<Dialer, DialerError> {
        let roots = Arc::new(roots_of(&settings)?);
        let provider = super::crypto();
        let builder = || {
            ClientConfig::builder_with_provider(provider.clone())
                .with_safe_default_protocol_versions()
                .map(|builder| builder.with_root_certificates(roots.clone()))
                .map_err(DialerError::Settings)
        };
        let config = Arc::new(builder()?.with_no_client_auth());
        let mut by_host = HashMap::new();
        for (host, (chain, key)) in settings.client_certificates {
            let config = builder()?
                .with_client_auth_cert(chain, key)
                .map_err(|why| DialerError::ClientCertificate { host: host.clone(), why })?;
            by_host.insert(host.to_ascii_lowercase(), Arc::new(config));
        }
        Ok(Dialer {
            resolver,
            config,
            by_host,
            proxy: settings.proxy,
            sockets: settings.sockets,
            connect_timeout: settings.connect_timeout.unwrap_or(CONNECT_TIMEOUT),
            handshake_timeout: settings.handshake_timeout.unwrap_or(HANDSHAKE_TIMEOUT),
        })
    }

    /// Connects without TLS.
    ///
    /// # Errors
    /// `upstream_resolve`, `private_address`, `upstream_connect`.
    pub async fn tcp(&self, route: Route<'_>) -> Result<TcpStream, Refusal> {
        let deadline = Instant::now() + self.connect_timeout;
        let stream = match self.proxy_for(route) {
            Some(proxy) => self.through(proxy, route, deadline).await?,
            None => {
                let addresses = self.resolver.addresses(route.host).await?;
                let places = self.places(route, allowed(route, &addresses)?).await?;
                let stream = connect(route.host, places, route.port, deadline).await?;
                // What is this host's own is public only to those outside, whom a firewall may keep out.
                let ends = stream.local_addr().ok().zip(stream.peer_addr().ok());
                if let Some((_, own)) = ends.filter(|(near, far)| near.ip() == far.ip() && !route.private) {
                    return Err(not_public(route.host, &own.ip().to_string()));
                }
                stream
            }
        };
        // Small writes are whole messages here: waiting to fill a segment only delays them.
        stream.set_nodelay(true).ok();
        Ok(stream)
    }

    /// Connects with TLS, verified for `route.host`.
    ///
    /// # Errors
    /// Those of [`Dialer::tcp`], and `upstream_tls`.
    pub async fn tls(&self, route: Route<'_>, wanted: Wanted) -> Result<(TlsStream<TcpStream>, Alpn), Refusal> {
        let name = ServerName::try_from(route.host.to_owned()).map_err(|_| {
            tls_refusal(route.host, "its name cannot be verified: it is neither a DNS name nor an address")
        })?;
        let stream = self.tcp(route).await?;
        let protocols = match wanted {
            Wanted::Either => vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            Wanted::Http1 => vec![b"http/1.1".to_vec()],
        };
        let config = self.by_host.get(route.host).unwrap_or(&self.config).clone();
        let connector = TlsConnector::from(config);
        let handshake = connector.with_alpn(protocols).connect(name, stream);
        let stream = match timeout(self.handshake_timeout, handshake).await {
            Ok(Ok(stream)) => stream,
            Ok(Err(error)) => return Err(tls_refusal(route.host, &tls_error(&error))),
            Err(_) => return Err(tls_refusal(route.host, "the handshake took too long")),
        };
        let alpn = match stream.get_ref().1.alpn_protocol() {
            Some(b"h2") => Alpn::H2,
            _ => Alpn::Http1,
        };
        Ok((stream, alpn))
    }

    /// The proxy that this route takes. Loopback is never another host's.
    fn proxy_for(&self, route: Route<'_>) -> Option<&Proxy> {
        let loopback = route.host.parse::<IpAddr>().is_ok_and(is_loopback);
        self.proxy.as_ref().filter(|proxy| !loopback && !proxy.is_excepted(route.host, route.port))
    }

    /// From where each address is dialled: with a socket in the agent's namespace what is that namespace's own, from
    /// ours everything else.
    async fn places(&self, route: Route<'_>, addresses: Vec<IpAddr>) -> Result<Vec<Place>, Refusal> {
        let (Some(netns), true) = (route.netns, addresses.iter().copied().any(is_private)) else {
            return Ok(ours(addresses));
        };
        let asked = match &self.sockets {
            Some(sockets) => sockets.of(netns, &addresses).await,
            None => Err("there is no road to its network namespace".to_owned()),
        };
        let sockets = asked.map_err(|why| connect_refusal(route.host, &why))?;
        // Loopback without a socket of theirs would be our own: left out.
        let places = addresses.into_iter().zip(sockets).filter(|(at, socket)| socket.is_some() || !is_loopback(*at));
        Ok(places.collect())
    }

    /// Through the configured proxy, which does the look-up: a company's resolver often knows no public names.
    async fn through(&self, proxy: &Proxy, route: Route<'_>, deadline: Instant) -> Result<TcpStream, Refusal> {
        if let Ok(address) = route.host.parse::<IpAddr>() {
            allowed(route, &[address])?;
        }
        let addresses = self.resolver.addresses(&proxy.host).await?;
        let mut stream = connect(&proxy.host, ours(addresses), proxy.port, deadline).await?;
        match timeout_at(deadline, proxy.tunnel(&mut stream, route.host, route.port)).await {
            Ok(Ok(())) => Ok(stream),
            Ok(Err(why)) => Err(connect_refusal(route.host, &format!("the proxy {} answered: {why}", proxy.host))),
            Err(_) => Err(connect_refusal(route.host, &format!("the proxy {} did not answer within 10 s", proxy.host))),
        }
    }
}

/// The addresses that may be dialled on this route.
fn allowed(route: Route<'_>, addresses: &[IpAddr]) -> Result<Vec<IpAddr>, Refusal> {
    let may = |address: &&IpAddr| route.private || !is_private(**address);
    let mut kept: Vec<IpAddr> = addresses.iter().filter(may).map(IpAddr::to_canonical).collect();
    kept.sort_by_key(|address| route.first.is_none_or(|first| first.to_canonical() != *address));
    kept.truncate(MOST_ADDRESSES);
    if !kept.is_empty() {
        return Ok(kept);
    }
    Err(not_public(route.host, &addresses.first().map_or_else(String::new, IpAddr::to_string)))
}

fn not_public(host: &str, address: &str) -> Refusal {
    Refusal {
        stage: Stage::Tls,
        side: Side::Agent,
        reason: Reason::PrivateAddress,
        sentence: format!(
            "Caracal does not connect to {host}: {address} is this host's own, or no address of the public internet. \
             Write `private = true` into the rule if that is meant."
        ),
        limit: None,
    }
}

/// An address, and a socket to dial it with where it is not ours to dial.
type Place = (IpAddr, Option<OwnedFd>);

/// All from our own namespace.
fn ours(addresses: Vec<IpAddr>) -> Vec<Place> {
    addresses.into_iter().map(|address| (address, None)).collect()
}

/// The first of `places` that answers; each gets a head start over the next.
async fn connect(host: &str, places: Vec<Place>, port: u16, deadline: Instant) -> Result<TcpStream, Refusal> {
    let mut tries = JoinSet::new();
    let mut waiting = places.into_iter();
    let mut last = String::from("no address is left to try");
    loop {
        let next = waiting.next();
        let tried = next.is_some();
        if let Some((address, socket)) = next {
            let address = SocketAddr::new(address, port);
            tries.spawn(async move { (address, dial(address, socket).await) });
        }
        let until = if waiting.len() > 0 { deadline.min(Instant::now() + STAGGER) } else { deadline };
        match timeout_at(until, tries.join_next()).await {
            Ok(Some(Ok((_, Ok(stream))))) => return Ok(stream),
            Ok(Some(Ok((address, Err(error))))) => last = format!("{address}: {error}"),
            Ok(Some(Err(error))) => last = error.to_string(),
            Ok(None) if !tried => return Err(connect_refusal(host, &last)),
            Ok(None) => {}
            Err(_) if until == deadline => return Err(connect_refusal(host, "no address answered within 10 s")),
            Err(_) => {}
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the one road out")]
async fn dial(address: SocketAddr, socket: Option<OwnedFd>) -> std::io::Result<TcpStream> {
    let stream = match socket {
        Some(socket) => TcpSocket::from_std_stream(socket.into()).connect(address).await,
        None => TcpStream::connect(address).await,
    }?;
    // The kernel gives the lowest free number: the last ones are for probes and files, without which the door shuts.
    if is_reserved(stream.as_raw_fd()) {
        return Err(std::io::Error::from_raw_os_error(libc::EMFILE));
    }
    Ok(stream)
}

fn roots_of(settings: &Settings) -> Result<RootCertStore, DialerError> {
    let mut roots = RootCertStore::empty();
    if settings.system_roots {
        // A store has odd certificates in it everywhere; those that do not parse are left out, as every client does.
        roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    }
    for root in &settings.roots {
        roots.add(root.clone()).map_err(DialerError::Root)?;
    }
    if roots.is_empty() { Err(DialerError::NoRoots) } else { Ok(roots) }
}

fn tls_error(error: &std::io::Error) -> String {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
    match inner {
        Some(rustls::Error::InvalidCertificate(why)) => {
            format!("its certificate was not accepted ({why}). Add its root to `[upstream] roots` if it is your own")
        }
        Some(other) => other.to_string(),
        None => error.to_string(),
    }
}

fn tls_refusal(host: &str, why: &str) -> Refusal {
    Refusal {
        stage: Stage::Tls,
        side: Side::Upstream,
        reason: Reason::UpstreamTls,
        sentence: format!("Caracal could not set up TLS with {host}: {why}."),
        limit: None,
    }
}

fn connect_refusal(host: &str, why: &str) -> Refusal {
    Refusal {
        stage: Stage::Tls,
        side: Side::Upstream,
        reason: Reason::UpstreamConnect,
        sentence: format!("Caracal could not reach {host}: {why}."),
        limit: None,
    }
}
