//! Bedrock's answers: converse tells its usage in words of its own, invoke its model's words and the counts beside them.
//! Source: <https://docs.aws.amazon.com/bedrock/latest/APIReference/API_runtime_TokenUsage.html>.

use super::Seen;
use crate::event::Usage;
use crate::meter::scan::Scalar;
use crate::meter::shape::Tongue;
use http::HeaderMap;

/// What converse, or the counts of an invoke, have said so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Aws {
    input: Option<u64>,
    output: Option<u64>,
    total: Option<u64>,
    cache_read: u64,
    cache_write: u64,
    long_write: u64,
    /// Of the entry of `cacheDetails` that is being read.
    entry: (u64, bool),
}

impl Aws {
    /// The counts in the head of a whole answer to an invoke.
    pub(super) fn of_head(headers: &HeaderMap) -> Aws {
        let count = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()?.trim().parse::<u64>().ok());
        Aws {
            input: count("x-amzn-bedrock-input-token-count"),
            output: count("x-amzn-bedrock-output-token-count"),
            cache_read: count("x-amzn-bedrock-cache-read-input-token-count").unwrap_or(0),
            cache_write: count("x-amzn-bedrock-cache-write-input-token-count").unwrap_or(0),
            ..Aws::default()
        }
    }

    /// What is billed at least: what is told so far.
    pub(super) fn so_far(&self) -> Usage {
        Usage {
            input: self.input.unwrap_or(0),
            cache_read: self.cache_read,
            cache_write_5m: self.cache_write.saturating_sub(self.long_write),
            cache_write_1h: self.long_write,
            output: self.output.unwrap_or(0),
            ..Usage::default()
        }
    }

    /// The usage, if it is whole: `inputTokens` counts neither what was read from the cache nor what was written to it.
    pub(super) fn usage(&self, long_cache: bool) -> Option<Usage> {
        let (input, output) = (self.input?, self.output?);
        let parts = [input, output, self.cache_read, self.cache_write];
        let sum = parts.into_iter().try_fold(0u64, u64::checked_add)?;
        // A total that is more than its parts has a part that is not known here.
        if self.total.is_some_and(|total| total > sum) {
            return None;
        }
        let long = if self.long_write == 0 && long_cache { self.cache_write } else { self.long_write };
        let written = self.cache_write.max(long);
        Some(Usage {
            input,
            cache_read: self.cache_read,
            cache_write_5m: written - long,
            cache_write_1h: long,
            output,
            ..Usage::default()
        })
    }
}

pub(super) fn scalar(seen: &mut Seen, path: &[&str], value: Scalar<'_>) {
    let aws = &mut seen.aws;
    match (path, value) {
        (["usage" | "amazon-bedrock-invocationMetrics", name], Scalar::Number(value)) => match *name {
            "inputTokens" | "inputTokenCount" => aws.input = Some(value),
            "outputTokens" | "outputTokenCount" => aws.output = Some(value),
            "totalTokens" => aws.total = Some(value),
            "cacheReadInputTokens" | "cacheReadInputTokenCount" => aws.cache_read = value,
            "cacheWriteInputTokens" | "cacheWriteInputTokenCount" => aws.cache_write = value,
            _ => {}
        },
        (["usage", "cacheDetails", "*", "inputTokens"], Scalar::Number(value)) => aws.entry.0 = value,
        (["usage", "cacheDetails", "*", "ttl"], Scalar::Text(ttl, _)) => aws.entry.1 = ttl != "5m",
        (["delta", "text"] | ["delta", "toolUse", "input"], Scalar::Text(_, size)) => seen.written(size),
        (["serviceTier", "type"], Scalar::Text(name, _)) => seen.terms.tier = super::tier(name),
        _ => {}
    }
}

pub(super) fn closed(seen: &mut Seen, path: &[&str]) {
    let aws = &mut seen.aws;
    match path {
        ["usage", "cacheDetails", "*"] => {
            if aws.entry.1 {
                aws.long_write = aws.long_write.saturating_add(aws.entry.0);
            }
            aws.entry = (0, false);
        }
        ["usage"] if seen.tongue == Tongue::Converse => seen.told = true,
        ["amazon-bedrock-invocationMetrics"] if seen.tongue == Tongue::Counts => seen.told = true,
        // The event `metadata` is the last one; a whole answer ends with its document.
        [] => {
            seen.ended |= aws.input.is_some();
            seen.settled |= seen.settles();
        }
        _ => {}
    }
}
