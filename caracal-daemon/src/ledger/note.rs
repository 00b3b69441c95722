//! C2SP signed notes and checkpoints: verifier keys, text, signature lines. Checks; never signs.
//! Signature lines of unknown keys are ignored, as the format asks.

use crate::event::Hash;
use aws_lc_rs::signature::{ECDSA_P256_SHA256_ASN1, ED25519, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

/// The signature type of Ed25519 (c2sp.org/signed-note).
pub const ED25519_TYPE: u8 = 0x01;
/// The signature type of ECDSA (c2sp.org/signed-note).
pub const ECDSA_TYPE: u8 = 0x02;
/// DER of a P-256 SubjectPublicKeyInfo before its 65 bytes of point (RFC 5480).
const P256_SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce,
    0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];
const MAX_NOTE_BYTES: usize = 1 << 20;

/// Why a note, key or checkpoint is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoteError {
    /// Not a signed note, or not a checkpoint.
    #[error("not a signed checkpoint: {0}")]
    Malformed(&'static str),
    /// Not a verifier key.
    #[error("not a verifier key: {0}")]
    Key(&'static str),
    /// No line is by a key that is trusted.
    #[error("no signature is by a trusted key")]
    Unsigned,
    /// A line that claims to be by a trusted key is not.
    #[error("the signature of {0} is wrong")]
    Signature(String),
    /// The key signs no tree of this size: it was handed over before, or came later.
    #[error("the key {key} signed a tree of {size} leaves, and its time is {time}")]
    OutOfTime {
        /// The key.
        key: String,
        /// The tree's leaves.
        size: u64,
        /// The sizes that it signs.
        time: String,
    },
    /// The log is another one.
    #[error("the checkpoint is of {found:?}, not of {expected:?}")]
    Origin {
        /// What it says.
        found: String,
        /// What it should say.
        expected: String,
    },
}

/// The origin of the ledger of a host: the first line of its checkpoints and the name of its keys.
#[must_use]
pub fn origin(host_id: &str) -> String {
    format!("caracal/{host_id}/ledger")
}

/// The name of the log of this origin; nothing, where the text has no place for one. What a database says is not proven by it.
#[must_use]
pub fn name_of(origin: &str) -> &str {
    origin.split('/').nth(1).unwrap_or_default()
}

/// The name of the log that takes the place of the one of this name: `h`, `h.2`, `h.3`.
#[must_use]
pub fn next_name(name: &str) -> String {
    let (host, generation) = split_name(name);
    format!("{host}.{}", generation.saturating_add(1))
}

/// The host whose own log has this name.
#[must_use]
pub fn host_of(name: &str) -> &str {
    split_name(name).0
}

/// Whether this is the origin of the host's ledger, or of one that took its place.
#[must_use]
pub fn is_of(origin: &str, host_id: &str) -> bool {
    let name = origin.strip_prefix("caracal/").and_then(|rest| rest.strip_suffix("/ledger"));
    name.is_some_and(|name| host_of(name) == host_id)
}

/// A log's name without its number, and that.
fn split_name(name: &str) -> (&str, u32) {
    let parts = name.rsplit_once('.').and_then(|(host, text)| {
        let number: u32 = text.parse().ok().filter(|number| *number >= 2)?;
        (number.to_string() == text && !host.is_empty()).then_some((host, number))
    });
    parts.unwrap_or((name, 1))
}

/// The name of the key that signs a host's chain heads.
#[must_use]
pub fn host_key_name(host_id: &str) -> String {
    format!("caracal/{host_id}/host")
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Key {
    Ed25519([u8; 32]),
    // The uncompressed point.
    P256([u8; 65]),
}

/// A public key with the name it signs under, and the sizes of trees that it signs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verifier {
    name: String,
    id: [u8; 4],
    key: Key,
    // Both included; every size, where no hand-over says more.
    from: u64,
    until: Option<u64>,
}

impl Verifier {
    /// The verifier of an Ed25519 key.
    #[must_use]
    pub fn ed25519(name: &str, public: [u8; 32]) -> Verifier {
        let mut hasher = Sha256::new();
        hasher.update(name);
        hasher.update([b'\n', ED25519_TYPE]);
        hasher.update(public);
        Verifier::new(name, &hasher.finalize().into(), Key::Ed25519(public))
    }

    /// The verifier of a P-256 key, given its SubjectPublicKeyInfo in DER.
    ///
    /// # Errors
    /// When it is none.
    pub fn p256(name: &str, spki: &[u8]) -> Result<Verifier, NoteError> {
        let point = spki.strip_prefix(&P256_SPKI[..]).and_then(|point| <[u8; 65]>::try_from(point).ok());
        let point = point.ok_or(NoteError::Key("not an uncompressed P-256 public key in DER"))?;
        Ok(Verifier::new(name, &Sha256::digest(spki).into(), Key::P256(point)))
    }

    fn new(name: &str, hash: &Hash, key: Key) -> Verifier {
        Verifier { name: name.to_owned(), id: first_four(hash), key, from: 0, until: None }
    }

    /// The same key, which signs trees of `from` leaves and more.
    #[must_use]
    pub fn from_size(self, from: u64) -> Verifier {
        Verifier { from, ..self }
    }

    /// The key signs nothing that is larger than `size`.
    pub fn ends_at(&mut self, size: u64) {
        self.until = Some(size);
    }

    /// Whether no other key took its place.
    #[must_use]
    pub fn is_in_force(&self) -> bool {
        self.until.is_none()
    }

    /// Whether it signs trees of this size.
    #[must_use]
    pub fn signs(&self, size: u64) -> bool {
        size >= self.from && self.until.is_none_or(|until| size <= until)
    }

    /// The sizes of trees that it signs, in words.
    #[must_use]
    pub fn time(&self) -> String {
        match self.until {
            Some(until) => format!("from {} to {until}", self.from),
            None => format!("from {} on", self.from),
        }
    }

    /// Reads `name+id+key`, the text form of a verifier key.
    ///
    /// # Errors
    /// When it is malformed, of an unknown type, or its id is not that of its key.
    pub fn parse(text: &str) -> Result<Verifier, NoteError> {
        let mut parts = text.trim().splitn(3, '+');
        let (Some(name), Some(id), Some(key)) = (parts.next(), parts.next(), parts.next()) else {
            return Err(NoteError::Key("it has three parts with + between them"));
        };
        if name.is_empty() || name.chars().any(char::is_whitespace) {
            return Err(NoteError::Key("its name is empty or has spaces"));
        }
        let key = STANDARD.decode(key).map_err(|_| NoteError::Key("its key is not base64"))?;
        let verifier = match key.split_first() {
            Some((&ED25519_TYPE, public)) => {
                let public = public.try_into().map_err(|_| NoteError::Key("an Ed25519 key has 32 bytes"))?;
                Verifier::ed25519(name, public)
            }
            Some((&ECDSA_TYPE, spki)) => Verifier::p256(name, spki)?,
            _ => return Err(NoteError::Key("its type is neither Ed25519 nor ECDSA")),
        };
        if hex::encode(verifier.id) != id {
            return Err(NoteError::Key("its id is not that of its key"));
        }
        Ok(verifier)
    }

    /// Every verifier key in `text`, one a line; empty lines and lines that begin with # are skipped.
    ///
    /// # Errors
    /// When one is malformed, or there is none.
    pub fn parse_all(text: &str) -> Result<Vec<Verifier>, NoteError> {
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let keys: Vec<Verifier> = lines.map(Verifier::parse).collect::<Result<_, _>>()?;
        if keys.is_empty() { Err(NoteError::Key("there is none")) } else { Ok(keys) }
    }

    /// The name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The four bytes that stand before a signature of this key.
    #[must_use]
    pub fn id(&self) -> [u8; 4] {
        self.id
    }

    /// Whether this is an ECDSA key.
    #[must_use]
    pub fn is_ecdsa(&self) -> bool {
        matches!(self.key, Key::P256(_))
    }

    /// Whether `signature` is this key's over `message`.
    #[must_use]
    pub fn verify(&self, message: &[u8], signature: &[u8]) -> bool {
        match &self.key {
            Key::Ed25519(public) => UnparsedPublicKey::new(&ED25519, public).verify(message, signature).is_ok(),
            Key::P256(point) => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_ASN1, point).verify(message, signature).is_ok()
            }
        }
    }
}

impl std::fmt::Display for Verifier {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut key = Vec::new();
        match &self.key {
            Key::Ed25519(public) => {
                key.push(ED25519_TYPE);
                key.extend_from_slice(public);
            }
            Key::P256(point) => {
                key.push(ECDSA_TYPE);
                key.extend_from_slice(&P256_SPKI);
                key.extend_from_slice(point);
            }
        }
        write!(to, "{}+{}+{}", self.name, hex::encode(self.id), STANDARD.encode(key))
    }
}

/// One line of a note's signatures, without its newline.
#[must_use]
pub fn signature_line(verifier: &Verifier, signature: &[u8]) -> String {
    let mut bytes = verifier.id.to_vec();
    bytes.extend_from_slice(signature);
    format!("\u{2014} {} {}", verifier.name, STANDARD.encode(bytes))
}

/// A checkpoint's text: what is signed.
#[must_use]
pub fn checkpoint_text(origin: &str, size: u64, root: &Hash) -> String {
    format!("{origin}\n{size}\n{}\n", STANDARD.encode(root))
}

/// A checkpoint whose signatures were checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Checkpoint {
    /// The log.
    pub origin: String,
    /// Number of leaves.
    pub size: u64,
    /// The root at that size.
    pub root: Hash,
    /// The types of the trusted keys that signed.
    pub signed_by: Vec<u8>,
}

impl Checkpoint {
    /// Whether both keys of a ledger signed: ECDSA P-256 and Ed25519. One line that stands there twice is one.
    #[must_use]
    pub fn is_signed_by_both(&self) -> bool {
        [ECDSA_TYPE, ED25519_TYPE].iter().all(|kind| self.signed_by.contains(kind))
    }

    /// Whether a key of each kind signed of which `trusted` has one for this log and size.
    ///
    /// # Errors
    /// When the line of one is missing: whoever has one key of the two could leave it out.
    pub fn must_have_lines_of(&self, trusted: &[Verifier]) -> Result<(), NoteError> {
        let own = trusted.iter().filter(|key| key.name == self.origin && key.signs(self.size));
        let missing = |key: &Verifier| {
            let kind = if key.is_ecdsa() { ECDSA_TYPE } else { ED25519_TYPE };
            !self.signed_by.contains(&kind)
        };
        match own.into_iter().any(missing) {
            true => Err(NoteError::Key("one of the log's two keys did not sign the checkpoint")),
            false => Ok(()),
        }
    }

    /// The name of the log or host, as it stands in the origin; `None` for a log that is no ledger of ours.
    #[must_use]
    pub fn log_name(&self) -> Option<&str> {
        self.origin.strip_prefix("caracal/")?.strip_suffix("/ledger").filter(|name| origin(name) == self.origin)
    }

    /// Opens a signed checkpoint. Each line of a trusted key must be right, and there must be one.
    ///
    /// # Errors
    /// When it is malformed, not signed by a trusted key, or one of their lines is wrong.
    pub fn open(note: &str, trusted: &[Verifier]) -> Result<Checkpoint, NoteError> {
        let (text, signers) = signers(note, trusted)?;
        let mut checkpoint = Checkpoint::parse_text(&text)?;
        for key in signers {
            if key.name != checkpoint.origin {
                return Err(NoteError::Origin { found: checkpoint.origin, expected: key.name.clone() });
            }
            if !key.signs(checkpoint.size) {
                let (key, time) = (key.to_string(), key.time());
                return Err(NoteError::OutOfTime { key, size: checkpoint.size, time });
            }
            checkpoint.signed_by.push(if key.is_ecdsa() { ECDSA_TYPE } else { ED25519_TYPE });
        }
        if checkpoint.signed_by.is_empty() { Err(NoteError::Unsigned) } else { Ok(checkpoint) }
    }

    pub(super) fn parse_text(text: &str) -> Result<Checkpoint, NoteError> {
        let mut lines = text.strip_suffix('\n').unwrap_or(text).split('\n');
        let (Some(origin), Some(size), Some(root), None) = (lines.next(), lines.next(), lines.next(), lines.next())
        else {
            return Err(NoteError::Malformed("it has three lines of text"));
        };
        let parsed: u64 = size.parse().map_err(|_| NoteError::Malformed("its size is no number"))?;
        let root = STANDARD.decode(root).ok().and_then(|root| root.try_into().ok());
        let root = root.ok_or(NoteError::Malformed("its root is not 32 bytes of base64"))?;
        if origin.is_empty() || parsed.to_string() != size {
            return Err(NoteError::Malformed("its origin is empty or its size has another spelling"));
        }
        Ok(Checkpoint { origin: origin.to_owned(), size: parsed, root, signed_by: Vec::new() })
    }
}

/// The text of a note, and which of the `trusted` keys signed it. Lines of other keys, such as a witness's, are passed over.
///
/// # Errors
/// When it is no note, or a line of a trusted key is wrong.
pub fn signers<'k>(note: &str, trusted: &'k [Verifier]) -> Result<(String, Vec<&'k Verifier>), NoteError> {
    if note.len() > MAX_NOTE_BYTES {
        return Err(NoteError::Malformed("it is too long"));
    }
    let (text, lines) = note.split_once("\n\n").ok_or(NoteError::Malformed("it has no signatures"))?;
    let text = format!("{text}\n");
    let lines = lines.strip_suffix('\n').ok_or(NoteError::Malformed("its last line has no end"))?;
    let mut signers = Vec::new();
    for line in lines.split('\n') {
        let (name, signature) = parse_line(line)?;
        let (id, signature) = signature.split_first_chunk::<4>().ok_or(NoteError::Malformed("a signature is short"))?;
        let Some(key) = trusted.iter().find(|key| key.name == name && key.id == *id) else { continue };
        if !key.verify(text.as_bytes(), signature) {
            return Err(NoteError::Signature(key.to_string()));
        }
        signers.push(key);
    }
    Ok((text, signers))
}

fn parse_line(line: &str) -> Result<(&str, Vec<u8>), NoteError> {
    let rest = line.strip_prefix("\u{2014} ").ok_or(NoteError::Malformed("a line is no signature"))?;
    let (name, signature) = rest.split_once(' ').ok_or(NoteError::Malformed("a line is no signature"))?;
    let signature = STANDARD.decode(signature).map_err(|_| NoteError::Malformed("a signature is not base64"))?;
    Ok((name, signature))
}

fn first_four(hash: &Hash) -> [u8; 4] {
    let [a, b, c, d, ..] = *hash;
    [a, b, c, d]
}
