//! A store in memory: the model that the real ones are compared with. Its commits can be made to fail.

use super::books::{OpenIntent, Total};
use super::fleet::{FleetState, FleetStore, Incident, RunRow};
use super::store::{Batch, Chunk, State, Store, StoreError};
use crate::event::{Hash, WindowKey};
use std::collections::{BTreeMap, HashMap};

/// How a commit goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// Nothing is committed.
    Before,
    /// It is committed, but the answer is lost.
    After,
}

#[derive(Debug, Default)]
pub(crate) struct MemoryStore {
    pub(crate) state: State,
    pub(crate) chunks: Vec<Chunk>,
    pub(crate) tiles: BTreeMap<(u32, u64), Vec<Hash>>,
    pub(crate) checkpoints: Vec<(u64, String)>,
    pub(crate) totals: HashMap<WindowKey, Total>,
    open: BTreeMap<String, (u64, OpenIntent)>,
    pub(crate) fault: Option<Fault>,
    pub(crate) fleet: FleetState,
    pub(crate) runs: Vec<RunRow>,
    pub(crate) incidents: Vec<Incident>,
}

fn lost() -> StoreError {
    StoreError::Database { path: "memory".into(), why: "as the test asked".into() }
}

impl Store for MemoryStore {
    async fn load(&mut self) -> Result<State, StoreError> {
        Ok(self.state.clone())
    }

    async fn commit(&mut self, batch: &Batch) -> Result<(), StoreError> {
        let fault = self.fault.take();
        if fault == Some(Fault::Before) {
            return Err(lost());
        }
        assert_eq!(batch.before, self.state.position.as_ref().map_or(0, |position| position.size));
        self.chunks.extend(batch.chunks.iter().cloned());
        for tile in &batch.tiles {
            let before = self.tiles.insert((tile.level, tile.n), tile.hashes.clone());
            assert!(before.is_none(), "a full tile is written once");
        }
        for (key, total) in &batch.changes.totals {
            self.totals.entry(key.clone()).or_default().add(*total);
        }
        for call in &batch.changes.closed {
            self.open.remove(call);
        }
        self.open.extend(batch.changes.opened.clone());
        self.checkpoints.extend(batch.checkpoint.clone());
        let mut open: Vec<_> = self.open.values().cloned().collect();
        open.sort_by_key(|(leaf, _)| *leaf);
        if let Some(part) = &batch.fleet {
            assert_eq!(self.fleet.next_offset, part.offsets.0);
            self.fleet.apply(part);
            self.runs.extend(part.runs.iter().cloned());
            self.incidents.extend(part.incidents.iter().cloned());
        }
        self.state = State {
            position: Some(batch.position.clone()),
            edges: batch.edges.clone(),
            open: open.into_iter().map(|(_, intent)| intent).collect(),
            checkpoint: self.checkpoints.last().cloned(),
            head: batch.head.as_ref().map(|head| head.sequence).or(self.state.head),
        };
        if fault == Some(Fault::After) { Err(lost()) } else { Ok(()) }
    }

    async fn freeze(&mut self) -> Result<(), StoreError> {
        Ok(())
    }

    async fn checkpoint(&mut self) -> Result<Option<(u64, String)>, StoreError> {
        Ok(self.state.checkpoint.clone())
    }

    async fn chunks_within(&mut self, first: u64, span: (u64, u64), limit: u32) -> Result<Vec<Chunk>, StoreError> {
        let within = |chunk: &&Chunk| chunk.first >= first && chunk.max_ms >= span.0 && chunk.min_ms <= span.1;
        Ok(self.chunks.iter().filter(within).take(limit as usize).cloned().collect())
    }

    async fn chunk(&mut self, index: u64) -> Result<Option<Chunk>, StoreError> {
        Ok(self.chunks.iter().find(|chunk| (chunk.first..chunk.first + chunk.count).contains(&index)).cloned())
    }

    async fn tile(&mut self, level: u32, n: u64) -> Result<Vec<Hash>, StoreError> {
        let size = self.state.position.as_ref().map_or(0, |position| position.size);
        let edge = self.state.edges.get(level as usize).filter(|_| size >> (8 * (level + 1)) == n);
        Ok(self.tiles.get(&(level, n)).or(edge).cloned().unwrap_or_default())
    }

    async fn totals(&mut self) -> Result<HashMap<WindowKey, Total>, StoreError> {
        Ok(self.totals.clone())
    }
}

impl FleetStore for MemoryStore {
    async fn fleet(&mut self) -> Result<FleetState, StoreError> {
        Ok(self.fleet.clone())
    }

    async fn leaf_of(&mut self, host: &str, sequence: u64, began: u64) -> Result<Option<u64>, StoreError> {
        let holds = |run: &&RunRow| {
            run.host == host && run.leaf >= began && (run.records.0..=run.records.1).contains(&sequence)
        };
        Ok(self.runs.iter().find(holds).map(|run| run.leaf + sequence - run.records.0))
    }
}
