//! (stage http)
