//! Money as integers: amounts in nano-USD, unit prices as the rationals that providers publish, bills rounded up once.
//! Never a float, never a silent overflow.

use std::fmt;
use std::str::FromStr;

/// Nano-USD: 10^-9 US dollars.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(transparent)]
pub struct NanoUsd(pub u64);

const NANO: u64 = 1_000_000_000;

impl NanoUsd {
    /// Nothing.
    pub const ZERO: NanoUsd = NanoUsd(0);
    /// More than any budget: what a bill that cannot be counted is taken for.
    pub const MAX: NanoUsd = NanoUsd(u64::MAX);

    /// The sum, or `None` when it does not fit.
    #[must_use]
    pub fn checked_add(self, other: NanoUsd) -> Option<NanoUsd> {
        self.0.checked_add(other.0).map(NanoUsd)
    }

    /// The difference, or `None` when `other` is larger.
    #[must_use]
    pub fn checked_sub(self, other: NanoUsd) -> Option<NanoUsd> {
        self.0.checked_sub(other.0).map(NanoUsd)
    }

    /// The sum, at most [`NanoUsd::MAX`].
    #[must_use]
    pub fn saturating_add(self, other: NanoUsd) -> NanoUsd {
        NanoUsd(self.0.saturating_add(other.0))
    }

    /// The difference, at least zero.
    #[must_use]
    pub fn saturating_sub(self, other: NanoUsd) -> NanoUsd {
        NanoUsd(self.0.saturating_sub(other.0))
    }

    /// For a line that people read: three digits that count and at most four decimals above a tenth of a cent, rounded
    /// up, so that something never shows as nothing.
    #[must_use]
    pub fn short(self) -> String {
        let step = self.step();
        NanoUsd(self.0.div_ceil(step).saturating_mul(step)).to_string()
    }

    /// The same, rounded down: for what is left.
    #[must_use]
    pub fn short_down(self) -> String {
        NanoUsd(self.0 - self.0 % self.step()).to_string()
    }

    fn step(self) -> u64 {
        let digits = self.0.checked_ilog10().unwrap_or(0);
        10_u64.pow(digits.saturating_sub(2)).min(100_000)
    }
}

/// Exact: at least two decimals, no trailing zeros beyond them, such as `$5.00` and `$0.001234567`.
impl fmt::Display for NanoUsd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let fraction = format!("{:09}", self.0 % NANO);
        let kept = fraction.trim_end_matches('0');
        write!(f, "${}.{kept:0<2}", self.0 / NANO)
    }
}

/// Why a text is not an amount or a price.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    /// Not a plain decimal number.
    #[error("{0:?} is not an amount of US dollars; write it like \"5 USD\", \"$5\" or \"0.25\"")]
    NotANumber(String),
    /// More decimals than a nano-USD has.
    #[error("{0:?} has more than nine decimals; the smallest amount is 0.000000001 USD")]
    TooFine(String),
    /// Larger than can be counted.
    #[error("{0:?} is too large")]
    TooLarge(String),
}

/// Digits of a plain decimal without its point, and how many of them stood behind it.
fn decimal(text: &str, whole: &str) -> Result<(u64, u32), MoneyError> {
    let (before, after) = text.split_once('.').unwrap_or((text, ""));
    let dangling = text.ends_with('.') || before.is_empty();
    if dangling || !before.bytes().chain(after.bytes()).all(|byte| byte.is_ascii_digit()) {
        return Err(MoneyError::NotANumber(whole.to_owned()));
    }
    let after = after.trim_end_matches('0');
    let digits = format!("{before}{after}").parse().map_err(|_| MoneyError::TooLarge(whole.to_owned()))?;
    let places = u32::try_from(after.len()).map_err(|_| MoneyError::TooFine(whole.to_owned()))?;
    Ok((digits, places))
}

/// Reads `5`, `0.25`, `$5`, `5 USD`: exactly, or not at all.
impl FromStr for NanoUsd {
    type Err = MoneyError;

    fn from_str(text: &str) -> Result<NanoUsd, MoneyError> {
        let bare = text.trim();
        let bare = match (bare.strip_prefix('$'), bare.strip_suffix("USD")) {
            (Some(rest), None) => rest,
            (None, Some(rest)) => rest.trim_end(),
            (None, None) => bare,
            (Some(_), Some(_)) => return Err(MoneyError::NotANumber(text.to_owned())),
        };
        let (digits, places) = decimal(bare, text)?;
        let missing = 9u32.checked_sub(places).ok_or_else(|| MoneyError::TooFine(text.to_owned()))?;
        digits.checked_mul(10u64.pow(missing)).map(NanoUsd).ok_or_else(|| MoneyError::TooLarge(text.to_owned()))
    }
}

/// Reads `-0.25`, `+5`, `5 USD`: nano-USD, exactly, or not at all.
///
/// # Errors
/// When it is no amount, finer than a nano-USD, or too large.
pub fn signed_usd(text: &str) -> Result<i64, MoneyError> {
    let bare = text.trim();
    let (negative, amount) = match bare.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, bare.strip_prefix('+').unwrap_or(bare)),
    };
    let amount: NanoUsd = amount.parse()?;
    let nano = i64::try_from(amount.0).map_err(|_| MoneyError::TooLarge(text.to_owned()))?;
    Ok(if negative { -nano } else { nano })
}

/// A change for people: `-$0.50`, `+$0.50`.
#[must_use]
pub fn shown_change(nano: i64) -> String {
    format!("{}{}", if nano < 0 { '-' } else { '+' }, NanoUsd(nano.unsigned_abs()))
}

/// A price as the provider publishes it: `nano` nano-USD for `per` units (tokens, calls).
#[derive(Clone, Copy, Debug)]
pub struct UnitPrice {
    nano: u64,
    per: u64,
}

impl UnitPrice {
    /// Costs nothing.
    pub const FREE: UnitPrice = UnitPrice { nano: 0, per: 1 };

    /// `usd` dollars for `per` units. `usd` is a plain decimal of any fineness.
    ///
    /// # Errors
    /// When it is not a number, or too large or fine to be counted.
    pub fn new(usd: &str, per: u64) -> Result<UnitPrice, MoneyError> {
        let (digits, places) = decimal(usd, usd)?;
        let too_large = || MoneyError::TooLarge(usd.to_owned());
        let per = per.max(1);
        if places <= 9 {
            let nano = digits.checked_mul(10u64.pow(9 - places)).ok_or_else(too_large)?;
            return Ok(UnitPrice { nano, per });
        }
        let finer = 10u64.checked_pow(places - 9).and_then(|scale| per.checked_mul(scale)).ok_or_else(too_large)?;
        Ok(UnitPrice { nano: digits, per: finer })
    }

    /// `amount` for `per` units.
    #[must_use]
    pub fn of(amount: NanoUsd, per: u64) -> UnitPrice {
        UnitPrice { nano: amount.0, per: per.max(1) }
    }

    /// The dearer of two.
    #[must_use]
    pub fn dearer(self, other: UnitPrice) -> UnitPrice {
        if other.is_dearer(self) { other } else { self }
    }

    /// Whether a unit costs more than one at `other`.
    #[must_use]
    pub fn is_dearer(self, other: UnitPrice) -> bool {
        u128::from(self.nano) * u128::from(other.per) > u128::from(other.nano) * u128::from(self.per)
    }
}

/// A number by which a price is multiplied, such as 1.1.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Factor {
    times: u64,
    over: u64,
}

impl Factor {
    /// Changes nothing.
    pub const ONE: Factor = Factor { times: 1, over: 1 };

    /// Reads a plain decimal with at most nine decimals.
    ///
    /// # Errors
    /// When it is not one.
    pub fn new(text: &str) -> Result<Factor, MoneyError> {
        let (digits, places) = decimal(text, text)?;
        if places > 9 {
            return Err(MoneyError::TooFine(text.to_owned()));
        }
        Ok(Factor { times: digits, over: 10u64.pow(places) })
    }

    /// Whether it makes a price larger than `other` does.
    #[must_use]
    pub fn is_more(self, other: Factor) -> bool {
        u128::from(self.times) * u128::from(other.over) > u128::from(other.times) * u128::from(self.over)
    }
}

/// A bill that is being added up: an exact, non-negative rational number of nano-USD.
/// Once it cannot be counted any more it stays so, and rounds to [`NanoUsd::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bill(Option<(u128, u128)>);

impl Default for Bill {
    fn default() -> Bill {
        Bill(Some((0, 1)))
    }
}

fn gcd(mut a: u128, mut b: u128) -> u128 {
    while b != 0 {
        (a, b) = (b, a % b);
    }
    a.max(1)
}

impl Bill {
    /// With `units` more at `price`.
    #[must_use]
    pub fn plus(self, units: u64, price: UnitPrice) -> Bill {
        Bill(self.sum(units, price))
    }

    fn sum(self, units: u64, price: UnitPrice) -> Option<(u128, u128)> {
        let (num, den) = self.0?;
        let item = u128::from(units) * u128::from(price.nano);
        let per = u128::from(price.per);
        let shared = gcd(den, per);
        let wide = per / shared;
        let num = num.checked_mul(wide)?.checked_add(item.checked_mul(den / shared)?)?;
        Some((num, den.checked_mul(wide)?))
    }

    /// `factor` times as much.
    #[must_use]
    pub fn times(self, factor: Factor) -> Bill {
        Bill(self.0.and_then(|(num, den)| {
            let (num, den) = (num.checked_mul(factor.times.into())?, den.checked_mul(factor.over.max(1).into())?);
            let shared = gcd(num, den);
            Some((num / shared, den / shared))
        }))
    }

    /// The amount, rounded up to whole nano-USD.
    #[must_use]
    pub fn round_up(self) -> NanoUsd {
        self.0.and_then(|(num, den)| u64::try_from(num.div_ceil(den)).ok()).map_or(NanoUsd::MAX, NanoUsd)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn reads_amounts_exactly_or_not_at_all() {
        for (text, nano) in [
            ("5 USD", 5_000_000_000),
            ("0.25", 250_000_000),
            ("$5", 5_000_000_000),
            ("0.000000001", 1),
            ("1.50USD", 1_500_000_000),
            ("007", 7_000_000_000),
        ] {
            assert_eq!(text.parse(), Ok(NanoUsd(nano)), "{text}");
        }
        for text in ["", "5 EUR", "-1", "1e3", "1.", ".5", "1,000", "$5 USD", "+5", "0x10", "1 000", "NaN", "5USDUSD"] {
            assert!(matches!(text.parse::<NanoUsd>(), Err(MoneyError::NotANumber(_))), "{text}");
        }
        assert!(matches!("0.0000000001".parse::<NanoUsd>(), Err(MoneyError::TooFine(_))));
        assert!(matches!("99999999999".parse::<NanoUsd>(), Err(MoneyError::TooLarge(_))));
    }

    #[test]
    fn shows_exactly_and_briefly() {
        assert_eq!(NanoUsd(5_000_000_000).to_string(), "$5.00");
        assert_eq!(NanoUsd(1_234_567).to_string(), "$0.001234567");
        assert_eq!(NanoUsd(1_234_567).short(), "$0.00124");
        assert_eq!(NanoUsd(1_234_567).short_down(), "$0.00123");
        assert_eq!(NanoUsd(1).short(), "$0.000000001");
        assert_eq!(NanoUsd(0).short(), "$0.00");
        assert_eq!(NanoUsd(7_123_456_789).short(), "$7.1235");
        assert_eq!(NanoUsd(7_123_456_789).short_down(), "$7.1234");
        assert_eq!(NanoUsd(999_999_999_999).short(), "$1000.00");
    }

    #[test]
    fn bifrost_3559_a_price_per_million_is_not_a_price_per_token() -> Result<(), MoneyError> {
        let price = UnitPrice::new("0.02", 1_000_000)?;
        assert_eq!(Bill::default().plus(10, price).round_up(), NanoUsd(200));
        assert_eq!(Bill::default().plus(1_000_000, price).round_up(), NanoUsd(20_000_000));
        Ok(())
    }

    #[test]
    fn rounds_up_once_and_not_per_item() -> Result<(), MoneyError> {
        let third = UnitPrice::new("0.000000001", 3)?;
        assert_eq!(Bill::default().plus(1, third).plus(1, third).plus(1, third).round_up(), NanoUsd(1));
        assert_eq!(Bill::default().plus(1, third).plus(3, third).round_up(), NanoUsd(2));
        let fine = UnitPrice::new("0.00000000013", 1)?;
        assert_eq!(Bill::default().plus(100, fine).round_up(), NanoUsd(13));
        Ok(())
    }

    #[test]
    fn what_cannot_be_counted_is_the_largest_amount() -> Result<(), MoneyError> {
        let dear = UnitPrice::new("18000000000", 1)?;
        assert_eq!(Bill::default().plus(u64::MAX, dear).round_up(), NanoUsd::MAX);
        assert_eq!(Bill::default().plus(1, dear).times(Factor::new("1.1")?).round_up(), NanoUsd::MAX);
        Ok(())
    }

    proptest! {
        #[test]
        fn what_is_shown_reads_back(nano: u64) {
            prop_assert_eq!(NanoUsd(nano).to_string().parse(), Ok(NanoUsd(nano)));
        }

        #[test]
        fn the_order_of_items_does_not_matter(a in 0u64..1 << 40, b in 0u64..1 << 40, p in 1u64..1 << 20, q in 1u64..1 << 20) {
            let (x, y) = (UnitPrice { nano: p, per: q }, UnitPrice { nano: q, per: p });
            prop_assert_eq!(Bill::default().plus(a, x).plus(b, y).round_up(), Bill::default().plus(b, y).plus(a, x).round_up());
        }

        #[test]
        fn any_text_is_read_without_a_panic(text in ".{0,24}") {
            let _ = text.parse::<NanoUsd>();
            let _ = UnitPrice::new(&text, 1);
        }
    }
}
