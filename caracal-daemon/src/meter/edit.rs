//! The request as it goes upstream: the output cap, the search cap and `include_usage` are spliced into the text, and
//! every other byte and the order of the keys stay.

use super::shape::{AskUsage, CapHome, Searches};
use super::{Call, refuse};
use crate::money::NanoUsd;
use crate::refusal::{Reason, Refusal};
use bytes::Bytes;
use std::ops::Range;

/// The request as it goes upstream.
#[derive(Clone, Debug)]
pub struct Edited {
    /// `None`: the original bytes and headers go as they came. `Some`: this decoded body; Content-Encoding goes, Content-Length is its length.
    pub body: Option<Bytes>,
    /// `clamp`, `include_usage`, `body_decoded`.
    pub edits: Vec<&'static str>,
    /// The output cap that goes upstream, tokens.
    pub max_tokens: Option<u64>,
    /// The most that this request can cost: at most what was granted.
    pub hold: NanoUsd,
    /// The request's Accept-Encoding must be replaced by `identity`: a usage chunk has to be taken out of the answer.
    pub identity_answer: bool,
    pub(crate) strip_usage: bool,
}

/// One change: this text takes that place.
type Splice = (Range<usize>, String);

impl Call {
    /// The request whose longest bill is at most `granted`; asks for `include_usage` where a stream would not report usage.
    ///
    /// # Errors
    /// When `granted` is below what [`Call::least`] said.
    pub fn edit(&self, granted: NanoUsd) -> Result<Edited, Refusal> {
        let (cap, searches) = self.fit(granted)?;
        let mut splices = Vec::new();
        let mut inserts = String::new();
        let clamped = self.clamp(cap, searches, &mut splices, &mut inserts);
        let asked = self.ask_usage(&mut splices, &mut inserts);
        let body = self.spliced(splices, &inserts)?;
        let mut edits = Vec::new();
        edits.extend(clamped.then_some("clamp"));
        edits.extend(asked.then_some("include_usage"));
        edits.extend((body.is_some() && self.encoded).then_some("body_decoded"));
        let capped = clamped || self.shape.cap().is_some();
        Ok(Edited {
            body,
            edits,
            max_tokens: (capped && !self.shape.cap_key.is_empty()).then_some(cap),
            hold: self.bound(cap, searches),
            identity_answer: asked,
            strip_usage: asked,
        })
    }

    /// The output cap and the searches that `granted` pays for. More than the fewest searches only with the full output.
    fn fit(&self, granted: NanoUsd) -> Result<(u64, u64), Refusal> {
        let (ceiling, fewest) = (self.ceiling(), self.min_searches());
        let whole = (fewest..=self.max_searches()).rev().find(|searches| self.bound(ceiling, *searches) <= granted);
        if let Some(searches) = whole {
            return Ok((ceiling, searches));
        }
        let lowest = self.floor(0);
        if self.bound(lowest, fewest) > granted {
            return Err(refuse(
                Reason::BudgetExceeded,
                format!("was granted {granted}, which pays for no output of this call."),
            ));
        }
        let (mut fits, mut over) = (lowest, ceiling);
        while over - fits > 1 {
            let middle = fits + (over - fits) / 2;
            if self.bound(middle, fewest) <= granted { fits = middle } else { over = middle }
        }
        Ok((fits, fewest))
    }

    /// Writes the caps where they change something. Gives whether any does.
    fn clamp(&self, cap: u64, searches: u64, splices: &mut Vec<Splice>, inserts: &mut String) -> bool {
        let before = (splices.len(), inserts.len());
        if cap < self.ceiling() {
            self.clamp_output(cap, splices, inserts);
        }
        if let Searches::Clamped { declared, span } = &self.shape.searches
            && declared.is_none_or(|declared| searches < declared)
        {
            write_member("max_tool_calls", searches, span.as_ref(), splices, inserts);
        }
        before != (splices.len(), inserts.len())
    }

    fn clamp_output(&self, cap: u64, splices: &mut Vec<Splice>, inserts: &mut String) {
        if self.shape.caps.is_empty() {
            let member = format!("\"{}\":{cap}", self.shape.cap_key);
            match &self.shape.cap_home {
                CapHome::Top => inserts.push_str(&format!("{member},")),
                CapHome::Inside(at, true) => splices.push((*at..*at, member)),
                CapHome::Inside(at, false) => splices.push((*at..*at, format!("{member},"))),
                CapHome::Wrapped(name) => inserts.push_str(&format!("\"{name}\":{{{member}}},")),
                CapHome::Instead(null) => splices.push((null.clone(), format!("{{{member}}}"))),
            }
        }
        // With an alias beside it, a `null` stays: the number governs. Alone, it is replaced.
        let only_null = self.shape.cap().is_none();
        let mut replaced = false;
        for written in &self.shape.caps {
            if written.tokens.is_some_and(|tokens| tokens > cap) || (only_null && !replaced) {
                splices.push((written.span.clone(), cap.to_string()));
                replaced = true;
            }
        }
        if let Some((budget, span)) = self.shape.thinking.as_ref().filter(|_| self.thinks_within_cap()) {
            let beside = self.shape.cap().map_or(0, |own| own.saturating_sub(*budget)).clamp(1, super::MIN_OUTPUT);
            let room = cap.saturating_sub(beside).max(1_024);
            if *budget > room {
                splices.push((span.clone(), room.to_string()));
            }
        }
    }

    /// Asks for usage where the stream would not report it. Gives whether it had to.
    fn ask_usage(&self, splices: &mut Vec<Splice>, inserts: &mut String) -> bool {
        match &self.shape.ask_usage {
            _ if self.shape.signed => return false,
            AskUsage::AsIs => return false,
            AskUsage::Replace(span, text) => splices.push((span.clone(), (*text).to_owned())),
            AskUsage::Insert => inserts.push_str("\"stream_options\":{\"include_usage\":true},"),
        }
        true
    }

    /// The text with all changes; `None` without any.
    fn spliced(&self, mut splices: Vec<Splice>, inserts: &str) -> Result<Option<Bytes>, Refusal> {
        if splices.is_empty() && inserts.is_empty() {
            return Ok(None);
        }
        let text = super::body::text(&self.body)?;
        let lost =
            || refuse(Reason::AmbiguousRequest, "lost the place of a member while editing the request.".to_owned());
        let first = text.find('{').map(|open| open + 1).ok_or_else(lost)?;
        // An empty object takes no comma behind its only member.
        let alone = text.get(first..).is_some_and(|rest| rest.trim_start().starts_with('}'));
        let inserts = if alone { inserts.strip_suffix(',').unwrap_or(inserts) } else { inserts };
        splices.push((first..first, inserts.to_owned()));
        splices.sort_by_key(|(span, _)| (span.start, span.end));
        let mut out = String::with_capacity(text.len() + inserts.len() + 64);
        let mut at = 0;
        for (span, replacement) in splices {
            out.push_str(text.get(at..span.start).ok_or_else(lost)?);
            out.push_str(&replacement);
            at = span.end;
        }
        out.push_str(text.get(at..).ok_or_else(lost)?);
        Ok(Some(out.into()))
    }
}

fn write_member(key: &str, value: u64, span: Option<&Range<usize>>, splices: &mut Vec<Splice>, inserts: &mut String) {
    match span {
        Some(span) => splices.push((span.clone(), value.to_string())),
        None => inserts.push_str(&format!("\"{key}\":{value},")),
    }
}
