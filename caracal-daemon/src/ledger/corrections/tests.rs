use super::super::memory::MemoryStore;
use super::super::note::Verifier;
use super::super::tests::{TestSigner, entries};
use super::super::verify::{Against, Report, verify};
use super::super::{Ledger, SqliteStore};
use super::*;
use crate::budget::{BudgetSpec, Budgets, Per, Scope};
use crate::clock::Clock;
use crate::event::WindowKey;
use crate::event::write::tests::{paid, scribe};
use crate::keeper::ledger_key::LedgerKey;
use proptest::prelude::*;
use std::collections::HashMap;

const NOON: UnixNanos = UnixNanos(1_790_000_000_000_000_000);

fn read(draft: &Draft, sequence: u64) -> Record {
    let (_dir, scribe) = scribe();
    let mut bytes = Vec::new();
    scribe.seal(draft).expect("sealed").place(sequence, &[0; 32], &mut bytes);
    Record::parse(&bytes).expect("a record")
}

fn charge(cost: u64) -> Charge {
    let mut outcome = paid(Kind::Outcome, uuid::Uuid::from_u128(7));
    outcome.data.cost = Some(NanoUsd(cost));
    Charge::of(read(&outcome, 4)).expect("a charge")
}

fn asker() -> Asker {
    Asker { uid: 0, reason: "the invoice says so".into() }
}

fn corrected(nano: i64) -> Corrected {
    Corrected { leaf: 9, call: uuid::Uuid::from_u128(7).to_string(), nano, sequence: 4 }
}

#[test]
fn no_correction_leaves_less_than_nothing() {
    let charge = charge(100);
    let allows = |before: &[i64], nano| {
        let before: Vec<Corrected> = before.iter().map(|nano| corrected(*nano)).collect();
        charge.allows(&before, nano).map(|left| left.0).map_err(|error| error.code())
    };
    assert_eq!(allows(&[], -100), Ok(0));
    assert_eq!(allows(&[], -101), Err("correction_below_zero"));
    assert_eq!(allows(&[-60], -41), Err("correction_below_zero"));
    assert_eq!(allows(&[-60, 30], -70), Ok(0));
    assert_eq!(allows(&[], i64::MIN), Err("correction_below_zero"));
    assert_eq!(allows(&[], i64::MAX), Err("correction_too_large"));
    assert_eq!(allows(&[], 0), Err("correction_of_nothing"));
}

#[test]
fn a_correction_counts_where_its_charge_does_and_says_who_and_why_under_seal() {
    let charge = charge(100);
    let detail = Detail { host: Some("api.openai.com".into()), uid: Some(1000), ..Detail::default() };
    let draft = charge.correct(&[], -40, &asker(), Some(detail), UnixNanos(NOON.0 + 5)).expect("allowed");
    let (_dir, scribe) = scribe();
    let mut bytes = Vec::new();
    scribe.seal(&draft).expect("sealed").place(9, &[0; 32], &mut bytes);
    let record = Record::parse(&bytes).expect("a record");
    assert!(charge.is_corrected_by(&record));
    assert_eq!((record.data.correction, record.data.corrects), (Some(-40), Some(4)));
    let opened = scribe.keys().open_detail(&record).expect("its detail");
    assert_eq!(
        (opened.note.as_deref(), opened.asked_by, opened.uid),
        (Some("the invoice says so"), Some(0), Some(1000))
    );
    assert!(!bytes.windows(7).any(|part| part == b"invoice"), "the reason stands in the clear");
    let other = Record { data: crate::event::record::Fields { windows: Vec::new(), ..record.data.clone() }, ..record };
    assert!(!charge.is_corrected_by(&other));
    for reason in ["", "  ", &"x".repeat(MAX_REASON_BYTES + 1)] {
        let silent = Asker { reason: reason.to_owned(), ..asker() };
        assert_eq!(charge.correct(&[], -1, &silent, None, NOON), Err(CorrectionError::Reason));
    }
}

/// The journal's records of `drafts`, in a SQLite ledger, audited.
async fn audited(dir: &std::path::Path, drafts: &[Draft], batch: usize) -> (Ledger<SqliteStore>, Report) {
    std::fs::create_dir_all(dir).expect("a directory");
    let signer = TestSigner(LedgerKey::open(&dir.join("keeper"), "h").expect("keys"));
    let file = dir.join("ledger.sqlite");
    let mut ledger = Ledger::open(SqliteStore::open(&file).await.expect("a store"), "h").await.expect("a ledger");
    for entries in entries(drafts).chunks(batch) {
        ledger.ingest(entries, None, Some(&signer)).await.expect("ingested");
    }
    let keys = Verifier::parse_all(&signer.0.public_keys()).expect("public keys");
    let against = Against { host_id: "h", keys: &keys, journal: None, signed: None, kept: &[], books: &[] };
    let mut store = SqliteStore::read(&file).await.expect("a store");
    let report = verify(&mut store, &against, &mut |_, _| {}).await.expect("an audit");
    // Its files say the same of corrections.
    let out = dir.join("export");
    if crate::ledger::export::export(ledger.store(), &out, &mut |_, _| {}).await.is_ok() {
        let of_files = of_files(&out, &keys).await;
        assert_eq!(corrections(&of_files), corrections(&report));
    }
    (ledger, report)
}

async fn of_files(dir: &std::path::Path, keys: &[Verifier]) -> Report {
    let mut files = crate::ledger::files::Files::Folder(dir.to_owned());
    crate::ledger::files_verify::verify(&mut files, keys, &[], &[], &mut |_, _| {}).await.expect("read")
}

/// How many corrections there are, and what is wrong with them.
fn corrections(report: &Report) -> (u64, Vec<&str>) {
    let wrong = report.findings.iter().filter(|finding| finding.code == "correction");
    (report.corrections, wrong.map(|finding| finding.what.as_str()).collect())
}

#[tokio::test]
async fn the_files_of_many_hosts_are_audited_for_their_corrections_too() {
    use crate::bus::signed_run::tests::Host;
    use crate::ledger::fleet::{Arrival, Fleet};
    let call = uuid::Uuid::from_u128(7);
    let outcome = paid(Kind::Outcome, call);
    let correction = |nano| charge_at(&outcome, 1).correct(&[], nano, &asker(), None, NOON).expect("allowed");
    let cost = i64::try_from(outcome.data.cost.expect("a cost").0).expect("small");
    for (of_both, wrong) in [(vec![-cost], 0), (vec![-cost, -1], 1), (vec![-1, 1, -cost], 0)] {
        let dir = tempfile::tempdir().expect("a directory");
        let signer = TestSigner(LedgerKey::open(&dir.path().join("keeper"), "fleet-0").expect("keys"));
        let mut drafts = vec![paid(Kind::Intent, call), outcome.clone()];
        drafts.extend(of_both.iter().map(|nano| correction(*nano)));
        // The records say host h; the log is another's.
        let run = Host::new("h").sign(entries(&drafts));
        let mut fleet = Fleet::open(MemoryStore::default(), "fleet-0").await.expect("a log");
        let plan = fleet.plan(&[Arrival { offset: 0, run: Ok((run, 1)) }]).await.expect("a plan");
        fleet.commit(plan, Some(&signer)).await.expect("a commit");
        let out = dir.path().join("export");
        crate::ledger::export::export(fleet.ledger().store(), &out, &mut |_, _| {}).await.expect("exported");
        let keys = Verifier::parse_all(&signer.0.public_keys()).expect("public keys");
        let report = of_files(&out, &keys).await;
        assert_eq!(
            (report.corrections, report.findings.len()),
            (of_both.len() as u64, wrong),
            "{of_both:?}: {report:?}"
        );
        assert!(report.findings.iter().all(|finding| finding.code == "correction"), "{report:?}");
    }
}

/// A log of two hosts, whose calls have the same ids: each is charged and corrected by its own records.
#[tokio::test]
async fn charges_of_many_hosts_are_read_with_their_own_corrections() {
    use crate::bus::signed_run::tests::Host;
    use crate::ledger::charges::{Span, each_of_log};
    use crate::ledger::fleet::{Arrival, Fleet};
    use crate::ledger::tests::entries_of;
    let mut fleet = Fleet::open(MemoryStore::default(), "fleet-0").await.expect("a log");
    let mut arrivals = Vec::new();
    for (host, of_first, offset) in [("g", vec![-200, -34], 0), ("h", vec![50], 1)] {
        let mut drafts = Vec::new();
        for call in [7, 8].map(uuid::Uuid::from_u128) {
            drafts.extend([paid(Kind::Intent, call), paid(Kind::Outcome, call)]);
        }
        let first = charge_at(&drafts[1], 1);
        drafts.extend(of_first.iter().map(|nano| first.correct(&[], *nano, &asker(), None, NOON).expect("allowed")));
        // An outcome of a call that was charged already is a stray.
        drafts.push(paid(Kind::Outcome, uuid::Uuid::from_u128(8)));
        arrivals.push(Arrival { offset, run: Ok((Host::new(host).sign(entries_of(host, &drafts)), 1)) });
    }
    let plan = fleet.plan(&arrivals).await.expect("a plan");
    fleet.commit(plan, None).await.expect("a commit");
    let read = async |fleet: &mut Fleet<MemoryStore>, span: Span| {
        let mut found = Vec::new();
        let each = |charged: crate::ledger::charges::Charged| {
            let source = charged.charge.record.source.clone();
            found.push((source, charged.charge.call.as_u128(), charged.left().0));
            std::ops::ControlFlow::Continue(())
        };
        each_of_log(fleet.ledger().store(), span, each).await.expect("read");
        found
    };
    let of = |host: &str, call, left| (format!("/caracal/{host}"), call, left);
    let wanted = [of("g", 7, 1_000), of("g", 8, 1_234), of("h", 7, 1_284), of("h", 8, 1_234)];
    assert_eq!(read(&mut fleet, Span::ALL).await, wanted);
    let day = |text: &str| text.parse().ok();
    assert_eq!(read(&mut fleet, Span::days(day("2026-09-21"), day("2026-09-21"))).await, wanted);
    assert_eq!(read(&mut fleet, Span::days(day("2026-09-22"), None)).await, []);
}

#[tokio::test]
async fn an_audit_finds_a_correction_that_makes_money_or_counts_elsewhere() {
    let call = uuid::Uuid::from_u128(7);
    let mut outcome = paid(Kind::Outcome, call);
    outcome.data.cost = Some(NanoUsd(100));
    let sound = |nano| charge_at(&outcome, 1).correct(&[], nano, &asker(), None, NOON).expect("allowed");
    let started = vec![paid(Kind::Intent, call), outcome.clone()];
    let dir = tempfile::tempdir().expect("a directory");
    let with = |more: Vec<Draft>| [started.clone(), more].concat();
    let (_, report) = audited(&dir.path().join("a"), &with(vec![sound(-60), sound(-40), sound(5)]), 2).await;
    assert_eq!((report.findings, report.corrections), (vec![], 3));
    let mut elsewhere = sound(-60);
    elsewhere.data.windows = Vec::new();
    let mut of_nothing = sound(-1);
    of_nothing.data.call = Some(uuid::Uuid::from_u128(8));
    let mut day = sound(-1);
    day.data.correction = day.data.correction.map(|one| Correction { charged_at: UnixNanos(1), ..one });
    for (name, wrong) in
        [("b", vec![sound(-60), sound(-41)]), ("c", vec![elsewhere]), ("d", vec![of_nothing]), ("e", vec![day])]
    {
        let (_, report) = audited(&dir.path().join(name), &with(wrong), 1).await;
        assert!(report.findings.iter().any(|finding| finding.code == "correction"), "{name}: {:?}", report.findings);
    }
}

fn charge_at(outcome: &Draft, sequence: u64) -> Charge {
    Charge::of(read(outcome, sequence)).expect("a charge")
}

#[tokio::test]
async fn a_correction_before_its_charge_counts_for_nothing() {
    let call = uuid::Uuid::from_u128(7);
    let correction =
        charge_at(&paid(Kind::Outcome, call), 1).correct(&[], -100, &asker(), None, NOON).expect("allowed");
    for batch in [1, 2] {
        let mut ledger = Ledger::open(MemoryStore::default(), "h").await.expect("a ledger");
        let mut strays = 0;
        for entries in entries(&[paid(Kind::Intent, call), correction.clone()]).chunks(batch) {
            strays += ledger.ingest(entries, None, None).await.expect("ingested").changes.strays;
        }
        assert_eq!((strays, ledger.store().totals.len()), (1, 0));
    }
}

/// What happens to a call.
#[derive(Clone, Debug)]
enum Step {
    /// Held, and settled at a part of it, in 1/100.
    Call(u64, u64),
    /// Held, and charged in full.
    AtHold(u64),
    /// One of the calls so far is corrected.
    Correct(usize, i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        (1u64..1_000, 0u64..=100).prop_map(|(hold, part)| Step::Call(hold, part)),
        (1u64..1_000).prop_map(Step::AtHold),
        (any::<usize>(), -1_200i64..1_200).prop_map(|(call, nano)| Step::Correct(call, nano)),
    ];
    proptest::collection::vec(step, 1..40)
}

fn specs() -> Vec<BudgetSpec> {
    let total = BudgetSpec { window: crate::budget::Window::Total, ..BudgetSpec::daily("all", NanoUsd(1_000_000_000)) };
    vec![
        total,
        BudgetSpec { per: Per::Model, parent: Some("all".into()), ..BudgetSpec::daily("model", NanoUsd(50_000)) },
    ]
}

/// What each window has, of the budgets that a live daemon and one that starts anew would show.
fn settled(budgets: &Budgets) -> HashMap<WindowKey, NanoUsd> {
    let rows = budgets.snapshot().into_iter().filter(|row| row.settled > NanoUsd::ZERO);
    rows.map(|row| (row.key, row.settled)).collect()
}

/// Plays `steps` as the daemon does; gives what it recorded, and its budgets.
async fn play(steps: &[Step]) -> (Vec<Draft>, Budgets) {
    let budgets = Budgets::new(specs(), Clock::fixed(NOON), HashMap::new()).expect("budgets");
    let (mut drafts, mut charges): (Vec<Draft>, Vec<(Charge, Vec<Corrected>)>) = (Vec::new(), Vec::new());
    for step in steps {
        let (hold, part, at_hold) = match step {
            Step::Call(hold, part) => (*hold, *part, false),
            Step::AtHold(hold) => (*hold, 100, true),
            Step::Correct(at, nano) => {
                let count = charges.len();
                let Some((charge, before)) = (count > 0).then(|| &mut charges[at % count]) else { continue };
                let Ok(draft) = charge.correct(before, *nano, &asker(), None, NOON) else { continue };
                let leaf = drafts.len() as u64;
                before.push(Corrected {
                    leaf,
                    call: charge.call.to_string(),
                    nano: *nano,
                    sequence: charge.record.sequence,
                });
                budgets.correct(&draft.data.windows, *nano);
                drafts.push(draft);
                continue;
            }
        };
        let number = drafts.len() as u128 + 1;
        let model = format!("m{}", number % 3);
        let scope = Scope {
            agent: "coder".into(),
            provider: "openai",
            model: model.as_str().into(),
            host: "h".into(),
            tool: "".into(),
        };
        let held = budgets.hold(&scope, NanoUsd(hold), NanoUsd(hold)).await.expect("room");
        let mut intent = paid(Kind::Intent, uuid::Uuid::from_u128(number));
        intent.at = NOON;
        intent.data.model = Some(model.as_str().into());
        intent.data.windows = held.windows.clone();
        intent.data.hold = Some(held.amount);
        let mut outcome = Draft { kind: Kind::Outcome, ..intent.clone() };
        let ended = paid(Kind::Outcome, uuid::Uuid::nil()).data;
        (outcome.data.usage, outcome.data.served) = (ended.usage, ended.served);
        let cost = NanoUsd(hold * part / 100);
        outcome.data.cost = Some(cost);
        outcome.data.settle = Some(if at_hold { "charged_max" } else { "settled" });
        if at_hold {
            held.charge_max();
        } else {
            held.settle(cost);
        }
        drafts.extend([intent, outcome.clone()]);
        charges.push((charge_at(&outcome, drafts.len() as u64 - 1), Vec::new()));
    }
    (drafts, budgets)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    /// Sum of the records = state of the budgets, in the daemon that ran and in one that starts anew, however the ledger
    /// was written; and the spend is the same sum.
    #[test]
    fn after_a_restart_budgets_are_the_sum_of_the_records(steps in steps(), batch in 1usize..9) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(async {
            let (drafts, live) = play(&steps).await;
            let mut sums: HashMap<WindowKey, i128> = HashMap::new();
            for draft in &drafts {
                let nano = match draft.kind {
                    Kind::Outcome => i128::from(draft.data.cost.unwrap_or_default().0),
                    Kind::Correction => draft.data.correction.map_or(0, |one| i128::from(one.nano)),
                    _ => 0,
                };
                for window in &draft.data.windows {
                    *sums.entry(window.clone()).or_default() += nano;
                }
            }
            prop_assert!(sums.values().all(|sum| *sum >= 0));
            let sums: HashMap<WindowKey, NanoUsd> = sums
                .into_iter()
                .filter(|(_, sum)| *sum > 0)
                .map(|(key, sum)| (key, NanoUsd(u64::try_from(sum).expect("small"))))
                .collect();
            prop_assert_eq!(settled(&live), sums.clone());
            let dir = tempfile::tempdir().expect("a directory");
            let (mut ledger, report) = audited(dir.path(), &drafts, batch).await;
            prop_assert_eq!(report.findings, vec![]);
            let totals = ledger.store().totals().await.expect("totals");
            let totals = totals.into_iter().map(|(key, total)| (key, total.net())).collect();
            let anew = Budgets::new(specs(), Clock::fixed(NOON), totals).expect("budgets");
            prop_assert_eq!(settled(&anew), sums.clone());
            let all = WindowKey { budget: "all".into(), scope: "".into(), window: "total".into() };
            let spent: u64 = ledger.store().spend().await.expect("spend").iter().map(|(_, row)| row.net().0).sum();
            prop_assert_eq!(spent, sums.get(&all).map_or(0, |nano| nano.0));
            Ok(())
        })?;
    }
}
