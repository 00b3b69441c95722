//! What the kernel refused, as records; and what the records tell already, for a keeper that does not know what became of an
//! order: it was killed before it noted the answer, or the data path was before it gave one.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use caracal_common::denial::{Hook, Why};

use super::App;
use crate::agent::CgroupId;
use crate::event::{Data, Detail, Draft, Kind, Record};
use crate::keeper::order::{Answer, KernelRefusal, Recorded, Told};
use crate::ledger::query::records_from;

/// What an inbound rule let in is counted where refusals are.
const INBOUND: &str = "inbound";

/// One durable record a kind, with its exact count. Answers how many were recorded, and the sequence number behind the last
/// of them: the keeper hands the rest over again, so that nothing is counted twice and nothing is lost when the journal
/// stops in between.
pub(super) async fn record(app: &App, refusals: Vec<KernelRefusal>) -> Answer {
    ours(app)?;
    let mut told = Recorded { recorded: 0, next: None };
    for refusal in refusals {
        let agent = app.gate.roster.agent(CgroupId(refusal.agent));
        let let_in = refusal.why == 0 || refusal.why == Why::UnixPeerLearned as u32;
        let data = Data {
            agent: agent.as_ref().map(|agent| Arc::clone(&agent.name)),
            // What an inbound rule let in, and what an agent that learns reached, is counted at the same place.
            decision: Some(if let_in { "allow" } else { "deny" }),
            action: (refusal.why == 0).then_some(INBOUND),
            reason: Why::from_number(refusal.why).map(Why::code),
            stage: Hook::from_number(refusal.hook).map(Hook::code),
            count: (refusal.count > 1).then_some(refusal.count),
            cgroup: Some(refusal.agent),
            pid: (refusal.tgid != 0).then_some(refusal.tgid),
            comm: Some(refusal.comm).filter(|comm| !comm.is_empty()),
            ..Data::default()
        };
        let detail = Detail {
            host: refusal.address.map(|address| address.ip().to_string()),
            port: refusal.address.map(|address| address.port()).filter(|port| *port != 0),
            path: Some(refusal.socket).filter(|socket| !socket.is_empty()),
            uid: agent.map(|agent| agent.uid),
            ..Detail::default()
        };
        let kind = if refusal.why == 0 { Kind::Decision } else { Kind::KernelDenial };
        let draft = Draft { kind, at: app.stages.clock.now(), data: data.into(), detail };
        let Ok(receipt) = app.stages.journal.durable(draft).await else { break };
        told.recorded += 1;
        told.next = Some(receipt.sequence + 1);
    }
    serde_json::to_value(told).map_err(|error| error.to_string())
}

/// What the records from `since` on tell of the kernel's counters, and the sequence number of the record to come. Without
/// `since` that number alone.
pub(super) async fn told(app: &App, since: Option<u64>) -> Answer {
    ours(app)?;
    let next = app.stages.journal.tail().durable();
    let mut told = Told { next, list: Vec::new() };
    if let Some(since) = since {
        let reader = app.stages.journal.reader(since);
        let each = |record: &[u8]| told.list.extend(one_told(record));
        let next = records_from(&app.stages.state, reader, since, each).await.map_err(|error| error.to_string())?;
        // A state directory that was made anew begins before what the keeper noted.
        told.next = next.min(app.stages.journal.tail().durable());
    }
    serde_json::to_value(told).map_err(|error| error.to_string())
}

/// Once another data path has the journal, its keeper asks that one, and what this one would record now would be unknown to
/// it.
fn ours(app: &App) -> Result<(), String> {
    if app.handing_over.load(Ordering::Acquire) { Err("another data path comes".to_owned()) } else { Ok(()) }
}

/// Of which counter a record tells, and how much: agent, why, hook, count.
fn one_told(bytes: &[u8]) -> Option<(u64, u32, u32, u64)> {
    // Most records are others, and need not be read.
    let mentions = |word: &str| memchr::memmem::find(bytes, word.as_bytes()).is_some();
    if !mentions(Kind::KernelDenial.code()) && !mentions(INBOUND) {
        return None;
    }
    let record = Record::parse(bytes).ok()?;
    let (data, denial) = (&record.data, record.kind == Kind::KernelDenial.code());
    let let_in = record.kind == Kind::Decision.code() && data.action.as_deref() == Some(INBOUND);
    let hook = Hook::ALL.into_iter().find(|hook| Some(hook.code()) == data.stage.as_deref())?;
    let why = match Why::ALL.into_iter().find(|why| Some(why.code()) == data.reason.as_deref()) {
        Some(why) if denial => why as u32,
        None if let_in => 0,
        _ => return None,
    };
    Some((data.cgroup?, why, hook as u32, data.count.unwrap_or(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::write::tests::scribe;

    #[test]
    fn a_record_tells_of_its_counter_and_others_of_none() {
        let (_keys, scribe) = scribe();
        let told = |kind, data: Data| {
            let draft = Draft { kind, at: crate::clock::UnixNanos(1), data: data.into(), detail: Detail::default() };
            let mut bytes = Vec::new();
            scribe.seal(&draft).expect("sealed").place(4, &[0; 32], &mut bytes);
            one_told(&bytes)
        };
        for (why, hook) in Why::ALL.into_iter().flat_map(|why| Hook::ALL.map(|hook| (why, hook))) {
            let data = |count| Data {
                reason: Some(why.code()),
                stage: Some(hook.code()),
                cgroup: Some(7),
                count,
                ..Data::default()
            };
            assert_eq!(told(Kind::KernelDenial, data(Some(5))), Some((7, why as u32, hook as u32, 5)));
            assert_eq!(told(Kind::KernelDenial, data(None)), Some((7, why as u32, hook as u32, 1)));
            assert_eq!(told(Kind::Decision, data(None)), None);
        }
        let inbound = |action| Data {
            action,
            stage: Some(Hook::Ingress.code()),
            cgroup: Some(9),
            count: Some(3),
            ..Data::default()
        };
        assert_eq!(told(Kind::Decision, inbound(Some(INBOUND))), Some((9, 0, Hook::Ingress as u32, 3)));
        assert_eq!(told(Kind::Decision, inbound(Some("connect"))), None);
        let message = format!("{INBOUND} {}", Kind::KernelDenial.code());
        assert_eq!(told(Kind::Lifecycle, Data { message: Some(message), ..Data::default() }), None);
    }
}
