//! Takes a [`Draft`]; gives the exact bytes of its record, but for the place that the journal assigns.
//!
//! The chain fields stand first at a fixed offset, so that the writer thread only copies; all else is made, and the
//! detail sealed, on the caller's thread. Long free text is cut; budget windows never are, since money hangs on them.

mod json;
mod members;
mod place;
#[cfg(test)]
pub(crate) mod tests;

pub(crate) use json::{string, time};
pub use place::read_place;
pub(crate) use place::{PLACE_BYTES, event_id, has_place, place, plain_length, read_schema};

use super::seal::{DetailKeys, SealError};
use super::{Detail, Draft, Hash, Kind};
use base64::Engine as _;
use place::id_in;
use rand::RngCore as _;
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;

/// The longest record, bytes: the length prefix of a C2SP entry bundle has 16 bits.
pub const MAX_RECORD_BYTES: usize = 65_535;
/// The version that `caracalschema` carries. 2 added the terms that a call was served on, 3 corrections: who does not know
/// them would sum wrongly. Older ones are read for ever.
pub const SCHEMA: u8 = 3;

const MAX_SEALED_BYTES: usize = MAX_RECORD_BYTES - PLACE_BYTES;

// Room of one field's escaped text, bytes. All of them together stay below MAX_RECORD_BYTES.
const ROOM_NAME: usize = 256;
const ROOM_TEXT: usize = 4_096;
const ROOM_LIST: usize = 8_192;
const ROOM_WINDOWS: usize = 24_576;

/// A record that only waits for its sequence number and the hash of the record before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sealed(Vec<u8>);

impl Sealed {
    /// Length of the whole record, bytes.
    #[must_use]
    pub fn record_len(&self) -> usize {
        PLACE_BYTES + self.0.len()
    }

    /// How many equal events the record stands for. For a record that was sealed without a count, once.
    pub(crate) fn set_count(&mut self, count: u64) {
        if count > 1 && self.0.ends_with(b"}}") {
            self.0.truncate(self.0.len() - 2);
            // What is counted has a decision at least, so a comma is right.
            let _ = write!(self.0, ",\"caracal.count\":{count}}}}}");
        }
    }

    /// The record's id.
    pub(crate) fn id(&self) -> Option<&str> {
        id_in(&self.0)
    }

    /// Whether it is of this kind.
    pub(crate) fn is(&self, kind: Kind) -> bool {
        let rest = self.0.strip_prefix(br#""type":""#).and_then(|rest| rest.strip_prefix(kind.code().as_bytes()));
        rest.is_some_and(|rest| rest.starts_with(b"\""))
    }

    /// The record without its place.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    /// What [`Sealed::bytes`] gave.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Option<Sealed> {
        (bytes.len() <= MAX_SEALED_BYTES && id_in(&bytes).is_some() && bytes.ends_with(b"}}")).then_some(Sealed(bytes))
    }

    /// Appends the record's bytes to `out`.
    pub fn place(&self, sequence: u64, prev: &Hash, out: &mut Vec<u8>) {
        place(SCHEMA, sequence, prev, out);
        out.extend_from_slice(&self.0);
    }
}

/// Makes records for one host. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Scribe {
    source: Arc<str>,
    keys: Arc<DetailKeys>,
}

impl Scribe {
    /// A scribe of the host `host_id`, with detail keys in the directory `keys`, which is made if need be.
    ///
    /// # Errors
    /// When the directory cannot be made, or others than its owner may read it.
    pub fn open(host_id: &str, keys: &Path) -> Result<Scribe, SealError> {
        Ok(Scribe { source: source(host_id).into(), keys: Arc::new(DetailKeys::open(keys)?) })
    }

    /// The CloudEvents `source` of this host's records.
    #[must_use]
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The keys of the sealed details.
    #[must_use]
    pub fn keys(&self) -> &Arc<DetailKeys> {
        &self.keys
    }

    /// Makes all of the record that does not depend on its place.
    ///
    /// # Errors
    /// When the detail cannot be sealed, or the windows of a hold are longer than a record can carry.
    pub fn seal(&self, draft: &Draft) -> Result<Sealed, SealError> {
        // An outcome with one budget has 1.3 KB.
        let mut out = Vec::with_capacity(1_792);
        let id = new_id(draft);
        let mut id_text = [0u8; uuid::fmt::Hyphenated::LENGTH];
        let id_text: &str = id.hyphenated().encode_lower(&mut id_text);
        out.extend_from_slice(br#""type":""#);
        out.extend_from_slice(draft.kind.code().as_bytes());
        out.extend_from_slice(br#"","id":""#);
        out.extend_from_slice(id_text.as_bytes());
        out.extend_from_slice(br#"","source":"#);
        string(&mut out, &self.source, ROOM_NAME);
        out.extend_from_slice(br#","time":""#);
        time(&mut out, draft.at.0);
        out.extend_from_slice(br#"","datacontenttype":"application/json""#);
        if draft.detail != Detail::default() {
            let subject = draft.data.agent.as_deref().unwrap_or(super::seal::HOST_SUBJECT);
            let sealed = self.keys.seal(subject, id_text.as_bytes(), &members::detail(&draft.detail))?;
            out.extend_from_slice(br#","caracalsubject":"#);
            string(&mut out, subject, ROOM_NAME);
            out.extend_from_slice(br#","caracaldetail":""#);
            out.extend_from_slice(base64::engine::general_purpose::STANDARD.encode(sealed).as_bytes());
            out.push(b'"');
        }
        out.extend_from_slice(br#","data":{"#);
        members::data(&mut out, &draft.data)?;
        out.extend_from_slice(b"}}");
        if out.len() > MAX_SEALED_BYTES {
            return Err(SealError::TooLong(out.len()));
        }
        Ok(Sealed(out))
    }
}

/// The CloudEvents `source` of a host's records.
#[must_use]
pub fn source(host_id: &str) -> String {
    format!("/caracal/{host_id}")
}

/// A UUIDv7 (RFC 9562) of the event's time and ten random bytes.
fn new_id(draft: &Draft) -> uuid::Uuid {
    let mut random = [0u8; 10];
    rand::rng().fill_bytes(&mut random);
    uuid::Builder::from_unix_timestamp_millis(draft.at.0 / 1_000_000, &random).into_uuid()
}
