//! Takes the bus's records in order; gives a Merkle tree over their exact bytes, signed, in one store.
//! Refuses nothing: a gap or a fork of a chain becomes a leaf. Never changes a leaf, and never lets a signed
//! checkpoint out before its commit. Reads only the bus and the journal's words.

pub mod books;
pub mod chain;
pub mod charges;
pub mod corrections;
pub mod export;
pub mod fetch;
pub mod files;
pub mod files_verify;
pub mod fleet;
pub mod fleet_verify;
pub mod hosts;
mod kept;
pub mod keyring;
#[cfg(test)]
pub(crate) mod memory;
pub mod note;
pub mod postgres;
pub mod proof;
pub mod query;
pub mod rebuild;
pub mod receipt;
pub mod run;
pub mod select;
pub mod sequence;
pub mod serve;
pub mod sqlite;
pub mod state;
pub mod store;
pub mod succession;
#[cfg(test)]
pub(crate) mod tests;
pub mod tree;
pub mod verify;
pub mod worker;

pub use books::{OpenIntent, Spend, SpendKey};
pub use run::{Handle, RunOptions, spawn};
pub use sqlite::SqliteStore;
pub use state::StateDir;
pub use store::{Store, StoreError};

use crate::clock::UnixNanos;
use crate::event::{Draft, Hash, WindowKey, write};
use crate::journal::{Entry, Journal, JournalError, ReadError, SignedHead, Start};
use crate::keeper::{KeeperError, Signer};
use crate::money::NanoUsd;
use books::Changes;
use sequence::{Place, Sequencer};
use std::collections::HashMap;
use store::{Batch, State};
use tree::Tree;

/// Records taken at once.
const BATCH_RECORDS: usize = 4_096;
/// Bytes taken at once, about.
const BATCH_BYTES: usize = 8 << 20;

/// Why the ledger did not go on.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The journal.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The journal's writer.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The signer says that another tree of this size was signed before.
    #[error(
        "this ledger contradicts a checkpoint that was signed before ({0}); it was changed or restored wrongly: run `caracald ledger verify`"
    )]
    Fork(KeeperError),
    /// The signer does not answer.
    #[error(transparent)]
    Signer(KeeperError),
}

/// What a start needs to know of the past.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// What was charged to each budget window.
    pub totals: HashMap<WindowKey, NanoUsd>,
    /// What corrections took off that, where they did: it is not in `totals` any more.
    pub credited: HashMap<WindowKey, NanoUsd>,
    /// Paid calls whose outcome is not recorded.
    pub open: Vec<OpenIntent>,
}

impl Recovery {
    /// Charges each call whose end nobody saw its hold, since the provider may have done the work: adds it to the totals and
    /// gives the outcomes, which must be durable before another call is let through.
    pub fn charge_open(&mut self, at: UnixNanos) -> Vec<Draft> {
        let open = std::mem::take(&mut self.open);
        for intent in &open {
            for window in &intent.windows {
                let total = self.totals.entry(window.clone()).or_default();
                *total = total.saturating_add(intent.hold);
            }
        }
        open.iter().map(|intent| intent.crash_outcome(at)).collect()
    }
}

/// What one call of [`Ledger::ingest`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ingested {
    /// Records that were there already.
    pub duplicates: u64,
    /// What the records said of money.
    pub changes: Changes,
}

/// A ledger and its writer's state.
#[derive(Debug)]
pub struct Ledger<S> {
    store: S,
    origin: String,
    source: String,
    tree: Tree,
    cursor: Start,
    open: HashMap<String, OpenIntent>,
    checkpoint: Option<(u64, String)>,
    head: Option<u64>,
    // A size above ours that was signed before: at that size our root must be the one that was signed.
    owed: Option<u64>,
    owed_root: Option<Hash>,
    // The largest size that the signer signed, as far as we know.
    signed: Option<u64>,
}

impl<S: Store> Ledger<S> {
    /// Opens the ledger of the host `host_id` in `store`.
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or is another host's.
    pub async fn open(mut store: S, host_id: &str) -> Result<Ledger<S>, LedgerError> {
        // After a log was frozen, the one in its place has a number behind the host's name.
        let stored = store.load().await?.position.map(|position| position.origin);
        let origin = stored.filter(|origin| note::is_of(origin, host_id)).unwrap_or_else(|| note::origin(host_id));
        Ledger::open_as(store, host_id, origin).await
    }

    /// Opens the ledger of this origin.
    pub(crate) async fn open_as(mut store: S, host_id: &str, origin: String) -> Result<Ledger<S>, LedgerError> {
        let state = store.load().await?;
        let mut ledger = Ledger {
            store,
            origin,
            source: write::source(host_id),
            tree: Tree::default(),
            cursor: Start::default(),
            open: HashMap::new(),
            checkpoint: None,
            head: None,
            owed: None,
            owed_root: None,
            signed: None,
        };
        ledger.set_state(state)?;
        Ok(ledger)
    }

    /// The place in the journal of the record to come.
    #[must_use]
    pub fn cursor(&self) -> Start {
        self.cursor
    }

    /// Number of leaves.
    #[must_use]
    pub fn size(&self) -> u64 {
        self.tree.size()
    }

    /// The last committed checkpoint: its size and its note.
    #[must_use]
    pub fn checkpoint(&self) -> Option<&(u64, String)> {
        self.checkpoint.as_ref()
    }

    /// The store.
    pub fn store(&mut self) -> &mut S {
        &mut self.store
    }

    /// The store, when nothing more is written.
    pub(crate) fn into_store(self) -> S {
        self.store
    }

    /// Puts `entries` into the ledger, and with a `signer` a checkpoint over all of it, in one commit.
    ///
    /// # Errors
    /// The store's, after which the ledger stands where the store does; or `Fork`.
    pub async fn ingest(
        &mut self,
        entries: &[Entry],
        head: Option<SignedHead>,
        signer: Option<&dyn Signer>,
    ) -> Result<Ingested, LedgerError> {
        let (tree, mut batch, duplicates, owed_root) = self.sequence(entries).await?;
        batch.head = head.filter(|head| self.head.is_none_or(|last| head.sequence > last));
        batch.head.take_if(|head| head.sequence >= batch.position.cursor.sequence);
        self.close(tree, batch, duplicates, owed_root, signer).await
    }

    /// Signs, with a `signer`, and commits a batch that goes on from here.
    pub(crate) async fn close(
        &mut self,
        tree: Tree,
        mut batch: Batch,
        duplicates: u64,
        owed_root: Option<Hash>,
        signer: Option<&dyn Signer>,
    ) -> Result<Ingested, LedgerError> {
        let owed_root = owed_root.or(self.owed_root);
        if let Some(signer) = signer
            && self.checkpoint.as_ref().is_none_or(|(size, _)| *size < batch.position.size)
            && batch.position.size > 0
        {
            if let (Some(size), Some(root)) = (self.owed, owed_root) {
                must_agree(signer, size, root)?;
                self.owed = None;
            }
            if self.owed.is_none() {
                batch.checkpoint = self.sign(signer, &batch).await?;
            }
        }
        if batch.chunks.is_empty() && batch.checkpoint.is_none() && batch.head.is_none() && batch.fleet.is_none() {
            return Ok(Ingested { duplicates, changes: Changes::default() });
        }
        if let Err(error) = self.store.commit(&batch).await {
            // Whether it was committed, only the store knows; nothing that was signed is let out of memory.
            let state = self.store.load().await?;
            self.set_state(state)?;
            return Err(error.into());
        }
        self.owed_root = owed_root;
        Ok(self.committed(tree, batch, duplicates))
    }

    /// Makes sure that this ledger is the one that the signer signed before: at the size signed it has the same root,
    /// now, or when it gets there; nothing is signed until then. Call it before the first [`Ledger::ingest`] with a
    /// signer.
    ///
    /// # Errors
    /// `Fork` when it is another one; `Signer` when the signer does not answer.
    pub async fn agree(&mut self, signer: &dyn Signer) -> Result<(), LedgerError> {
        let signed = match signer.sign_checkpoint(0, tree::empty_root(), &[]) {
            Ok(_) => 0,
            Err(KeeperError::Fork { signed, .. }) => signed,
            Err(error) => return Err(LedgerError::Signer(error)),
        };
        self.signed = Some(signed);
        if signed == 0 {
            return Ok(());
        }
        if signed > self.tree.size() {
            self.owed = Some(signed);
            return Ok(());
        }
        let mut tiles = proof::Tiles::new();
        for (level, n) in proof::root_tiles(signed) {
            tiles.insert((level, n), self.store.tile(level, n).await?);
        }
        let root = proof::root(signed, &tiles).ok_or_else(|| StoreError::Damaged("a tile is missing".into()))?;
        must_agree(signer, signed, root)
    }

    /// Reads everything durable in the journal into the ledger, and gives what a start needs to know.
    ///
    /// # Errors
    /// The store's or the journal's.
    pub async fn recover(&mut self, journal: &Journal) -> Result<Recovery, LedgerError> {
        journal.flush().await?;
        let mut feed = crate::bus::Feed::new(journal, self.cursor.sequence);
        loop {
            let entries = feed.batch(BATCH_RECORDS, BATCH_BYTES)?;
            if entries.is_empty() {
                break;
            }
            self.ingest(&entries, None, None).await?;
        }
        let mut open: Vec<OpenIntent> = self.open.values().cloned().collect();
        open.sort_by(|one, other| (one.at, &one.call).cmp(&(other.at, &other.call)));
        let all = self.store.totals().await?;
        let credits = all.iter().filter(|(_, total)| total.credited > NanoUsd::ZERO);
        let credited = credits.map(|(key, total)| (key.clone(), total.credited)).collect();
        let totals = all.into_iter().map(|(key, total)| (key, total.net())).collect();
        Ok(Recovery { totals, credited, open })
    }

    /// Appends the leaves of another copy of a ledger of this host, in their order, and keeps its books; nothing is signed.
    ///
    /// # Errors
    /// The store's; or the number of the leaf that does not follow the one before it.
    pub(crate) async fn replay(&mut self, leaves: &[Vec<u8>]) -> Result<Result<(), u64>, LedgerError> {
        let mut sequencer = Sequencer::new(&self.source, self.tree.clone(), self.cursor, &self.open);
        for leaf in leaves {
            let index = sequencer.size();
            if !sequencer.again(leaf) {
                return Ok(Err(index));
            }
        }
        let (tree, batch, owed_root) = sequencer.finish(&self.origin);
        self.close(tree, batch, 0, owed_root, None).await?;
        Ok(Ok(()))
    }

    /// A checkpoint over the batch. `None` when there is to be none now: the keeper does not answer, or it has signed a
    /// larger tree and the ledger must catch up first, as after a restore.
    async fn sign(&mut self, signer: &dyn Signer, batch: &Batch) -> Result<Option<(u64, String)>, LedgerError> {
        let position = &batch.position;
        let guess = self.signed.or(self.checkpoint.as_ref().map(|(size, _)| *size)).unwrap_or(0);
        let mut proof = self.consistency(guess, batch).await?;
        let mut answer = signer.sign_checkpoint(position.size, position.root, &proof);
        if let Err(KeeperError::Unproven { signed, .. }) = answer
            && signed != guess
        {
            // It signed another one than we know of: a commit failed after the signature.
            proof = self.consistency(signed, batch).await?;
            answer = signer.sign_checkpoint(position.size, position.root, &proof);
        }
        match answer {
            Ok(note) => {
                self.signed = Some(position.size);
                Ok(Some((position.size, note)))
            }
            Err(KeeperError::Fork { asked, signed }) if asked < signed => Ok(None),
            Err(error @ (KeeperError::Fork { .. } | KeeperError::Unproven { .. })) => Err(LedgerError::Fork(error)),
            Err(error) => {
                tracing::warn!(%error, "no checkpoint could be signed; records are kept and the next one will cover them");
                Ok(None)
            }
        }
    }

    /// The proof that the tree after `batch` begins with its first `old` leaves.
    async fn consistency(&mut self, old: u64, batch: &Batch) -> Result<Vec<Hash>, LedgerError> {
        let new = batch.position.size;
        if old == 0 || old >= new {
            return Ok(Vec::new());
        }
        let mut tiles = proof::Tiles::new();
        for (level, n) in proof::consistency_tiles(old, new) {
            let open = new.checked_shr(tree::TILE_HEIGHT * (level + 1)).unwrap_or(0) == n;
            let made = batch.tiles.iter().find(|tile| (tile.level, tile.n) == (level, n)).map(|tile| &tile.hashes);
            let edge = batch.edges.get(level as usize).filter(|_| open);
            let hashes = match made.or(edge) {
                Some(hashes) => hashes.clone(),
                None => self.store.tile(level, n).await?,
            };
            tiles.insert((level, n), hashes);
        }
        let proof = proof::consistency(old, new, &tiles);
        proof.ok_or_else(|| StoreError::Damaged("a tile is missing".into()).into())
    }

    async fn sequence(&mut self, entries: &[Entry]) -> Result<(Tree, Batch, u64, Option<Hash>), LedgerError> {
        let mut duplicates = 0;
        let mut forks = Vec::new();
        // Records that the ledger has passed come only from a replay: ask the store before the batch is built.
        let cursor = self.cursor.sequence;
        for entry in entries.iter().filter(|entry| entry.sequence < cursor) {
            match self.passed(entry).await? {
                true => duplicates += 1,
                false => forks.push(entry),
            }
        }
        let mut sequencer = Sequencer::new(&self.source, self.tree.clone(), self.cursor, &self.open).watch(self.owed);
        forks.into_iter().for_each(|entry| sequencer.fork(entry));
        for entry in entries {
            if sequencer.place(entry) != Place::Passed {
                sequencer.accept(entry);
            }
        }
        let (tree, batch, owed_root) = sequencer.finish(&self.origin);
        Ok((tree, batch, duplicates, owed_root))
    }

    /// Whether the ledger has exactly this record in its place.
    async fn passed(&mut self, entry: &Entry) -> Result<bool, LedgerError> {
        let size = self.tree.size();
        let same = |record: &[u8]| record == entry.bytes.as_slice();
        Ok(corrections::find(&mut self.store, size, entry.sequence, same).await?.is_some())
    }

    fn committed(&mut self, tree: Tree, batch: Batch, duplicates: u64) -> Ingested {
        self.tree = tree;
        self.cursor = batch.position.cursor;
        for call in &batch.changes.closed {
            self.open.remove(call);
        }
        for (call, (_, intent)) in &batch.changes.opened {
            self.open.insert(call.clone(), intent.clone());
        }
        self.checkpoint = batch.checkpoint.or(self.checkpoint.take());
        self.head = batch.head.map(|head| head.sequence).or(self.head);
        if batch.changes.strays > 0 {
            tracing::warn!(strays = batch.changes.strays, "outcomes of calls that were not open were not counted");
        }
        Ingested { duplicates, changes: batch.changes }
    }

    fn set_state(&mut self, state: State) -> Result<(), LedgerError> {
        self.checkpoint = state.checkpoint;
        self.head = state.head;
        self.open = state.open.into_iter().map(|intent| (intent.call.clone(), intent)).collect();
        let Some(position) = state.position else {
            self.tree = Tree::default();
            self.cursor = Start::default();
            return Ok(());
        };
        if position.origin != self.origin {
            return Err(StoreError::Damaged(format!("it is {:?}, not {:?}", position.origin, self.origin)).into());
        }
        let tree = Tree::restore(position.size, state.edges).filter(|tree| tree.root() == position.root);
        self.tree = tree.ok_or_else(|| StoreError::Damaged("its open tiles do not give its root".into()))?;
        self.cursor = position.cursor;
        Ok(())
    }
}

/// The signer signed a tree of this size before: it must have been this one.
fn must_agree(signer: &dyn Signer, size: u64, root: Hash) -> Result<(), LedgerError> {
    match signer.sign_checkpoint(size, root, &[]) {
        Ok(_) => Ok(()),
        Err(error @ KeeperError::Fork { .. }) => Err(LedgerError::Fork(error)),
        Err(error) => Err(LedgerError::Signer(error)),
    }
}

/// Ledger work takes the cores that requests want: it comes last.
pub(crate) fn lower_priority() {
    // SAFETY: setpriority takes plain numbers; 0 names the calling thread.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, 5);
    }
}
