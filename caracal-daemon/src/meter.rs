//! (stage meter)
