//! Builds every stage in the order of the floor plan. A stage that is broken by its configuration denies; one that
//! cannot keep records does not start.

use std::collections::HashMap;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::{Value, json};

use super::DataPathArgs;
use super::parting::Keys;
use super::predecessors::{Inheritance, Predecessors};
use crate::budget::escrow::Holder;
use crate::budget::{BudgetSpec, Budgets, Per, RateSpec, Rates, Wait};
use crate::bus::publish::Publisher;
use crate::clock::{Clock, UnixNanos};
use crate::config::{self, Config, ProxyUrl};
use crate::dns::resolve::{Resolver, Servers};
use crate::escrow::{Kept, PostgresVault, Refill, SqliteVault};
use crate::event::{Data, Detail, Draft};
use crate::http::pool::Pool;
use crate::intercept::{Limits, Parts, Stack};
use crate::journal::{self, Journal};
use crate::keeper::Signer;
use crate::keeper::order::{Answer, EventsQuery};
use crate::keeper::signing::RemoteSigner;
use crate::keeper::sockets::Sockets;
use crate::ledger::books::Overrun;
use crate::ledger::{self, Ledger, RunOptions, SqliteStore, StateDir};
use crate::meter::{self, Extra, Meter, Own, PriceBook, Provider};
use crate::policy::Engine;
use crate::spend::View;
use crate::telemetry::Telemetry;
use crate::tls::accept::Acceptor;
use crate::tls::dial::proxy::Proxy;
use crate::tls::dial::{Dialer, Settings};

/// The stages that are not reached through a connection.
#[derive(Debug)]
pub(super) struct Stages {
    pub(super) clock: Clock,
    pub(super) policy: Arc<Engine>,
    pub(super) meter: Arc<Meter>,
    pub(super) journal: Journal,
    pub(super) ledger: ledger::Handle,
    pub(super) publisher: Option<Publisher>,
    pub(super) budgets: Arc<Budgets>,
    /// Where budgets are shared with other hosts.
    pub(super) escrow: Option<Refill>,
    /// The keys, wherever they are.
    pub(super) signer: Arc<Keys>,
    rates: Rates,
    pub(super) state: StateDir,
    file: PathBuf,
    /// What is wrong with the policy, prices or budgets on disk, if something is.
    trouble: Mutex<Option<String>>,
}

/// The roads that stages use.
pub(super) struct Roads {
    /// To the keys.
    pub(super) signing: UnixStream,
    /// To sockets in agents' namespaces.
    pub(super) doors: UnixStream,
    /// To data paths from before an upgrade.
    pub(super) predecessors: Vec<OwnedFd>,
}

/// Builds them all.
pub(super) async fn build(
    args: &DataPathArgs,
    config: Config,
    Roads { signing, doors, predecessors }: Roads,
    telemetry: &Arc<Telemetry>,
) -> anyhow::Result<(Arc<Stack>, Stages, Predecessors)> {
    let clock = Clock::system();
    let keys = Arc::new(Keys::new(RemoteSigner::new(signing)));
    let signer: Arc<dyn Signer> = Arc::clone(&keys) as Arc<dyn Signer>;
    let state = StateDir::new(&args.state);
    let mut ledger = Ledger::open(SqliteStore::open(&state.ledger()).await?, &args.host_id).await?;
    let options = journal::Options {
        segment_bytes: config.journal.segment_bytes,
        max_bytes: config.journal.limit_bytes,
        start: ledger.cursor(),
        ..journal::Options::default()
    };
    let (journal, _) = Journal::open(&state.journal(), &state.detail_keys(), &args.host_id, options, &clock)?;
    let mut recovery = ledger.recover(&journal).await?;
    // What a data path before an upgrade has under way still ends.
    let under_way = if predecessors.is_empty() { Vec::new() } else { std::mem::take(&mut recovery.open) };
    for outcome in recovery.charge_open(clock.now()) {
        journal.durable(outcome).await?;
    }
    let rows = ledger.store().spend().await?;
    let overruns = ledger.store().overruns().await?;
    let view = View::new(rows);
    // Before the ledger lets go of the first segment: the journal keeps what Kafka has not acknowledged.
    let publisher = match &config.kafka {
        Some(kafka) => Some(Publisher::start(kafka, &args.host_id, &journal, Arc::clone(&signer))?),
        None => None,
    };
    let ledger = ledger::spawn(ledger, &journal, Arc::clone(&signer), view, RunOptions::default())?;

    let mut trouble = None;
    let base = config.file.parent().unwrap_or(Path::new("/"));
    let policy = Engine::load(&config, base).unwrap_or_else(|error| {
        tracing::error!(%error, "The policy is broken; everything is denied until it is mended and reloaded.");
        trouble = Some(error.to_string());
        Engine::deny_all(error)
    });
    let policy = Arc::new(policy);
    let book = price_book(&config).unwrap_or_else(|error| {
        let error = format!("{error:#}");
        tracing::error!(error, "The price book is broken; no paid call is allowed until it is mended and reloaded.");
        trouble = Some(error);
        PriceBook::empty()
    });
    let meter = Arc::new(metered(book, &config));
    let rates = Rates::new(rates_of(&config));
    let budgets = Arc::new(Budgets::new(specs(&config), clock.clone(), recovery.totals)?);
    budgets.credited(recovery.credited);
    let inheritance = Inheritance::take(predecessors, under_way, &budgets);
    let escrow = escrow(&config, &args.host_id, &state, &budgets)?;
    for book in [meter.book(), meter.own_book()] {
        freeze(&budgets, &book, &overruns);
    }
    let resolver = Arc::new(resolver(&config)?);
    let settings = Settings { sockets: Some(Sockets::new(doors)?), ..upstream(&config)? };
    let dialer = Arc::new(Dialer::new(settings, Arc::clone(&resolver))?);
    let stack = Stack::new(Parts {
        clock: clock.clone(),
        policy: Arc::clone(&policy),
        meter: Arc::clone(&meter),
        budgets: Arc::clone(&budgets),
        rates: rates.clone(),
        journal: journal.clone(),
        resolver,
        pool: Pool::new(dialer, clock.clone()),
        acceptor: Acceptor::new(Arc::clone(&signer), clock.clone())?,
        telemetry: Arc::clone(telemetry),
        limits: Limits {
            priced_body: config.limits.pricing_body_bytes,
            priced_bodies: config.limits.pricing_memory_bytes,
            websockets: config.websocket.metered,
            min_output: if config.clamp.enabled { config.clamp.min_output } else { u64::MAX },
            ..Limits::default()
        },
        netns: args.netns,
    });
    let old = age(&meter.book(), &config, clock.now()).map(|old| format!("; {old}")).unwrap_or_default();
    let message = Some(format!("data path {} started{old}", env!("CARGO_PKG_VERSION")));
    let data = Data {
        message,
        policy_set: Some(policy.current().hash()),
        price_book: Some(meter.book().id()),
        ..Data::default()
    };
    journal
        .append(Draft {
            kind: crate::event::Kind::Lifecycle,
            at: clock.now(),
            data: data.into(),
            detail: Detail::default(),
        })
        .await
        .ok();
    let predecessors = Predecessors::serve(inheritance, &stack, &journal, &clock, &signer)?;
    let stages = Stages {
        clock,
        policy,
        meter,
        journal,
        ledger,
        publisher,
        budgets,
        escrow,
        signer: keys,
        rates,
        state,
        file: config.file,
        trouble: Mutex::new(trouble),
    };
    Ok((stack, stages, predecessors))
}

impl Stages {
    /// Reads policy, prices and budgets again. Whatever is broken, all three stay as they are. Gives the policy set's hash, and
    /// what is said of a price book that is old.
    pub(super) fn reload(&self, stack: &Stack) -> Result<(Arc<str>, Option<String>), String> {
        let result = self.try_reload();
        *self.trouble.lock().unwrap_or_else(PoisonError::into_inner) = result.as_ref().err().cloned();
        if result.is_ok() {
            stack.forget_refusals();
        }
        result
    }

    fn try_reload(&self) -> Result<(Arc<str>, Option<String>), String> {
        let config = Config::load(&self.file).map_err(|error| error.to_string())?;
        if self.escrow.is_none() && config.budget.iter().any(|budget| budget.shared) {
            return Err("the first budget that is shared needs a restart of the daemon".to_owned());
        }
        let book = price_book(&config).map_err(|error| format!("{error:#}"))?;
        let base = self.file.parent().unwrap_or(Path::new("/"));
        // All that can fail before anything changes.
        let set = crate::policy::PolicySet::compile(&config, base).map_err(|error| error.to_string())?;
        self.budgets.reload(specs(&config)).map_err(|error| error.to_string())?;
        self.rates.reload(rates_of(&config));
        let before = [self.meter.book(), self.meter.own_book()];
        self.meter.replace(book);
        self.meter.replace_bases(bases(&config));
        self.meter.replace_own(Own::of(&config));
        thaw(&self.budgets, &before, &[self.meter.book(), self.meter.own_book()]);
        Ok((self.policy.replace(set), age(&self.meter.book(), &config, self.clock.now())))
    }

    /// What is wrong on disk, if something is; the last good set is in force.
    pub(super) fn trouble(&self) -> Option<String> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Every budget window: limit, settled, held, left. Of those that are one agent's, only those of `agents`.
    pub(super) fn budgets(&self, agents: Option<&[String]>) -> Value {
        let row = |status: crate::budget::Status| {
            json!({
                "budget": &*status.key.budget, "scope": &*status.key.scope, "window": &*status.key.window,
                "limit_nano_usd": status.limit.0, "settled_nano_usd": status.settled.0, "held_nano_usd": status.held.0,
                "left_nano_usd": status.left.0, "ends_unix_nanos": status.ends, "soft": status.soft,
                "shared": status.slice.as_ref().map(|slice| json!({
                    "slice_nano_usd": slice.granted.0, "elsewhere_nano_usd": slice.elsewhere.0, "free_nano_usd": slice.free.0,
                })),
            })
        };
        let shown = |status: &crate::budget::Status| {
            let whose = (status.per == Per::Agent).then_some(&*status.key.scope);
            let own =
                |agents: &[String]| whose.is_none_or(|whose| whose.is_empty() || agents.iter().any(|one| one == whose));
            agents.is_none_or(own)
        };
        self.budgets.snapshot().into_iter().filter(shown).map(row).collect()
    }

    pub(super) async fn events(&self, query: &EventsQuery) -> Answer {
        let filter = ledger::query::Filter { agents: query.agent.clone().map(|agent| vec![agent]), uid: query.uid };
        let limit = query.limit.clamp(1, 1_000) as usize;
        let (events, _) =
            ledger::query::events(&self.state, &filter, limit).await.map_err(|error| error.to_string())?;
        let mut lines = Vec::with_capacity(events.len());
        for event in &events {
            lines.push(crate::cli::events::line(event).map_err(|error| error.to_string())?);
        }
        Ok(json!({ "lines": lines, "table": crate::cli::events::table(&events) }))
    }

    pub(super) async fn spend(&self, agents: Option<Vec<String>>) -> Answer {
        use crate::spend::{By, Sums};
        let filter = ledger::query::Filter { agents, uid: None };
        let rows = ledger::query::spend(&self.state, &filter).await.map_err(|error| error.to_string())?;
        let sums = Sums::of(&[By::Agent, By::Model, By::Day], rows);
        let json = crate::cli::spend::json(&sums).map_err(|error| error.to_string())?;
        Ok(json!({ "json": json, "table": crate::cli::spend::table(&sums) }))
    }
}

/// Starts what refills this host's slices, where a budget is shared.
fn escrow(config: &Config, host: &str, state: &StateDir, budgets: &Arc<Budgets>) -> anyhow::Result<Option<Refill>> {
    if !config.budget.iter().any(|budget| budget.shared) {
        return Ok(None);
    }
    let kept = Kept::load(&state.data())?;
    let lot = rand::random::<u64>() >> 1;
    let holder = Holder::new(&kept.id, host, &kept.place()?, config.escrow.lease_ms, lot, kept.known);
    let budgets = Arc::clone(budgets);
    if let Some(file) = config.escrow.file() {
        return Ok(Some(Refill::start(SqliteVault::new(&file), holder, kept, budgets)));
    }
    let Some(place) = config.postgres.as_ref() else { return Ok(None) };
    let vault = PostgresVault::new(&place.url().context("[postgres]")?)?;
    Ok(Some(Refill::start(vault, holder, kept, budgets)))
}

/// Refuses the models that had a bill above its hold, for as long as the price book has the entry that priced it.
fn freeze(budgets: &Budgets, book: &PriceBook, overruns: &[Overrun]) {
    for overrun in overruns {
        let Some(provider) = Provider::named(&overrun.provider) else { continue };
        let Some(model) = book.model(provider, &overrun.model).filter(|model| *model.entry == *overrun.entry) else {
            continue;
        };
        tracing::error!(
            provider = overrun.provider,
            model = overrun.model,
            "a bill was above its hold: the model is refused until its price is put right"
        );
        budgets.freeze(provider.name(), &model.name);
    }
}

/// Allows the models again whose entries have changed.
fn thaw(budgets: &Budgets, before: &[Arc<PriceBook>], after: &[Arc<PriceBook>]) {
    let entry = |books: &[Arc<PriceBook>], provider: &str, model: &str| {
        let provider = Provider::named(provider)?;
        books.iter().find_map(|book| Some(Arc::clone(&book.model(provider, model)?.entry)))
    };
    for (provider, model) in budgets.frozen() {
        if entry(before, provider, &model) != entry(after, provider, &model) {
            budgets.unfreeze(provider, &model);
        }
    }
}

/// The operator's own bases.
fn bases(config: &Config) -> Vec<Extra> {
    let base = |entry: &config::ProviderEntry| {
        let host =
            entry.host.parse::<config::HostPattern>().map_or_else(|_| entry.host.clone(), |host| host.to_string());
        Some(Extra { host, provider: Provider::named(&entry.provider)?, base: entry.base.clone() })
    };
    config.provider.iter().filter_map(base).collect()
}

/// The meter that is configured: its price book, the operator's own bases, and prices by the call.
pub(crate) fn meter(config: &Config) -> anyhow::Result<Meter> {
    Ok(metered(price_book(config)?, config))
}

fn metered(book: PriceBook, config: &Config) -> Meter {
    let meter = Meter::new(book, bases(config)).with_body_limit(config.limits.pricing_body_bytes);
    meter.replace_own(Own::of(config));
    meter
}

/// The price book that is configured, or the one that is compiled in.
pub(crate) fn price_book(config: &Config) -> anyhow::Result<PriceBook> {
    let book = PriceBook::parse(&price_book_text(config)?).with_context(|| match &config.prices.file {
        Some(path) => format!("[prices] file {}", path.display()),
        None => "the built-in price book".to_owned(),
    })?;
    Ok(book)
}

/// That the book in force is old, for the log and a record; `None` while it is not.
pub(super) fn age(book: &PriceBook, config: &Config, now: UnixNanos) -> Option<String> {
    let days = book.age_days(now).filter(|days| *days > config.prices.max_age_days)?;
    let said = format!(
        "the price book {} is {days} days old: compare it with what you are billed (`caracald prices diff`), or name a newer one in [prices] file",
        book.id()
    );
    tracing::warn!("{said}");
    Some(said)
}

/// Its text; signed, where the configuration names a key.
pub(crate) fn price_book_text(config: &Config) -> anyhow::Result<String> {
    let Some(path) = &config.prices.file else { return Ok(PriceBook::BUILT_IN.to_owned()) };
    let text = std::fs::read_to_string(path).with_context(|| format!("[prices] file {}", path.display()))?;
    if let Some(key) = &config.prices.public_key {
        let pem = std::fs::read_to_string(key).with_context(|| format!("[prices] public_key {}", key.display()))?;
        let mut beside = path.clone().into_os_string();
        beside.push(".sig");
        let beside = PathBuf::from(beside);
        let signature =
            std::fs::read(&beside).with_context(|| format!("the price book's signature {}", beside.display()))?;
        meter::verify(text.as_bytes(), &signature, &pem)
            .with_context(|| format!("[prices] file {}", path.display()))?;
    }
    Ok(text)
}

/// A dialer as `[upstream]` says, for what the operator types.
///
/// # Errors
/// When the section names what cannot be read.
pub(crate) fn dialer(config: &Config) -> anyhow::Result<Dialer> {
    Ok(Dialer::new(upstream(config)?, Arc::new(resolver(config)?))?)
}

fn resolver(config: &Config) -> anyhow::Result<Resolver> {
    let upstream = &config.upstream;
    let servers = Servers {
        nameservers: upstream.nameservers.iter().map(|server| server.0).collect(),
        domains: upstream
            .split_dns
            .iter()
            .map(|split| (split.domain.clone(), split.servers.iter().map(|server| server.0).collect()))
            .collect(),
        fixed: HashMap::new(),
    };
    Ok(Resolver::new(servers)?)
}

fn upstream(config: &Config) -> anyhow::Result<Settings> {
    let upstream = &config.upstream;
    let certificates = |path: &Path| -> anyhow::Result<Vec<CertificateDer<'static>>> {
        CertificateDer::pem_file_iter(path)
            .and_then(Iterator::collect)
            .with_context(|| format!("{} is not readable as PEM certificates", path.display()))
    };
    let mut roots = Vec::new();
    for path in &upstream.roots {
        roots.extend(certificates(path)?);
    }
    let mut client_certificates = HashMap::new();
    for one in &upstream.client_certificate {
        let key = PrivateKeyDer::from_pem_file(&one.key)
            .with_context(|| format!("{} is not readable as a PEM key", one.key.display()))?;
        client_certificates.insert(one.host.clone(), (certificates(&one.certificate)?, key));
    }
    let proxy = match (&upstream.proxy, &upstream.proxy_file) {
        (Some(url), _) => Some(url.clone()),
        (None, Some(path)) => {
            // The message must not show what stands in the file.
            let url = ProxyUrl::try_from(config::secret(path)?).map_err(anyhow::Error::msg);
            Some(url.with_context(|| path.display().to_string())?)
        }
        (None, None) => None,
    };
    let proxy = proxy.map(|url| Proxy::new(&url.url(), &upstream.no_proxy)).transpose()?;
    Ok(Settings {
        system_roots: true,
        roots,
        client_certificates,
        proxy,
        sockets: None,
        connect_timeout: Some(Duration::from_millis(upstream.connect_timeout_ms)),
        handshake_timeout: Some(Duration::from_millis(upstream.tls_timeout_ms)),
    })
}

fn rates_of(config: &Config) -> Vec<RateSpec> {
    config.rate.iter().map(rate).collect()
}

fn rate(rate: &config::Rate) -> RateSpec {
    RateSpec {
        name: Arc::from(rate.name.as_str()),
        requests: rate.requests,
        tokens: rate.tokens,
        window: rate.window,
        agents: agents(&rate.agents),
        models: rate.models.clone(),
        providers: rate.providers.clone(),
        hosts: rate.hosts.clone(),
        per: rate.per,
    }
}

fn agents(patterns: &[config::AgentPattern]) -> Vec<config::Glob> {
    patterns.iter().map(|pattern| pattern.glob().clone()).collect()
}

fn specs(config: &Config) -> Vec<BudgetSpec> {
    config.budget.iter().map(spec).collect()
}

fn spec(budget: &config::Budget) -> BudgetSpec {
    BudgetSpec {
        name: Arc::from(budget.name.as_str()),
        limit: budget.limit,
        window: budget.window,
        kind: budget.kind,
        time_zone: budget.time_zone.iana_name().unwrap_or_default().to_owned(),
        agents: agents(&budget.agents),
        models: budget.models.clone(),
        providers: budget.providers.clone(),
        hosts: budget.hosts.clone(),
        tools: budget.tools.clone(),
        per: budget.per,
        parent: budget.parent.as_deref().map(Arc::from),
        wait: Wait { time: Duration::from_millis(budget.wait_ms), ..Wait::default() },
        soft: budget.soft,
        warn_at: budget.warn_at.clone(),
        shared: budget.shared,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::NanoUsd;

    fn book(price: &str, more: &str) -> PriceBook {
        let entry = |name: &str, price: &str| {
            format!(
                "[[model]]\nprovider='openai'\nnames=['{name}','{name}-alias']\noperations=['chat']\nsource='x'\n\
                 max_input=10\nmax_output=10\nrates=[{{tier='standard',input='{price}',output='1'}}]\n"
            )
        };
        let more = if more.is_empty() { String::new() } else { entry(more, "1") };
        PriceBook::parse(&format!("version='1'\n{}{more}", entry("a", price))).expect("a book")
    }

    #[test]
    fn a_frozen_entry_stays_frozen_over_a_start_until_it_changes() {
        let budgets = || {
            let all = BudgetSpec::daily("all", NanoUsd(1));
            Budgets::new(vec![all], Clock::system(), HashMap::new()).expect("budgets")
        };
        let entry = book("1", "").model(Provider::OpenAi, "a").expect("a model").entry.to_string();
        let overrun = Overrun { provider: "openai".into(), model: "a-alias".into(), entry };
        let frozen = |book: &PriceBook| {
            let budgets = budgets();
            freeze(&budgets, book, std::slice::from_ref(&overrun));
            budgets.frozen()
        };
        assert_eq!(frozen(&book("1", "")), [("openai", Arc::from("a"))]);
        assert_eq!(frozen(&book("1", "b")), [("openai", Arc::from("a"))], "another entry was added");
        assert_eq!(frozen(&book("2", "")), []);
        let running = budgets();
        running.freeze("openai", &"a".into());
        let books = |price: &str, more: &str| [Arc::new(book(price, more))];
        thaw(&running, &books("1", ""), &books("1", "b"));
        assert_eq!(running.frozen().len(), 1);
        thaw(&running, &books("1", ""), &books("2", ""));
        assert_eq!(running.frozen(), []);
    }
}
