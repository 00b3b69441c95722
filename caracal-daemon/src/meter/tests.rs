//! The meter as a whole: shapes, bounds, clamps, usage and charges. Amounts are worked out by hand in the comments.

use super::*;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use proptest::prelude::*;
use serde_json::{Value, json};
use std::io::Write;

mod answers;
mod attacks;
mod clamps;
mod failures;
mod issues;
mod providers;
mod regions;
mod running;
mod settled;
mod shapes;
mod sound;

pub(crate) type Outcome = Result<(), Box<dyn std::error::Error>>;

pub(crate) fn meter() -> Result<Meter, BookError> {
    Ok(Meter::new(PriceBook::built_in()?, []))
}

/// The book is read once: it has some hundred entries.
static METER: std::sync::LazyLock<Meter> = std::sync::LazyLock::new(|| meter().expect("the built-in prices"));

pub(crate) fn read(operation: Operation, body: &str) -> Result<Call, Refusal> {
    let provider = if operation == Operation::Messages { Provider::Anthropic } else { Provider::OpenAi };
    METER.read(provider, operation, &HeaderMap::new(), &Bytes::copy_from_slice(body.as_bytes()))
}

pub(crate) fn reason(operation: Operation, body: &str) -> Option<Reason> {
    read(operation, body).err().map(|refusal| refusal.reason)
}

pub(crate) fn text_of(edited: &Edited) -> &str {
    edited.body.as_deref().and_then(|body| std::str::from_utf8(body).ok()).unwrap_or("")
}

#[test]
fn a_compressed_body_that_is_edited_goes_decoded() -> Outcome {
    let body = br#"{"model":"gpt-5","stream":true,"messages":[]}"#;
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(body)?;
    let headers = HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static("gzip"))]);
    let call = meter()?.read(Provider::OpenAi, Operation::Chat, &headers, &gzip.finish()?.into())?;
    let edited = call.edit(NanoUsd::MAX)?;
    assert_eq!(edited.edits, ["include_usage", "body_decoded"]);
    assert_eq!(
        text_of(&edited),
        r#"{"stream_options":{"include_usage":true},"model":"gpt-5","stream":true,"messages":[]}"#
    );
    Ok(())
}

#[test]
fn an_unknown_model_is_refused_with_a_way_out() -> Outcome {
    let refusal = read(Operation::Chat, r#"{"model":"gpt-99","messages":[]}"#).err().ok_or("priced")?;
    assert_eq!((refusal.reason, refusal.stage), (Reason::PriceUnknown, Stage::Meter));
    for part in ["Caracal ", "gpt-99", "[[model]]", "[prices] file", "2026-11-30@"] {
        assert!(refusal.sentence.contains(part), "{part}: {}", refusal.sentence);
    }
    assert_eq!(reason(Operation::Chat, r#"{"messages":[]}"#), Some(Reason::PriceUnknown));
    assert_eq!(reason(Operation::Chat, r#"{"model":null}"#), Some(Reason::PriceUnknown));
    assert_eq!(reason(Operation::Chat, r#"{"model":7}"#), Some(Reason::AmbiguousRequest));
    assert_eq!(reason(Operation::Chat, r#"{"model":"GPT-5"}"#), Some(Reason::PriceUnknown));
    assert_eq!(
        reason(Operation::Chat, r#"{"model":"gpt-5.5-pro"}"#),
        Some(Reason::PriceUnknown),
        "sold for responses only"
    );
    assert_eq!(reason(Operation::Embeddings, r#"{"model":"gpt-5","input":"x"}"#), Some(Reason::PriceUnknown));
    Ok(())
}

#[test]
fn another_book_prices_from_then_on() -> Outcome {
    let meter = meter()?;
    let book = PriceBook::parse(
        "version='mine'\n[[model]]\nprovider='openai'\nnames=['own']\noperations=['chat']\nsource='x'\nassumed=true\nmax_input=10\nmax_output=10\nrates=[{tier='standard',input='1',output='1'}]\n",
    )?;
    let body = Bytes::from_static(br#"{"model":"own"}"#);
    assert!(meter.read(Provider::OpenAi, Operation::Chat, &HeaderMap::new(), &body).is_err());
    meter.replace(book);
    let call = meter.read(Provider::OpenAi, Operation::Chat, &HeaderMap::new(), &body)?;
    assert!(call.price_book.starts_with("mine@") && call.price.assumed);
    // 10 input tokens (the model's most) and 10 output tokens at $1 per million.
    assert_eq!(call.most(), NanoUsd(20_000));
    Ok(())
}

#[test]
fn aliases_share_one_entry() -> Outcome {
    let alias = read(Operation::Messages, r#"{"model":"claude-haiku-4-5-20251001","max_tokens":9,"messages":[]}"#)?;
    assert_eq!((alias.model.as_ref(), alias.priced_as().as_ref()), ("claude-haiku-4-5-20251001", "claude-haiku-4-5"));
    Ok(())
}
