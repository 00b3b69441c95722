//! The shared plane: real Kafka, PostgreSQL and Redis, with hosts that this test plays itself. Leaves `plane.json`.
//!
//! The hosts write records, chains and signatures with code of this test's own; what the ledger should hold is computed
//! here from what Kafka holds. `CARACAL_KAFKA`, `CARACAL_POSTGRES` and `CARACAL_REDIS`, all three, name services of yours: each
//! plane then has a database, topics and an empty database of Redis of its own in them, and leaves none behind. They are never
//! ended or slowed down: what does that, or needs something else of a service, starts some of its own.

mod cable;
mod corrected;
mod daemon;
mod evidence;
mod exactly_once;
mod faults;
mod fleet;
mod host;
mod incidents;
mod judge;
mod log;
mod metrics;
mod partitions;
mod plane;
mod pressure;
mod programs;
mod restored;
mod secure;
mod setups;
mod silent;
mod speed;
mod units;
mod usage;
mod versions;
mod view;
mod wall_clock;
mod worker;
mod yours;

/// The report's name.
const SUBJECT: &str = "plane";
/// The stand-in's binary.
const STAND_IN: &str = env!("CARGO_BIN_EXE_stand-in");
/// The load client.
const LOAD: &str = env!("CARGO_BIN_EXE_load");
