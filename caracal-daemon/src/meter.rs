//! Takes a request to a priced host and its answer; gives the bound of its bill and the charge.
//! Refuses a call whose bill has no upper bound, and a body with two readings.
//! Never does I/O; never guesses a usage that was not reported. Next: `budget`.

mod anthropic;
mod bedrock;
mod body;
mod book;
mod bound;
mod charset;
mod denial;
mod edit;
mod failure;
mod fixed;
mod frames;
mod gemini;
mod hosted;
mod listing;
pub mod mcp;
mod openai;
mod provider;
mod scan;
mod seen;
mod shape;
mod signature;
mod strip;
mod surface;
mod tee;
mod turn;
mod usage;

pub use book::{BookError, FixedPrice, Model, Outcome, PriceBook, Tier};
pub use denial::{denial, rpc_denial, socket_denial, socket_failure, stream_error};
pub use edit::Edited;
pub use failure::{Failed, Failure};
pub use fixed::{Own, Priced};
pub use listing::{Difference, Listed, Listing, ListingError, NotImported};
pub use mcp::Rpc;
pub use provider::Provider;
pub use signature::{SignatureError, verify};
pub use surface::{Extra, Unmetered};
pub use turn::{Answer, Chain, Heard, is_stray};
pub use usage::{Ending, Reading, SoFar, Terms, UsageReader};

use crate::event::{Served, Usage};
use crate::http::room::Taken;
use crate::money::NanoUsd;
use crate::refusal::{Reason, Refusal, Side, Stage};
use arc_swap::ArcSwap;
use bytes::Bytes;
use shape::Shape;
use std::sync::Arc;

/// Bytes of a decoded request body that are read for pricing, unless configured otherwise.
pub const BODY_LIMIT: usize = 64 << 20;

/// Longest name of a model that is read, bytes: where the price is `*`, an agent writes any.
const MAX_NAME: usize = 256;

/// Output tokens that a clamp leaves, unless a rule says otherwise.
pub const MIN_OUTPUT: u64 = 4_096;

/// In whose words an error is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// OpenAI's, and of whoever speaks its shape.
    OpenAi,
    /// Anthropic's.
    Anthropic,
    /// Google's.
    Google,
    /// AWS's.
    Aws,
    /// JSON-RPC's, of a server of tools.
    Rpc,
}

impl Dialect {
    /// The words of a call, or of any other path of the provider's.
    #[must_use]
    pub fn of(provider: Provider, operation: Option<Operation>) -> Dialect {
        match operation {
            Some(Operation::Chat | Operation::Responses | Operation::Embeddings) => Dialect::OpenAi,
            _ => match provider {
                Provider::Anthropic => Dialect::Anthropic,
                Provider::Google => Dialect::Google,
                Provider::Bedrock => Dialect::Aws,
                Provider::Mcp => Dialect::Rpc,
                _ => Dialect::OpenAi,
            },
        }
    }
}

/// What a request to a host and path is, before its body is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Surface {
    /// Not a priced host.
    Unpriced,
    /// A path of a priced host that costs nothing (model lists, token counts, account pages).
    Free(Provider),
    /// A paid call.
    Paid(Provider, Operation),
    /// What the configuration prices by the call.
    Priced(Arc<Priced>),
    /// A WebSocket's handshake with a priced host: answered with 426, on which Codex falls back to HTTP, or opened where the
    /// configuration says that its messages are metered.
    Websocket(Provider),
    /// A paid call that is billed by other units than tokens of text: refused with its reason, unless a rule prices it.
    Unmetered(Provider, Unmetered),
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
    /// Gemini's `generateContent` and `streamGenerateContent`.
    #[serde(rename = "generate_content")]
    Generate,
    /// Gemini's `embedContent` and `batchEmbedContents`.
    EmbedContent,
    /// Bedrock's `invoke` and `invoke-with-response-stream`.
    Invoke,
    /// Bedrock's `converse` and `converse-stream`.
    Converse,
    /// A call of a tool of an `[[mcp]]` server.
    Tool,
    /// A call of an `[[api]]`.
    Call,
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
            Operation::Generate => "generate_content",
            Operation::EmbedContent => "embed_content",
            Operation::Invoke => "invoke",
            Operation::Converse => "converse",
            Operation::Tool => "execute_tool",
            Operation::Call => "call",
        }
    }
}

/// A refusal of this stage that is our side's doing. The sentence goes on after `Caracal `.
pub(crate) fn refuse(reason: Reason, sentence: String) -> Refusal {
    Refusal { stage: Stage::Meter, side: Side::Us, reason, sentence: format!("Caracal {sentence}"), limit: None }
}

/// A refusal of this stage for what the agent sent.
pub(crate) fn refuse_agent(reason: Reason, sentence: String) -> Refusal {
    Refusal { side: Side::Agent, ..refuse(reason, sentence) }
}

/// Reads calls and usage with the price book in force.
#[derive(Debug)]
pub struct Meter {
    book: ArcSwap<PriceBook>,
    bases: ArcSwap<Vec<Extra>>,
    own: ArcSwap<Own>,
    body_limit: usize,
}

impl Meter {
    /// A meter for the known providers' hosts and `bases` that speak their shape.
    #[must_use]
    pub fn new(book: PriceBook, bases: impl IntoIterator<Item = Extra>) -> Meter {
        let bases = ArcSwap::from_pointee(bases.into_iter().collect());
        Meter { book: ArcSwap::from_pointee(book), bases, own: ArcSwap::default(), body_limit: BODY_LIMIT }
    }

    /// Puts other prices by the call in force.
    pub fn replace_own(&self, own: Own) {
        self.own.store(Arc::new(own));
    }

    /// The book of the prices by the call in force.
    #[must_use]
    pub fn own_book(&self) -> Arc<PriceBook> {
        Arc::clone(&self.own.load().book)
    }

    /// Puts other bases of the operator's in force.
    pub fn replace_bases(&self, bases: Vec<Extra>) {
        self.bases.store(Arc::new(bases));
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
        let bases = self.bases.load();
        let built_in = |path: &str| surface::surface(&bases, host, method, path, headers);
        self.own.load().surface(built_in, host, path)
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
        self.read_at(provider, operation, "", headers, body)
    }

    /// [`Meter::read_at`], decoding into `room`.
    ///
    /// # Errors
    /// As [`Meter::read_at`], and a body for which there is no room.
    pub fn read_within(
        &self,
        room: Option<Taken>,
        (provider, operation): (Provider, Operation),
        path: &str,
        headers: &http::HeaderMap,
        body: &Bytes,
    ) -> Result<Call, Refusal> {
        let (path, query) = path.split_once('?').unwrap_or((path, ""));
        if provider == Provider::Google {
            gemini::heads(query, headers)?;
        }
        if provider == Provider::Bedrock {
            bedrock::heads(operation, headers)?;
        }
        let decoded = body::decode(headers, body, self.body_limit, room)?;
        let text = body::text(&decoded.bytes)?;
        let walked = body::walk_object(text)?;
        let named = surface::model_in(operation, path);
        let model = named.clone().unwrap_or_default();
        let mut shape = match operation {
            Operation::Chat => openai::chat(text, walked, provider.habits())?,
            Operation::Responses => openai::responses(text, walked, false)?,
            Operation::Embeddings => openai::embeddings(text, walked)?,
            Operation::Messages => anthropic::messages(text, walked)?,
            Operation::Generate => gemini::generate(text, walked, &model, path.ends_with(":streamGenerateContent"))?,
            Operation::EmbedContent => gemini::embed(text, &model)?,
            Operation::Invoke => {
                bedrock::invoke(text, walked, &model, headers, path.ends_with("/invoke-with-response-stream"))?
            }
            Operation::Tool | Operation::Call => return Err(fixed::not_a_model_call()),
            Operation::Converse => bedrock::converse(text, walked, &model, path.ends_with("/converse-stream"))?,
        };
        // A deployment's name stands for the model, whatever the body says.
        shape.model = named.unwrap_or(shape.model);
        if provider == Provider::Google {
            shape.model = shape.model.strip_prefix("models/").map(str::to_owned).unwrap_or(shape.model);
        }
        shape.signed |= body::is_signed(headers);
        shape.grown = walked.grown;
        self.call(provider, operation, shape, decoded.bytes, decoded.encoded)
    }

    /// The same where the path may name the model and the way of the answer, and its query what of it is told.
    ///
    /// # Errors
    /// As [`Meter::read`], and a path that names no model where it must.
    pub fn read_at(
        &self,
        provider: Provider,
        operation: Operation,
        path: &str,
        headers: &http::HeaderMap,
        body: &Bytes,
    ) -> Result<Call, Refusal> {
        self.read_within(None, (provider, operation), path, headers, body)
    }

    fn call(
        &self,
        provider: Provider,
        operation: Operation,
        shape: Shape,
        body: Bytes,
        encoded: bool,
    ) -> Result<Call, Refusal> {
        if shape.model.len() > MAX_NAME {
            return Err(refuse_agent(
                Reason::AmbiguousRequest,
                format!("reads names of models of at most {MAX_NAME} bytes, and this one has {}.", shape.model.len()),
            ));
        }
        let book = self.book();
        let price = priced(&book, provider, operation, &shape)?;
        let model = Arc::from(shape.model.as_str());
        let (stream, price_book, length) = (shape.stream, book.id(), body.len());
        let call = Call { provider, operation, model, stream, price_book, body, length, encoded, price, shape, book };
        call.check()?;
        Ok(call)
    }
}

/// The price of the model that is named, if it is sold for this operation.
fn priced(book: &PriceBook, provider: Provider, operation: Operation, shape: &Shape) -> Result<Arc<Model>, Refusal> {
    let shown = shown(&shape.model, 64);
    if shape.model.is_empty() {
        return Err(refuse_agent(
            Reason::PriceUnknown,
            "refused this call because it names no model, so it has no price.".to_owned(),
        ));
    }
    match book.price(provider, &shape.model) {
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

/// What an agent wrote, as a sentence has it: printable, and `most` characters of it.
fn shown(text: &str, most: usize) -> String {
    text.chars().filter(char::is_ascii_graphic).take(most).collect()
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
    /// The body's length, which is known for longer than the body.
    length: usize,
    encoded: bool,
    price: Arc<Model>,
    shape: Shape,
    book: Arc<PriceBook>,
}

impl Call {
    /// The call, to this host.
    ///
    /// # Errors
    /// When the price does not hold there.
    pub fn at(self, host: &str) -> Result<Call, Refusal> {
        if self.price.is_sold_at(host) {
            return Ok(self);
        }
        let shown = shown(&self.model, 64);
        let sentence = format!(
            "knows no price of model {shown:?} at {host}: the price book ({}) has it for other places. Name a profile of a geography, or add a [[model]] with what it costs there to a copy of the price book, name the copy in `[prices] file`, and reload.",
            self.price_book
        );
        Err(refuse(Reason::PriceUnknown, sentence))
    }

    /// Lets the body go, which nobody reads once the call is edited: an answer may take long, and its call no memory meanwhile.
    pub fn leave_body(&mut self) {
        self.body = Bytes::new();
    }

    /// The first name of the price book's entry, which all its aliases share: for budgets by model, and for freezing.
    #[must_use]
    pub fn priced_as(&self) -> Arc<str> {
        Arc::clone(&self.price.name)
    }

    /// Reads the usage of the answer to the request that `edit` gave.
    #[must_use]
    pub fn reader(&self, edited: &Edited, status: http::StatusCode, headers: &http::HeaderMap) -> UsageReader {
        UsageReader::new(&self.shape, edited.strip_usage, status, headers)
    }

    /// What the provider bills for `usage` on the terms that the request asked for, rounded up once.
    /// Prefer [`Call::bill`], which goes by the terms that the answer reports.
    #[must_use]
    pub fn charge(&self, usage: &Usage) -> NanoUsd {
        self.charge_on(usage, &Terms::default(), &self.price)
    }

    /// What the provider bills for an answer, by the model, service tier, place and speed that it reports.
    /// `None` when it reported no usage: then the hold is the charge, unless [`Call::failed`] says that nothing is billed.
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

    /// Whether its price is a guess on the dear side.
    #[must_use]
    pub fn is_assumed(&self) -> bool {
        self.price.assumed
    }

    /// The hash of the entry that prices the call.
    #[must_use]
    pub fn price_entry(&self) -> Arc<str> {
        Arc::clone(&self.price.entry)
    }
}

#[cfg(test)]
mod tests;
