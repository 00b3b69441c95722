//! Takes the bytes of a head; tells where it ends and what follows it, or that it has more than one reading (RFC 9112).

use crate::refusal::Reason;

/// Headers of one head: as many as the HTTP stack behind takes without making room for them anew for each request.
const MOST_HEADERS: usize = 100;

/// What follows a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Follows {
    /// A body of this many bytes; 0 for none.
    Length(u64),
    /// A chunked body.
    Chunks,
    /// Another protocol, if the answer agrees.
    Upgrade,
}

/// What is wrong with a head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub(super) reason: Reason,
    pub(super) why: &'static str,
}

const fn ambiguous(why: &'static str) -> Fault {
    Fault { reason: Reason::AmbiguousRequest, why }
}

const fn invalid(why: &'static str) -> Fault {
    Fault { reason: Reason::HeadInvalid, why }
}

/// The length of the head at the front of `bytes` and what follows it; `None` while its end is not there.
/// The first `searched` bytes are known to hold no end.
pub(super) fn head(bytes: &[u8], searched: usize) -> Result<Option<(usize, Follows)>, Fault> {
    let from = searched.saturating_sub(3);
    let fresh = bytes.get(from..).unwrap_or_default();
    // A line ends with CR LF here and nothing else; some parsers take a bare LF, and so could be made to see another head.
    let bare = fresh.iter().enumerate().any(|(at, byte)| {
        *byte == b'\n' && (from + at).checked_sub(1).and_then(|before| bytes.get(before)) != Some(&b'\r')
    });
    let end = fresh.windows(4).position(|window| window == b"\r\n\r\n").map(|at| from + at + 4);
    let Some(end) = end else {
        return if bare { Err(ambiguous("a line of its head ends without CR LF")) } else { Ok(None) };
    };
    let whole = bytes.get(..end - 4).unwrap_or_default();
    Ok(Some((end, follows(whole)?)))
}

/// Reads a head without its last four bytes.
fn follows(head: &[u8]) -> Result<Follows, Fault> {
    let mut lines = Lines(Some(head));
    let (method, version) = request_line(lines.next().unwrap_or_default())?;
    let mut seen = Seen::default();
    for (count, line) in lines.enumerate() {
        if count >= MOST_HEADERS {
            return Err(invalid("it has more than 100 headers"));
        }
        seen.header(line)?;
    }
    seen.follows(method, version)
}

/// The lines of a head. A CR or LF that is not part of a CR LF stays in its line and is refused there.
struct Lines<'a>(Option<&'a [u8]>);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let rest = self.0.take()?;
        match rest.windows(2).position(|window| window == b"\r\n") {
            Some(at) => {
                self.0 = rest.get(at + 2..);
                rest.get(..at)
            }
            None => Some(rest),
        }
    }
}

fn request_line(line: &[u8]) -> Result<(&[u8], u8), Fault> {
    let wrong = invalid("its first line is not METHOD TARGET HTTP/1.1");
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(wrong);
    };
    if method.is_empty()
        || !method.iter().copied().all(is_token)
        || target.is_empty()
        || target.iter().any(|byte| *byte <= b' ' || *byte == 0x7f)
    {
        return Err(wrong);
    }
    match version {
        b"HTTP/1.1" => Ok((method, 1)),
        b"HTTP/1.0" => Ok((method, 0)),
        _ => Err(wrong),
    }
}

/// The headers on which the reading of a message depends.
#[derive(Debug, Default)]
struct Seen {
    length: Option<u64>,
    chunked: bool,
    hosts: u32,
    upgrade: bool,
}

impl Seen {
    fn header(&mut self, line: &[u8]) -> Result<(), Fault> {
        if line.first().is_some_and(|first| matches!(first, b' ' | b'\t')) {
            return Err(ambiguous("a header is folded over two lines"));
        }
        if line.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)) {
            return Err(ambiguous("a header holds a bare CR, LF or NUL"));
        }
        let Some(colon) = line.iter().position(|byte| *byte == b':') else {
            return Err(invalid("a header has no colon"));
        };
        let (name, value) = line.split_at(colon);
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return Err(ambiguous("a header's name holds a space or another character that does not belong there"));
        }
        let value = value.get(1..).unwrap_or_default().trim_ascii();
        // The first letter and the length rule nearly every header out before its name is compared.
        match (name.first().map(u8::to_ascii_lowercase), name.len()) {
            (Some(b'c'), 14) if name.eq_ignore_ascii_case(b"content-length") => self.content_length(value),
            (Some(b't'), 17) if name.eq_ignore_ascii_case(b"transfer-encoding") => self.transfer_encoding(value),
            (Some(b'h'), 4) if name.eq_ignore_ascii_case(b"host") => self.host(),
            (Some(b'u'), 7) if name.eq_ignore_ascii_case(b"upgrade") => {
                self.upgrade = true;
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn content_length(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.length.is_some() {
            return Err(ambiguous("it has two Content-Length headers"));
        }
        let is_number = !value.is_empty() && value.len() <= 18 && value.iter().all(u8::is_ascii_digit);
        let number = std::str::from_utf8(value).ok().filter(|_| is_number).and_then(|text| text.parse().ok());
        self.length = Some(number.ok_or(ambiguous("its Content-Length is not one number"))?);
        Ok(())
    }

    fn transfer_encoding(&mut self, value: &[u8]) -> Result<(), Fault> {
        if self.chunked {
            return Err(ambiguous("it has two Transfer-Encoding headers"));
        }
        if !value.eq_ignore_ascii_case(b"chunked") {
            return Err(ambiguous("its Transfer-Encoding is not chunked"));
        }
        self.chunked = true;
        Ok(())
    }

    fn host(&mut self) -> Result<(), Fault> {
        self.hosts += 1;
        if self.hosts > 1 { Err(ambiguous("it has two Host headers")) } else { Ok(()) }
    }

    fn follows(&self, method: &[u8], version: u8) -> Result<Follows, Fault> {
        if self.chunked && self.length.is_some() {
            return Err(ambiguous("it has both Content-Length and Transfer-Encoding"));
        }
        if self.chunked && version == 0 {
            return Err(ambiguous("HTTP/1.0 has no Transfer-Encoding"));
        }
        if self.hosts == 0 && version == 1 {
            return Err(invalid("it has no Host header"));
        }
        let has_body = self.chunked || self.length.is_some_and(|length| length > 0);
        if method == b"CONNECT" {
            return if has_body { Err(ambiguous("a CONNECT has no body")) } else { Ok(Follows::Upgrade) };
        }
        Ok(match self.length {
            _ if self.chunked => Follows::Chunks,
            Some(length) if length > 0 => Follows::Length(length),
            _ if self.upgrade => Follows::Upgrade,
            _ => Follows::Length(0),
        })
    }
}

/// A character of a method or a header's name (RFC 9110 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> Result<Option<(usize, Follows)>, Reason> {
        head(text.as_bytes(), 0).map_err(|fault| fault.reason)
    }

    #[test]
    fn plain_heads_have_one_reading() {
        let get = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(read(get), Ok(Some((get.len(), Follows::Length(0)))));
        assert_eq!(
            read("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 12\r\n\r\nabc")
                .map(|found| found.map(|(_, follows)| follows)),
            Ok(Some(Follows::Length(12)))
        );
        assert_eq!(
            read("POST / HTTP/1.1\r\nhost: a\r\nTransfer-Encoding: Chunked\r\n\r\n")
                .map(|found| found.map(|(_, follows)| follows)),
            Ok(Some(Follows::Chunks))
        );
        assert_eq!(
            read("GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\n\r\n")
                .map(|found| found.map(|(_, follows)| follows)),
            Ok(Some(Follows::Upgrade))
        );
        assert_eq!(
            read("CONNECT a:1 HTTP/1.1\r\nhost: a\r\n\r\n").map(|found| found.map(|(_, follows)| follows)),
            Ok(Some(Follows::Upgrade))
        );
        assert_eq!(read("GET / HTTP/1.1\r\nHost: a\r\n"), Ok(None));
        assert_eq!(
            read("GET / HTTP/1.0\r\n\r\n").map(|found| found.map(|(_, follows)| follows)),
            Ok(Some(Follows::Length(0)))
        );
    }

    #[test]
    fn ambiguous_heads_are_refused() {
        for headers in [
            "Content-Length: 3\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: chunked\r\nContent-Length: 3",
            "Content-Length: 3\r\nContent-Length: 3",
            "Content-Length: 3\r\ncontent-length: 4",
            "Content-Length: 3, 3",
            "Content-Length: +3",
            "Content-Length: 0x3",
            "Content-Length:",
            "Content-Length: 99999999999999999999",
            "Transfer-Encoding: gzip, chunked",
            "Transfer-Encoding: identity",
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked",
            "Transfer-Encoding: \x0bchunked",
            "Transfer-Encoding : chunked",
            "X: a\r\n folded",
            "X: a\r\n\tfolded",
            "X: a\rb",
            "X: a\0b",
            "Host: b",
            " X: a",
        ] {
            let text = format!("POST / HTTP/1.1\r\nHost: a\r\n{headers}\r\n\r\n");
            assert_eq!(read(&text), Err(Reason::AmbiguousRequest), "{headers:?}");
        }
        assert_eq!(read("GET / HTTP/1.1\nHost: a\n\n"), Err(Reason::AmbiguousRequest));
        assert_eq!(read("GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"), Err(Reason::AmbiguousRequest));
        assert_eq!(read("CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\n"), Err(Reason::AmbiguousRequest));
    }

    #[test]
    fn malformed_heads_are_refused() {
        for text in [
            "GET /  HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/2.0\r\nHost: a\r\n\r\n",
            "GET /\r\nHost: a\r\n\r\n",
            "G(T / HTTP/1.1\r\nHost: a\r\n\r\n",
            "GET / HTTP/1.1\r\nHost: a\r\nnocolon\r\n\r\n",
            "GET / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(read(text), Err(Reason::HeadInvalid), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics_and_never_reads_past_the_end(bytes in proptest::collection::vec(any::<u8>(), 0..300), searched in 0_usize..300) {
            if let Ok(Some((length, _))) = head(&bytes, searched.min(bytes.len())) {
                prop_assert!(length <= bytes.len());
            }
        }

        #[test]
        fn the_way_it_arrives_does_not_matter(cut in 0_usize..60) {
            let text = b"POST /x HTTP/1.1\r\nHost: a.example\r\nContent-Length: 5\r\n\r\nhello";
            let cut = cut.min(text.len());
            let early = head(&text[..cut], 0);
            if early == Ok(None) {
                prop_assert_eq!(head(text, cut), head(text, 0));
            }
        }
    }
}
