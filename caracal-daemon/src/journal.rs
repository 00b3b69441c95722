//! (stage journal)
