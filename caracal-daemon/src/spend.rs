//! (stage spend)
