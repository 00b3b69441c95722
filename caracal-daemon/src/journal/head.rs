//! The signed head of the host's chain, kept beside the segments. It says up to where the journal was durable, so
//! that a tail that is missing later is an incident and not a torn write.

use super::{JournalError, beside};
use crate::event::Hash;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use std::path::Path;

const NAME: &str = "head";
const MAGIC: &str = "caracal-head/1";

/// A signed chain head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedHead {
    /// Sequence number of the record.
    pub sequence: u64,
    /// Its leaf hash.
    pub leaf: Hash,
    /// The host key's signature over [`signed_bytes`]: ECDSA P-256 with SHA-256, ASN.1 DER.
    pub signature: Vec<u8>,
}

/// The bytes that the host key signs for a chain head.
#[must_use]
pub fn signed_bytes(host_id: &str, sequence: u64, leaf: &Hash) -> Vec<u8> {
    format!("caracal chain head v1\n{host_id}\n{sequence}\n{}\n", hex::encode(leaf)).into_bytes()
}

/// Replaces the head in `dir`; it is durable when this returns.
///
/// # Errors
/// When it cannot be written.
pub fn store(dir: &Path, head: &SignedHead) -> std::io::Result<()> {
    let text =
        format!("{MAGIC}\n{}\n{}\n{}\n", head.sequence, hex::encode(head.leaf), STANDARD.encode(&head.signature));
    beside::replace(dir, NAME, &text)
}

/// Reads the head in `dir`, if there is one. Its signature is not checked here.
///
/// # Errors
/// When it is there and cannot be read.
pub fn load(dir: &Path) -> Result<Option<SignedHead>, JournalError> {
    let path = dir.join(NAME);
    let Some(text) = beside::read(&path)? else { return Ok(None) };
    parse(&text).map(Some).ok_or_else(|| {
        JournalError::Corrupt(format!("{} is not a chain head; run `caracald ledger verify`", path.display()))
    })
}

fn parse(text: &str) -> Option<SignedHead> {
    let mut lines = text.strip_suffix('\n')?.split('\n');
    if lines.next()? != MAGIC {
        return None;
    }
    let sequence = lines.next()?.parse().ok()?;
    let mut leaf = [0u8; 32];
    hex::decode_to_slice(lines.next()?, &mut leaf).ok()?;
    let signature = STANDARD.decode(lines.next()?).ok()?;
    lines.next().is_none().then_some(SignedHead { sequence, leaf, signature })
}
