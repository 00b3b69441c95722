//! The last words of `run`: what was spent, in one line.

use super::Doings;

impl Doings {
    /// One line for a person: calls and charges, by model where there are several.
    pub(super) fn text(&self) -> String {
        let plural = |count: u64, one: &str| format!("{count} {one}{}", if count == 1 { "" } else { "s" });
        let models = self.models.iter().map(|(model, (calls, spent))| match self.models.len() {
            1 => model.clone(),
            _ => format!("{model} {calls} for {}", spent.short()),
        });
        let models = models.collect::<Vec<_>>().join(", ");
        let models = if models.is_empty() { models } else { format!(" ({models})") };
        let (calls, requests) = (plural(self.calls, "paid call"), plural(self.requests, "other request"));
        format!("{calls}, {} spent{models}; {requests} allowed", self.spent.short())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::NanoUsd;

    #[test]
    fn the_last_words_name_the_models() {
        let mut doings = Doings::default();
        assert_eq!(doings.text(), "0 paid calls, $0.00 spent; 0 other requests allowed");
        (doings.calls, doings.spent, doings.requests) = (1, NanoUsd(34_556_000), 1);
        doings.models.insert("gpt-6.1-sol".into(), (1, NanoUsd(34_556_000)));
        assert_eq!(doings.text(), "1 paid call, $0.0346 spent (gpt-6.1-sol); 1 other request allowed");
        doings.models.insert("o".into(), (2, NanoUsd(1)));
        assert!(doings.text().contains("(gpt-6.1-sol 1 for $0.0346, o 2 for $0.000000001)"), "{}", doings.text());
    }
}
