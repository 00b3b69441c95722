//! Patterns with one wildcard: of paths, models, tools and hosts as text, and of agents' names. Take what a file says;
//! refuse what would not mean what it looks like.

use serde::Deserialize;

/// A pattern in which `*` stands for any characters, none included, `/` included. Everything else stands for itself.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Glob(String);

impl Glob {
    /// The pattern as written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether there is no `*`.
    #[must_use]
    pub fn is_exact(&self) -> bool {
        !self.0.contains('*')
    }

    /// Whether it matches everything.
    #[must_use]
    pub fn is_any(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'*')
    }

    /// Whether `text` as a whole fits the pattern. Linear in each part: pieces are found leftmost, the last at the end.
    #[must_use]
    pub fn matches(&self, text: &str) -> bool {
        let Some((head, rest)) = self.0.split_once('*') else { return self.0 == text };
        let (middle, tail) = rest.rsplit_once('*').unwrap_or(("", rest));
        let Some(mut text) = text.strip_prefix(head).and_then(|text| text.strip_suffix(tail)) else { return false };
        for piece in middle.split('*').filter(|piece| !piece.is_empty()) {
            let Some((_, after)) = text.split_once(piece) else { return false };
            text = after;
        }
        true
    }
}

#[cfg(test)]
impl From<&str> for Glob {
    fn from(text: &str) -> Glob {
        Glob::try_from(text.to_owned()).expect("a pattern")
    }
}

impl TryFrom<String> for Glob {
    type Error = String;

    fn try_from(text: String) -> Result<Glob, String> {
        let good = (1..=1024).contains(&text.len()) && !text.chars().any(char::is_control);
        if text.contains('?') {
            Err(format!("{text:?}: a pattern has one wildcard, `*`, everywhere; write it for `?` too"))
        } else if good {
            Ok(Glob(text))
        } else {
            Err(format!("{text:?}: a pattern is 1 to 1024 bytes without control characters"))
        }
    }
}

/// A pattern of agent names.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct AgentPattern(Glob);

impl AgentPattern {
    /// The pattern.
    #[must_use]
    pub fn glob(&self) -> &Glob {
        &self.0
    }

    /// `["*"]`.
    #[must_use]
    pub fn everyone() -> Vec<AgentPattern> {
        vec![AgentPattern(Glob("*".to_owned()))]
    }
}

impl TryFrom<String> for AgentPattern {
    type Error = String;

    fn try_from(text: String) -> Result<AgentPattern, String> {
        let good = (1..=64).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-*".contains(&b));
        if good {
            Ok(AgentPattern(Glob(text)))
        } else {
            Err(format!("{text:?}: an agent is 1 to 64 of a-z, 0-9, . _ - (and * for any)"))
        }
    }
}
