use super::*;
use crate::bus::signed_run::SignedRun;
use crate::bus::signed_run::tests::Host as Signer;
use crate::journal::{Entry, Start};
use crate::ledger::fleet::{Arrival, Fleet, FleetState};
use crate::ledger::memory::MemoryStore;
use crate::ledger::sequence::Sequencer;

/// The row that somebody with the worker's rights can write: records from `leaf` on, under a head that is at hand.
fn row(leaf: u64, run: &SignedRun, (first, last): (u64, u64)) -> Run {
    let head = &run.head;
    Run {
        leaf,
        host: run.host.clone(),
        enrolment: 1,
        first,
        last,
        head_sequence: head.sequence,
        head: head.leaf.to_vec(),
        signature: head.signature.clone(),
    }
}

/// The findings about a log of these records and rows.
fn found(signer: &Signer, records: &[Vec<u8>], rows: Vec<Run>) -> Vec<&'static str> {
    let mut audit = Audit::of_files(&[]);
    for enrolment in [1, 2] {
        audit.keys.insert((signer.id.clone(), enrolment), signer.key.host_verifier().clone());
    }
    let rows = VecDeque::from(rows);
    audit.named = heads::named(&rows);
    audit.runs = Some(rows);
    audit.leaves(&records.iter().map(Vec::as_slice).collect::<Vec<_>>());
    let chains = audit.hosts.iter().map(|(host, made)| (host.clone(), made.chain.clone()));
    let hosts = chains.map(|(host, chain)| (host, crate::ledger::fleet::HostState { chain, ..Default::default() }));
    let fleet = FleetState { next_offset: 0, hosts: hosts.collect() };
    audit.end(&State::default(), &fleet, &[]);
    let codes = audit.report.findings.iter().map(|finding| finding.code);
    codes.filter(|code| !["position", "edge", "unsigned_log"].contains(code)).collect()
}

fn bytes(entries: &[Entry]) -> Vec<Vec<u8>> {
    entries.iter().map(|entry| entry.bytes.clone()).collect()
}

#[test]
fn a_head_that_was_signed_over_other_records_is_found() {
    let mut host = Signer::new("a");
    let genuine = host.run(3);
    let forged = host.record("never signed");
    let all = [bytes(&genuine.records), bytes(std::slice::from_ref(&forged))].concat();
    assert_eq!(found(&host, &all[..3], vec![row(0, &genuine, (0, 2))]), Vec::<&str>::new());
    assert_eq!(found(&host, &all, vec![row(0, &genuine, (0, 2))]), ["unsigned"]);
    // The last head that there is, over a record behind it.
    assert_eq!(found(&host, &all, vec![row(0, &genuine, (0, 2)), row(3, &genuine, (3, 3))]), ["head_signature"]);
    // A genuine head of a record that the log does not have.
    (host.next, host.prev) = (3, genuine.records[2].leaf);
    let later = host.run(3);
    let rows = vec![row(0, &genuine, (0, 2)), row(3, &later, (3, 3))];
    assert_eq!(found(&host, &all, rows), ["head_signature"]);
    // One that the log has, behind a gap that the forger put there: nothing leads to it from the forged record.
    let beyond = &later.records[2];
    let open = HashMap::new();
    let mut sequencer = Sequencer::new("/caracal/a", Tree::default(), Start::default(), &open);
    sequencer.stand(Start { sequence: 4, prev: forged.leaf });
    sequencer.anomaly(GAP, beyond);
    let (_, batch, _) = sequencer.finish("");
    let gap: Vec<Vec<u8>> = batch.chunks[0].records().map(<[u8]>::to_vec).collect();
    let spanned = [all.clone(), gap, vec![beyond.bytes.clone()]].concat();
    let rows = |forged: Vec<Run>| {
        let last = row(5, &later, (5, 5));
        [vec![row(0, &genuine, (0, 2))], forged, vec![last]].into_iter().flatten().collect::<Vec<_>>()
    };
    assert_eq!(found(&host, &spanned, rows(vec![row(3, &later, (3, 3))])), ["head_signature"]);
    assert_eq!(found(&host, &spanned, rows(Vec::new())), ["unsigned"]);
    let mut wrong = row(0, &genuine, (0, 2));
    wrong.signature[9] ^= 1;
    assert_eq!(found(&host, &all[..3], vec![wrong]), ["head_signature"]);
}

/// Behind a leaf that says that the host began anew, or told two histories, nothing is taken of the enrolment before.
#[test]
fn what_a_host_signed_once_is_not_taken_twice() {
    let mut host = Signer::new("a");
    let genuine = host.run(3);
    for kind in [RESTART, FORK] {
        let open = HashMap::new();
        let mut sequencer = Sequencer::new("/caracal/a", Tree::default(), Start::default(), &open);
        let next = if kind == RESTART { &genuine.records[0] } else { &genuine.records[2] };
        sequencer.anomaly(kind, next);
        let (_, batch, _) = sequencer.finish("");
        let leaf: Vec<Vec<u8>> = batch.chunks[0].records().map(<[u8]>::to_vec).collect();
        let (first, second) = if kind == RESTART { ((0, 2), (0, 2)) } else { ((0, 1), (2, 2)) };
        let (upto, from) = (first.1 as usize + 1, second.0 as usize);
        let all = [bytes(&genuine.records[..upto]), leaf, bytes(&genuine.records[from..])].concat();
        let again =
            |enrolment| vec![row(0, &genuine, first), Run { enrolment, ..row(upto as u64 + 1, &genuine, second) }];
        assert_eq!(found(&host, &all, again(1)), ["enrolment"], "{kind}");
        assert_eq!(found(&host, &all, again(2)), Vec::<&str>::new(), "{kind}");
    }
    // Nor does an enrolment come back.
    let rows = vec![Run { enrolment: 2, ..row(0, &genuine, (0, 1)) }, row(2, &genuine, (2, 2))];
    assert_eq!(found(&host, &bytes(&genuine.records), rows), ["enrolment"]);
}

#[tokio::test]
async fn a_message_whose_records_were_there_in_part_is_sound_in_several_runs() {
    let mut host = Signer::new("a");
    let entries = host.run(8).records;
    let message = |range: std::ops::Range<usize>| host.sign(entries[range].to_vec());
    // 0 and 1, then 4 alone behind a gap, then all: 2 and 3 are late, 5 to 7 new.
    let messages = [message(0..2), message(4..5), message(0..8)];
    let mut fleet = Fleet::open(MemoryStore::default(), "fleet-0").await.expect("a log");
    for (offset, run) in (0..).zip(messages) {
        let plan = fleet.plan(&[Arrival { offset, run: Ok((run, 1)) }]).await.expect("a plan");
        fleet.commit(plan, None).await.expect("a commit");
    }
    let rows = fleet.ledger().store().runs.clone().into_iter().map(|row| Run {
        leaf: row.leaf,
        host: row.host,
        enrolment: 1,
        first: row.records.0,
        last: row.records.1,
        head_sequence: row.head.sequence,
        head: row.head.leaf.to_vec(),
        signature: row.head.signature,
    });
    let rows: Vec<Run> = rows.collect();
    assert_eq!(rows.len(), 4);
    let chunks = fleet.ledger().store().chunks.clone();
    let records: Vec<Vec<u8>> = chunks.iter().flat_map(|chunk| chunk.records().map(<[u8]>::to_vec)).collect();
    assert_eq!(found(&host, &records, rows), Vec::<&str>::new());
}

#[test]
fn what_the_worker_signed_and_checkpoints_of_others_are_held_against_the_log() {
    let mut host = Signer::new("a");
    let run = host.run(3);
    let dir = tempfile::tempdir().expect("a directory");
    let worker = crate::keeper::ledger_key::LedgerKey::open(dir.path(), "fleet-0").expect("keys");
    let keys = Verifier::parse_all(&worker.public_keys()).expect("keys");
    let mut tree = Tree::default();
    run.records.iter().for_each(|entry| tree.append(entry.leaf, &mut Vec::new()));
    let note = worker.sign_checkpoint(3, tree.root(), &[]).expect("signed");
    let found = |origin: &str, signed: Option<Signed>, notes: &[&str]| {
        let mut audit = Audit::of_files(&[]);
        (audit.origin, audit.signed) = (origin.to_owned(), signed);
        for note in notes {
            audit.checkpoints.push_back((3, (*note).to_owned()));
            audit.opened.push(Checkpoint::open(note, &keys).map_err(|error| error.to_string()));
        }
        audit.leaves(&run.records.iter().map(|entry| entry.bytes.as_slice()).collect::<Vec<_>>());
        audit.end(&State::default(), &FleetState::default(), &keys);
        let codes = audit.report.findings.iter().map(|finding| finding.code);
        codes.filter(|code| !["position", "edge", "chain_state", "open_intents"].contains(code)).collect::<Vec<_>>()
    };
    let (own, sound) = ("caracal/fleet-0/ledger", Signed { size: 3, root: tree.root() });
    assert_eq!(found(own, Some(sound), &[&note]), Vec::<&str>::new());
    assert_eq!(found("caracal/fleet-1/ledger", None, &[&note]), ["checkpoint", "unsigned_log"]);
    assert_eq!(found(own, None, &[]), ["unsigned_log"]);
    assert_eq!(found(own, Some(Signed { root: [7; 32], ..sound }), &[&note]), ["signed"]);
    assert_eq!(found(own, Some(Signed { size: 4, ..sound }), &[&note]), ["truncated"]);
}
