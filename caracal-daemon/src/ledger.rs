//! (stage ledger)
