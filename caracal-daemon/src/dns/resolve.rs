//! Takes a name; gives its addresses from the configured servers, cached with a bound.
//! Refuses with `upstream_resolve` when there are none. Never reads the hosts file or expands a search list.

use crate::refusal::{Reason, Refusal, Side, Stage};
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::NetError;
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{Name, Record, RecordType};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// Names kept, per resolver.
const CACHE_NAMES: u64 = 8_192;
/// How long one try to a server may take.
const TRY_TIMEOUT: Duration = Duration::from_secs(2);
/// Tries per server.
const TRIES: usize = 2;
/// How long a positive answer is kept at most.
const MOST_TTL: Duration = Duration::from_secs(300);
/// How long a negative answer is kept at most.
const MOST_NEGATIVE_TTL: Duration = Duration::from_secs(5);

/// Where names are looked up.
#[derive(Clone, Debug, Default)]
pub struct Servers {
    /// Servers for every name; empty means those of the system's resolv.conf.
    pub nameservers: Vec<SocketAddr>,
    /// Split DNS: a domain (without a leading dot) and the servers of its names. The longest match wins.
    pub domains: Vec<(String, Vec<SocketAddr>)>,
    /// Names that are answered from here.
    pub fixed: HashMap<String, Vec<IpAddr>>,
}

/// Why a resolver could not be built.
#[derive(Debug, thiserror::Error)]
#[error("the resolver cannot start: {0}; set `[upstream] nameservers`")]
pub struct ResolverError(String);

/// Looks names up.
#[derive(Debug)]
pub struct Resolver {
    /// For every name that no domain claims; `None` only where every name is fixed.
    rest: Option<TokioResolver>,
    domains: Vec<(String, TokioResolver)>,
    fixed: HashMap<String, Vec<IpAddr>>,
    search: Vec<String>,
}

impl Resolver {
    /// A resolver for `servers`.
    ///
    /// # Errors
    /// When resolv.conf is needed and cannot be read, or names no server.
    pub fn new(servers: Servers) -> Result<Resolver, ResolverError> {
        let system = hickory_resolver::system_conf::read_system_conf();
        let search = system.as_ref().map(|(config, _)| search_of(config)).unwrap_or_default();
        let rest = if servers.nameservers.is_empty() {
            let (config, _) = system.map_err(|error| ResolverError(error.to_string()))?;
            build(ResolverConfig::from_name_servers(config.into_parts().2))?
        } else {
            build(config_of(&servers.nameservers))?
        };
        let mut domains = Vec::new();
        for (domain, addresses) in servers.domains {
            domains.push((domain.trim_matches('.').to_ascii_lowercase(), build(config_of(&addresses))?));
        }
        domains.sort_by_key(|(domain, _)| std::cmp::Reverse(domain.len()));
        Ok(Resolver { rest: Some(rest), domains, fixed: servers.fixed, search })
    }

    /// A resolver that knows `names` and nobody to ask.
    #[must_use]
    pub fn fixed(names: HashMap<String, Vec<IpAddr>>) -> Resolver {
        Resolver { rest: None, domains: Vec::new(), fixed: names, search: Vec::new() }
    }

    /// Sets the suffixes of a search list, in place of the system's.
    #[must_use]
    pub fn with_search(mut self, search: Vec<String>) -> Resolver {
        self.search = search;
        self
    }

    /// The suffixes that a libc here appends to names.
    #[must_use]
    pub fn search(&self) -> &[String] {
        &self.search
    }

    /// The addresses of `host` (lower case, no trailing dot): IPv6 and IPv4 in turns, so that one dead family costs one stagger.
    /// An address as text is its own answer.
    ///
    /// # Errors
    /// `upstream_resolve` when nobody gives an address.
    pub async fn addresses(&self, host: &str) -> Result<Vec<IpAddr>, Refusal> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![address]);
        }
        if let Some(addresses) = self.fixed.get(host) {
            return Ok(addresses.clone());
        }
        let resolver = self.resolver_for(host).ok_or_else(|| unresolved(host, "no server is configured for it"))?;
        let name = absolute(host).ok_or_else(|| unresolved(host, "it is not a DNS name"))?;
        match resolver.lookup_ip(name).await {
            Ok(found) => {
                let (six, four): (Vec<IpAddr>, Vec<IpAddr>) = found.iter().partition(IpAddr::is_ipv6);
                let addresses = in_turns(six, four);
                if addresses.is_empty() { Err(unresolved(host, "it has no address")) } else { Ok(addresses) }
            }
            Err(error) if error.is_nx_domain() => Err(unresolved(host, "it does not exist")),
            Err(error) if error.is_no_records_found() => Err(unresolved(host, "it has no address")),
            Err(error) => Err(unresolved(host, &error.to_string())),
        }
    }

    /// The records of one type, for the agent that asked.
    ///
    /// # Errors
    /// What the servers said; `is_nx_domain` and `is_no_records_found` tell the harmless ones.
    pub(crate) async fn records(&self, host: &str, kind: RecordType) -> Result<Vec<Record>, NetError> {
        let (Some(resolver), Some(name)) = (self.resolver_for(host), absolute(host)) else {
            return Err(NetError::from("no server is configured for this name"));
        };
        Ok(resolver.lookup(name, kind).await?.answers().to_vec())
    }

    /// The fixed addresses of `host`, if it has any.
    pub(crate) fn fixed_addresses(&self, host: &str) -> Option<&[IpAddr]> {
        self.fixed.get(host).map(Vec::as_slice)
    }

    fn resolver_for(&self, host: &str) -> Option<&TokioResolver> {
        let claimed = self.domains.iter().find(|(domain, _)| is_below(host, domain));
        claimed.map(|(_, resolver)| resolver).or(self.rest.as_ref())
    }
}

/// `host` is `domain` or a name below it.
#[must_use]
pub(crate) fn is_below(host: &str, domain: &str) -> bool {
    host.strip_suffix(domain).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn in_turns(first: Vec<IpAddr>, second: Vec<IpAddr>) -> Vec<IpAddr> {
    let mut all = Vec::with_capacity(first.len() + second.len());
    let (mut first, mut second) = (first.into_iter(), second.into_iter());
    loop {
        match (first.next(), second.next()) {
            (None, None) => return all,
            (one, other) => all.extend(one.into_iter().chain(other)),
        }
    }
}

fn absolute(host: &str) -> Option<Name> {
    let mut name = Name::from_ascii(host).ok()?;
    name.set_fqdn(true);
    Some(name)
}

fn search_of(config: &ResolverConfig) -> Vec<String> {
    let domain = config.domain().into_iter();
    let mut suffixes: Vec<String> = config
        .search()
        .iter()
        .chain(domain)
        .map(|name| name.to_ascii().trim_matches('.').to_ascii_lowercase())
        .collect();
    suffixes.retain(|suffix| !suffix.is_empty());
    suffixes.dedup();
    suffixes
}

fn config_of(servers: &[SocketAddr]) -> ResolverConfig {
    let named = servers.iter().map(|server| {
        let mut connections = vec![ConnectionConfig::udp(), ConnectionConfig::tcp()];
        for connection in &mut connections {
            connection.port = server.port();
        }
        NameServerConfig::new(server.ip(), true, connections)
    });
    ResolverConfig::from_name_servers(named.collect())
}

fn build(config: ResolverConfig) -> Result<TokioResolver, ResolverError> {
    if config.name_servers().is_empty() {
        return Err(ResolverError("no name server is given".to_owned()));
    }
    let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
    let options = builder.options_mut();
    options.cache_size = CACHE_NAMES;
    options.use_hosts_file = ResolveHosts::Never;
    options.timeout = TRY_TIMEOUT;
    options.attempts = TRIES;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.positive_max_ttl = Some(MOST_TTL);
    options.negative_max_ttl = Some(MOST_NEGATIVE_TTL);
    options.try_tcp_on_error = true;
    options.ndots = 0;
    builder.build().map_err(|error| ResolverError(error.to_string()))
}

fn unresolved(host: &str, why: &str) -> Refusal {
    Refusal {
        stage: Stage::Dns,
        side: Side::Upstream,
        reason: Reason::UpstreamResolve,
        sentence: format!("Caracal could not look up {host}: {why}. Check the name, or `[upstream] nameservers`."),
        limit: None,
    }
}
