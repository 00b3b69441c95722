//! Takes a request to a priced host and its answer; gives the bound of its bill and the charge.
//! Refuses a call whose bill has no upper bound, and a body with two readings.
//! Never does I/O; never guesses a usage that was not reported. Next: `budget`.

mod anthropic;
mod body;
mod book;
mod bound;
mod denial;
mod edit;
mod hosted;
mod listing;
mod openai;
mod scan;
mod seen;
mod shape;
mod signature;
mod strip;
mod surface;
mod usage;

pub use book::{BookError, Model, PriceBook, Tier};
pub use denial::{denial, stream_error};
pub use edit::Edited;
pub use listing::{Difference, Listed, Listing, ListingError};
pub use signature::{SignatureError, verify};
pub use usage::{Reading, Terms, UsageReader};

use crate::event::{Served, Usage};
use crate::money::NanoUsd;
use crate::refusal::{Reason, Refusal, Side, Stage};
use arc_swap::ArcSwap;
use bytes::Bytes;
use shape::Shape;
use std::collections::HashMap;
use std::sync::Arc;

/// Bytes of a decoded request body that are read for pricing, unless configured otherwise.
pub const BODY_LIMIT: usize = 64 << 20;

/// Output tokens that a clamp leaves, unless a rule says otherwise.
pub const MIN_OUTPUT: u64 = 4_096;

/// Whose API it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Provider {
    /// OpenAI and what speaks its shape.
    OpenAi,
    /// Anthropic.
    Anthropic,
    /// Google Gemini: denials only, for now.
    Google,
}

impl Provider {
    /// The name that records, budgets and policies use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Provider::OpenAi => "openai",
            Provider::Anthropic => "anthropic",
            Provider::Google => "google",
        }
    }

    /// The provider of this name, for configuration.
    #[must_use]
    pub fn named(name: &str) -> Option<Provider> {
        [Provider::OpenAi, Provider::Anthropic, Provider::Google].into_iter().find(|provider| provider.name() == name)
    }
}

/// What a request to a host and path is, before its body is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// Not a priced host.
    Unpriced,
    /// A path of a priced host that costs nothing (model lists, token counts, account pages).
    Free(Provider),
    /// A paid call.
    Paid(Provider, Operation),
    /// A WebSocket upgrade of a paid surface: answered with 426, on which Codex falls back to HTTP.
    Websocket(Provider),
    /// A path of a priced host that is neither: refused unless a rule marks it free.
    Unknown(Provider),
}

/// Which paid call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, serde::Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// `POST /v1/chat/completions`.
    Chat,
    /// `POST /v1/responses`.
    Responses,
    /// `POST /v1/embeddings`.
    Embeddings,
    /// `POST /v1/messages`.
    Messages,
}

impl Operation {
    /// The name that records use.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Operation::Chat => "chat",
            Operation::Responses => "responses",
            Operation::Embeddings => "embeddings",
            Operation::Messages => "messages",
        }
    }
}

/// A refusal of this stage that is our side's doing. The sentence goes on after `Caracal `.
pub(crate) fn refuse(reason: Reason, sentence: String) -> Refusal {
    Refusal { stage: Stage::Meter, side: Side::Us, reason, sentence: format!("Caracal {sentence}") }
}

/// A refusal of this stage for what the agent sent.
pub(crate) fn refuse_agent(reason: Reason, sentence: String) -> Refusal {
    Refusal { side: Side::Agent, ..refuse(reason, sentence) }
}

/// Reads calls and usage with the price book in force.
#[derive(Debug)]
pub struct Meter {
    book: ArcSwap<PriceBook>,
    extra_hosts: HashMap<String, Provider>,
    body_limit: usize,
}

impl Meter {
    /// A meter for the known providers' hosts and `extra_hosts` that speak their shape (names in lower case).
    #[must_use]
    pub fn new(book: PriceBook, extra_hosts: impl IntoIterator<Item = (String, Provider)>) -> Meter {
        let extra_hosts =
            extra_hosts.into_iter().map(|(host, provider)| (host.to_ascii_lowercase(), provider)).collect();
        Meter { book: ArcSwap::from_pointee(book), extra_hosts, body_limit: BODY_LIMIT }
    }

    /// Reads at most `bytes` of a decoded body.
    #[must_use]
    pub fn with_body_limit(self, bytes: usize) -> Meter {
        Meter { body_limit: bytes, ..self }
    }

    /// Puts another price book in force. Calls that were read keep theirs.
    pub fn replace(&self, book: PriceBook) {
        self.book.store(Arc::new(book));
    }

    /// The price book in force.
    #[must_use]
    pub fn book(&self) -> Arc<PriceBook> {
        self.book.load_full()
    }

    /// What this request is.
    #[must_use]
    pub fn surface(&self, host: &str, method: &http::Method, path: &str, headers: &http::HeaderMap) -> Surface {
        surface::surface(&self.extra_hosts, host, method, path, headers)
    }

    /// Reads a paid call. `body` is as it came, at most the pricing limit (64 MiB); gzip and zstd are decoded here, bounded.
    ///
    /// # Errors
    /// A model without a price, a body with two readings, an unknown encoding, a bill without a bound.
    pub fn read(
        &self,
        provider: Provider,
        operation: Operation,
        headers: &http::HeaderMap,
        body: &Bytes,
    ) -> Result<Call, Refusal> {
        let decoded = body::decode(headers, body, self.body_limit)?;
        let text = text(&decoded.bytes)?;
        let walked = body::walk(text)?;
        let shape = match operation {
            Operation::Chat => openai::chat(text, walked)?,
            Operation::Responses => openai::responses(text, walked)?,
            Operation::Embeddings => openai::embeddings(text, walked)?,
            Operation::Messages => anthropic::messages(text, walked)?,
        };
        let book = self.book();
        let price = priced(&book, provider, operation, &shape)?;
        let model = Arc::from(shape.model.as_str());
        let call = Call {
            provider,
            operation,
            model,
            stream: shape.stream,
            price_book: book.id(),
            body: decoded.bytes,
            encoded: decoded.encoded,
            price,
            shape,
            book,
        };
        call.check()?;
        Ok(call)
    }
}

fn text(body: &Bytes) -> Result<&str, Refusal> {
    std::str::from_utf8(body)
        .map_err(|_| refuse_agent(Reason::AmbiguousRequest, "cannot price a body that is not UTF-8.".to_owned()))
}

/// The price of the model that is named, if it is sold for this operation.
fn priced(book: &PriceBook, provider: Provider, operation: Operation, shape: &Shape) -> Result<Arc<Model>, Refusal> {
    let shown: String = shape.model.chars().filter(char::is_ascii_graphic).take(64).collect();
    if shape.model.is_empty() {
        return Err(refuse_agent(
            Reason::PriceUnknown,
            "refused this call because it names no model, so it has no price.".to_owned(),
        ));
    }
    match book.model(provider, &shape.model) {
        Some(model) if model.operations.contains(&operation) => Ok(model),
        Some(_) => Err(refuse(
            Reason::PriceUnknown,
            format!(
                "knows no price of model {shown:?} for {} calls. Add {:?} to its `operations` in the price book that `[prices] file` names.",
                operation.name(),
                operation.name()
            ),
        )),
        None => Err(refuse(
            Reason::PriceUnknown,
            format!(
                "knows no price of model {shown:?}. Add a [[model]] with this name to a copy of the price book ({}), name the copy in `[prices] file`, and reload; or choose a priced model.",
                book.id()
            ),
        )),
    }
}

/// A paid call, read and priced.
#[derive(Clone, Debug)]
pub struct Call {
    /// Whose API.
    pub provider: Provider,
    /// Which call.
    pub operation: Operation,
    /// The model named.
    pub model: Arc<str>,
    /// The answer is an event stream.
    pub stream: bool,
    /// Version and hash of the price book that prices it.
    pub price_book: Arc<str>,
    body: Bytes,
    encoded: bool,
    price: Arc<Model>,
    shape: Shape,
    book: Arc<PriceBook>,
}

impl Call {
    /// The first name of the price book's entry, which all its aliases share: for budgets by model, and for freezing.
    #[must_use]
    pub fn priced_as(&self) -> Arc<str> {
        Arc::clone(&self.price.name)
    }

    /// The price is a guess on the dear side.
    #[must_use]
    pub fn price_assumed(&self) -> bool {
        self.price.assumed
    }

    /// Reads the usage of the answer to the request that `edit` gave.
    #[must_use]
    pub fn reader(&self, edited: &Edited, status: http::StatusCode, headers: &http::HeaderMap) -> UsageReader {
        UsageReader::new(
            self.operation,
            self.shape.caching == shape::Caching::Long,
            edited.strip_usage,
            status,
            headers,
        )
    }

    /// What the provider bills for `usage` on the terms that the request asked for, rounded up once.
    /// Prefer [`Call::bill`], which goes by the terms that the answer reports.
    #[must_use]
    pub fn charge(&self, usage: &Usage) -> NanoUsd {
        self.charge_on(usage, &Terms::default(), &self.price)
    }

    /// What the provider bills for an answer, by the model, service tier, place and speed that it reports.
    /// `None` when it reported no usage: then the hold is the charge, unless [`Reading::refused`].
    #[must_use]
    pub fn bill(&self, reading: &Reading) -> Option<NanoUsd> {
        let usage = reading.usage.as_ref()?;
        let answered = reading.model.as_deref().and_then(|name| self.book.model(self.provider, name));
        Some(self.charge_on(usage, &reading.terms, answered.as_ref().unwrap_or(&self.price)))
    }

    /// The terms that [`Call::bill`] goes by, for the record. `None` when the answer reported no usage.
    #[must_use]
    pub fn served(&self, reading: &Reading) -> Option<Served> {
        let usage = reading.usage.as_ref()?;
        let answered = reading.model.as_deref().and_then(|name| self.book.model(self.provider, name));
        let on = self.on(&reading.terms);
        Some(Served {
            input_above: answered.as_ref().unwrap_or(&self.price).input_above(on.tier, usage),
            // A name that the book does not have says nothing of the price.
            model: reading.model.clone().filter(|_| answered.is_some()),
            tier: on.tier.name(),
            geo_us: on.geo_us,
            fast: on.fast,
        })
    }

    /// The hash of the entry that prices the call.
    #[must_use]
    pub fn price_entry(&self) -> Arc<str> {
        Arc::clone(&self.price.entry)
    }
}

#[cfg(test)]
mod tests;
