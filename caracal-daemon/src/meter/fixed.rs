//! What the configuration prices by the call: tools of an `[[mcp]]` server, and paths of an `[[api]]`.
//! Takes a host and a path; gives the entry that prices it. Every other path of such a host is unknown, and so refused.

use super::book::{FixedPrice, PriceBook};
use super::shape::{Shape, Tongue};
use super::{Call, Operation, Provider, Surface, refuse};
use crate::config::{Config, Glob};
use crate::money::NanoUsd;
use crate::policy::other_readings;
use crate::refusal::{Reason, Refusal};
use bytes::Bytes;
use std::sync::Arc;

/// One entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Priced {
    /// `mcp` or `api`.
    pub provider: Provider,
    /// Its name.
    pub name: Arc<str>,
    host: String,
    paths: Vec<Glob>,
}

/// All entries, and the book of their prices.
#[derive(Debug)]
pub struct Own {
    entries: Vec<Arc<Priced>>,
    pub(super) book: Arc<PriceBook>,
}

impl Default for Own {
    fn default() -> Own {
        Own { entries: Vec::new(), book: Arc::new(PriceBook::empty()) }
    }
}

impl Own {
    /// The entries of a configuration.
    #[must_use]
    pub fn of(config: &Config) -> Own {
        let spelled = |host: &str| {
            host.parse::<crate::config::HostPattern>()
                .map_or_else(|_| host.to_ascii_lowercase(), |host| host.to_string())
        };
        let entry = |provider, name: &str, host: &str, paths: &[Glob]| {
            Arc::new(Priced { provider, name: name.into(), host: spelled(host), paths: paths.to_vec() })
        };
        let tools = config.mcp.iter().map(|one| entry(Provider::Mcp, &one.name, &one.host, &one.paths));
        let apis = config.api.iter().map(|one| entry(Provider::Api, &one.name, &one.host, &one.paths));
        let mut prices = Vec::new();
        for server in &config.mcp {
            prices.extend(server.prices.iter().map(|(tool, call)| FixedPrice {
                provider: Provider::Mcp,
                name: format!("{}/{tool}", server.name),
                call: *call,
                sent_mib: NanoUsd::ZERO,
                received_mib: NanoUsd::ZERO,
                max_received: 0,
            }));
        }
        prices.extend(config.api.iter().map(|api| FixedPrice {
            provider: Provider::Api,
            name: api.name.clone(),
            call: api.call,
            sent_mib: api.sent_mib,
            received_mib: api.received_mib,
            max_received: api.max_received_bytes.unwrap_or(0),
        }));
        Own { entries: tools.chain(apis).collect(), book: Arc::new(PriceBook::fixed(&prices)) }
    }

    /// Their prices.
    #[must_use]
    pub fn book(&self) -> Arc<PriceBook> {
        Arc::clone(&self.book)
    }

    /// The surface by these entries, where the built-in one leaves it open. A path that an upstream may take for another one
    /// has the price of an entry only if each of its readings has.
    pub(super) fn surface(&self, built_in: impl Fn(&str) -> Surface, host: &str, path: &str) -> Surface {
        let path = path.split(['?', '#']).next().unwrap_or(path);
        let written = built_in(path);
        let open =
            |surface: &Surface| matches!(surface, Surface::Unpriced | Surface::Unknown(_) | Surface::Unmetered(..));
        if !open(&written) {
            return written;
        }
        let here = || self.entries.iter().filter(|entry| entry.host == host);
        let fits = |path: &str| {
            here().find(|entry| entry.paths.is_empty() || entry.paths.iter().any(|glob| glob.matches(path)))
        };
        let same = |entry: &Arc<Priced>, reading: &String| {
            open(&built_in(reading)) && fits(reading).is_some_and(|other| Arc::ptr_eq(entry, other))
        };
        let found = fits(path).filter(|entry| other_readings(path).iter().all(|reading| same(entry, reading)));
        match (found, here().next()) {
            (Some(entry), _) => Surface::Priced(Arc::clone(entry)),
            (None, Some(entry)) if written == Surface::Unpriced => Surface::Unknown(entry.provider),
            _ => written,
        }
    }
}

pub(super) fn not_a_model_call() -> Refusal {
    refuse(Reason::PriceUnknown, "knows no model call of this kind.".to_owned())
}

impl super::Meter {
    /// A call of `entry`, of its `tool` if it has tools. `body` is what is sent, as it is.
    ///
    /// # Errors
    /// A tool without a price.
    pub fn fixed(&self, entry: &Priced, tool: Option<&str>, body: &Bytes) -> Result<Call, Refusal> {
        let book = self.own_book();
        let model = match tool {
            Some(tool) => {
                let own = book.model(entry.provider, &format!("{}/{tool}", entry.name));
                own.or_else(|| book.model(entry.provider, &format!("{}/*", entry.name)))
            }
            None => book.model(entry.provider, &entry.name),
        };
        let named = tool.map_or_else(|| entry.name.to_string(), |tool| format!("{}/{tool}", entry.name));
        let Some(price) = model else {
            let shown = super::shown(&named, 64);
            return Err(refuse(
                Reason::PriceUnknown,
                format!(
                    "knows no price of tool {shown:?}. Add it to `prices` of the server's [[mcp]] entry and reload."
                ),
            ));
        };
        Ok(Call {
            provider: entry.provider,
            operation: if tool.is_some() { Operation::Tool } else { Operation::Call },
            model: named.as_str().into(),
            stream: false,
            price_book: book.id(),
            body: body.clone(),
            length: body.len(),
            encoded: false,
            price,
            shape: Shape {
                tongue: Tongue::Nothing,
                signed: true,
                choices: 1,
                sent: u64::try_from(body.len()).unwrap_or(u64::MAX),
                ..Shape::default()
            },
            book,
        })
    }
}

impl Call {
    /// It costs nothing, whatever its answer is.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.price.fixed.is_some() && self.most() == NanoUsd::ZERO
    }

    /// The tool that it calls, without its server; empty where it calls none.
    #[must_use]
    pub fn tool(&self) -> &str {
        let tool = self.model.split_once('/').filter(|_| self.operation == Operation::Tool);
        tool.map_or("", |(_, tool)| tool)
    }

    /// Its answer costs by the byte.
    #[must_use]
    pub fn costs_by_answer(&self) -> bool {
        self.price.fixed.is_some_and(|fixed| fixed.by_received)
    }
}
