//! Takes a request body as it came; gives its decoded text, proven to be one JSON object with one reading.
//! Refuses unknown encodings, other charsets, bombs, malformed JSON, and an object with one key twice.

use super::{charset, refuse, refuse_agent};
use crate::http::room::{Full, Taken};
use crate::refusal::{Reason, Refusal};
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_ENCODING;
use serde::de::{DeserializeSeed, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt;
use std::io::Read;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfkc_quick};

/// Most JSON values in one body: bounds the memory of what is read from it.
const MAX_VALUES: u64 = 1_000_000;

/// Members at the top of a body that its bill depends on. Some servers (Go's `encoding/json`) take a key whatever its case, and
/// the last of two: another spelling of one would be a second reading.
const SPELLED: [&str; 13] = [
    "model",
    "models",
    "messages",
    "input",
    "tools",
    "stream",
    "stream_options",
    "n",
    "best_of",
    "max_tokens",
    "max_completion_tokens",
    "max_output_tokens",
    "service_tier",
];

/// Whether `key` is one of `names` to who does not look at its case, and is not that name.
pub(crate) fn is_respelled(key: &str, names: &[&str]) -> bool {
    // The long s and the sign for kelvin count as the letters that they stand for.
    let plain = key.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_');
    !plain && {
        let folded = key.to_lowercase().to_uppercase();
        names.iter().any(|name| *name != key && name.to_uppercase() == folded)
    }
}

/// Log2 of the largest zstd window that is decoded: 8 MiB, as RFC 9659 allows for HTTP.
pub(crate) const ZSTD_WINDOW_LOG: u32 = 23;

/// A decoded body.
pub(crate) struct Decoded {
    pub(crate) bytes: Bytes,
    /// It came compressed.
    pub(crate) encoded: bool,
}

/// What is decoded between two looks whether there is room for it, bytes.
const PIECE: u64 = 64 << 10;

/// Decodes gzip and zstd, at most `limit` bytes, into `room` if that has a bound.
pub(crate) fn decode(headers: &HeaderMap, body: &Bytes, limit: usize, room: Option<Taken>) -> Result<Decoded, Refusal> {
    charset::check(headers)?;
    let mut encodings = headers.get_all(CONTENT_ENCODING).iter();
    let encoding = encodings.next().map(|value| value.to_str().unwrap_or("?").trim().to_ascii_lowercase());
    if encodings.next().is_some() {
        return Err(unknown_encoding("more than one"));
    }
    let bytes = match encoding.as_deref() {
        None | Some("identity" | "") if body.len() > limit => return Err(too_large(limit)),
        None | Some("identity" | "") => {
            return Ok(Decoded { bytes: body.clone(), encoded: false });
        }
        Some("gzip" | "x-gzip") => bounded(flate2::read::MultiGzDecoder::new(body.as_ref()), limit, room)?,
        Some("zstd") => {
            let mut reader = zstd::stream::read::Decoder::with_buffer(body.as_ref()).map_err(|_| broken("zstd"))?;
            reader.window_log_max(ZSTD_WINDOW_LOG).map_err(|_| broken("zstd"))?;
            bounded(reader, limit, room)?
        }
        Some(other) => return Err(unknown_encoding(other)),
    };
    Ok(Decoded { bytes, encoded: true })
}

fn bounded(mut reader: impl Read, limit: usize, mut room: Option<Taken>) -> Result<Bytes, Refusal> {
    let mut out = Vec::new();
    loop {
        let read = reader.by_ref().take(PIECE).read_to_end(&mut out).map_err(|_| broken("compressed"))?;
        if out.len() > limit {
            return Err(too_large(limit));
        }
        if let Some(room) = &mut room {
            room.more(read).map_err(Full::refusal)?;
        }
        if read == 0 {
            return Ok(match room {
                Some(room) => room.keep(out),
                None => out.into(),
            });
        }
    }
}

fn unknown_encoding(name: &str) -> Refusal {
    let shown = super::shown(name, 32);
    refuse_agent(
        Reason::EncodingUnknown,
        format!("cannot read a request body with content-encoding {shown:?}. Send it plain, gzip or zstd."),
    )
}

fn broken(what: &str) -> Refusal {
    refuse_agent(Reason::AmbiguousRequest, format!("cannot decode the {what} request body. Send it whole, or plain."))
}

fn too_large(limit: usize) -> Refusal {
    refuse_agent(
        Reason::BodyTooLarge,
        format!("reads at most {} MiB of a paid call to price it, and this body is larger.", limit >> 20),
    )
}

/// What the walk over the whole document saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Walked {
    values: u64,
    /// A `cache_control` stands somewhere.
    pub(crate) cache_control: bool,
    /// A `cachePoint` stands somewhere.
    pub(crate) cache_point: bool,
    /// A `ttl` other than the short ones stands somewhere, or a `prompt_cache_retention`.
    pub(crate) long_cache: bool,
    /// Bytes by which the text may grow in a tokenizer that normalizes it.
    pub(crate) grown: u64,
}

/// Walks the body of a call, which is one object: of an array serde would read the members in their order.
pub(crate) fn walk_object(text: &str) -> Result<Walked, Refusal> {
    if text.trim_start().starts_with('{') {
        return walk(text);
    }
    let sentence = "cannot price a body that is not one JSON object.".to_owned();
    Err(refuse_agent(Reason::AmbiguousRequest, sentence))
}

/// Walks the whole text once.
pub(crate) fn walk(text: &str) -> Result<Walked, Refusal> {
    let mut walked = Walked::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let done = Value { walked: &mut walked, key: "", top: true }.deserialize(&mut json).and_then(|()| json.end());
    match done {
        Ok(()) => Ok(walked),
        Err(_) if walked.values > MAX_VALUES => Err(refuse(
            Reason::BodyTooLarge,
            format!("reads at most {MAX_VALUES} JSON values of a paid call to price it, and this body has more."),
        )),
        Err(error) => Err(refuse_agent(
            Reason::AmbiguousRequest,
            format!(
                "cannot price a body that is not JSON with one reading ({}, line {}, column {}).",
                cause(&error),
                error.line(),
                error.column()
            ),
        )),
    }
}

/// The cause without anything of the body in it.
fn cause(error: &serde_json::Error) -> &'static str {
    match error.classify() {
        serde_json::error::Category::Data => "a key stands twice in one object, or in two spellings",
        serde_json::error::Category::Eof => "it ends too early",
        _ => "malformed",
    }
}

struct Value<'w, 'k> {
    walked: &'w mut Walked,
    key: &'k str,
    /// It is the document.
    top: bool,
}

impl<'de> DeserializeSeed<'de> for Value<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        self.walked.values += 1;
        if self.walked.values > MAX_VALUES {
            return Err(D::Error::custom("too many values"));
        }
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Value<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        let long = match self.key {
            "ttl" => !matches!(text, "5m" | "30m"),
            "prompt_cache_retention" => text != "in_memory" && text != "in-memory",
            _ => false,
        };
        self.walked.long_cache |= long;
        self.walked.grown += growth(text);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        while items.next_element_seed(Value { walked: &mut *self.walked, key: "", top: false })?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let mut keys = Keys::default();
        while let Some(key) = members.next_key_seed(Key)? {
            self.walked.cache_control |= key == "cache_control";
            self.walked.cache_point |= key == "cachePoint";
            self.walked.grown += growth(&key);
            members.next_value_seed(Value { walked: &mut *self.walked, key: &key, top: false })?;
            if (self.top && is_respelled(&key, &SPELLED)) || !keys.insert(key) {
                return Err(A::Error::custom("duplicate key"));
            }
        }
        Ok(())
    }
}

/// Bytes that NFKC may add to `text` (Unicode Standard Annex 15): some tokenizers normalize before they count, and one character
/// becomes up to eighteen. Character by character: what is composed of several only shrinks. An escape in the JSON is longer
/// than its character, so what is added to the body's own bytes is never too little.
fn growth(text: &str) -> u64 {
    if text.is_ascii() {
        return 0;
    }
    let grown = |character: char| {
        let stays = character.is_ascii() || is_nfkc_quick(std::iter::once(character)) == IsNormalized::Yes;
        let normal = || std::iter::once(character).nfkc().map(char::len_utf8).sum::<usize>();
        if stays { 0 } else { normal().saturating_sub(character.len_utf8()) }
    };
    u64::try_from(text.chars().map(grown).sum::<usize>()).unwrap_or(u64::MAX)
}

/// The keys of one object: a list while they are few, a set beyond.
#[derive(Default)]
struct Keys<'de> {
    few: Vec<Cow<'de, str>>,
    many: HashSet<Cow<'de, str>>,
}

impl<'de> Keys<'de> {
    /// `false` when it stands there already. Compared after escapes are resolved.
    fn insert(&mut self, key: Cow<'de, str>) -> bool {
        if self.few.len() < 16 && self.many.is_empty() {
            let new = !self.few.contains(&key);
            self.few.push(key);
            return new;
        }
        self.many.extend(self.few.drain(..));
        self.many.insert(key)
    }
}

struct Key;

impl<'de> DeserializeSeed<'de> for Key {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Cow<'de, str>, D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Key {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_borrowed_str<E>(self, key: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(key))
    }

    fn visit_str<E>(self, key: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(key.to_owned()))
    }
}

/// The body as text.
pub(crate) fn text(body: &Bytes) -> Result<&str, Refusal> {
    std::str::from_utf8(body)
        .map_err(|_| refuse_agent(Reason::AmbiguousRequest, "cannot price a body that is not UTF-8.".to_owned()))
}

/// Whether a head of the request covers its body: AWS's signature, or a digest (RFC 9530, RFC 9421, RFC 1864).
pub(crate) fn is_signed(headers: &HeaderMap) -> bool {
    const HEADS: [&str; 5] = ["x-amz-content-sha256", "content-digest", "digest", "content-md5", "signature-input"];
    let aws = |value: &http::HeaderValue| value.as_bytes().starts_with(b"AWS4-");
    HEADS.into_iter().any(|name| headers.contains_key(name)) || headers.get_all("authorization").iter().any(aws)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn headers(encoding: &'static str) -> HeaderMap {
        HeaderMap::from_iter([(CONTENT_ENCODING, http::HeaderValue::from_static(encoding))])
    }

    fn gzip(data: &[u8]) -> std::io::Result<Bytes> {
        let mut writer = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        writer.write_all(data)?;
        writer.finish().map(Bytes::from)
    }

    #[test]
    fn an_array_is_no_call() {
        for text in ["[]\t", r#"["gpt-4o-mini",[]]"#, "1", "", "\u{feff}{}"] {
            assert_eq!(walk_object(text).map_err(|refusal| refusal.reason), Err(Reason::AmbiguousRequest), "{text}");
        }
        assert!(walk_object(" {} ").is_ok());
    }

    #[test]
    fn reads_gzip_and_zstd_and_nothing_else() -> std::io::Result<()> {
        let plain = Bytes::from_static(b"{\"a\":1}");
        for (encoding, body) in [
            ("gzip", gzip(&plain)?),
            ("zstd", zstd::encode_all(plain.as_ref(), 3)?.into()),
            ("identity", plain.clone()),
        ] {
            let decoded = decode(&headers(encoding), &body, 100, None).map(|decoded| decoded.bytes);
            assert_eq!(decoded, Ok(plain.clone()), "{encoding}");
        }
        for encoding in ["br", "deflate", "gzip, gzip", "x"] {
            let reason = decode(&headers(encoding), &plain, 100, None).map(|_| ()).map_err(|refusal| refusal.reason);
            assert_eq!(reason, Err(Reason::EncodingUnknown), "{encoding}");
        }
        let mut two = headers("gzip");
        two.append(CONTENT_ENCODING, http::HeaderValue::from_static("gzip"));
        assert_eq!(
            decode(&two, &plain, 100, None).map(|_| ()).map_err(|refusal| refusal.reason),
            Err(Reason::EncodingUnknown)
        );
        Ok(())
    }

    #[test]
    fn text_grows_by_what_its_normal_form_adds() {
        // U+FDFA: three bytes, and eighteen characters of 33 bytes in its compatibility form.
        for (text, grown) in [
            (r#"{"a":"plain","b":"h\u00e9llo \uac00 \uff0c"}"#, 0),
            ("{\"a\":\"\u{fdfa}\"}", 30),
            (r#"{"a":["\ufdfa","\ufdfa"]}"#, 60),
            ("{\"\u{fdfa}\":1}", 30),
        ] {
            assert_eq!(walk(text).map(|walked| walked.grown), Ok(grown), "{text}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_normal_form_is_longer_than_text_and_growth(text in "\\PC*") {
            let most = text.len() as u64 + growth(&text);
            let forms = [text.nfkc().collect::<String>(), text.nfc().collect()];
            for form in forms {
                proptest::prop_assert!(form.len() as u64 <= most, "{form:?}");
            }
        }
    }

    #[test]
    fn a_bomb_is_refused_at_the_limit() -> std::io::Result<()> {
        let zeros = vec![b' '; 8 << 20];
        for (encoding, body) in [
            ("gzip", gzip(&zeros)?),
            ("zstd", zstd::encode_all(zeros.as_slice(), 3)?.into()),
            ("identity", zeros.clone().into()),
        ] {
            let reason = decode(&headers(encoding), &body, 1 << 20, None).map(|_| ()).map_err(|refusal| refusal.reason);
            assert_eq!(reason, Err(Reason::BodyTooLarge), "{encoding}");
        }
        let cut = gzip(&zeros)?;
        let reason = decode(&headers("gzip"), &cut.slice(..cut.len() / 2), 16 << 20, None)
            .map(|_| ())
            .map_err(|refusal| refusal.reason);
        assert_eq!(reason, Err(Reason::AmbiguousRequest));
        Ok(())
    }

    #[test]
    fn a_key_twice_is_refused_anywhere() {
        let many: String = (0..40).map(|n| format!("\"k{n}\":0,")).collect();
        for text in [
            r#"{"model":"a","model":"b"}"#.to_owned(),
            r#"{"model":"a","mod\u0065l":"b"}"#.to_owned(),
            r#"{"a":[{"b":{"max_tokens":1,"max_tokens":2}}]}"#.to_owned(),
            format!("{{{many}\"k3\":1}}"),
            format!("{{{many}\"k39\":1}}"),
        ] {
            assert_eq!(walk(&text).map_err(|refusal| refusal.reason), Err(Reason::AmbiguousRequest), "{text}");
        }
        assert!(walk(&format!("{{{many}\"k\":1}}")).is_ok());
        for text in [
            r#"{"model":"a","Model":"b"}"#,
            r#"{"MAX_TOKENS":9}"#,
            r#"{"max_to\u212aens":9}"#,
            "{\"me\u{17f}\u{17f}ages\":[]}",
        ] {
            assert_eq!(walk(text).map_err(|refusal| refusal.reason), Err(Reason::AmbiguousRequest), "{text}");
        }
        assert!(
            walk(r#"{"model":"a","metadata":{"Model":1,"ID":2,"id":3},"maxTokens":1,"generationConfig":{}}"#).is_ok()
        );
        assert!(walk(r#"{"a":{"x":1},"b":{"x":1}}"#).is_ok());
    }

    #[test]
    fn what_is_not_json_is_refused() {
        let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
        for text in [
            "",
            "{",
            "{}{}",
            "{\"a\":01}",
            "{'a':1}",
            "\u{feff}{}",
            "{\"a\":NaN}",
            "{\"a\":1,}",
            "{} x",
            "/**/{}",
            "{\"a\":\"\\ud800\"}",
            &deep,
        ] {
            assert!(walk(text).is_err(), "{text}");
        }
    }

    #[test]
    fn too_many_values_are_refused() {
        let text = format!("[{}0]", "0,".repeat(1_000_001));
        assert_eq!(walk(&text).map_err(|refusal| refusal.reason), Err(Reason::BodyTooLarge));
    }

    #[test]
    fn sees_caching() {
        let seen = |text: &str| walk(text).map(|walked| (walked.cache_control, walked.long_cache));
        assert_eq!(seen(r#"{"a":[{"cache_control":{"type":"ephemeral"}}]}"#), Ok((true, false)));
        assert_eq!(seen(r#"{"cache_control":{"type":"ephemeral","ttl":"1h"}}"#), Ok((true, true)));
        assert_eq!(seen(r#"{"prompt_cache_options":{"ttl":"12h"}}"#), Ok((false, true)));
        assert_eq!(seen(r#"{"prompt_cache_retention":"24h"}"#), Ok((false, true)));
        assert_eq!(seen(r#"{"prompt_cache_options":{"ttl":"30m"}}"#), Ok((false, false)));
    }
}
