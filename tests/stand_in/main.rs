//! The measuring instruments measure: the stand-in, the agents' scripts, the bill and the judge, all without a daemon.
//! What fails here is no fault of `caracald`.

mod agents;
mod bill;
mod judge;
mod sdks;

/// The stand-in's binary.
const STAND_IN: &str = env!("CARGO_BIN_EXE_stand-in");
