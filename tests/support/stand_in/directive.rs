//! How a test steers the stand-in: `[[words]]` anywhere in a prompt, or the same words in the header `x-stand-in`.
//!
//! | word | effect |
//! |---|---|
//! | `id=X` | the bill's line carries X |
//! | `say=X` | the answer is X (`_` for a space) |
//! | `output=N` | N tokens are generated (64), never above the cap |
//! | `max` | as many tokens as the cap or the model allows are billed |
//! | `reasoning=N` | N of the output tokens are reasoning |
//! | `cached=N` | N of the input tokens were read from a cache |
//! | `slow=MS` | a pause between two events of a stream |
//! | `cut=N` | the connection breaks after N events |
//! | `reset` | it breaks with a reset |
//! | `stop=N` | the stream stands still after N events until `/go/ID` is asked of a site, or nobody listens |
//! | `error=N` | on a socket: an error after N events, and the answer goes on |
//! | `beyond=N` | N tokens of a hundred letters each are generated, whatever the cap |
//! | `no-usage` | the answer does not say what it cost, and it is billed |
//! | `late-usage` | the usage comes after a pause |
//! | `longer=N` | the announced length is N more than what comes |
//! | `shorter=N` | it is N less, and no more than that comes |
//! | `trailing=N` | N bytes follow the document, within the announced length |
//! | `redirect` | the answer is a 307 to the same path, unless its query has a `key`; not billed |
//! | `status=N` | the answer is the provider's error N, not billed |
//! | `session`, `dir=D` | a scripted session of tool calls in D: see `script.rs` |

use std::time::Duration;

/// The words of one prompt.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directive {
    /// For the bill.
    pub id: Option<String>,
    /// The answer's text.
    pub say: Option<String>,
    /// Tokens to generate.
    pub output: Option<u64>,
    /// Bill the maximum.
    pub max: bool,
    /// Reasoning tokens within the output.
    pub reasoning: u64,
    /// Cached input tokens.
    pub cached: u64,
    /// Pause between two events.
    pub slow: Duration,
    /// Break after this many events.
    pub cut: Option<usize>,
    /// Break with a reset.
    pub reset: bool,
    /// Stand still after this many events.
    pub stop: Option<usize>,
    /// An error after this many events of a socket, and the answer goes on.
    pub error: Option<usize>,
    /// Generate this many tokens, whatever the cap.
    pub beyond: Option<u64>,
    /// Leave the usage out.
    pub no_usage: bool,
    /// Send the usage late.
    pub late_usage: bool,
    /// Announce this many bytes too many, or, below zero, too few.
    pub length: i64,
    /// Bytes behind the document.
    pub trailing: usize,
    /// Send elsewhere.
    pub redirect: bool,
    /// Answer with this error.
    pub status: Option<u16>,
    /// Play a scripted session.
    pub session: bool,
    /// The session's directory.
    pub dir: Option<String>,
}

impl Directive {
    /// Reads every `[[...]]` of `text`; a later word wins.
    #[must_use]
    pub fn in_text(text: &str) -> Directive {
        let mut out = Directive::default();
        let mut rest = text;
        while let Some((_, after)) = rest.split_once("[[") {
            let Some((words, tail)) = after.split_once("]]") else { break };
            out.take(words);
            rest = tail;
        }
        out
    }

    /// Adds the words of `x-stand-in`.
    pub fn take(&mut self, words: &str) {
        for word in words.split_whitespace() {
            let (key, value) = word.split_once('=').unwrap_or((word, ""));
            let number = || value.parse::<u64>().unwrap_or(0);
            match key {
                "id" => self.id = Some(value.to_owned()),
                "say" => self.say = Some(value.replace('_', " ")),
                "output" => self.output = Some(number()),
                "max" => self.max = true,
                "reasoning" => self.reasoning = number(),
                "cached" => self.cached = number(),
                "slow" => self.slow = Duration::from_millis(number()),
                "cut" => self.cut = usize::try_from(number()).ok(),
                "reset" => self.reset = true,
                "stop" => self.stop = usize::try_from(number()).ok(),
                "error" => self.error = usize::try_from(number()).ok(),
                "beyond" => self.beyond = Some(number()),
                "no-usage" => self.no_usage = true,
                "late-usage" => self.late_usage = true,
                "longer" => self.length = i64::try_from(number()).unwrap_or(0),
                "shorter" => self.length = -i64::try_from(number()).unwrap_or(0),
                "trailing" => self.trailing = usize::try_from(number()).unwrap_or(0),
                "redirect" => self.redirect = true,
                "status" => self.status = u16::try_from(number()).ok(),
                "session" => self.session = true,
                "dir" => self.dir = Some(value.to_owned()),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::Directive;

    #[test]
    fn words_of_all_brackets_count() {
        let read = Directive::in_text("hello [[id=7 cut=3]] and [[max]] but not [[broken");
        assert_eq!(read.id.as_deref(), Some("7"));
        assert_eq!(read.cut, Some(3));
        assert!(read.max);
        assert_eq!(Directive::in_text("nothing here"), Directive::default());
    }
}
