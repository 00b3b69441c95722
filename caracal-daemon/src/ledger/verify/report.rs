//! What an audit says.

/// Findings that are kept: one broken byte near the start can break everything behind it.
const MAX_FINDINGS: usize = 200;

/// Something that is wrong.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// A stable code.
    pub code: &'static str,
    /// What and where.
    pub what: String,
}

/// What an audit found.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Report {
    /// Leaves read.
    pub leaves: u64,
    /// The root over them, hex.
    pub root: String,
    /// Checkpoints checked.
    pub checkpoints: u64,
    /// Leaves that a sound checkpoint covers: those behind it are proven by nothing.
    pub covered: u64,
    /// Signed heads of the host's chain checked.
    pub heads: u64,
    /// Full tiles checked.
    pub tiles: u64,
    /// Records of the journal that the ledger does not have yet.
    pub journal_records: u64,
    /// Charges made again from the usage and the terms of their records and a price book.
    pub repriced: u64,
    /// Charges by usage that no price book at hand has priced.
    pub not_repriced: u64,
    /// Corrections of charges, each held against its charge.
    pub corrections: u64,
    /// Bytes of a torn tail in the journal: the next start cuts them, and they were never acknowledged.
    pub torn_bytes: u64,
    /// Leaves that say that the host's chain had a gap or a fork.
    pub anomalies: u64,
    /// Everything that is wrong; empty for a sound ledger.
    pub findings: Vec<Finding>,
}

impl Report {
    /// An outcome or a correction counts for nothing: its call was not open, or is still.
    pub(in crate::ledger) fn stray(&mut self, leaf: u64) {
        let what = "is a charge or a correction, and its call is not one that was open before, or is open still";
        self.find("stray", format!("leaf {leaf} {what}"));
    }

    /// What no checkpoint covers can be changed by whoever has the ledger's file or database, without a key.
    pub(in crate::ledger) fn ends(&mut self) {
        if self.leaves > 0 && self.covered == 0 {
            let what =
                format!("no checkpoint covers any of the {} leaves; one comes within seconds of a start", self.leaves);
            self.find("unsigned_log", what);
        }
    }

    pub(in crate::ledger) fn find(&mut self, code: &'static str, what: String) {
        if self.findings.len() < MAX_FINDINGS {
            self.findings.push(Finding { code, what });
        }
    }
}
