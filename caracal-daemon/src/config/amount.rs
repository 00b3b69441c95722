//! Takes an amount such as `0.25 USD`; gives nano-USD exactly. Never a float.

use crate::money::NanoUsd;

/// Why a text is no amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AmountError {
    /// Not `<digits>[.<digits>] USD`.
    #[error("write an amount as \"5 USD\" or \"0.25 USD\"")]
    Shape,
    /// Not a currency that prices are in.
    #[error("only USD is known; write an amount as \"5 USD\"")]
    Currency,
    /// More than nine digits after the point.
    #[error("an amount has at most nine digits after the point (one nano-USD is 0.000000001 USD)")]
    TooFine,
    /// Beyond `u64` nano-USD.
    #[error("an amount is at most 18446744073 USD")]
    TooLarge,
}

const NANOS: u64 = 1_000_000_000;

/// Reads `5 USD`, `0.25 USD`, `1_000 USD`. The currency must be named.
///
/// # Errors
/// When the text has another shape, another currency, or does not fit.
pub fn parse_usd(text: &str) -> Result<NanoUsd, AmountError> {
    let (number, currency) = text.trim().rsplit_once(' ').ok_or(AmountError::Shape)?;
    if currency != "USD" {
        return Err(AmountError::Currency);
    }
    let (whole, fraction) = number.trim_end().split_once('.').map_or((number.trim_end(), None), |(w, f)| (w, Some(f)));
    let whole: u64 = digits(&whole.replace('_', ""))?;
    let fraction = match fraction {
        None => 0,
        Some(text) if text.len() > 9 => {
            return Err(if all_digits(text) { AmountError::TooFine } else { AmountError::Shape });
        }
        Some(text) => digits(text)? * 10_u64.pow(9 - u32::try_from(text.len()).unwrap_or(9)),
    };
    whole.checked_mul(NANOS).and_then(|nanos| nanos.checked_add(fraction)).map(NanoUsd).ok_or(AmountError::TooLarge)
}

/// The amount as people read it: exact, without trailing zeros, at least two digits after the point.
#[must_use]
pub fn format_usd(amount: NanoUsd) -> String {
    let fraction = format!("{:09}", amount.0 % NANOS);
    let kept = fraction.trim_end_matches('0').len().max(2);
    format!("{}.{} USD", amount.0 / NANOS, fraction.get(..kept).unwrap_or(&fraction))
}

fn all_digits(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}

fn digits(text: &str) -> Result<u64, AmountError> {
    if !all_digits(text) {
        return Err(AmountError::Shape);
    }
    text.parse().map_err(|_| AmountError::TooLarge)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn amounts_are_exact() {
        for (text, nanos) in [
            ("5 USD", 5_000_000_000),
            ("0.25 USD", 250_000_000),
            ("0.1 USD", 100_000_000),
            ("0.000000001 USD", 1),
            ("1_000.50 USD", 1_000_500_000_000),
            ("18446744073.709551615 USD", u64::MAX),
            ("0 USD", 0),
        ] {
            assert_eq!(parse_usd(text), Ok(NanoUsd(nanos)), "{text}");
        }
    }

    #[test]
    fn other_shapes_are_refused() {
        for (text, why) in [
            ("5", AmountError::Shape),
            ("", AmountError::Shape),
            ("USD", AmountError::Shape),
            ("-5 USD", AmountError::Shape),
            ("+5 USD", AmountError::Shape),
            ("1e3 USD", AmountError::Shape),
            (".5 USD", AmountError::Shape),
            ("5. USD", AmountError::Shape),
            ("1.2.3 USD", AmountError::Shape),
            ("5 EUR", AmountError::Currency),
            ("5 usd", AmountError::Currency),
            ("0.0000000001 USD", AmountError::TooFine),
            ("18446744073.709551616 USD", AmountError::TooLarge),
            ("99999999999999999999 USD", AmountError::TooLarge),
        ] {
            assert_eq!(parse_usd(text), Err(why), "{text}");
        }
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(nanos: u64) {
            prop_assert_eq!(parse_usd(&format_usd(NanoUsd(nanos))), Ok(NanoUsd(nanos)));
        }
    }
}
