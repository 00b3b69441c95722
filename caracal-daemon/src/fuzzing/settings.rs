//! What the operator wrote: a slip must end in a sentence, not in a daemon that does not start.

use crate::config::Config;
use crate::meter::PriceBook;
use crate::money::NanoUsd;
use crate::policy::{PolicySet, table};
use crate::spend::export;
use crate::spend::reconcile::Reconciliation;
use std::path::Path;
use std::sync::LazyLock;

/// A configuration, and the policy that comes of it.
pub fn config(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match Config::parse(text, Path::new("caracal.toml")) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(config) if config.policy.cedar.is_empty() => {
            let compiled = PolicySet::compile(&config, Path::new("/"));
            assert!(
                compiled.is_ok(),
                "a configuration that is accepted has a policy: {}",
                compiled.expect_err("checked")
            );
        }
        Ok(_) => {}
    }
}

/// A price book.
pub fn price_book(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match PriceBook::parse(text) {
        Err(error) => assert!(!error.to_string().is_empty()),
        Ok(book) => assert!(book.id().contains('@')),
    }
}

/// A provider's export, held against an empty ledger.
pub fn provider_export(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    match export::read(text) {
        Err(error) => assert!(!error.to_string().is_empty() && error.code().starts_with("export_")),
        Ok(read) => {
            let told = |line: &export::Line| read.told.contains_key(&(line.provider.clone(), line.day.clone()));
            assert!(read.lines.iter().all(told), "a line of a day that is not there");
            for row in Reconciliation::new(&read).rows() {
                let _ = row.differs(NanoUsd::ZERO);
                assert!(row.proposals(NanoUsd::ZERO).is_empty(), "there is no charge to correct");
            }
        }
    }
}

static POLICY: LazyLock<PolicySet> = LazyLock::new(|| PolicySet::deny_all("nothing is allowed here"));

/// A table of expected decisions.
pub fn policy_table(bytes: &[u8]) {
    if let Ok(text) = std::str::from_utf8(bytes) {
        let _ = table::run(text, Path::new("cases.toml"), &POLICY);
    }
}
