//! Takes the heads of a request whose body will be read as UTF-8; gives nothing but whether the receiver reads it so, too.
//! Refuses a body that says it is in another charset: read by that one, it may be another call.

use super::refuse_agent;
use crate::refusal::{Reason, Refusal};
use http::HeaderMap;
use http::header::CONTENT_TYPE;

/// Checks that no head says that the body is text in anything but UTF-8 (RFC 8259, 8.1; RFC 9110, 8.3).
///
/// # Errors
/// `ambiguous_request`: more than one Content-Type, one that is not ASCII, a charset of another name, or a `charset` in a
/// place where two parsers may see different ones.
pub(super) fn check(headers: &HeaderMap) -> Result<(), Refusal> {
    let mut all = headers.get_all(CONTENT_TYPE).iter();
    let Some(value) = all.next() else { return Ok(()) };
    if all.next().is_some() {
        return Err(refused("has more than one Content-Type"));
    }
    let Ok(text) = value.to_str() else { return Err(refused("has a Content-Type that is not ASCII")) };
    let text = text.to_ascii_lowercase();
    let mut parameters = text.split(';').skip(1).filter_map(|parameter| parameter.split_once('='));
    let named = parameters.find(|(name, _)| name.trim() == "charset").map(|(_, value)| unquoted(value.trim()));
    match (named, text.matches("charset").count()) {
        (None, 0) | (Some("utf-8" | "utf8" | "us-ascii"), 1) => Ok(()),
        _ => Err(refused("says that it is in another charset than UTF-8")),
    }
}

fn unquoted(value: &str) -> &str {
    value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value)
}

fn refused(what: &str) -> Refusal {
    refuse_agent(Reason::AmbiguousRequest, format!("cannot read a request body that {what}. Send JSON in UTF-8."))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(values: &[&'static str]) -> Result<(), Reason> {
        let values = values.iter().map(|value| (CONTENT_TYPE, http::HeaderValue::from_static(value)));
        let mut headers = HeaderMap::new();
        for (name, value) in values {
            headers.append(name, value);
        }
        check(&headers).map_err(|refusal| refusal.reason)
    }

    #[test]
    fn utf_8_passes_however_it_is_written() {
        for value in [
            "application/json",
            "application/json; charset=utf-8",
            "application/json;charset=\"UTF-8\"",
            "text/plain; Charset=utf8; x=y",
            "application/json; charset=us-ascii",
            "",
        ] {
            assert_eq!(checked(&[value]), Ok(()), "{value}");
        }
        assert_eq!(checked(&[]), Ok(()));
    }

    #[test]
    fn another_charset_or_two_readings_are_refused() {
        for values in [
            &["application/json; charset=utf-7"][..],
            &["application/json; charset=utf-16le"],
            &["application/json; charset=\"iso-8859-1\""],
            &["application/json; charset=utf-8; charset=utf-7"],
            &["application/json; charset*=utf-7"],
            &["application/json; x=\"; charset=utf-8\"; charset=utf-7"],
            &["application/json, text/x; charset=utf-7"],
            &["application/json; charset"],
            &["application/json; charset= "],
            &["application/json", "application/json"],
        ] {
            assert_eq!(checked(values), Err(Reason::AmbiguousRequest), "{values:?}");
        }
    }
}
