//! (stage capture)
