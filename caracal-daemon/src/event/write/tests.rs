//! What records look like, how they read back, and that no text breaks one. Drafts that other stages' tests begin with.

use super::*;
use crate::clock::UnixNanos;
use crate::event::{Data, Detail, Kind, Record, Served, Usage, WindowKey};
use crate::money::NanoUsd;
use proptest::prelude::*;

pub(crate) fn scribe() -> (tempfile::TempDir, Scribe) {
    let dir = tempfile::tempdir().expect("a directory");
    let scribe = Scribe::open("host-1", &dir.path().join("keys")).expect("a scribe");
    (dir, scribe)
}

pub(crate) fn paid(kind: Kind, call: uuid::Uuid) -> Draft {
    Draft {
        kind,
        at: UnixNanos(1_790_000_000_123_456_789),
        data: Box::new(Data {
            agent: Some("coder".into()),
            call: Some(call),
            provider: Some("openai"),
            operation: Some("responses"),
            model: Some("gpt-5".into()),
            max_tokens: Some(4_096),
            edits: vec!["clamp"],
            hold: Some(NanoUsd(5_000)),
            cost: (kind == Kind::Outcome).then_some(NanoUsd(1_234)),
            settle: (kind == Kind::Outcome).then_some("settled"),
            windows: vec![WindowKey { budget: "team".into(), scope: "coder".into(), window: "day/2026-11-24".into() }],
            usage: (kind == Kind::Outcome).then_some(Usage {
                input: 10,
                cache_read: 20,
                cache_write_5m: 30,
                cache_write_1h: 40,
                output: 50,
                reasoning: 5,
                web_searches: 1,
                ..Usage::default()
            }),
            served: (kind == Kind::Outcome).then(|| Served {
                model: Some("gpt-5-2025-08-07".into()),
                tier: "priority",
                geo_us: true,
                fast: false,
                input_above: 200_000,
            }),
            ..Data::default()
        }),
        detail: Detail { host: Some("api.openai.com".into()), port: Some(443), uid: Some(1000), ..Detail::default() },
    }
}

#[test]
fn a_record_reads_back() {
    let (_dir, scribe) = scribe();
    let draft = paid(Kind::Outcome, uuid::Uuid::from_u128(7));
    let mut bytes = Vec::new();
    scribe.seal(&draft).expect("sealed").place(42, &[9; 32], &mut bytes);
    assert_eq!(read_place(&bytes), Some((42, [9; 32])));
    let record = Record::parse(&bytes).expect("a record");
    assert_eq!(record.sequence, 42);
    assert_eq!(record.prev, [9; 32]);
    assert_eq!(record.at, draft.at);
    assert_eq!(record.data.usage(), draft.data.usage);
    assert_eq!(record.data.served(), draft.data.served);
    assert_eq!(record.data.windows, draft.data.windows);
    assert_eq!(record.data.cost, draft.data.cost);
    assert_eq!(record.data.input_tokens, Some(100));
    assert_eq!(scribe.keys().open_detail(&record), Some(draft.detail));
    assert!(!bytes.windows(14).any(|part| part == b"api.openai.com"), "the host stands in the clear");
}

#[test]
fn the_names_are_those_of_the_standards() {
    let (_dir, scribe) = scribe();
    let mut bytes = Vec::new();
    scribe.seal(&paid(Kind::Outcome, uuid::Uuid::nil())).expect("sealed").place(0, &[0; 32], &mut bytes);
    let value: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
    for name in value.as_object().expect("an object").keys() {
        assert!(name.bytes().all(|byte| byte.is_ascii_lowercase()), "{name} is no CloudEvents attribute name");
    }
    assert_eq!(value["specversion"], "1.0");
    assert_eq!(value["source"], "/caracal/host-1");
    assert_eq!(value["time"], "2026-09-21T14:13:20.123456789Z");
    assert_eq!(value["data"]["gen_ai.usage.input_tokens"], 100);
    assert_eq!(value["data"]["gen_ai.usage.cache_creation.input_tokens"], 70);
}

#[test]
fn windows_are_never_cut() {
    let (_dir, scribe) = scribe();
    let mut draft = paid(Kind::Intent, uuid::Uuid::nil());
    draft.data.windows =
        vec![WindowKey { budget: "b".repeat(30_000).into(), scope: "".into(), window: "total".into() }];
    assert!(matches!(scribe.seal(&draft), Err(SealError::TooLong(_))));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]
    #[test]
    fn long_and_odd_text_never_fails(texts in proptest::collection::vec("\\PC*|[\\x00-\\x1f\"\\\\]{0,9000}", 8), times in 1usize..3000) {
        let (_dir, scribe) = scribe();
        let long = |index: usize| texts[index].repeat(times.min(70_000 / texts[index].len().max(1) + 1));
        let draft = Draft {
            kind: Kind::Decision,
            at: UnixNanos(1),
            data: Box::new(Data {
                agent: Some("a".into()), model: Some(long(0).into()), comm: Some(long(1)), message: Some(long(2)),
                policies: (0..300).map(|_| long(3).into()).collect(), price_book: Some(long(4).into()), ..Data::default()
            }),
            detail: Detail { host: Some(long(5)), path: Some(long(6)), sentence: Some(long(7)), ..Detail::default() },
        };
        let sealed = scribe.seal(&draft).expect("sealed");
        let mut bytes = Vec::new();
        sealed.place(u64::MAX, &[255; 32], &mut bytes);
        prop_assert!(bytes.len() <= MAX_RECORD_BYTES);
        prop_assert_eq!(bytes.len(), sealed.record_len());
        let record = Record::parse(&bytes).expect("a record");
        let message = record.data.message.clone().unwrap_or_default();
        prop_assert!(draft.data.message.clone().unwrap_or_default().starts_with(&message));
    }
}
