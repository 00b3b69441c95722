//! (stage cli)
