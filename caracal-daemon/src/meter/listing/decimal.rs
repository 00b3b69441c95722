//! Amounts as decimal text: takes the number that somebody wrote, gives the same amount without a rounding. Refuses what
//! is negative, no number, or of no sane size.

/// A decimal without zeros that say nothing; other text as it is.
pub(super) fn plain(text: &str) -> String {
    let number = text.contains('.') && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
    if number { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() }
}

/// A JSON number times 1,000,000 as decimal text, exactly; `None` when it is negative or not a number of sane size.
pub(super) fn per_million(number: &str) -> Option<String> {
    let (mantissa, exponent) = number.split_once(['e', 'E']).unwrap_or((number, "0"));
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{whole}{fraction}");
    if digits.is_empty() || digits.len() > 40 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let exponent: i32 = exponent.strip_prefix('+').unwrap_or(exponent).parse().ok()?;
    // Where the point stands, counted from the first digit.
    let point = i32::try_from(whole.len()).ok()? + exponent.checked_add(6)?;
    if !(-30..=40).contains(&point) {
        return None;
    }
    let length = i32::try_from(digits.len()).ok()?;
    let zeros = |count: i32| "0".repeat(usize::try_from(count).unwrap_or(0));
    let text = if point <= 0 {
        format!("0.{}{digits}", zeros(-point))
    } else if point >= length {
        format!("{digits}{}", zeros(point - length))
    } else {
        let (left, right) = digits.split_at(usize::try_from(point).ok()?);
        format!("{left}.{right}")
    };
    let text = plain(&text);
    let bare = text.trim_start_matches('0');
    Some(if bare.is_empty() || bare.starts_with('.') { format!("0{bare}") } else { bare.to_owned() })
}

/// Which decimal text is more.
pub(super) fn compare(one: &String, other: &String) -> std::cmp::Ordering {
    let parts = |text: &String| {
        let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
        (whole.len(), whole.to_owned(), fraction.to_owned())
    };
    parts(one).cmp(&parts(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_number_is_taken_exactly() {
        for (number, million) in [
            ("2.5e-06", "2.5"),
            ("1.5E-5", "15"),
            ("0.0000225", "22.5"),
            ("2e-08", "0.02"),
            ("0.0", "0"),
            ("1", "1000000"),
            ("1.30e-07", "0.13"),
            ("3.7500000000000001e-06", "3.7500000000000001"),
        ] {
            assert_eq!(per_million(number).as_deref(), Some(million), "{number}");
        }
        for number in ["-1", "1e99", "NaN", "", "e5", "1e", "\"1\"", "1.2.3"] {
            assert_eq!(per_million(number), None, "{number}");
        }
    }

    proptest! {
        #[test]
        fn any_number_is_read_or_refused(text in "[0-9.eE+-]{0,50}") {
            if let Some(million) = per_million(&text) {
                prop_assert!(million.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'), "{million}");
                let digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_digit);
                prop_assert!(million.split('.').count() <= 2 && digit(million.as_bytes().first()) && digit(million.as_bytes().last()));
            }
        }

        #[test]
        fn decimals_are_compared_as_numbers(one in 0u32..2_000_000, other in 0u32..2_000_000) {
            let text = |n: u32| plain(&format!("{}.{:03}", n / 1_000, n % 1_000));
            prop_assert_eq!(compare(&text(one), &text(other)), one.cmp(&other));
        }
    }
}
