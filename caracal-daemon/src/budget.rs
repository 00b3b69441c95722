//! (stage budget)
