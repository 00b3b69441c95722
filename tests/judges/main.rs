//! The ledger before judges that nobody here wrote: a log of the real daemon's, exported as files, and forgeries of every kind of
//! file. Each judge and `caracald ledger verify` must accept what is sound and reject every forgery of what they read. Leaves
//! `judges.json`: one case for each judge and forgery.

mod again;
mod crates;
mod forgeries;
mod log;
mod panel;
mod served;

use forgeries::Forgery;
use panel::Judge;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use support::report;

/// The stand-in's binary.
const STAND_IN: &str = env!("CARGO_BIN_EXE_stand-in");
/// The load client.
const LOAD: &str = env!("CARGO_BIN_EXE_load");
/// The report's name.
const SUBJECT: &str = "judges";

/// What a judge said of one case, and why where it does not accept.
type Said = BTreeMap<String, Result<(), String>>;

#[test]
fn judges_accept_what_is_sound_and_reject_every_forgery() {
    let files = tempfile::tempdir().expect("a scratch directory");
    let logs = log::make(files.path());
    let sound = forgeries::sound(&logs, &files.path().join("sound"));
    let forged = forgeries::forge(&logs, &files.path().join("forged"));
    report::figure(SUBJECT, "records", logs.size());
    report::figure(SUBJECT, "forgeries", forged.len() as u64);
    let (mut faults, mut verdicts) = (Vec::new(), 0);
    let mut judge_one = |judge: &Judge, case: &Forgery, said: &Said, sound: bool| {
        let name = format!("{}: {}", judge.name, case.name);
        let Some(answer) = said.get(&case.name) else {
            faults.push(format!("{name}: no verdict"));
            return report::verdict(SUBJECT, &name, Some("the judge gave no verdict".into()), Map::new());
        };
        verdicts += 1;
        let accepts = answer.is_ok();
        let fault = match answer {
            Ok(()) if !sound => Some("it accepts a forgery".to_owned()),
            Err(why) if sound => Some(format!("it rejects what is sound: {why}")),
            _ => None,
        };
        faults.extend(fault.iter().map(|fault| format!("{name}: {fault}")));
        let mut more = facts(judge, case);
        more.insert("accepts".into(), json!(accepts));
        if let Err(said) = answer {
            more.insert("said".into(), json!(said));
        }
        report::verdict(SUBJECT, &name, fault, more);
    };
    for judge in panel::panel() {
        let mut not_applicable = BTreeMap::<&str, u64>::new();
        for (cases, is_sound) in [(&sound, true), (&forged, false)] {
            let (read, unread): (Vec<&Forgery>, Vec<&Forgery>) = cases.iter().partition(|case| judge.reads(case));
            let said = judge.ask(&read.iter().map(|case| &*case.dir).collect::<Vec<&Path>>());
            read.iter().for_each(|case| judge_one(&judge, case, &said, is_sound));
            for case in unread {
                *not_applicable.entry(case.part.word()).or_default() += 1;
            }
        }
        // Not accepted, not rejected: not asked.
        for (what, count) in not_applicable {
            let why = format!("not applicable: {} does not read {what}", judge.name);
            report::omitted(SUBJECT, &format!("{}: {what}", judge.name), &why, count);
        }
    }
    report::figure(SUBJECT, "verdicts", verdicts);
    report::figure(SUBJECT, "disagreements", faults.len() as u64);
    assert_eq!(faults, Vec::<String>::new());
    // No forgery is ours alone to see, and none is seen by all others and not by us.
    for case in &forged {
        let read_by =
            panel::panel().iter().filter(|judge| !judge.name.starts_with(panel::OURS) && judge.reads(case)).count();
        assert!(read_by > 0, "no judge but ours reads {}", case.name);
    }
}

fn facts(judge: &Judge, case: &Forgery) -> Map<String, Value> {
    let mut more = Map::new();
    more.insert("judge".into(), json!(judge.name));
    more.insert("forgery".into(), json!(case.name));
    more.insert("file".into(), json!(case.part.word()));
    more
}
