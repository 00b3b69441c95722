//! Takes what went wrong with a configuration; gives a message with file, line, key and what is allowed.

use std::fmt;
use std::path::{Path, PathBuf};

/// Why a configuration is not accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("{path}: {why}", path = path.display())]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        why: String,
    },
    /// The file says something that is not allowed.
    #[error(transparent)]
    Invalid(#[from] Problem),
}

/// One place in a file, and what is wrong there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The file.
    pub path: PathBuf,
    /// Line, from 1.
    pub line: usize,
    /// Column in characters, from 1; `None` when the whole entry is meant.
    pub column: Option<usize>,
    /// The key, where one is to blame.
    pub key: Option<String>,
    /// What is wrong.
    pub message: String,
    /// What to write instead.
    pub help: Option<String>,
}

impl std::error::Error for Problem {}

impl fmt::Display for Problem {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}:{}", self.path.display(), self.line)?;
        if let Some(column) = self.column {
            write!(out, ":{column}")?;
        }
        if let Some(key) = &self.key {
            write!(out, ": `{key}`")?;
        }
        write!(out, ": {}", self.message)?;
        if let Some(help) = &self.help {
            write!(out, "; {help}")?;
        }
        Ok(())
    }
}

/// A contradiction that a check found: the entry's line (0: look for the key), the key, the sentence.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub(super) line: usize,
    pub(super) key: &'static str,
    pub(super) message: String,
}

impl Found {
    pub(super) fn new(line: usize, key: &'static str, message: impl Into<String>) -> Found {
        Found { line, key, message: message.into() }
    }
}

impl Problem {
    pub(super) fn of_check(path: &Path, text: &str, found: Found) -> Problem {
        let line = if found.line > 0 { found.line } else { line_of(text, found.key) };
        Problem {
            path: path.to_owned(),
            line,
            column: None,
            key: Some(found.key.to_owned()),
            message: found.message,
            help: None,
        }
    }

    /// The parser's error with its place, the key and, for a misspelling, the nearest word that is allowed.
    pub(super) fn from_toml(path: &Path, text: &str, error: &toml::de::Error) -> Problem {
        let start = error.span().map_or(0, |span| span.start);
        let (line, column) = position(text, start);
        let message = error.message().trim().replace('\n', "; ");
        let words = quoted(&message);
        let misspelt = message.starts_with("unknown field") || message.starts_with("unknown variant");
        let help = words.split_first().filter(|_| misspelt).and_then(|(wrong, allowed)| suggest(wrong, allowed));
        let key = if message.starts_with("unknown field") {
            words.first().map(|word| (*word).to_owned())
        } else {
            key_before(text, start)
        };
        Problem { path: path.to_owned(), line, column: Some(column), key, message, help }
    }
}

/// The line of `section.key`, of `[section]` where the key is not written, else the first.
fn line_of(text: &str, dotted: &str) -> usize {
    let (section, key) = dotted.split_once('.').unwrap_or((dotted, dotted));
    let starts = |line: &str, key: &str| {
        line.trim_start().strip_prefix(key).is_some_and(|rest| rest.trim_start().starts_with('='))
    };
    let head = text.lines().position(|line| line.trim_start().starts_with(&format!("[{section}]")));
    let from = head.unwrap_or(0);
    let line = text.lines().skip(from).position(|line| starts(line, key)).map(|at| from + at);
    line.or(head).map_or(1, |at| at + 1)
}

/// The words that serde puts in backquotes.
fn quoted(message: &str) -> Vec<&str> {
    message.split('`').skip(1).step_by(2).collect()
}

/// `did you mean ...`, when one of `allowed` is near enough to `wrong` to be meant.
pub(crate) fn suggest(wrong: &str, allowed: &[&str]) -> Option<String> {
    let near = allowed.iter().map(|word| (strsim::damerau_levenshtein(wrong, word), word)).min()?;
    (near.0 <= 1 + wrong.len() / 4).then(|| format!("did you mean `{}`?", near.1))
}

/// Line and column, both from 1, of a byte offset.
pub(crate) fn position(text: &str, offset: usize) -> (usize, usize) {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before.get(line_start..).map_or(0, |rest| rest.chars().count()) + 1;
    (before.matches('\n').count() + 1, column)
}

/// The key whose value holds `offset`: the nearest `key =` at or above it.
fn key_before(text: &str, offset: usize) -> Option<String> {
    let line_end = text.get(offset..)?.find('\n').map_or(text.len(), |at| offset + at);
    text.get(..line_end)?.lines().rev().find_map(|line| {
        let key = line.split_once('=')?.0.trim();
        let plain = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || "_-.".contains(c));
        plain.then(|| key.to_owned())
    })
}
