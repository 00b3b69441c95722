//! The log of several hosts. Takes the messages of one partition of the bus in order, read and held against the hosts' keys;
//! gives leaves in a [`Ledger`], with the offset, in one commit. The tree is a function of the partition and of who was
//! enrolled: leaf order is message order without duplicates, and what is wrong with a chain is a leaf of its own.
//! Refuses what contradicts a chain: that is an incident. Never takes a message twice, and never skips one.

use super::books::{Changes, OpenIntent};
use super::chain::{Chain, Place};
use super::sequence::{FORK, RESTART, Sequencer, Turn, event_ms, is_succession};
use super::store::{Batch, Store, StoreError};
use super::tree::Tree;
use super::{Ingested, Ledger, LedgerError};
use crate::bus::signed_run::{SignedRun, Unfit};
use crate::event::{Hash, leaf_hash, write};
use crate::journal::{Entry, SignedHead, Start};
use crate::keeper::Signer;
use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::LazyLock;

/// A message of the partition.
#[derive(Clone, Debug)]
pub struct Arrival {
    /// Its offset.
    pub offset: u64,
    /// The run of an enrolled host that signed it, and the number of that enrolment; or why it is none.
    pub run: Result<(SignedRun, u32), Refused>,
}

/// A message that is no run of a host's chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// Why.
    pub why: Unfit,
    /// The host that it claims to be of.
    pub host: String,
}

/// What a commit of such a log has beyond a [`Batch`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// The offset that the store must have before, and has after.
    pub offsets: (u64, u64),
    /// Chains that moved, with the time of their latest record, Unix milliseconds.
    pub chains: BTreeMap<String, (Chain, u64)>,
    /// What hosts signed.
    pub runs: Vec<RunRow>,
    /// Messages that are no records.
    pub incidents: Vec<Incident>,
    /// What each host's records say of money.
    pub changes: BTreeMap<String, Changes>,
}

/// Records of one message that stand together in the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RunRow {
    /// Index of the first one's leaf.
    pub leaf: u64,
    /// Whose.
    pub host: String,
    /// Under which enrolment.
    pub enrolment: u32,
    /// Sequence numbers of the first and the last.
    pub records: (u64, u64),
    /// The head that the message carried.
    pub head: SignedHead,
    /// The message.
    pub offset: u64,
}

/// A message that is no record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Incident {
    /// Its offset.
    pub offset: u64,
    /// Why, as [`Unfit::code`] spells it.
    pub code: &'static str,
    /// The host that it claims to be of.
    pub host: String,
    /// In words.
    pub what: String,
}

/// A host as a store has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostState {
    /// Its chain.
    pub chain: Chain,
    /// Its intents without an outcome, by call.
    pub open: HashMap<String, OpenIntent>,
}

/// What a store holds of such a log beyond [`super::store::State`].
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FleetState {
    /// The message that comes next.
    pub next_offset: u64,
    /// Every host that has a record here.
    pub hosts: HashMap<String, HostState>,
}

impl FleetState {
    /// Moves it as a commit of `part` does.
    pub(super) fn apply(&mut self, part: &Part) {
        self.next_offset = part.offsets.1;
        for (host, (chain, _)) in &part.chains {
            self.hosts.entry(host.clone()).or_default().chain = chain.clone();
        }
        for (host, changes) in &part.changes {
            let open = &mut self.hosts.entry(host.clone()).or_default().open;
            changes.closed.iter().for_each(|call| drop(open.remove(call)));
            open.extend(changes.opened.iter().map(|(call, (_, intent))| (call.clone(), intent.clone())));
        }
    }
}

/// A store of such a log.
pub trait FleetStore: Store {
    /// What is stored of it.
    fn fleet(&mut self) -> impl Future<Output = Result<FleetState, StoreError>> + Send;

    /// The index of the leaf of this record of `host`, at `began` or behind.
    fn leaf_of(
        &mut self,
        host: &str,
        sequence: u64,
        began: u64,
    ) -> impl Future<Output = Result<Option<u64>, StoreError>> + Send;
}

/// A batch that is ready to be committed.
#[derive(Debug)]
pub struct Plan {
    tree: Tree,
    batch: Batch,
    duplicates: u64,
    owed_root: Option<Hash>,
    part: Part,
}

impl Plan {
    /// Messages that belong into the dead-letter topic before the plan is committed.
    #[must_use]
    pub fn incidents(&self) -> &[Incident] {
        &self.part.incidents
    }

    /// Leaves that it adds.
    #[must_use]
    pub fn leaves(&self) -> u64 {
        self.batch.position.size - self.batch.before
    }
}

/// The log, and where its hosts stand.
#[derive(Debug)]
pub struct Fleet<S> {
    ledger: Ledger<S>,
    state: FleetState,
}

impl<S: FleetStore> Fleet<S> {
    /// Opens the log of this name (its checkpoints' origin is [`super::note::origin`] of it).
    ///
    /// # Errors
    /// When it cannot be read, is damaged, or is another log.
    pub async fn open(store: S, name: &str) -> Result<Fleet<S>, LedgerError> {
        let mut ledger = Ledger::open(store, name).await?;
        let state = ledger.store().fleet().await?;
        Ok(Fleet { ledger, state })
    }

    /// The tree and its checkpoints.
    pub fn ledger(&mut self) -> &mut Ledger<S> {
        &mut self.ledger
    }

    /// The offset of the message that comes next.
    #[must_use]
    pub fn next_offset(&self) -> u64 {
        self.state.next_offset
    }

    /// Hosts that have a record here.
    #[must_use]
    pub fn hosts(&self) -> &HashMap<String, HostState> {
        &self.state.hosts
    }

    /// Begins an empty log with a leaf that says whose place it takes.
    ///
    /// # Errors
    /// The store's, or that it is no such leaf.
    pub async fn begin(&mut self, leaf: &[u8]) -> Result<(), LedgerError> {
        if !is_succession(leaf) {
            return Err(StoreError::Damaged("what is to be its first leaf names no log before it".into()).into());
        }
        let mut plan = self.plan(&[]).await?;
        let mut sequencer =
            Sequencer::new("", self.ledger.tree.clone(), Start::default(), &NONE).watch(self.ledger.owed);
        if !sequencer.again(leaf) {
            return Err(StoreError::Damaged("what is to be its first leaf is no record".into()).into());
        }
        (plan.tree, plan.batch, plan.owed_root) = sequencer.finish(&self.ledger.origin);
        self.commit(plan, None).await.map(drop)
    }

    /// Reads `arrivals`, which begin at the next offset or behind it; changes nothing.
    ///
    /// # Errors
    /// The store's.
    pub async fn plan(&mut self, arrivals: &[Arrival]) -> Result<Plan, LedgerError> {
        let next_offset = arrivals.last().map_or(self.state.next_offset, |last| last.offset.saturating_add(1));
        let mut part = Part { offsets: (self.state.next_offset, next_offset), ..Part::default() };
        let mut steps = Vec::new();
        let mut trial = Trial { chains: HashMap::new(), fresh: HashMap::new(), size: self.ledger.size() };
        for arrival in arrivals {
            match &arrival.run {
                Ok((run, enrolment)) => match self.step(run, *enrolment, &mut trial).await? {
                    Ok(step) => steps.push((arrival.offset, run, step)),
                    Err(why) => {
                        part.incidents.push(incident(arrival.offset, why, &run.host));
                        if why == Unfit::Forked
                            && let Some(expected) = trial.fork(&self.state, run, *enrolment)
                        {
                            steps.push((arrival.offset, run, Step::Fork(expected)));
                        }
                    }
                },
                Err(Refused { why, host }) => part.incidents.push(incident(arrival.offset, *why, host)),
            }
        }
        let (tree, batch, duplicates, owed_root) = self.build(&steps, trial, &mut part);
        Ok(Plan { tree, batch, duplicates, owed_root, part })
    }

    /// Commits a plan that was made for this state, with a checkpoint where there is a `signer`.
    ///
    /// # Errors
    /// Like [`Ledger::ingest`]; the log then stands where the store does.
    pub async fn commit(&mut self, plan: Plan, signer: Option<&dyn Signer>) -> Result<Ingested, LedgerError> {
        let Plan { tree, mut batch, duplicates, owed_root, part } = plan;
        let after = self.after(&part);
        batch.fleet = Some(part);
        match self.ledger.close(tree, batch, duplicates, owed_root, signer).await {
            Ok(ingested) => {
                let (next_offset, moved) = after;
                self.state.next_offset = next_offset;
                self.state.hosts.extend(moved);
                Ok(ingested)
            }
            Err(error) => {
                self.state = self.ledger.store().fleet().await?;
                Err(error)
            }
        }
    }

    /// The hosts that the part moves, as they stand after it.
    fn after(&self, part: &Part) -> (u64, Vec<(String, HostState)>) {
        let moved = part.chains.iter().map(|(name, (chain, _))| {
            let mut open = self.state.hosts.get(name).map(|host| host.open.clone()).unwrap_or_default();
            if let Some(changes) = part.changes.get(name) {
                changes.closed.iter().for_each(|call| drop(open.remove(call)));
                open.extend(changes.opened.iter().map(|(call, (_, intent))| (call.clone(), intent.clone())));
            }
            (name.clone(), HostState { chain: chain.clone(), open })
        });
        (part.offsets.1, moved.collect())
    }

    /// What is to be done with a run; or why it is an incident.
    async fn step(
        &mut self,
        run: &SignedRun,
        enrolment: u32,
        trial: &mut Trial,
    ) -> Result<Result<Step, Unfit>, LedgerError> {
        let before = trial.chain(&self.state, &run.host);
        let mut chain = before.clone();
        let anew = enrolment > before.enrolment;
        if before.forked && !anew || enrolment < before.enrolment {
            return Ok(Err(Unfit::Forked));
        }
        chain.enrolment = enrolment;
        chain.forked = false;
        let first = run.records.first().map(|first| (first.sequence, first.prev));
        // A chain from its beginning, under a key that was enrolled since: the host was set up anew.
        let restart =
            anew && before.next > 0 && first == Some((0, [0; 32])) && !self.has_all_passed(run, &chain, trial).await?;
        if restart {
            chain = Chain { enrolment, began: trial.size, ..Chain::default() };
        }
        let mut takes = Vec::with_capacity(run.records.len());
        let mut last_passed = None;
        for entry in &run.records {
            let cursor = chain.cursor();
            match chain.pass(entry) {
                Place::Broken => return Ok(Err(Unfit::Forked)),
                Place::Passed => {
                    last_passed = Some(entry);
                    takes.push(None);
                }
                // Whatever stands before it in the run must be what the log has: the chain says it of all at once.
                Place::Late => takes.push(Some(Start { sequence: entry.sequence, prev: entry.prev })),
                Place::Next | Place::Gap => takes.push(Some(cursor)),
            }
        }
        if let Some(entry) = last_passed
            && !self.has(run, entry, &chain, trial).await?
        {
            return Ok(Err(Unfit::Forked));
        }
        trial.take(run, &takes, chain, restart);
        let restart = restart.then(|| before.cursor());
        Ok(Ok(Step::Take { takes, enrolment, restart }))
    }

    /// Whether the log has every record of the run: then it is an old one again, and no new beginning.
    async fn has_all_passed(&mut self, run: &SignedRun, chain: &Chain, trial: &Trial) -> Result<bool, LedgerError> {
        match run.records.last() {
            Some(last) if chain.place(last) == Place::Passed => self.has(run, last, chain, trial).await,
            _ => Ok(false),
        }
    }

    /// Whether the log has exactly this record in its place. Those before it are then the same too.
    async fn has(&mut self, run: &SignedRun, entry: &Entry, chain: &Chain, trial: &Trial) -> Result<bool, LedgerError> {
        if entry.sequence.checked_add(1) == Some(chain.next) && chain.prev == entry.leaf {
            return Ok(true);
        }
        if let Some(leaf) = trial.fresh.get(&run.host).and_then(|fresh| fresh.get(&entry.sequence)) {
            return Ok(*leaf == entry.leaf);
        }
        let store = self.ledger.store();
        let Some(index) = store.leaf_of(&run.host, entry.sequence, chain.began).await? else { return Ok(false) };
        let missing = || StoreError::Damaged(format!("leaf {index} is missing"));
        let chunk = store.chunk(index).await?.ok_or_else(missing)?;
        let at = usize::try_from(index - chunk.first).map_err(|_| missing())?;
        let record = chunk.records().nth(at).ok_or_else(missing)?;
        Ok(leaf_hash(record) == entry.leaf)
    }

    fn build(
        &self,
        steps: &[(u64, &SignedRun, Step)],
        trial: Trial,
        part: &mut Part,
    ) -> (Tree, Batch, u64, Option<Hash>) {
        let sources: HashMap<&str, String> =
            steps.iter().map(|(_, run, _)| (run.host.as_str(), write::source(&run.host))).collect();
        let mut changes: HashMap<&str, Changes> = HashMap::new();
        let mut duplicates = 0;
        let ledger = &self.ledger;
        let mut sequencer = Sequencer::new("", ledger.tree.clone(), Start::default(), &NONE).watch(ledger.owed);
        for (offset, run, step) in steps {
            let host = run.host.as_str();
            let state = self.state.hosts.get(host);
            let fresh = || Changes { minutes: Some(BTreeMap::new()), ..Changes::default() };
            let before = sequencer.turn(Turn {
                source: sources.get(host).map_or("", String::as_str),
                cursor: Start::default(),
                open: state.map_or(&*NONE, |state| &state.open),
                changes: changes.remove(host).unwrap_or_else(fresh),
            });
            match step {
                Step::Fork(expected) => {
                    sequencer.stand(*expected);
                    if let Some(last) = run.records.last() {
                        sequencer.anomaly(FORK, last);
                    }
                }
                Step::Take { takes, enrolment, restart } => {
                    if let Some(expected) = restart
                        && let Some(first) = run.records.first()
                    {
                        sequencer.stand(*expected);
                        sequencer.anomaly(RESTART, first);
                    }
                    duplicates += takes.iter().filter(|take| take.is_none()).count() as u64;
                    append(&mut sequencer, *offset, run, takes, *enrolment, &mut part.runs);
                }
            }
            let after = sequencer.turn(before);
            changes.insert(host, after.changes);
        }
        let latest = |host: &str| {
            let of_host = steps.iter().rev().filter(|(_, run, _)| run.host == host);
            of_host.filter_map(|(_, run, _)| run.records.last()).map(|last| event_ms(&last.bytes)).next().unwrap_or(0)
        };
        part.chains = trial
            .chains
            .into_iter()
            .map(|(host, chain)| {
                let ms = latest(&host);
                (host, (chain, ms))
            })
            .collect();
        part.changes = changes.into_iter().map(|(host, changes)| (host.to_owned(), changes)).collect();
        let (tree, batch, owed_root) = sequencer.finish(&ledger.origin);
        (tree, batch, duplicates, owed_root)
    }
}

static NONE: LazyLock<HashMap<String, OpenIntent>> = LazyLock::new(HashMap::new);

/// What is done with a run.
#[derive(Debug)]
enum Step {
    /// Its records are appended, each at the place that is given; those without one are there already.
    Take { takes: Vec<Option<Start>>, enrolment: u32, restart: Option<Start> },
    /// A leaf says that the host told two histories; the chain was to go on here.
    Fork(Start),
}

/// The chains as they are after the messages that were looked at so far.
#[derive(Debug)]
struct Trial {
    chains: HashMap<String, Chain>,
    /// Leaf hashes of what this batch adds, by host and sequence number.
    fresh: HashMap<String, HashMap<u64, Hash>>,
    /// The size of the tree, without the leaves of anomalies: a lower bound of where the next leaf stands.
    size: u64,
}

impl Trial {
    fn chain(&self, state: &FleetState, host: &str) -> Chain {
        let stored = || state.hosts.get(host).map(|host| host.chain.clone()).unwrap_or_default();
        self.chains.get(host).cloned().unwrap_or_else(stored)
    }

    fn take(&mut self, run: &SignedRun, takes: &[Option<Start>], chain: Chain, restart: bool) {
        let fresh = self.fresh.entry(run.host.clone()).or_default();
        if restart {
            // What the batch added before is another chain's.
            fresh.clear();
        }
        let taken = run.records.iter().zip(takes).filter(|(_, take)| take.is_some());
        fresh.extend(taken.map(|(entry, _)| (entry.sequence, entry.leaf)));
        self.size += takes.iter().flatten().count() as u64;
        self.chains.insert(run.host.clone(), chain);
    }

    /// Marks the chain; gives where it was to go on, or nothing if it was marked before.
    fn fork(&mut self, state: &FleetState, run: &SignedRun, enrolment: u32) -> Option<Start> {
        let chain = self.chain(state, &run.host);
        let news = !chain.forked && enrolment == chain.enrolment || enrolment > chain.enrolment;
        let expected = chain.cursor();
        news.then(|| {
            self.chains.insert(run.host.clone(), Chain { forked: true, enrolment, ..chain });
            expected
        })
    }
}

/// Appends what is taken of a run; notes each part of it that stands together.
fn append(
    sequencer: &mut Sequencer<'_>,
    offset: u64,
    run: &SignedRun,
    takes: &[Option<Start>],
    enrolment: u32,
    rows: &mut Vec<RunRow>,
) {
    let mut together = false;
    for (entry, take) in run.records.iter().zip(takes) {
        let Some(at) = take else {
            together = false;
            continue;
        };
        sequencer.stand(*at);
        sequencer.accept(entry);
        if together && let Some(row) = rows.last_mut() {
            row.records.1 = entry.sequence;
            continue;
        }
        together = true;
        rows.push(RunRow {
            // Behind the leaf that says what is missing, if there is one.
            leaf: sequencer.size() - 1,
            host: run.host.clone(),
            enrolment,
            records: (entry.sequence, entry.sequence),
            head: run.head.clone(),
            offset,
        });
    }
}

fn incident(offset: u64, why: Unfit, host: &str) -> Incident {
    Incident { offset, code: why.code(), host: host.to_owned(), what: why.to_string() }
}

#[cfg(test)]
mod tests;
