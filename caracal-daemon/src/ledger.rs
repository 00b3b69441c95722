//! Takes the bus's records in order; gives a Merkle tree over their exact bytes, signed, in one store.
//! Refuses nothing: a gap or a fork of a chain becomes a leaf. Never changes a leaf, and never lets a signed
//! checkpoint out before its commit. Reads only the bus and the journal's words.

pub mod note;
pub mod proof;
pub mod tree;
