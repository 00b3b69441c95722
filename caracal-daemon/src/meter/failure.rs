//! Failed answers that tell no usage: which of them a provider bills all the same. Data, and the look into it.
//!
//! What the providers say:
//! - Azure: what the service has worked on is charged whatever the status; named are a 400 of the content filter or of an
//!   input beyond its limit, and a 408. A filtered prompt is charged with its completion, since the filter runs beside the model:
//!   the whole hold is the only bound. A 401 and a 429 are not charged.
//!   <https://learn.microsoft.com/azure/ai-foundry/openai/faq>,
//!   <https://learn.microsoft.com/azure/ai-services/openai/how-to/manage-costs>,
//!   <https://learn.microsoft.com/azure/ai-services/openai/concepts/content-filter>
//! - Google: a 400 or a 500 is not charged. <https://ai.google.dev/gemini-api/docs/billing>
//! - OpenAI: a 429 for want of flex capacity is not charged. <https://developers.openai.com/api/docs/guides/flex-processing>
//! - AWS bills tokens that were used (<https://docs.aws.amazon.com/bedrock/latest/userguide/quotas-token-burndown.html>), and does
//!   not say whether a model that ran out of its time (408) or failed at its work (424) used any: so they may be billed.
//!   <https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_InvokeModel.html>
//! - xAI charges a request that violates its guidelines for what it generated, and answers 403, which it also does where a key may
//!   not do something. (What it finds before it generates costs a fee in its Responses API, for which no price here is sold.)
//!   <https://docs.x.ai/developers/pricing>, <https://docs.x.ai/docs/key-information/debugging>
//! - Whoever it is, an edge before it may give up while the model goes on: a time that ran out (408, 499, 504, 524), or an answer
//!   that the edge could not read (502, 520), says nothing of what was done. Where no origin was reached (521 to 523, 525 to 526)
//!   nothing was. <https://developers.cloudflare.com/support/troubleshooting/http-status-codes/cloudflare-5xx-errors/>
//! - The others say nothing of it: any other error without usage counts as refused before any work.

use super::{Call, Provider, Reading};
use std::sync::Arc;

/// An answer whose status says that it failed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Failure {
    /// The status.
    pub status: u16,
    /// The codes of its error, the inner one's too.
    pub codes: Vec<Arc<str>>,
    /// It was read to its end: there is no other code.
    pub whole: bool,
}

/// What a failed answer without usage costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Failed {
    /// Nothing: the provider refused before any work.
    Unbilled,
    /// It may be billed, up to the whole hold: the reason for the record.
    Billed(&'static str),
}

/// A kind of failed answer that is billed.
#[derive(Debug)]
struct Billed {
    status: u16,
    /// The codes of its error; none: any.
    codes: &'static [&'static str],
    reason: &'static str,
}

const fn billed(status: u16, codes: &'static [&'static str], reason: &'static str) -> Billed {
    Billed { status, codes, reason }
}

const FILTERED: &[&str] = &["content_filter", "ResponsibleAIPolicyViolation", "content_policy_violation"];
const TOO_LONG: &[&str] = &["context_length_exceeded"];

/// A 503 is not here: whoever is too busy has done no work.
const AZURE: &[Billed] = &[
    billed(400, FILTERED, "prompt_filtered"),
    billed(400, TOO_LONG, "prompt_too_long"),
    billed(500, &[], "provider_failed"),
];

const BEDROCK: &[Billed] = &[billed(424, &[], "provider_failed")];

const XAI: &[Billed] = &[billed(403, &[], "prompt_filtered")];

/// By an edge between us and any provider.
const EDGE: &[Billed] = &[
    billed(408, &[], "provider_timed_out"),
    billed(499, &[], "provider_timed_out"),
    billed(502, &[], "provider_failed"),
    billed(504, &[], "provider_timed_out"),
    billed(520, &[], "provider_failed"),
    billed(524, &[], "provider_timed_out"),
];

impl Provider {
    fn billed_failures(self) -> &'static [Billed] {
        match self {
            Provider::Azure => AZURE,
            Provider::Bedrock => BEDROCK,
            Provider::Xai => XAI,
            _ => &[],
        }
    }
}

impl Billed {
    /// An error that could not be read may have any code.
    fn is(&self, failure: &Failure) -> bool {
        let coded = || failure.codes.iter().any(|code| self.codes.contains(&&**code));
        self.status == failure.status && (self.codes.is_empty() || !failure.whole || coded())
    }
}

impl Call {
    /// What an answer costs that failed and told no usage. `None`: it did not fail.
    #[must_use]
    pub fn failed(&self, reading: &Reading) -> Option<Failed> {
        let failure = reading.failure.as_ref()?;
        let mut known = self.provider.billed_failures().iter().chain(EDGE);
        let found = known.find(|billed| billed.is(failure));
        Some(found.map_or(Failed::Unbilled, |billed| Failed::Billed(billed.reason)))
    }
}
