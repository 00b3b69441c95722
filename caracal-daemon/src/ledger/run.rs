//! The threads behind the journal: one brings records into the ledger, one has the chain's head signed.

use super::{BATCH_BYTES, BATCH_RECORDS, Ledger, LedgerError, Store, lower_priority};
use crate::bus::Feed;
use crate::journal::{Journal, SignedHead, head};
use crate::keeper::{KeeperError, Signer};
use crate::spend::View;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::sync::watch;

/// How the threads pace themselves.
#[derive(Clone, Copy, Debug)]
pub struct RunOptions {
    /// How long records are gathered before a commit: the longest time between a record and its checkpoint, about.
    pub gather: Duration,
    /// How often the head of the chain is signed when it moved.
    pub head_every: Duration,
    /// How long to wait after a store that failed.
    pub retry: Duration,
}

impl Default for RunOptions {
    fn default() -> RunOptions {
        RunOptions {
            gather: Duration::from_millis(400),
            head_every: Duration::from_secs(1),
            retry: Duration::from_secs(1),
        }
    }
}

/// How far the ledger is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Number of leaves.
    pub size: u64,
    /// Sequence number of the next record of the journal.
    pub next_sequence: u64,
    /// Leaves that the last committed checkpoint covers.
    pub checkpoint: u64,
    /// Why the ledger does not go on, if it does not.
    pub trouble: Option<String>,
}

/// The running ledger. Stops when dropped, after a last pass.
#[derive(Debug)]
pub struct Handle {
    journal: Journal,
    progress: watch::Receiver<Progress>,
    stop: Arc<Stop>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Stop {
    stop: AtomicBool,
    hurry: AtomicBool,
}

/// Starts the threads.
///
/// # Errors
/// When a thread cannot be started.
pub fn spawn<S: Store + 'static>(
    ledger: Ledger<S>,
    journal: &Journal,
    signer: Arc<dyn Signer>,
    view: View,
    options: RunOptions,
) -> std::io::Result<Handle> {
    let stop = Arc::new(Stop::default());
    let (report, progress) = watch::channel(progress(&ledger, None));
    let feed = Feed::new(journal, ledger.cursor().sequence);
    let mut worker = Worker {
        ledger,
        feed,
        signer: Arc::clone(&signer),
        view,
        options,
        report,
        stop: Arc::clone(&stop),
        agreed: false,
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let ledger_thread = std::thread::Builder::new().name("ledger".into()).spawn(move || {
        lower_priority();
        runtime.block_on(worker.run());
    })?;
    let mut heads = Heads { journal: journal.clone(), signer, every: options.head_every, signed: None };
    let stopping = Arc::clone(&stop);
    let head_thread = std::thread::Builder::new().name("chain-head".into()).spawn(move || heads.run(&stopping))?;
    Ok(Handle { journal: journal.clone(), progress, stop, threads: Mutex::new(vec![ledger_thread, head_thread]) })
}

impl Handle {
    /// How far the ledger is.
    #[must_use]
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Waits until everything appended so far is in the ledger, under a checkpoint.
    ///
    /// # Errors
    /// What keeps it from getting there.
    pub async fn flush(&self) -> Result<Progress, String> {
        self.journal.flush().await.map_err(|error| error.to_string())?;
        let wanted = self.journal.tail().next().sequence;
        self.stop.hurry.store(true, Ordering::Release);
        self.threads().iter().for_each(|thread| thread.thread().unpark());
        let mut progress = self.progress.clone();
        let there = progress
            .wait_for(|now| (now.next_sequence >= wanted && now.checkpoint >= now.size) || now.trouble.is_some());
        let now = there.await.map_err(|_| "the ledger has stopped".to_owned())?.clone();
        now.trouble.clone().map_or(Ok(now), Err)
    }
}

impl Handle {
    /// Stops after a last pass, and leaves the store as an orderly end does. Blocks.
    pub fn stop(&self) {
        self.stop.stop.store(true, Ordering::Release);
        let threads = std::mem::take(&mut *self.threads());
        for thread in threads {
            thread.thread().unpark();
            let _ = thread.join();
        }
    }

    fn threads(&self) -> MutexGuard<'_, Vec<JoinHandle<()>>> {
        self.threads.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop();
    }
}

struct Worker<S> {
    ledger: Ledger<S>,
    feed: Feed,
    signer: Arc<dyn Signer>,
    view: View,
    options: RunOptions,
    report: watch::Sender<Progress>,
    stop: Arc<Stop>,
    agreed: bool,
}

impl<S: Store> Worker<S> {
    async fn run(&mut self) {
        loop {
            let stopping = self.stop.stop.load(Ordering::Acquire);
            let trouble = match self.pass().await {
                Ok(()) => None,
                Err(error) => Some(error.to_string()),
            };
            let failed = trouble.is_some();
            if failed && self.report.borrow().trouble != trouble {
                tracing::error!(
                    error = trouble.as_deref(),
                    "the ledger does not go on; records are kept in the journal"
                );
            }
            self.report.send_replace(progress(&self.ledger, trouble));
            if stopping {
                break;
            }
            self.idle(failed);
        }
        self.ledger.store().finish().await;
    }

    /// Waits for records, and then for more of them.
    fn idle(&mut self, failed: bool) {
        if failed {
            std::thread::park_timeout(self.options.retry);
            return;
        }
        while !self.stop.stop.load(Ordering::Acquire) && !self.stop.hurry.load(Ordering::Acquire) {
            if self.feed.wait(Duration::from_millis(100)) {
                std::thread::park_timeout(self.options.gather);
                break;
            }
            let behind = self.ledger.checkpoint().is_none_or(|(size, _)| *size < self.ledger.size());
            if behind && self.ledger.size() > 0 {
                // The keeper did not sign: ask again, but not all the time.
                std::thread::park_timeout(self.options.retry);
                break;
            }
        }
        self.stop.hurry.store(false, Ordering::Release);
    }

    /// Brings in all that is durable; the last commit carries a checkpoint.
    async fn pass(&mut self) -> Result<(), LedgerError> {
        if !self.agreed {
            self.ledger.agree(&*self.signer).await?;
            self.agreed = true;
        }
        self.feed.seek_if_moved(self.ledger.cursor().sequence);
        let head = head::load(self.feed.journal().dir())?;
        loop {
            let entries = self.feed.batch(BATCH_RECORDS, BATCH_BYTES)?;
            let last = entries.len() < BATCH_RECORDS;
            let signer = last.then_some(&*self.signer);
            let ingested = self.ledger.ingest(&entries, head.clone(), signer).await?;
            self.view.apply(&ingested.changes);
            if last {
                break;
            }
        }
        self.feed.release(self.ledger.cursor().sequence);
        Ok(())
    }
}

fn progress<S: Store>(ledger: &Ledger<S>, trouble: Option<String>) -> Progress {
    Progress {
        size: ledger.size(),
        next_sequence: ledger.cursor().sequence,
        checkpoint: ledger.checkpoint().map_or(0, |(size, _)| *size),
        trouble,
    }
}

/// Has the head of the host's chain signed when it moved.
struct Heads {
    journal: Journal,
    signer: Arc<dyn Signer>,
    every: Duration,
    signed: Option<u64>,
}

impl Heads {
    fn run(&mut self, stop: &Stop) {
        while !stop.stop.load(Ordering::Acquire) {
            std::thread::park_timeout(self.every);
            if let Err(error) = self.sign() {
                tracing::warn!(error, "the head of the chain could not be signed");
            }
        }
        let _ = self.sign();
    }

    fn sign(&mut self) -> Result<(), String> {
        let next = self.journal.tail().next();
        let Some(sequence) = next.sequence.checked_sub(1).filter(|sequence| self.signed != Some(*sequence)) else {
            return Ok(());
        };
        let signature = match self.signer.sign_chain_head(sequence, next.prev) {
            // The publisher was quicker: one that lies behind this one is signed.
            Err(KeeperError::HeadBehind { known, .. }) if known < self.journal.tail().next().sequence => return Ok(()),
            signed => signed.map_err(|error| error.to_string())?,
        };
        let signed = SignedHead { sequence, leaf: next.prev, signature };
        head::store(self.journal.dir(), &signed).map_err(|error| error.to_string())?;
        self.signed = Some(sequence);
        Ok(())
    }
}
