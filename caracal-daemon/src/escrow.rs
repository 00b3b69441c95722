//! Takes what `budget` says of this host's slices; brings it to the vault of shared budgets, and the answer back. Stands beside
//! the calls, never in their way: it dials PostgreSQL alone, as the ledger's worker does, and only what the operator named. The
//! instances of one host can share budgets without a server: then the vault is a file.
//! While nothing answers, calls go on inside the slices until the lease runs out; then they are refused.

mod kept;
mod limits;
mod postgres;
mod refill;
mod sqlite;

pub use kept::{Kept, KeptError};
pub use limits::{accept, set_limits};
pub use postgres::PostgresVault;
pub use refill::{Progress, Refill};
pub use sqlite::{SqliteVault, accept_file};

/// Windows that ended this long ago are forgotten by a vault, nanoseconds: a week.
const FORGET_AFTER: u64 = 7 * 86_400 * 1_000_000_000;

/// Windows that ended before this are forgotten, Unix nanoseconds. `now_ms` is the vault's time.
fn forgotten_before(now_ms: u64) -> u64 {
    now_ms.saturating_mul(1_000_000).saturating_sub(FORGET_AFTER)
}

#[cfg(test)]
mod conformance;
