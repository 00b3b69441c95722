//! The shared plane: real Kafka, PostgreSQL and Redis, with hosts that this test plays itself. Leaves `plane.json`.
//!
//! The hosts write records, chains and signatures with code of this test's own; what the ledger should hold is computed
//! here from what Kafka holds. `CARACAL_KAFKA`, `CARACAL_POSTGRES` and `CARACAL_REDIS` name services of yours: they are used
//! as they are and never killed.

mod cable;
mod corrected;
mod daemon;
mod exactly_once;
mod faults;
mod fleet;
mod host;
mod incidents;
mod judge;
mod log;
mod metrics;
mod plane;
mod restored;
mod setups;
mod silent;
mod speed;
mod units;
mod usage;
mod versions;
mod view;
mod worker;

/// The report's name.
const SUBJECT: &str = "plane";
/// The stand-in's binary.
const STAND_IN: &str = env!("CARGO_BIN_EXE_stand-in");
/// The load client.
const LOAD: &str = env!("CARGO_BIN_EXE_load");
