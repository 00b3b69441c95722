//! Hosts that are enrolled and of which nothing is heard: a daemon that runs sends a heartbeat every five seconds. Takes what the
//! database says of all hosts, whoever writes their logs; gives how many are silent, and says each once.

use crate::ledger::StoreError;
use crate::ledger::hosts::{Enrolled, list};
use crate::ledger::postgres::Database;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// Between two looks: as often as a host speaks.
const EVERY: Duration = Duration::from_secs(5);

/// What was seen last.
#[derive(Debug)]
pub(super) struct Silence {
    after_ms: u64,
    looked: Option<Instant>,
    silent: BTreeSet<String>,
}

impl Silence {
    /// Of hosts that said nothing for longer than this, milliseconds.
    pub(super) fn after(after_ms: u64) -> Silence {
        Silence { after_ms, looked: None, silent: BTreeSet::new() }
    }

    /// Whether it is time to look again.
    pub(super) fn is_due(&self) -> bool {
        self.looked.is_none_or(|at| at.elapsed() >= EVERY)
    }

    /// How many hosts are silent now.
    ///
    /// # Errors
    /// The database's.
    pub(super) async fn look(&mut self, database: &mut Database) -> Result<u64, StoreError> {
        self.looked = Some(Instant::now());
        let all = list(database).await?;
        self.note(&all);
        Ok(self.silent.len() as u64)
    }

    fn note(&mut self, all: &[Enrolled]) {
        let silent: BTreeSet<String> =
            all.iter().filter(|one| one.is_silent(self.after_ms)).map(|one| one.host.clone()).collect();
        for host in silent.difference(&self.silent) {
            tracing::warn!(host, "nothing is heard of this host");
        }
        for host in self.silent.difference(&silent) {
            tracing::info!(host, "this host is heard of again, or is retired");
        }
        self.silent = silent;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enrolled(host: &str, quiet_ms: Option<u64>) -> Enrolled {
        Enrolled {
            host: host.to_owned(),
            enrolment: 1,
            verifier: String::new(),
            retired: quiet_ms.is_none(),
            log: None,
            next: None,
            last_ms: None,
            heard_ms: quiet_ms.map(|_| 1),
            quiet_ms,
        }
    }

    #[test]
    fn a_host_is_silent_once_however_many_logs_have_it_and_no_more_when_it_speaks() {
        let mut silence = Silence::after(60_000);
        let mut see = |all: &[Enrolled]| {
            silence.note(all);
            silence.silent.iter().cloned().collect::<Vec<_>>()
        };
        let quiet = enrolled("a", Some(60_001));
        assert_eq!(see(&[quiet.clone(), quiet.clone(), enrolled("b", Some(60_000)), enrolled("c", None)]), ["a"]);
        assert!(see(&[enrolled("a", Some(0))]).is_empty());
    }
}
