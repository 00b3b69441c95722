//! (stage cli)

pub mod events;
pub mod ledger;
pub mod spend;
