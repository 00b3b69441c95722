//! Money as providers write it: decimals of any fineness, exponents, credits below zero. Added up exactly, rounded once.

/// Units of one US dollar: 10^-18.
const ATTO: i128 = 1_000_000_000_000_000_000;
/// Ten digits before the point: no bill has more.
const MAX_WHOLE_DIGITS: usize = 10;

/// An amount in 10^-18 USD; what is finer is cut.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Amount(i128);

impl Amount {
    /// Reads `0.06`, `-1.5e-05`, `0.00383598000000000000000000`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Amount> {
        let text = text.trim();
        let (negative, text) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix('+').unwrap_or(text)),
        };
        let (number, exponent) = match text.split_once(['e', 'E']) {
            None => (text, 0),
            Some((number, exponent)) => (number, exponent.parse::<i32>().ok()?),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = || whole.bytes().chain(fraction.bytes());
        let has_digits = digits().next().is_some() && digits().all(|byte| byte.is_ascii_digit());
        if !has_digits || whole.len() + fraction.len() > 200 {
            return None;
        }
        // Where the point stands among all digits, once the exponent has moved it.
        let point = i32::try_from(whole.len()).ok()?.checked_add(exponent)?;
        let mut sum: i128 = 0;
        for (at, digit) in (0_i32..).zip(digits()) {
            let power = point.checked_sub(at)?.checked_sub(1)?;
            let digit = i128::from(digit - b'0');
            if digit == 0 || power < -18 {
                continue;
            }
            if power >= i32::try_from(MAX_WHOLE_DIGITS).ok()? {
                return None;
            }
            let place = 10_i128.pow(u32::try_from(power + 18).ok()?);
            sum += digit * place;
        }
        Some(Amount(if negative { -sum } else { sum }))
    }

    /// The sum.
    #[must_use]
    pub fn plus(self, other: Amount) -> Amount {
        Amount(self.0.saturating_add(other.0))
    }

    /// A hundredth: of an amount in cents.
    #[must_use]
    pub fn of_cents(self) -> Amount {
        Amount(self.0 / 100)
    }

    /// In nano-USD, to the nearest.
    #[must_use]
    pub fn nano(self) -> i128 {
        let unit = ATTO / 1_000_000_000;
        let half = if self.0 < 0 { -unit / 2 } else { unit / 2 };
        self.0.saturating_add(half) / unit
    }
}

/// As nano-USD.
impl serde::Serialize for Amount {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        i64::try_from(self.nano()).unwrap_or(i64::MAX).serialize(to)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_read_as_they_are_written() {
        for (text, nano) in [
            ("0.06", 60_000_000),
            ("0.003835980000000000000000000000", 3_835_980),
            ("1.5e-05", 15_000),
            ("12E2", 1_200_000_000_000),
            ("-3", -3_000_000_000),
            ("0.0000000005", 1),
            ("0.0000000004", 0),
            (".5", 500_000_000),
            ("5.", 5_000_000_000),
        ] {
            assert_eq!(Amount::parse(text).map(Amount::nano), Some(nano), "{text}");
        }
        for text in ["", ".", "-", "1,5", "$1", "1e", "0x1", "99999999999", "1e99", "1e-99999999999", "NaN"] {
            assert_eq!(Amount::parse(text), None, "{text}");
        }
        assert_eq!(Amount::parse("123.45").map(|cents| cents.of_cents().nano()), Some(1_234_500_000));
    }

    #[test]
    fn small_parts_add_up_before_they_are_rounded() {
        let part = Amount::parse("0.0000000004").expect("an amount");
        let sum = (0..10).fold(Amount::default(), |sum, _| sum.plus(part));
        assert_eq!(sum.nano(), 4);
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_not(text in "\\PC{0,40}") {
            let _ = Amount::parse(&text).map(Amount::nano);
        }

        #[test]
        fn nano_usd_come_back(nano in 0i64..9_000_000_000_000_000_000) {
            let text = format!("{}.{:09}", nano / 1_000_000_000, nano % 1_000_000_000);
            prop_assert_eq!(Amount::parse(&text).map(Amount::nano), Some(i128::from(nano)));
        }
    }
}
