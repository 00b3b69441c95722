use super::super::export::read;
use super::*;
use crate::clock::UnixNanos;
use crate::event::record::Fields;
use crate::event::{Kind, Record};
use crate::ledger::books::Corrected;
use crate::ledger::corrections::Charge;

/// A charge of 2026-11-24, with 10 tokens in and 5 out where its usage was seen.
fn charged(model: &str, answered: &str, cost: u64, at_hold: bool) -> Charged {
    let data = Fields {
        call: Some(uuid::Uuid::from_u128(u128::from(cost)).to_string()),
        provider: Some("openai".into()),
        model: Some(model.into()),
        response_model: (!at_hold).then(|| answered.to_owned()),
        cost: Some(NanoUsd(cost)),
        settle: Some(if at_hold { "charged_max" } else { "settled" }.into()),
        uncached_tokens: (!at_hold).then_some(6),
        cache_read_tokens: (!at_hold).then_some(4),
        output_tokens: (!at_hold).then_some(5),
        ..Fields::default()
    };
    let record = Record {
        id: String::new(),
        source: "/caracal/h".into(),
        kind: Kind::Outcome.code().into(),
        at: UnixNanos(1_795_521_600_000_000_000),
        sequence: 0,
        prev: [0; 32],
        subject: None,
        sealed: None,
        data,
        more: BTreeMap::new(),
    };
    Charged { leaf: 0, charge: Charge::of(record).expect("a charge"), detail: None, corrections: Vec::new() }
}

fn compare(csv: &str, charges: &[Charged]) -> Vec<Row> {
    let export = read(csv).expect("an export");
    let mut both = Reconciliation::new(&export);
    charges.iter().for_each(|charged| both.add(charged));
    both.rows()
}

const HEAD: &str = "day,provider,model,key,requests,input_tokens,cache_read_tokens,output_tokens,amount_usd\n";

#[test]
fn equal_sides_do_not_differ_whatever_a_snapshot_is_called() {
    let rows = compare(
        &format!(
            "{HEAD}2026-11-24,openai,gpt-4o-2024-08-06,a,1,10,4,5,0.000001\n2026-11-24,openai,gpt-4o,b,1,10,4,5,0.000002\n"
        ),
        &[charged("gpt-4o", "gpt-4o-2024-08-06", 1_000, false), charged("gpt-4o", "gpt-4o-2024-08-06", 2_000, false)],
    );
    assert_eq!(rows.len(), 1);
    assert!(!rows[0].differs(NanoUsd::ZERO), "{rows:?}");
    assert_eq!((rows[0].model.as_str(), rows[0].parts.len()), ("gpt-4o", 2));
    assert_eq!(rows[0].proposals(NanoUsd::ZERO), []);
}

#[test]
fn what_is_on_one_side_only_differs() {
    let other_day = {
        let mut charged = charged("gpt-4o", "gpt-4o", 7, false);
        charged.charge.record.at = UnixNanos(1);
        charged
    };
    let rows = compare(
        &format!("{HEAD}2026-11-24,openai,gpt-5,,1,10,4,5,0.5\n"),
        &[charged("gpt-4o", "gpt-4o", 1_000, false), other_day],
    );
    let shown: Vec<_> = rows.iter().map(|row| (row.model.as_str(), row.money(), row.differs(NanoUsd::ZERO))).collect();
    assert_eq!(shown, [("gpt-4o", Some(-1_000), true), ("gpt-5", Some(500_000_000), true)]);
    // Nothing of it is a charge at its hold, and nothing of the other one is in the ledger: there is nothing to correct.
    assert!(rows.iter().all(|row| row.proposals(NanoUsd::ZERO).is_empty()));
    assert!(!rows[0].differs(NanoUsd::ZERO) || rows[0].tokens()[0].1 == Some(-10));
}

#[test]
fn charges_at_their_hold_are_the_cause_and_come_down_first() {
    let rows = compare(
        &format!("{HEAD}2026-11-24,openai,gpt-4o,,3,30,12,15,0.0000013\n"),
        &[
            charged("gpt-4o", "gpt-4o", 1_000, false),
            charged("gpt-4o", "", 5_000, true),
            charged("gpt-4o-2024-08-06", "", 700, true),
        ],
    );
    assert_eq!((rows[0].money(), rows[0].at_hold()), (Some(1_300 - 6_700), (2, NanoUsd(5_700))));
    let proposals: Vec<_> = rows[0].proposals(NanoUsd(10)).into_iter().map(|one| (one.model, one.nano_usd)).collect();
    assert_eq!(proposals, [("gpt-4o".to_owned(), -5_000), ("gpt-4o-2024-08-06".to_owned(), -400)]);
    assert_eq!(rows[0].proposals(NanoUsd(5_400)), []);
}

#[test]
fn corrections_count_and_a_row_that_was_corrected_is_equal() {
    let mut at_hold = charged("gpt-4o", "", 5_000, true);
    let csv = "day,provider,model,amount_usd\n2026-11-24,openai,gpt-4o,0.0000013\n";
    let rows = compare(csv, std::slice::from_ref(&at_hold));
    let proposal = rows[0].proposals(NanoUsd::ZERO).pop().expect("a proposal");
    at_hold.corrections.push(Corrected { leaf: 1, call: String::new(), nano: proposal.nano_usd, sequence: 0 });
    let rows = compare(csv, &[at_hold]);
    assert!(!rows[0].differs(NanoUsd::ZERO), "tokens are not told by this export: {rows:?}");
}

#[test]
fn an_export_without_models_is_held_against_the_whole_day() {
    let rows = compare(
        "start_time,amount_value,amount_currency,line_item\n1795478400,0.000003,usd,\n",
        &[charged("gpt-4o", "gpt-4o", 1_000, false), charged("gpt-5", "gpt-5", 2_000, false)],
    );
    assert_eq!((rows.len(), rows[0].model.as_str(), rows[0].differs(NanoUsd::ZERO)), (1, "", false));
}

#[test]
fn names_lose_their_dates_and_nothing_else() {
    for (name, want) in [
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("Claude Sonnet 4.5", "claude-sonnet-4-5"),
        ("gpt-4.1-mini", "gpt-4.1-mini"),
        ("20250929", "20250929"),
        ("", ""),
    ] {
        assert_eq!(canonical(name), want);
    }
}

/// Each provider and day for itself: of what the export does not tell nothing is taken off.
#[test]
fn what_is_not_told_is_not_billed_at_nothing() {
    let anthropic = {
        let mut charged = charged("claude-haiku-4-5", "", 700, true);
        charged.charge.record.data.provider = Some("anthropic".into());
        charged
    };
    let charges = [charged("gpt-4o", "", 5_000, true), anthropic];
    // OpenAI on another day, and Anthropic on this one.
    let rows = compare(
        "day,provider,model,amount_usd\n2026-11-23,openai,gpt-4o,0.5\n2026-11-24,anthropic,claude-haiku-4-5,0.0000005\n",
        &charges,
    );
    let shown: Vec<_> = rows.iter().map(|row| (row.provider.as_str(), row.money())).collect();
    assert_eq!(shown, [("openai", Some(500_000_000)), ("anthropic", Some(500 - 700))]);
    // Tokens of one and money of the other, on the same day.
    let rows = compare(
        "day,provider,model,input_tokens,amount_usd\n2026-11-24,openai,gpt-4o,0,\n2026-11-24,anthropic,claude-haiku-4-5,,0.0000007\n",
        &charges,
    );
    assert_eq!(rows.iter().map(Row::money).collect::<Vec<_>>(), [Some(0), None]);
    assert!(rows.iter().all(|row| !row.differs(NanoUsd::ZERO) && row.proposals(NanoUsd::ZERO).is_empty()), "{rows:?}");
    // The control: a day that is told, and has nothing.
    let rows = compare(&format!("{HEAD}2026-11-24,openai,gpt-5,,1,10,4,5,0.5\n"), &charges);
    assert_eq!(rows[0].proposals(NanoUsd::ZERO).len(), 1, "{rows:?}");
}

#[test]
fn many_keys_are_grouped_once() {
    let lines: String = (0..60_000).map(|n| format!("2026-11-24,openai,gpt-4o,key{},1,1,0,1,0.1\n", n / 2)).collect();
    let rows = compare(&format!("{HEAD}{lines}"), &[]);
    assert_eq!((rows.len(), rows[0].parts.len()), (1, 30_000));
    assert!(rows[0].parts.iter().all(|part| part.billed.requests == Some(2)));
}

#[test]
fn what_is_proposed_of_many_hosts_names_the_one_that_has_the_charges() {
    let of = |host: &str, cost: u64, at_hold: bool| {
        let mut one = charged("gpt-4o", "gpt-4o", cost, at_hold);
        one.charge.record.source = format!("/caracal/{host}");
        one
    };
    let rows = |amount: &str| {
        let export = read(&format!("{HEAD}2026-11-24,openai,gpt-4o,,,,,,{amount}\n")).expect("an export");
        let mut both = Reconciliation::of_fleet(&export);
        for charge in [of("a", 1_000, true), of("b", 2_000, false), of("b", 4_000, true), of("a", 8_000, true)] {
            both.add(&charge);
        }
        both.rows()
    };
    let all = rows("0.000015");
    assert_eq!((all.len(), all[0].ledger.calls, all[0].ledger.nano_usd), (1, 4, NanoUsd(15_000)));
    assert!(!all[0].differs(NanoUsd::ZERO));
    let hosts: Vec<_> = all[0].ledger.hosts.iter().map(|(host, of)| (host.as_str(), of.calls, of.nano_usd.0)).collect();
    assert_eq!(hosts, [("a", 2, 9_000), ("b", 2, 6_000)]);
    assert_eq!(all[0].at_hold(), (3, NanoUsd(13_000)), "all hosts together");
    let proposed = |amount: &str| -> Vec<(String, i64, bool)> {
        let proposals = rows(amount)[0].proposals(NanoUsd::ZERO);
        proposals.into_iter().map(|one| (one.host.unwrap_or_default(), one.nano_usd, one.at_hold)).collect()
    };
    assert_eq!(proposed("0.000014"), [("a".to_owned(), -1_000, true)]);
    // What one host's charges of whole holds do not have comes off the next one's, and no more than those.
    assert_eq!(proposed("0.000004"), [("a".to_owned(), -9_000, true), ("b".to_owned(), -2_000, true)]);
    assert_eq!(proposed("0.000001"), [("a".to_owned(), -9_000, true), ("b".to_owned(), -4_000, true)]);
    assert_eq!(proposed("0.000016"), [("a".to_owned(), 1_000, false)]);
    // On one host nobody needs to be named.
    let export = read(&format!("{HEAD}2026-11-24,openai,gpt-4o,,,,,,0\n")).expect("an export");
    let mut own = Reconciliation::new(&export);
    own.add(&of("a", 1_000, true));
    let row = own.rows().remove(0);
    assert!(row.ledger.hosts.is_empty() && row.proposals(NanoUsd::ZERO)[0].host.is_none());
}
