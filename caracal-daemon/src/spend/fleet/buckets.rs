//! What the view's sums are about, and what they are called in Redis: keys by width and time, fields by host, agent,
//! provider, model and number.

use crate::ledger::books::Spend;
use std::collections::BTreeMap;

const DAY: i64 = 86_400;

/// What a sum is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct FleetKey {
    /// The host.
    pub host: String,
    /// The agent.
    pub agent: String,
    /// `openai`, `anthropic`.
    pub provider: String,
    /// The model.
    pub model: String,
}

/// The buckets of one width.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub enum Width {
    /// Kept for two days.
    Minute,
    /// Kept for 62 days.
    Hour,
    /// Kept for ever.
    Day,
}

impl Width {
    pub(super) const ALL: [Width; 3] = [Width::Minute, Width::Hour, Width::Day];

    pub(super) fn name(self) -> &'static str {
        match self {
            Width::Minute => "minute",
            Width::Hour => "hour",
            Width::Day => "day",
        }
    }

    /// The bucket of a minute such as `2026-11-24T10:05`.
    pub(super) fn bucket(self, minute: &str) -> &str {
        let length = match self {
            Width::Minute => 16,
            Width::Hour => 13,
            Width::Day => 10,
        };
        minute.get(..length).unwrap_or(minute)
    }

    /// When the bucket of a minute goes, Unix seconds.
    pub(super) fn ends(self, minute: &str) -> Option<i64> {
        let kept = match self {
            Width::Minute => 2 * DAY,
            Width::Hour => 62 * DAY,
            Width::Day => return None,
        };
        let at: jiff::Timestamp = format!("{minute}:00Z").parse().ok()?;
        at.as_second().checked_add(kept)
    }
}

/// Sums by bucket and key.
pub type Sums = BTreeMap<(Width, String, FleetKey), Spend>;

/// A field's name: unambiguous whatever stands in it.
pub(super) fn field(key: &FleetKey, name: &str) -> String {
    serde_json::json!([key.host, key.agent, key.provider, key.model, name]).to_string()
}

pub(super) fn read_field(text: &str) -> Option<(FleetKey, String)> {
    let [host, agent, provider, model, name]: [String; 5] = serde_json::from_str(text).ok()?;
    Some((FleetKey { host, agent, provider, model }, name))
}

/// Sets one number of a row; `None` for a name that is none.
pub(super) fn set(row: &mut Spend, name: &str, value: u64) -> Option<()> {
    let at = Spend::NUMBERS.iter().position(|known| *known == name)?;
    *row.numbers_mut().into_iter().nth(at)? = value;
    Some(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_has_its_place() {
        let mut row = Spend::default();
        for (value, name) in (1..).zip(Spend::NUMBERS) {
            set(&mut row, name, value).expect("a name");
        }
        assert_eq!(row.numbers(), [1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13]);
        assert_eq!(set(&mut row, "other", 1), None);
    }

    #[test]
    fn names_are_read_back_whatever_stands_in_them() {
        let key = FleetKey { host: "h|\"".into(), agent: "a,b".into(), provider: "p".into(), model: "[m]".into() };
        assert_eq!(read_field(&field(&key, "nano")), Some((key, "nano".to_owned())));
        assert_eq!(read_field("nano"), None);
    }

    #[test]
    fn buckets_end_when_they_are_old() {
        assert_eq!(Width::Hour.bucket("2026-11-24T10:05"), "2026-11-24T10");
        assert_eq!(Width::Minute.ends("1970-01-01T00:01"), Some(60 + 2 * DAY));
        assert_eq!(Width::Day.ends("2026-11-24T10:05"), None);
    }
}
