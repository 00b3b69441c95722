//! What this provider bills, by its own prices and its own arithmetic. `caracald` is judged against it.

use anyhow::{Context as _, Result};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

/// List prices in nano-USD for a million tokens.
struct Price {
    model: &'static str,
    input: u64,
    cache_read: u64,
    cache_write_5m: u64,
    cache_write_1h: u64,
    output: u64,
    /// Largest output of one call, tokens.
    ceiling: u64,
}

const fn price(
    model: &'static str,
    input: u64,
    cache_read: u64,
    write_5m: u64,
    write_1h: u64,
    output: u64,
    ceiling: u64,
) -> Price {
    // Written as thousandths of a dollar for a million tokens, the grain of the published lists.
    const GRAIN: u64 = 1_000_000;
    Price {
        model,
        input: input * GRAIN,
        cache_read: cache_read * GRAIN,
        cache_write_5m: write_5m * GRAIN,
        cache_write_1h: write_1h * GRAIN,
        output: output * GRAIN,
        ceiling,
    }
}

/// Standard tier, from the providers' public price pages on 2026-11-24, GPT-6.2 Sol on 2026-11-30: platform.claude.com (pricing) and
/// developers.openai.com (pricing). Calls of the tests stay below every long-context step.
const PRICES: &[Price] = &[
    price("claude-opus-4-8", 5_000, 500, 6_250, 10_000, 25_000, 128_000),
    price("claude-opus-5-5", 4_000, 200, 5_000, 8_000, 20_000, 128_000),
    price("claude-sonnet-4-5", 3_000, 300, 3_750, 6_000, 15_000, 64_000),
    price("claude-sonnet-4-6", 3_000, 300, 3_750, 6_000, 15_000, 128_000),
    price("claude-haiku-4-5", 1_000, 100, 1_250, 2_000, 5_000, 64_000),
    price("claude-haiku-4-5-20251001", 1_000, 100, 1_250, 2_000, 5_000, 64_000),
    price("gpt-6.2-sol", 2_000, 100, 2_500, 5_000, 10_000, 128_000),
    price("gpt-6.1-sol", 2_000, 100, 2_500, 5_000, 10_000, 128_000),
    price("gpt-5", 1_250, 125, 1_250, 1_250, 10_000, 128_000),
    price("gpt-5-mini", 250, 25, 250, 250, 2_000, 128_000),
    price("gpt-4o", 2_500, 1_250, 2_500, 2_500, 10_000, 16_384),
    price("gpt-4o-mini", 150, 75, 150, 150, 600, 16_384),
    price("gpt-4.1", 2_000, 500, 2_000, 2_000, 8_000, 32_768),
    price("gpt-4.1-mini", 400, 100, 400, 400, 1_600, 32_768),
    price("text-embedding-3-small", 20, 20, 20, 20, 0, 0),
    price("text-embedding-3-large", 130, 130, 130, 130, 0, 0),
    // ai.google.dev (pricing), aws.amazon.com (Bedrock pricing, on demand), mistral.ai, groq.com.
    price("gemini-2.5-flash", 300, 30, 300, 300, 2_500, 65_536),
    price("gemini-2.5-pro", 1_250, 125, 1_250, 1_250, 10_000, 65_536),
    // A region's own endpoint: 10 % above the global one.
    price("anthropic.claude-haiku-4-5-20251001-v1:0", 1_100, 110, 1_375, 2_200, 5_500, 64_000),
    price("amazon.nova-pro-v1:0", 800, 200, 800, 800, 3_200, 10_000),
    price("mistral-large-latest", 500, 50, 500, 500, 1_500, 262_144),
    price("openai/gpt-oss-120b", 150, 75, 150, 150, 600, 65_536),
    // api-docs.deepseek.com, docs.x.ai.
    price("deepseek-chat", 280, 28, 280, 280, 420, 8_192),
    price("grok-4.5", 2_000, 300, 2_000, 2_000, 6_000, 131_072),
    // Of an operator's own book: a deployment of Azure's, two resellers, and models on hosts of their own.
    price("desk-4o", 2_750, 1_375, 2_750, 2_750, 11_000, 16_384),
    price("anthropic/claude-haiku-4.5", 1_050, 105, 1_050, 1_050, 5_250, 64_000),
    price("meta-llama/Llama-3.3-70B-Instruct-Turbo", 880, 880, 880, 880, 880, 8_192),
    price("llama3.2", 10, 10, 10, 10, 20, 8_192),
    price("qwen3-own", 40, 40, 40, 40, 80, 8_192),
];

/// Tokens, in buckets that do not overlap.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tokens {
    /// Input neither read from nor written to a cache.
    pub input: u64,
    /// Input read from a cache.
    pub cache_read: u64,
    /// Input written to a cache for five minutes.
    pub cache_write_5m: u64,
    /// Input written to a cache for an hour.
    pub cache_write_1h: u64,
    /// Output, reasoning included.
    pub output: u64,
    /// The part of the output that was reasoning.
    pub reasoning: u64,
}

/// The models served.
pub fn models() -> impl Iterator<Item = &'static str> {
    PRICES.iter().map(|price| price.model)
}

/// The largest output of one call of `model`, tokens.
#[must_use]
pub fn ceiling(model: &str) -> Option<u64> {
    PRICES.iter().find(|price| price.model == model).map(|price| price.ceiling)
}

/// The bill of one call in nano-USD, rounded up once.
#[must_use]
pub fn nano(model: &str, tokens: &Tokens) -> Option<u64> {
    let price = PRICES.iter().find(|price| price.model == model)?;
    let lines = [
        (tokens.input, price.input),
        (tokens.cache_read, price.cache_read),
        (tokens.cache_write_5m, price.cache_write_5m),
        (tokens.cache_write_1h, price.cache_write_1h),
        (tokens.output, price.output),
    ];
    let millionths: u128 = lines.iter().map(|(count, each)| u128::from(*count) * u128::from(*each)).sum();
    u64::try_from(millionths.div_ceil(1_000_000)).ok()
}

/// One billed call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Line {
    /// This stand-in's number for the call.
    pub call: u64,
    /// The `[[id=...]]` of the prompt, if any.
    pub id: Option<String>,
    /// `openai`, `anthropic`, `google`, `bedrock`.
    pub provider: String,
    /// The model billed.
    pub model: String,
    /// The path asked.
    pub path: String,
    /// An event stream.
    pub stream: bool,
    /// The output cap as it arrived, tokens.
    pub cap: Option<u64>,
    /// What was generated.
    pub tokens: Tokens,
    /// What it costs, nano-USD.
    pub nano: u64,
    /// The answer did not get to its end.
    pub cut: bool,
    /// The answer said how many tokens it cost.
    pub usage_sent: bool,
}

/// A file of JSON lines. Each line is one write, so that a reader never sees half of one for long.
#[derive(Debug)]
pub struct Lines(Mutex<File>);

impl Lines {
    /// Opens for appending.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn append(path: &Path) -> Result<Lines> {
        let file = File::options()
            .create(true)
            .append(true)
            .open(path)
            .with_context(|| format!("opening {}", path.display()))?;
        Ok(Lines(Mutex::new(file)))
    }

    /// Appends one line.
    pub fn write(&self, line: &impl Serialize) {
        let Ok(mut bytes) = serde_json::to_vec(line) else { return };
        bytes.push(b'\n');
        let mut file = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Err(error) = file.write_all(&bytes) {
            // A bill that cannot be written must not pass for a free call.
            eprintln!("stand-in: the bill cannot be written: {error}");
            std::process::abort();
        }
    }
}

/// The bill of one stand-in.
#[derive(Debug)]
pub struct Bill(Lines);

impl Bill {
    /// A bill that is written to `lines`.
    #[must_use]
    pub fn new(lines: Lines) -> Bill {
        Bill(lines)
    }

    /// Adds a call.
    pub fn add(&self, line: &Line) {
        self.0.write(line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_round_up_for_the_whole_call() {
        // 3 x 150 + 1 x 75 + 2 x 600 = 1,725 nano-USD.
        let tokens = Tokens { input: 3, cache_read: 1, output: 2, ..Tokens::default() };
        assert_eq!(nano("gpt-4o-mini", &tokens), Some(1_725));
        // 1 x 12.5 + 1 x 25 is no whole nano-USD at gpt-5-mini's cached price: 25 + 0 stays, 12.5 would round.
        let tokens = Tokens { cache_read: 1, ..Tokens::default() };
        assert_eq!(nano("gpt-5-mini", &tokens), Some(25));
        assert_eq!(nano("no-such-model", &tokens), None);
    }
}
