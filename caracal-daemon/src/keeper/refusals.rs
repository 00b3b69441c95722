//! Kernel-side refusals become records. The pinned counters are the truth, also for what happened while nobody
//! listened; the ring adds detail to one of each kind.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aya::maps::{MapData, RingBuf};
use caracal_common::counter::CounterKey;
use caracal_common::denial::{Denial, Hook, NamedDenial, Why};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::cgroup::is_canary;
use super::govern::Governor;
use super::order::{Answer, KernelRefusal, Order, Orders, Recorded, Told};
use super::serve::save;
use crate::event::KernelCounts;

/// How often the counters are read.
const EVERY: Duration = Duration::from_millis(250);
/// How often the data path is told what the kernel counted in all.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Between two readings of the ring, so that a flood of refusals keeps no core busy.
const BREATH: Duration = Duration::from_millis(5);
/// Records that a start looks through at most, but for those since the last [`HEARTBEAT`].
const MAX_BEHIND: u64 = 4096;
/// Kinds whose detail is kept between two readings.
const MAX_DETAILS: usize = 4096;

type Kind = (u64, u32, u32);

/// A refusal from the ring, and the unix socket that it was about.
#[derive(Debug)]
struct Detail {
    denial: Denial,
    socket: String,
}

/// What was handed over, of which counters. Counters that were made anew (after a boot, after a release of everything)
/// begin at zero, and so does this.
#[derive(Debug, Default, serde::Serialize, serde::Deserialize)]
struct Handed {
    counters: String,
    list: Vec<(Kind, u64)>,
    /// The sequence number up to which the records are in `list`; none in what an older program wrote.
    #[serde(default)]
    next: Option<u64>,
}

/// What is known to be recorded, and its copy in a file. A record and its note are two writes: whoever is killed between them,
/// or hears no answer, asks the records themselves from the last note on. So each refusal is in one record.
struct Note<'a> {
    file: &'a Path,
    counters: String,
    handed: HashMap<Kind, u64>,
    next: Option<u64>,
    /// Nothing may be a record that is not in `handed`.
    sure: bool,
}

impl<'a> Note<'a> {
    fn load(file: &'a Path, counters: String) -> Note<'a> {
        let handed: Handed = super::serve::load(file);
        let same = handed.counters == counters;
        let (list, next) = if same { (handed.list, handed.next) } else { (Vec::new(), None) };
        Note { file, counters, handed: list.into_iter().collect(), next, sure: false }
    }

    fn save(&self) {
        let list = self.handed.iter().map(|(kind, count)| (*kind, *count)).collect();
        save(self.file, &Handed { counters: self.counters.clone(), list, next: self.next });
    }

    /// Adds what records tell that no note does.
    fn make_sure(&mut self, order: &impl Fn(&Order) -> Answer) -> Result<(), String> {
        let told: Told = answered(order(&Order::KernelTold { since: self.next })?)?;
        for (agent, why, hook, count) in told.list {
            *self.handed.entry((agent, why, hook)).or_default() += count;
        }
        self.next = Some(told.next);
        self.sure = true;
        self.save();
        Ok(())
    }

    /// Hands over what is new.
    fn tell(&mut self, fresh: &[(Reading, KernelRefusal)], order: &impl Fn(&Order) -> Answer) -> Result<(), String> {
        let refusals = fresh.iter().map(|(_, refusal)| refusal.clone()).collect();
        // Until the answer is here, some of them may be records.
        self.sure = false;
        let told: Recorded = answered(order(&Order::KernelRefusals(refusals))?)?;
        self.sure = true;
        for (reading, _) in fresh.iter().take(told.recorded) {
            self.handed.insert(kind(&reading.0), reading.1);
        }
        self.next = told.next.or(self.next);
        self.save();
        Ok(())
    }

    /// Notes that nothing was told for a long while, so that a start has few records to look through.
    fn follow(&mut self, behind: u64, order: &impl Fn(&Order) -> Answer) -> Result<(), String> {
        let told: Told = answered(order(&Order::KernelTold { since: None })?)?;
        if told.next >= self.next.unwrap_or(0).saturating_add(behind) {
            self.next = Some(told.next);
            self.save();
        }
        Ok(())
    }
}

fn answered<T: serde::de::DeserializeOwned>(answer: serde_json::Value) -> Result<T, String> {
    serde_json::from_value(answer).map_err(|error| error.to_string())
}

/// Reads, adds up and hands over, for ever. `counted` remembers over restarts what was handed over.
pub fn drain(mut ring: RingBuf<MapData>, governor: &Governor, counted: &Path) {
    let mut note = Note::load(counted, governor.kernel().counters_name());
    let (mut beat, mut asked) = (Instant::now(), None::<Arc<Orders>>);
    loop {
        let details = gather(&mut ring, governor);
        let counters = match governor.kernel().counters() {
            Ok(counters) => counters,
            Err(error) => {
                tracing::warn!(%error, "Cannot read the kernel's counters.");
                continue;
            }
        };
        let Ok(canaries) = governor.kernel().canaries() else { continue };
        let counters: Vec<_> = counters.into_iter().filter(|(key, _)| !canaries.contains(&key.agent)).collect();
        // No data path: the counters go on, and are told later.
        let Some(orders) = governor.orders() else { continue };
        // What the one before could not say that it wrote may have come back with this one's journal.
        if !asked.as_ref().is_some_and(|asked| Arc::ptr_eq(asked, &orders)) {
            note.sure = false;
        }
        let order = |order: &Order| orders.give(order);
        if !note.sure && note.make_sure(&order).is_err() {
            continue;
        }
        if beat.elapsed() >= HEARTBEAT {
            beat = Instant::now();
            // Without an answer the next one says it all: these are totals.
            let _ = order(&Order::Heartbeat(sums(&counters)));
            let _ = note.follow(MAX_BEHIND, &order);
        }
        let fresh = news(&counters, &note.handed, &details);
        if !fresh.is_empty() {
            let _ = note.tell(&fresh, &order);
        }
        asked = Some(orders);
    }
}

/// All agents together.
fn sums(counters: &[Reading]) -> KernelCounts {
    let mut sums = KernelCounts::default();
    for (key, count) in counters {
        let to = if key.why == 0 { &mut sums.redirected } else { &mut sums.refused };
        *to = to.saturating_add(*count);
    }
    sums
}

/// A counter as it was read.
type Reading = (CounterKey, u64);

fn kind(key: &CounterKey) -> Kind {
    (key.agent, key.why, key.hook)
}

/// What the counters say beyond what was handed over. A counter that went back was made anew.
fn news(
    counters: &[Reading],
    handed: &HashMap<Kind, u64>,
    details: &HashMap<Kind, Detail>,
) -> Vec<(Reading, KernelRefusal)> {
    counters
        .iter()
        // Redirects become records where they end; what an inbound rule let in is told of here alone.
        .filter(|(key, _)| key.why != 0 || key.hook == Hook::Ingress as u32)
        .filter_map(|(key, count)| {
            let before = handed.get(&kind(key)).copied().unwrap_or(0);
            let fresh = if *count >= before { count - before } else { *count };
            (fresh > 0).then(|| ((*key, *count), refusal(key, fresh, details.get(&kind(key)))))
        })
        .collect()
}

fn refusal(key: &CounterKey, count: u64, detail: Option<&Detail>) -> KernelRefusal {
    let socket = detail.map(|detail| detail.socket.clone()).unwrap_or_default();
    let detail = detail.map(|detail| &detail.denial);
    let comm = detail.map(|denial| denial.comm).unwrap_or_default();
    let end = comm.iter().position(|byte| *byte == 0).unwrap_or(comm.len());
    KernelRefusal {
        agent: key.agent,
        why: key.why,
        hook: key.hook,
        count,
        address: detail
            .filter(|denial| denial.port != 0 || denial.addr != [0; 16])
            .map(|denial| SocketAddr::new(IpAddr::from(denial.addr).to_canonical(), denial.port)),
        tgid: detail.map_or(0, |denial| denial.tgid),
        comm: String::from_utf8_lossy(comm.get(..end).unwrap_or_default()).into_owned(),
        socket,
    }
}

/// What the ring brings until the counters are due. A namespace without a listener is told of at once: whoever is in it
/// waits for one.
fn gather(ring: &mut RingBuf<MapData>, governor: &Governor) -> HashMap<Kind, Detail> {
    let (mut details, due) = (HashMap::new(), Instant::now() + EVERY);
    loop {
        let mut told = HashSet::new();
        while let Some(item) = ring.next() {
            let Some(denial) = parse(&item) else { continue };
            let unknown = denial.why == 0 || denial.why == Why::UnknownNamespace as u32;
            if is_canary(denial.tgid) {
                continue;
            }
            if unknown && denial.tgid != 0 && told.insert(denial.tgid) {
                governor.namespaces().suspect(denial.tgid);
            }
            if details.len() < MAX_DETAILS {
                details.insert((denial.agent, denial.why, denial.hook), Detail { denial, socket: socket(&item) });
            }
        }
        let left = due.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return details;
        }
        let mut one = [PollFd::new(ring.as_fd(), PollFlags::POLLIN)];
        let wait = PollTimeout::try_from(left.max(BREATH)).unwrap_or(PollTimeout::ZERO);
        if !matches!(nix::poll::poll(&mut one, wait), Ok(0)) {
            std::thread::sleep(BREATH);
        }
    }
}

fn parse(bytes: &[u8]) -> Option<Denial> {
    if bytes.len() < size_of::<Denial>() {
        return None;
    }
    // SAFETY: long enough, and any bytes are a Denial: integers and byte arrays only.
    Some(unsafe { std::ptr::read_unaligned(bytes.as_ptr().cast()) })
}

/// The name of the unix socket behind a denial that has one. Whoever listens chose it: it is shown, never trusted.
fn socket(bytes: &[u8]) -> String {
    let Some(name) = bytes.get(size_of::<Denial>()..size_of::<NamedDenial>()) else { return String::new() };
    let (mark, name) = match name.split_first() {
        Some((0, rest)) if rest.first().is_some_and(|byte| *byte != 0) => ("@", rest),
        _ => ("", name),
    };
    let end = name.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let text = String::from_utf8_lossy(name.get(..end).unwrap_or_default());
    format!("{mark}{}", text.escape_debug())
}

/// What is told of `bytes` from the ring, for fuzzing.
#[cfg(any(test, fuzzing))]
pub(crate) fn told(bytes: &[u8]) {
    let Some(denial) = parse(bytes) else { return };
    let key = CounterKey { agent: denial.agent, why: denial.why, hook: denial.hook };
    let detail = Detail { denial, socket: socket(bytes) };
    let told = refusal(&key, 1, Some(&detail));
    assert!(told.comm.chars().count() <= denial.comm.len());
    assert!(told.socket.chars().all(|c| !c.is_control()));
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;

    #[test]
    fn sockets_have_names_for_people() {
        let named = |name: &[u8]| {
            let mut bytes = vec![0; size_of::<NamedDenial>()];
            bytes[size_of::<Denial>()..size_of::<Denial>() + name.len()].copy_from_slice(name);
            socket(&bytes)
        };
        assert_eq!(named(b"/run/docker.sock"), "/run/docker.sock");
        assert_eq!(named(b"\0bus"), "@bus");
        assert_eq!(named(b""), "");
        assert_eq!(named(b"/a\x1b[2J"), "/a\\u{1b}[2J");
        assert_eq!(socket(&[0; size_of::<Denial>()]), "");
    }

    #[test]
    fn only_what_is_new_is_handed_over() {
        let key = CounterKey { agent: 7, why: 1, hook: 1 };
        let redirects = CounterKey { agent: 7, why: 0, hook: 1 };
        let counters = [(key, 5), (redirects, 9)];
        let fresh = news(&counters, &HashMap::from([((7, 1, 1), 3)]), &HashMap::new());
        assert_eq!(fresh.iter().map(|(_, one)| one.count).collect::<Vec<_>>(), [2]);
        assert!(news(&counters, &HashMap::from([((7, 1, 1), 5)]), &HashMap::new()).is_empty());
        let remade = news(&counters, &HashMap::from([((7, 1, 1), 50)]), &HashMap::new());
        assert_eq!(remade.iter().map(|(_, one)| one.count).collect::<Vec<_>>(), [5]);
    }

    /// A data path: the records that it has, one a kind and order, and what becomes of its answers.
    #[derive(Default)]
    struct DataPath {
        records: RefCell<Vec<(u64, u32, u32, u64)>>,
    }

    impl DataPath {
        /// Obeys; what it answers arrives or is lost, and only so many of a batch are recorded.
        fn obey(&self, order: &Order, arrives: bool, most: usize) -> Answer {
            let mut records = self.records.borrow_mut();
            let answer = match order {
                Order::KernelRefusals(refusals) => {
                    let new = refusals.iter().take(most).map(|one| (one.agent, one.why, one.hook, one.count));
                    records.extend(new);
                    let recorded = refusals.len().min(most);
                    let next = (recorded > 0).then_some(records.len() as u64);
                    serde_json::to_value(Recorded { recorded, next }).expect("JSON")
                }
                Order::KernelTold { since } => {
                    let from = since.map_or(records.len(), |since| usize::try_from(since).expect("few"));
                    let list = records.get(from..).unwrap_or_default().to_vec();
                    serde_json::to_value(Told { next: records.len() as u64, list }).expect("JSON")
                }
                _ => panic!("{order:?}"),
            };
            if arrives { Ok(answer) } else { Err("killed".to_owned()) }
        }

        fn sum(&self, of: Kind) -> u64 {
            let records = self.records.borrow();
            records.iter().filter(|one| (one.0, one.1, one.2) == of).map(|one| one.3).sum()
        }
    }

    proptest::proptest! {
        #![proptest_config(proptest::prelude::ProptestConfig::with_cases(200))]
        /// Keeper and data path are killed at any point, answers are lost, journals stop in the midst of a batch, counters are
        /// made anew: what is recorded of each counter is what it counted.
        #[test]
        fn each_refusal_is_in_one_record(steps in proptest::collection::vec((0_u8..8, 0_u64..4, 0_usize..3), 1..60)) {
            let dir = tempfile::tempdir().expect("a directory");
            let file = dir.path().join("counted.json");
            let path = DataPath::default();
            let kinds = [(7, 1, 1), (7, 5, 4), (8, 0, 5)];
            let (mut counts, mut before, mut name) = ([0_u64; 3], [0_u64; 3], 1);
            let mut note = Note::load(&file, name.to_string());
            let news_of = |counts: &[u64; 3], note: &Note<'_>| {
                let key = |of: Kind| CounterKey { agent: of.0, why: of.1, hook: of.2 };
                let counters: Vec<Reading> = kinds.iter().zip(counts).map(|(of, count)| (key(*of), *count)).collect();
                news(&counters, &note.handed, &HashMap::new())
            };
            let all = |note: &mut Note<'_>, counts: &[u64; 3]| {
                let order = |order: &Order| path.obey(order, true, usize::MAX);
                note.make_sure(&order).expect("sure");
                note.tell(&news_of(counts, note), &order).expect("told");
            };
            for (step, more, which) in steps {
                counts[which] += more;
                match step {
                    // The keeper is killed: between a record and its note, where the last answer was lost.
                    0 => note = Note::load(&file, name.to_string()),
                    // Everything is told, then the counters are made anew.
                    1 => {
                        all(&mut note, &counts);
                        for (before, count) in before.iter_mut().zip(&mut counts) {
                            *before += std::mem::take(count);
                        }
                        name += 1;
                        note = Note::load(&file, name.to_string());
                    }
                    2 if note.sure => note.follow(0, &|order| path.obey(order, true, 0)).expect("an answer"),
                    _ => {
                        let order = |order: &Order| path.obey(order, step != 3, which);
                        if note.sure || note.make_sure(&order).is_ok() {
                            let _ = note.tell(&news_of(&counts, &note), &order);
                        }
                    }
                }
            }
            all(&mut note, &counts);
            for (of, (count, before)) in kinds.iter().zip(counts.iter().zip(before)) {
                proptest::prop_assert_eq!(path.sum(*of), count + before);
            }
        }
    }

    #[test]
    fn a_heartbeat_has_the_sums_of_all_agents() {
        let key = |agent, why, hook| CounterKey { agent, why, hook };
        let counters = [(key(7, 0, 1), 3), (key(8, 0, 1), 4), (key(7, 2, 1), 5), (key(8, 3, 2), 1)];
        assert_eq!(sums(&counters), KernelCounts { redirected: 7, refused: 6 });
    }
}
