//! Takes a captured socket; gives a plain stream, the server name, and on the other side a verified upstream.
//! Refuses an upstream whose certificate does not verify, and addresses that no rule names.
//! Never passes TLS through by itself, and never offers an agent a protocol that the upstream does not speak. Next: `http`.

pub mod accept;
pub mod dial;
pub mod hello;
pub mod leaf;
pub mod rewind;
pub mod sniff;
pub mod trust;

#[cfg(test)]
mod tests;

use rustls::crypto::{CryptoProvider, aws_lc_rs};
use std::sync::Arc;

/// What both sides of every connection are encrypted with: all of aws-lc-rs' suites, TLS_AES_128_GCM_SHA256 first.
///
/// A handshake hashes some twenty times, and processors have instructions for SHA-256 and mostly none for SHA-384. RFC 8446
/// 9.1 makes that suite the one that every implementation must have.
#[must_use]
pub fn crypto() -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    provider.cipher_suites.sort_by_key(|suite| *suite != aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256);
    Arc::new(provider)
}
