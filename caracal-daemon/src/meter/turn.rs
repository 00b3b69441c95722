//! Responses over a WebSocket: each `response.create` of the agent's is a paid call, and goes on from a response before it
//! whose input is not in the message. Takes messages of either side; gives calls, and what an answer's message ends.
//! Source: <https://platform.openai.com/docs/guides/websocket-mode>.
//!
//! What a chain has so far is bounded by what was seen of it: the input that its last response was held for, and the tokens
//! that this answered with, or could. A response that this socket has not seen counts as the model's longest input.

use super::body::{decode, text, walk_object};
use super::usage::UsageReader;
use super::{Call, Meter, Operation, Provider, openai, refuse_agent};
use crate::event::Usage;
use crate::refusal::{Reason, Refusal};
use bytes::Bytes;
use http::HeaderMap;
use serde::Deserialize;
use std::borrow::Cow;
use std::collections::VecDeque;

/// Responses of one socket that are remembered.
const MOST_RESPONSES: usize = 64;

/// What was seen of the responses of one socket: their ids, and the tokens that a call has which goes on from them, at most.
#[derive(Debug, Default)]
pub struct Chain(VecDeque<(String, u64)>);

impl Chain {
    /// The response to `call` has ended, of at most `cap` output tokens, and with `usage` if that was told.
    pub fn add(&mut self, id: String, call: &Call, cap: Option<u64>, usage: Option<&Usage>) {
        let cap = cap.unwrap_or_else(|| call.ceiling());
        let output = usage.map_or(cap, |usage| usage.output);
        // What a search found goes on with the chain, and was not seen.
        let found = if call.max_searches() > 0 { u64::MAX } else { 0 };
        self.0.push_back((id, call.first_pass().saturating_add(output).saturating_add(found)));
        if self.0.len() > MOST_RESPONSES {
            self.0.pop_front();
        }
    }

    fn tokens(&self, id: &str) -> Option<u64> {
        self.0.iter().rev().find(|(known, _)| known == id).map(|(_, tokens)| *tokens)
    }
}

impl Meter {
    /// Reads a message of the agent's: a paid call.
    ///
    /// # Errors
    /// As [`Meter::read`], and every other type of message. What costs nothing is refused too: the provider's answer to it
    /// could be taken for the answer to a call.
    pub fn message(&self, provider: Provider, chain: &Chain, message: &Bytes) -> Result<Call, Refusal> {
        let decoded = decode(&HeaderMap::new(), message, self.body_limit, None)?;
        let text = text(&decoded.bytes)?;
        let walked = walk_object(text)?;
        let (kind, previous) = openai::turn(text)?;
        if kind != "response.create" {
            let shown = super::shown(&kind, 48);
            return Err(refuse_agent(
                Reason::WebsocketUnmetered,
                format!("does not pass a message of type {shown:?} on: only response.create is metered."),
            ));
        }
        let mut shape = openai::responses(text, walked, true)?;
        shape.stream = true;
        shape.grown = walked.grown;
        if let Some(previous) = previous {
            match chain.tokens(&previous) {
                Some(tokens) => shape.earlier = tokens,
                None => shape.whole_context = true,
            }
        }
        self.call(provider, Operation::Responses, shape, decoded.bytes, false)
    }
}

impl Call {
    /// Reads the usage of an answer that comes in messages, each of which is fed whole.
    #[must_use]
    pub fn reader_of_messages(&self) -> UsageReader {
        UsageReader::of_messages(&self.shape)
    }
}

/// The answer to the open call, as far as it is known: its response's id. What comes before that is told, or with another
/// one, is no part of it.
#[derive(Debug, Default)]
pub struct Answer(Option<String>);

/// What a text of the provider's is to the open call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard {
    /// It goes on.
    More,
    /// It has ended; the response's id.
    Ended(String),
    /// The provider refused it.
    Refused,
    /// Something failed in the middle of it. Its end may still come.
    Failed,
    /// It cannot follow what came before: from here on nothing of this socket is certain.
    Stray,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(default, borrow, rename = "type")]
    kind: Cow<'a, str>,
    #[serde(default, borrow)]
    response: Option<Response<'a>>,
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(default, borrow)]
    id: Option<Cow<'a, str>>,
}

impl Answer {
    /// Takes the next text of the provider's.
    pub fn hear(&mut self, text: &[u8]) -> Heard {
        let Ok(event) = serde_json::from_slice::<Event<'_>>(text) else { return Heard::Stray };
        let id = event.response.and_then(|response| response.id).filter(|id| !id.is_empty());
        let mine = self.0.as_deref();
        match (&*event.kind, id) {
            ("error", _) if mine.is_some() => Heard::Failed,
            ("error", _) => Heard::Refused,
            ("response.created", Some(id)) if mine.is_none() => {
                self.0 = Some(id.into_owned());
                Heard::More
            }
            ("response.created", _) => Heard::Stray,
            ("response.completed" | "response.incomplete" | "response.failed" | "response.cancelled", id) => match id {
                Some(id) if mine == Some(&*id) => Heard::Ended(id.into_owned()),
                _ => Heard::Stray,
            },
            (kind, id) if kind.starts_with("response.") => {
                let mine = mine.is_some_and(|mine| id.is_none_or(|id| id == mine));
                if mine { Heard::More } else { Heard::Stray }
            }
            _ => Heard::More,
        }
    }
}

/// Whether a text of the provider's, while no call is open, is a part of a response: nobody would be charged for it.
#[must_use]
pub fn is_stray(text: &[u8]) -> bool {
    serde_json::from_slice::<Event<'_>>(text).map_or(true, |event| event.kind.starts_with("response."))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::PriceBook;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    fn create(more: &str) -> Bytes {
        format!(
            r#"{{"type":"response.create","model":"gpt-5-mini","max_output_tokens":100,"input":"{}"{more}}}"#,
            "x".repeat(1_000)
        )
        .into()
    }

    fn call(meter: &Meter, chain: &Chain, message: &Bytes) -> Result<Call, Refusal> {
        meter.message(Provider::OpenAi, chain, message)
    }

    #[test]
    fn a_chain_is_held_for_all_that_was_seen_of_it() -> Outcome {
        let (meter, mut chain) = (Meter::new(PriceBook::built_in()?, []), Chain::default());
        let first = call(&meter, &chain, &create(""))?;
        let own = first.first_pass();
        chain.add("r1".to_owned(), &first, Some(100), None);
        let second = call(&meter, &chain, &create(r#","previous_response_id":"r1""#))?;
        // The message is longer by the member.
        assert_eq!(second.first_pass(), own + 28 + own + 100);
        let usage = Usage { output: 7, ..Usage::default() };
        chain.add("r2".to_owned(), &second, Some(100), Some(&usage));
        let third = call(&meter, &chain, &create(r#","previous_response_id":"r2""#))?;
        assert_eq!(third.first_pass(), own + 28 + second.first_pass() + 7);
        let unknown = call(&meter, &chain, &create(r#","previous_response_id":"other""#))?;
        assert!(unknown.first_pass() >= 200_000, "the longest input: {}", unknown.first_pass());
        for n in 0..MOST_RESPONSES {
            chain.add(format!("later{n}"), &first, None, None);
        }
        assert_eq!(chain.tokens("r1"), None, "only so many are remembered");
        Ok(())
    }

    #[test]
    fn other_messages_are_refused_by_type() -> Outcome {
        let (meter, chain) = (Meter::new(PriceBook::built_in()?, []), Chain::default());
        let read = |text: &str| meter.message(Provider::OpenAi, &chain, &Bytes::copy_from_slice(text.as_bytes()));
        for text in [
            r#"{"type":"response.cancel"}"#,
            r#"{"type":"session.update"}"#,
            r#"{"type":"response.create\u0000"}"#,
            "{}",
            r#"{"type":null}"#,
        ] {
            let refusal = read(text).err().ok_or("passed")?;
            assert_eq!(refusal.reason, Reason::WebsocketUnmetered, "{text}");
        }
        for text in ["", "[]", r#"{"type":"response.create","type":"response.cancel"}"#, r#"{"type":7}"#] {
            assert!(read(text).is_err(), "{text}");
        }
        let stored = read(r#"{"type":"response.create","model":"gpt-5-mini","input":"x","conversation":"c"}"#);
        assert_eq!(stored.err().ok_or("passed")?.reason, Reason::Unbounded);
        Ok(())
    }

    #[test]
    fn an_answer_in_messages_is_read_to_its_end() -> Outcome {
        let meter = Meter::new(PriceBook::built_in()?, []);
        let call = call(&meter, &Chain::default(), &create(""))?;
        let mut reader = call.reader_of_messages();
        let mut answer = Answer::default();
        let last =
            r#"{"type":"response.completed","response":{"id":"r1","usage":{"input_tokens":10,"output_tokens":5}}}"#;
        for message in [r#"{"type":"response.created","response":{"id":"r1","usage":null}}"#, "{\n}", last] {
            assert_eq!(answer.hear(message.as_bytes()) == Heard::Ended("r1".to_owned()), message == last);
            reader.feed(Bytes::copy_from_slice(message.as_bytes()));
        }
        let usage = reader.finish().usage.ok_or("a usage")?;
        assert_eq!((usage.input, usage.output), (10, 5));
        Ok(())
    }

    #[test]
    fn only_its_own_end_ends_a_call() {
        let created = |id: &str| format!(r#"{{"type":"response.created","response":{{"id":"{id}"}}}}"#);
        let completed =
            |id: &str| format!(r#"{{"type":"response.completed","response":{{"id":"{id}","usage":{{}}}}}}"#);
        let error = r#"{"type":"error","status":400,"error":{"message":"no"}}"#.to_owned();
        let delta = r#"{"type":"response.output_text.delta","delta":"x"}"#.to_owned();
        let ended = Heard::Ended("a".to_owned());
        for (texts, last) in [
            (vec![created("a"), delta.clone(), completed("a")], ended.clone()),
            (vec![created("a"), r#"{"type":"codex.rate_limits"}"#.to_owned(), completed("a")], ended.clone()),
            (vec![error.clone()], Heard::Refused),
            // A failure in the middle is no end: the answer may go on, and its own end settles it.
            (vec![created("a"), error.clone()], Heard::Failed),
            (vec![created("a"), error, delta.clone(), completed("a")], ended),
            // The end of another one, or of none; what comes before the answer has begun; a second one.
            (vec![created("a"), completed("b")], Heard::Stray),
            (vec![created("a"), completed("")], Heard::Stray),
            (vec![completed("a")], Heard::Stray),
            (vec![delta], Heard::Stray),
            (vec![created("")], Heard::Stray),
            (vec![created("a"), created("b")], Heard::Stray),
            (vec![created("a"), r#"{"type":"response.in_progress","response":{"id":"b"}}"#.to_owned()], Heard::Stray),
            // Two readings, and none.
            (vec![created("a"), r#"{"type":"x","type":"response.completed"}"#.to_owned()], Heard::Stray),
            (vec![created("a"), "word".to_owned()], Heard::Stray),
        ] {
            let mut answer = Answer::default();
            let heard = texts.iter().map(|text| answer.hear(text.as_bytes())).last();
            assert_eq!(heard, Some(last), "{texts:?}");
        }
        assert!(is_stray(completed("a").as_bytes()) && is_stray(b"word"));
        assert!(!is_stray(br#"{"type":"error"}"#) && !is_stray(br#"{"type":"codex.rate_limits"}"#));
    }
}
