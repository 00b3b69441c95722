//! The members of a record: which name each fact has, and in which order. Takes a draft's data or detail; refuses budget
//! windows that are longer than a record can carry, since money hangs on them. Never writes a host, a path or a person
//! outside of the detail.

use super::json::Members;
use super::{ROOM_NAME, ROOM_TEXT, ROOM_WINDOWS};
use crate::event::{Data, Detail, SealError, Usage, WindowKey};

pub(super) fn data(out: &mut Vec<u8>, data: &Data) -> Result<(), SealError> {
    let mut to = Members::of(out);
    to.text("caracal.agent", data.agent.as_deref(), ROOM_NAME);
    to.text("caracal.decision", data.decision, ROOM_NAME);
    to.text("caracal.reason", data.reason, ROOM_NAME);
    to.text("caracal.stage", data.stage, ROOM_NAME);
    to.text("caracal.action", data.action, ROOM_NAME);
    to.list("caracal.policies", data.policies.iter().map(|id| &**id));
    to.text("caracal.policy_set", data.policy_set.as_deref(), ROOM_NAME);
    if let Some(call) = &data.call {
        let mut text = [0u8; uuid::fmt::Hyphenated::LENGTH];
        to.text("caracal.call", Some(call.hyphenated().encode_lower(&mut text)), ROOM_NAME);
    }
    to.number("caracal.count", data.count);
    to.text("gen_ai.provider.name", data.provider, ROOM_NAME);
    to.text("gen_ai.operation.name", data.operation, ROOM_NAME);
    to.text("gen_ai.request.model", data.model.as_deref(), ROOM_NAME);
    to.number("gen_ai.request.max_tokens", data.max_tokens);
    to.list("caracal.edits", data.edits.iter().copied());
    to.number("caracal.hold.nano_usd", data.hold.map(|hold| hold.0));
    to.number("caracal.cost.nano_usd", data.cost.map(|cost| cost.0));
    to.text("caracal.settle", data.settle, ROOM_NAME);
    windows(&mut to, &data.windows)?;
    if let Some(correction) = &data.correction {
        to.change("caracal.correction.nano_usd", correction.nano);
        to.number("caracal.correction.sequence", Some(correction.sequence));
        to.moment("caracal.correction.charged_at", correction.charged_at);
    }
    if let Some(near) = &data.near {
        to.number("caracal.budget.percent", Some(u64::from(near.percent)));
        to.number("caracal.budget.limit_nano_usd", Some(near.limit.0));
        to.number("caracal.budget.spent_nano_usd", Some(near.spent.0));
    }
    if let Some(used) = &data.usage {
        usage(&mut to, used);
    }
    if let Some(terms) = &data.served {
        to.text("gen_ai.response.model", terms.model.as_deref(), ROOM_NAME);
        to.text("caracal.terms.tier", Some(terms.tier), ROOM_NAME);
        to.number("caracal.terms.geo_us", terms.geo_us.then_some(1));
        to.number("caracal.terms.fast", terms.fast.then_some(1));
        to.number("caracal.terms.input_above", Some(terms.input_above).filter(|above| *above > 0));
    }
    to.text("caracal.price_book", data.price_book.as_deref(), ROOM_NAME);
    to.number("caracal.price_assumed", data.price_assumed.then_some(1));
    to.text("caracal.price_entry", data.price_entry.as_deref(), ROOM_NAME);
    to.number("http.response.status_code", data.status.map(u64::from));
    to.number("caracal.cgroup", data.cgroup);
    to.number("process.pid", data.pid.map(u64::from));
    to.text("caracal.comm", data.comm.as_deref(), ROOM_NAME);
    to.number("caracal.netns_cookie", data.netns);
    to.number("caracal.bytes.sent", data.bytes_sent);
    to.number("caracal.bytes.received", data.bytes_received);
    to.text("caracal.message", data.message.as_deref(), ROOM_TEXT);
    to.number("caracal.kernel.redirected", data.kernel.map(|kernel| kernel.redirected));
    to.number("caracal.kernel.refused", data.kernel.map(|kernel| kernel.refused));
    Ok(())
}

fn windows(to: &mut Members<'_>, windows: &[WindowKey]) -> Result<(), SealError> {
    if windows.is_empty() {
        return Ok(());
    }
    to.key("caracal.windows");
    let start = to.out.len();
    to.out.push(b'[');
    for (index, window) in windows.iter().enumerate() {
        if index > 0 {
            to.out.push(b',');
        }
        let mut member = Members::of(to.out);
        member.out.push(b'{');
        member.text("budget", Some(&window.budget), usize::MAX / 2);
        member.text("scope", Some(&window.scope), usize::MAX / 2);
        member.text("window", Some(&window.window), usize::MAX / 2);
        member.out.push(b'}');
        if to.out.len() - start > ROOM_WINDOWS {
            return Err(SealError::TooLong(to.out.len()));
        }
    }
    to.out.push(b']');
    Ok(())
}

/// Our disjoint buckets, and the sums that OpenTelemetry's names stand for (its input count includes the cached part).
fn usage(to: &mut Members<'_>, used: &Usage) {
    let written = used.cache_write_5m.saturating_add(used.cache_write_1h);
    let input = used.input.saturating_add(used.cache_read).saturating_add(written);
    to.number("gen_ai.usage.input_tokens", Some(input));
    to.number("gen_ai.usage.output_tokens", Some(used.output));
    to.number("gen_ai.usage.cache_read.input_tokens", Some(used.cache_read));
    to.number("gen_ai.usage.cache_creation.input_tokens", Some(written));
    to.number("gen_ai.usage.reasoning.output_tokens", Some(used.reasoning));
    to.number("caracal.usage.uncached_input_tokens", Some(used.input));
    to.number("caracal.usage.cache_write_5m_tokens", Some(used.cache_write_5m));
    to.number("caracal.usage.cache_write_1h_tokens", Some(used.cache_write_1h));
    to.number("caracal.usage.web_searches", Some(used.web_searches));
    let fixed = |count: u64| Some(count).filter(|_| used.calls > 0);
    to.number("caracal.usage.calls", fixed(used.calls));
    to.number("caracal.usage.sent_bytes", fixed(used.sent));
    to.number("caracal.usage.received_bytes", fixed(used.received));
}

pub(super) fn detail(detail: &Detail) -> Vec<u8> {
    let mut out = Vec::with_capacity(256);
    out.push(b'{');
    let mut to = Members::of(&mut out);
    to.text("host", detail.host.as_deref(), ROOM_NAME * 2);
    to.number("port", detail.port.map(u64::from));
    to.text("path", detail.path.as_deref(), ROOM_TEXT);
    to.text("method", detail.method.as_deref(), ROOM_NAME);
    to.number("uid", detail.uid.map(u64::from));
    to.text("sentence", detail.sentence.as_deref(), ROOM_TEXT);
    to.text("note", detail.note.as_deref(), ROOM_TEXT);
    to.number("asked_by", detail.asked_by.map(u64::from));
    out.push(b'}');
    out
}
