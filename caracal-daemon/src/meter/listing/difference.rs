//! How one listing differs from another. Takes two; gives the names that only one has and every value that changed, as
//! people read it. Compares what is billed, so that a price that is written out and the same price left out are equal.

use super::decimal::plain;
use super::{Listed, ListedRates, Listing, NotImported};
use std::collections::BTreeMap;

/// How one listing differs from another.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Difference {
    /// Names that only the newer one has.
    pub added: Vec<String>,
    /// Names that only the older one has.
    pub removed: Vec<String>,
    /// What changed for a name that both have.
    pub changed: Vec<Change>,
    /// Names of the older one that the newer one has in a way that cannot be compared.
    pub not_compared: Vec<NotImported>,
}

/// One changed value.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// `provider/name`.
    pub model: String,
    /// Which value: `standard output`, `max_output`.
    pub what: String,
    /// Before.
    pub old: String,
    /// After.
    pub new: String,
}

impl Listing {
    /// What is different in `newer`. Of models that it lists and this does not, only names are given.
    #[must_use]
    pub fn difference(&self, newer: &Listing) -> Difference {
        let (old, new) = (self.by_name(), newer.by_name());
        let mut difference = Difference::default();
        for (name, after) in &new {
            match old.get(name) {
                None => difference.added.push(name.clone()),
                Some(before) => changes(name, before, after, &mut difference.changed),
            }
        }
        let read: BTreeMap<&str, &NotImported> =
            newer.not_imported.iter().map(|row| (row.model.as_str(), row)).collect();
        for name in old.into_keys().filter(|name| !new.contains_key(name)) {
            match read.get(name.as_str()) {
                Some(row) => difference.not_compared.push((*row).clone()),
                None => difference.removed.push(name),
            }
        }
        difference
    }

    fn by_name(&self) -> BTreeMap<String, &Listed> {
        let models = self.models.iter();
        models
            .flat_map(|model| model.names.iter().map(move |name| (format!("{}/{name}", model.provider), model)))
            .collect()
    }
}

impl ListedRates {
    /// What is billed where no price of its own is written: plain input, and the shorter write.
    pub(super) fn billed(&self) -> [(&'static str, &str); 5] {
        let write = self.cache_write.as_ref().unwrap_or(&self.input);
        [
            ("input", &self.input),
            ("cache_read", self.cache_read.as_ref().unwrap_or(&self.input)),
            ("cache_write", write),
            ("cache_write_long", self.cache_write_long.as_ref().unwrap_or(write)),
            ("output", &self.output),
        ]
    }
}

fn changes(name: &str, old: &Listed, new: &Listed, to: &mut Vec<Change>) {
    let mut say = |what: String, old: &str, new: &str| {
        if plain(old) != plain(new) {
            to.push(Change { model: name.to_owned(), what, old: plain(old), new: plain(new) });
        }
    };
    let hosts = |model: &Listed| if model.hosts.is_empty() { "all".to_owned() } else { model.hosts.join(", ") };
    say("hosts".into(), &hosts(old), &hosts(new));
    say("max_input".into(), &old.max_input.to_string(), &new.max_input.to_string());
    say("max_output".into(), &old.max_output.to_string(), &new.max_output.to_string());
    let none = || "none".to_owned();
    let factor = |factor: &Option<String>| factor.clone().unwrap_or_else(|| "1".to_owned());
    say("geo_us".into(), &factor(&old.geo_us), &factor(&new.geo_us));
    say("fast".into(), &factor(&old.fast), &factor(&new.fast));
    say(
        "web_search".into(),
        &old.web_search.clone().unwrap_or_else(none),
        &new.web_search.clone().unwrap_or_else(none),
    );
    let places = |model: &Listed| -> BTreeMap<(String, u64), ListedRates> {
        model.rates.iter().map(|rates| ((rates.tier.clone(), rates.above), rates.clone())).collect()
    };
    let (before, after) = (places(old), places(new));
    let mut keys: Vec<_> = before.keys().chain(after.keys()).cloned().collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let label = if key.1 == 0 { key.0.clone() } else { format!("{} above {}", key.0, key.1) };
        match (before.get(&key), after.get(&key)) {
            (Some(before), Some(after)) => {
                for ((what, old), (_, new)) in before.billed().into_iter().zip(after.billed()) {
                    say(format!("{label} {what}"), old, new);
                }
            }
            (before, after) => {
                let text = |rates: Option<&ListedRates>| {
                    rates.map_or_else(none, |rates| format!("{} in, {} out", rates.input, rates.output))
                };
                say(label, &text(before), &text(after));
            }
        }
    }
}
