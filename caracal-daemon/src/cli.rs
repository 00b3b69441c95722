//! (stage cli)

pub mod policy;
