//! Takes the first bytes of a connection; tells what they begin.

/// HTTP/2 with prior knowledge begins with this (RFC 9113 3.4).
pub const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The longest method that is known to begin an HTTP/1 request.
const MOST_METHOD: usize = 24;

/// What a connection begins with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// A TLS handshake record.
    Tls,
    /// The HTTP/2 preface in the clear.
    H2c,
    /// An HTTP/1 request line; CONNECT too, which is told apart once its head is read.
    Http1,
    /// Anything else.
    Other,
}

/// What `first` begins; `None` while more bytes are needed.
#[must_use]
pub fn sniff(first: &[u8]) -> Option<Protocol> {
    match first {
        [] => return None,
        // RFC 8446 5.1: content type 22, then the legacy version's major byte.
        [0x16] => return None,
        [0x16, 0x03, ..] => return Some(Protocol::Tls),
        _ => {}
    }
    if first.starts_with(H2_PREFACE) {
        return Some(Protocol::H2c);
    }
    if H2_PREFACE.starts_with(first) {
        return None;
    }
    let method = first.iter().take_while(|byte| byte.is_ascii_uppercase() || **byte == b'-' || **byte == b'_').count();
    match first.get(method) {
        Some(b' ') if (1..=MOST_METHOD).contains(&method) => Some(Protocol::Http1),
        None if method <= MOST_METHOD => None,
        _ => Some(Protocol::Other),
    }
}

#[cfg(test)]
mod tests {
    use super::{H2_PREFACE, Protocol, sniff};
    use proptest::prelude::*;

    #[test]
    fn tells_protocols_apart() {
        assert_eq!(sniff(b"\x16\x03\x01\x02"), Some(Protocol::Tls));
        assert_eq!(sniff(b"GET / HTTP/1.1\r\n"), Some(Protocol::Http1));
        assert_eq!(sniff(b"CONNECT a:443 HTTP/1.1\r\n"), Some(Protocol::Http1));
        assert_eq!(sniff(b"PROPFIND / HTTP/1.1\r\n"), Some(Protocol::Http1));
        assert_eq!(sniff(H2_PREFACE), Some(Protocol::H2c));
        assert_eq!(sniff(b"SSH-2.0-OpenSSH"), Some(Protocol::Other));
        assert_eq!(sniff(b"\x00\x00"), Some(Protocol::Other));
        assert_eq!(sniff(b"\x16\x02"), Some(Protocol::Other));
        assert_eq!(sniff(b" GET"), Some(Protocol::Other));
        // However it is cut into segments.
        assert_eq!(sniff(&[b'A'; 25]), Some(Protocol::Other));
        assert_eq!(sniff(b"AAAAAAAAAAAAAAAAAAAAAAAAA / HTTP/1.1\r\n"), Some(Protocol::Other));
        for short in [&b""[..], b"\x16", b"G", b"GET", b"PRI", b"PRI * HTTP/2.0\r\n\r\nSM"] {
            assert_eq!(sniff(short), None, "{short:?}");
        }
    }

    proptest! {
        #[test]
        fn never_asks_for_more_than_it_can_use(bytes in proptest::collection::vec(any::<u8>(), 26..64)) {
            prop_assert!(sniff(&bytes).is_some());
        }

        #[test]
        fn more_bytes_never_change_the_answer(bytes in proptest::collection::vec(any::<u8>(), 0..64), cut in 0_usize..64) {
            let cut = cut.min(bytes.len());
            if let Some(early) = sniff(&bytes[..cut]) {
                prop_assert_eq!(sniff(&bytes), Some(early));
            }
        }
    }
}
