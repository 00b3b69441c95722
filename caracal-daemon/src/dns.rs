//! (stage dns)
