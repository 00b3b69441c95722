//! Paid calls: the request as the agent wrote it, the answer as the provider sent it.

use super::choice;
use crate::meter::{Edited, Meter, Operation, PriceBook, Provider, Reading};
use crate::money::NanoUsd;
use bytes::Bytes;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http::{HeaderMap, HeaderValue, StatusCode};
use std::io::Write as _;
use std::sync::LazyLock;

const CALLS: [(Provider, Operation); 4] = [
    (Provider::OpenAi, Operation::Chat),
    (Provider::OpenAi, Operation::Responses),
    (Provider::OpenAi, Operation::Embeddings),
    (Provider::Anthropic, Operation::Messages),
];

static METER: LazyLock<Meter> =
    LazyLock::new(|| Meter::new(PriceBook::built_in().expect("the built-in prices"), []).with_body_limit(1 << 20));

fn encoded(name: &'static str) -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_ENCODING, HeaderValue::from_static(name))])
}

/// A request to a paid surface. What goes upstream is one JSON object, and costs at most what was granted.
pub fn paid_request(bytes: &[u8]) {
    let (how, bytes) = choice(bytes);
    let (provider, operation) = CALLS[how & 3];
    let headers = match (how >> 2) & 3 {
        2 => encoded("gzip"),
        3 => encoded("zstd"),
        _ => HeaderMap::new(),
    };
    let Ok(call) = METER.read(provider, operation, &headers, &Bytes::copy_from_slice(bytes)) else { return };
    let (most, least) = (call.most(), call.least(1));
    assert!(least <= most, "{least} > {most}");
    let middle = NanoUsd(least.0 + (most.0 - least.0) / 2);
    for granted in [NanoUsd::MAX, most, middle, least, NanoUsd(0)] {
        let Ok(edited) = call.edit(granted) else {
            assert!(granted < least, "{granted} was granted, and {least} is enough");
            continue;
        };
        assert!(edited.hold <= granted.min(most));
        again(&edited, provider, operation, bytes);
    }
}

/// What was edited reads as the same call under the cap that was written.
fn again(edited: &Edited, provider: Provider, operation: Operation, before: &[u8]) {
    let Some(body) = &edited.body else { return };
    let value: serde_json::Value = serde_json::from_slice(body).expect("JSON");
    assert!(value.is_object());
    let call = METER.read(provider, operation, &HeaderMap::new(), body).expect("the edited call is a call");
    if let Ok(text) = std::str::from_utf8(before)
        && let Ok(was) = serde_json::from_str::<serde_json::Value>(text)
    {
        assert_eq!((&was["model"], &was["stream"]), (&value["model"], &value["stream"]));
    }
    let second = call.edit(NanoUsd::MAX).expect("a call");
    assert_eq!(second.max_tokens.or(edited.max_tokens), edited.max_tokens, "the cap that was written is the one read");
}

fn compress(encoding: usize, bytes: &[u8]) -> (&'static str, Vec<u8>) {
    match encoding {
        0 => {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
            gzip.write_all(bytes).expect("in memory");
            ("gzip", gzip.finish().expect("in memory"))
        }
        1 => {
            let mut zlib = flate2::write::ZlibEncoder::new(Vec::new(), flate2::Compression::fast());
            zlib.write_all(bytes).expect("in memory");
            ("deflate", zlib.finish().expect("in memory"))
        }
        2 => ("zstd", zstd::encode_all(bytes, 1).expect("in memory")),
        _ => {
            let mut out = Vec::new();
            let parameters = brotli::enc::BrotliEncoderParams { quality: 1, ..Default::default() };
            brotli::BrotliCompress(&mut &*bytes, &mut out, &parameters).expect("in memory");
            ("br", out)
        }
    }
}

/// Which answer: to which call, of which type, under which status.
#[derive(Clone, Copy, Debug)]
struct Kind {
    operation: usize,
    stream: bool,
    strip: bool,
    failed: bool,
}

/// Reads an answer in pieces; gives what the agent gets and what was read.
fn read(kind: Kind, encoding: &'static str, bytes: &[u8], piece: usize) -> (Vec<u8>, Reading) {
    static BODIES: [&str; 4] = [
        r#"{"model":"gpt-5","messages":[],"stream":true}"#,
        r#"{"model":"gpt-5","input":"x","max_output_tokens":9}"#,
        r#"{"model":"text-embedding-3-small","input":"x"}"#,
        r#"{"model":"claude-haiku-4-5","max_tokens":9,"messages":[]}"#,
    ];
    let (provider, operation) = CALLS[kind.operation];
    let body = Bytes::from_static(BODIES[kind.operation].as_bytes());
    let call = METER.read(provider, operation, &HeaderMap::new(), &body).expect("a call");
    let mut edited = call.edit(NanoUsd::MAX).expect("a call");
    edited.strip_usage = kind.strip;
    let mut headers = encoded(encoding);
    let kind_of = if kind.stream { "text/event-stream" } else { "application/json" };
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind_of));
    let status = if kind.failed { StatusCode::TOO_MANY_REQUESTS } else { StatusCode::OK };
    let mut reader = call.reader(&edited, status, &headers);
    let mut given = Vec::new();
    for part in bytes.chunks(piece.max(1)) {
        given.extend_from_slice(&reader.feed(Bytes::copy_from_slice(part)));
    }
    given.extend_from_slice(&reader.flush());
    let reading = reader.finish();
    let bill = call.bill(&reading);
    assert_eq!(bill.is_some(), reading.usage.is_some());
    (given, reading)
}

/// An answer of a provider. Cut into other pieces or compressed it reads the same, and the agent gets every byte.
pub fn usage_answer(bytes: &[u8]) {
    let (how, bytes) = choice(bytes);
    let (piece, bytes) = choice(bytes);
    let kind = Kind { operation: how & 3, stream: how & 4 != 0, strip: how & 8 != 0, failed: how & 16 != 0 };
    let (given, reading) = read(kind, "identity", bytes, usize::MAX);
    if !(kind.strip && kind.stream) {
        assert_eq!(given, bytes);
    }
    assert_eq!((given, reading.clone()), read(kind, "identity", bytes, piece), "it depends on the segments");
    let plain = Kind { strip: false, ..kind };
    let (name, packed) = compress(how >> 5 & 3, bytes);
    let (same, unpacked) = read(plain, name, &packed, piece);
    assert_eq!(same, packed);
    assert_eq!(unpacked, reading, "{name}");
    // And as if the bytes were compressed already.
    let (same, _) = read(plain, name, bytes, piece);
    assert_eq!(same, bytes);
}
