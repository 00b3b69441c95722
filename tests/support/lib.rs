//! What the contracts share: two network namespaces, the stand-in provider, the daemon under test, and the report.
//!
//! Nothing here shares code or data with `caracald`: the tests see it only through its binary.

pub mod catalogue;
pub mod cpu;
pub mod daemon;
pub mod installed;
pub mod ledger;
pub mod netns;
pub mod programs;
pub mod report;
pub mod scene;
pub mod served;
pub mod stand_in;
pub mod tail;
pub mod wire;
