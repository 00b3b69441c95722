//! The end of this data path where another one comes: journal, ledger and budgets go to that one, and what is open here goes
//! on until it ends or the drain limit comes. What it still records goes over a road to the successor (`predecessors.rs`).

use std::os::fd::OwnedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use tokio::time::timeout;

use super::{App, FLUSH};
use crate::journal::Successor;
use crate::journal::successor::{DOINGS, LEAF};
use crate::keeper::signing::RemoteSigner;
use crate::keeper::{KeeperError, Signer};

/// How long connections that have just come may take to show what they are, and requests to be answered, before another
/// data path is started: it decides about all that is new.
const SETTLES_WITHIN: Duration = Duration::from_secs(4);
/// How often the successor is told what agents did.
const TELL_EVERY: Duration = Duration::from_millis(100);

/// Hands journal, ledger and budgets over. Nothing new was taken for a while when this is called.
///
/// # Errors
/// When it cannot: this data path then ends as it does at a stop.
pub(super) async fn part(app: &Arc<App>, road: OwnedFd) -> Result<(), String> {
    let begun = async {
        while app.gate.telemetry.beginning.load(Ordering::Relaxed) > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let _ = timeout(SETTLES_WITHIN, begun).await;
    app.stages.budgets.close();
    app.predecessors.leave().await;
    if let Some(escrow) = &app.stages.escrow {
        escrow.stop().await;
    }
    // What it has not got yet it reads in the next process.
    let _ = timeout(FLUSH, app.stages.ledger.flush()).await;
    let readers = {
        let app = Arc::clone(app);
        tokio::task::spawn_blocking(move || {
            if let Some(publisher) = &app.stages.publisher {
                publisher.stop();
            }
            app.stages.ledger.stop();
        })
    };
    timeout(FLUSH, readers)
        .await
        .map_err(|_| "the ledger does not let go of the journal".to_owned())?
        .map_err(|error| error.to_string())?;
    app.stack.flush().await;
    let successor = Arc::new(Successor::new(road));
    app.stages.journal.part(Arc::clone(&successor)).await.map_err(|error| error.to_string())?;
    app.stages.signer.follow(Arc::clone(&successor));
    let _ = app.successor.set(successor);
    Ok(())
}

/// Lets what is open end, within the drain limit. What has not ended then is cut, and charged by the successor.
pub(super) async fn drain(app: &Arc<App>, successor: Arc<Successor>) {
    let ended = async {
        loop {
            tell(app, &successor).await;
            if !app.is_busy() {
                return;
            }
            tokio::time::sleep(TELL_EVERY).await;
        }
    };
    if timeout(app.drain, ended).await.is_err() {
        tracing::warn!("Streams of the data path before the upgrade were still open at its drain limit.");
    }
}

/// Tells what agents did since the last time: the successor is asked for the last words of a `run`.
async fn tell(app: &App, successor: &Arc<Successor>) {
    for (agent, doings) in app.stack.tally().take() {
        let Ok(message) = serde_json::to_vec(&(agent, doings)) else { continue };
        let successor = Arc::clone(successor);
        let told = tokio::task::spawn_blocking(move || successor.ask(DOINGS, &message).map(drop)).await;
        if let Ok(Err(error)) = told {
            tracing::debug!(%error, "the next data path does not know what an agent did here");
        }
    }
}

/// The keys, behind the keeper that started this data path; after it has become another program, behind the successor.
#[derive(Debug)]
pub(super) struct Keys {
    keeper: RemoteSigner,
    successor: OnceLock<Arc<Successor>>,
}

impl Keys {
    pub(super) fn new(keeper: RemoteSigner) -> Keys {
        Keys { keeper, successor: OnceLock::new() }
    }

    fn follow(&self, successor: Arc<Successor>) {
        let _ = self.successor.set(successor);
    }
}

impl Signer for Keys {
    fn issue_leaf(&self, name: &str, spki: &[u8]) -> Result<Vec<u8>, KeeperError> {
        let Some(successor) = self.successor.get() else { return self.keeper.issue_leaf(name, spki) };
        let gone = |error: std::io::Error| KeeperError::Gone(error.to_string());
        let message = serde_json::to_vec(&(name, spki)).map_err(|error| gone(error.into()))?;
        successor.ask(LEAF, &message).map_err(gone)
    }

    fn sign_checkpoint(&self, size: u64, root: [u8; 32], proof: &[[u8; 32]]) -> Result<String, KeeperError> {
        self.keeper.sign_checkpoint(size, root, proof)
    }

    fn sign_chain_head(&self, sequence: u64, leaf_hash: [u8; 32]) -> Result<Vec<u8>, KeeperError> {
        self.keeper.sign_chain_head(sequence, leaf_hash)
    }

    fn prove_chain_head(&self, known: u64, records: &[&[u8]]) -> Result<(), KeeperError> {
        self.keeper.prove_chain_head(known, records)
    }
}
