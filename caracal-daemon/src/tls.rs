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
