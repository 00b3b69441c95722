//! The configuration that is written where there is none.

/// The text of the starter configuration: the model providers that are known, a small daily budget, nothing else.
#[must_use]
pub fn starter() -> &'static str {
    include_str!("starter.toml")
}
