//! (stage tls)
