//! (stage bus)
