//! Follows a chunked body (RFC 9112 7.1) to its end, strictly.

/// The longest chunk-size line or trailer section.
const MOST_LINE: usize = 16 * 1_024;

/// Where in a chunked body the next byte stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum At {
    /// In a size: the digits so far.
    #[default]
    Size,
    /// In what follows a size on its line.
    Extension,
    /// Behind the CR of a size line.
    SizeEnd,
    /// In data.
    Data(u64),
    /// Behind data: CR, then LF.
    DataCr,
    DataLf,
    /// At the beginning of a trailer line.
    Line,
    /// In a trailer line.
    Trailer,
    /// Behind the CR of a trailer line.
    TrailerEnd,
    /// Behind the CR of the last, empty line.
    LastLf,
}

/// The state of one body.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chunks {
    at: At,
    size: u64,
    digits: u8,
    line: usize,
}

impl Chunks {
    /// Reads on; gives how many of `bytes` belong to the body and whether it has ended.
    pub(super) fn read(&mut self, bytes: &[u8]) -> Result<(usize, bool), &'static str> {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            if let At::Data(left) = self.at {
                let here = u64::try_from(bytes.len() - at).unwrap_or(u64::MAX).min(left);
                at += usize::try_from(here).unwrap_or(usize::MAX);
                self.at = if here == left { At::DataCr } else { At::Data(left - here) };
                continue;
            }
            at += 1;
            if self.step(*byte)? {
                return Ok((at, true));
            }
        }
        Ok((at, false))
    }

    /// One byte that is not data; `true` at the end of the body.
    fn step(&mut self, byte: u8) -> Result<bool, &'static str> {
        self.line += 1;
        if self.line > MOST_LINE {
            return Err("a chunk's size or the trailers are longer than 16 KB");
        }
        self.at = match (self.at, byte) {
            (At::Size, digit) if digit.is_ascii_hexdigit() => {
                self.digits += 1;
                if self.digits > 15 {
                    return Err("a chunk's size has more than 15 digits");
                }
                let value = char::from(digit).to_digit(16).unwrap_or(0);
                self.size = self.size * 16 + u64::from(value);
                At::Size
            }
            (At::Size, _) if self.digits == 0 => return Err("a chunk has no size"),
            (At::Size, b'\r') | (At::Extension, b'\r') => At::SizeEnd,
            (At::Size, b';') => At::Extension,
            (At::Size, _) => return Err("a chunk's size is not a number"),
            (At::Extension, b'\n' | 0) => return Err("a chunk's extension holds a bare LF or NUL"),
            (At::Extension, _) => At::Extension,
            (At::SizeEnd, b'\n') => self.size_end(),
            (At::DataCr, b'\r') => At::DataLf,
            (At::DataLf, b'\n') => {
                (self.size, self.digits, self.line) = (0, 0, 0);
                At::Size
            }
            (At::DataCr | At::DataLf, _) => return Err("a chunk is longer than its size"),
            (At::Line, b'\r') => At::LastLf,
            (At::Line, b' ' | b'\t') => return Err("a trailer is folded over two lines"),
            (At::Line | At::Trailer, b'\n' | 0) => return Err("a trailer holds a bare LF or NUL"),
            (At::Trailer, b'\r') => At::TrailerEnd,
            (At::Line | At::Trailer, _) => At::Trailer,
            (At::TrailerEnd, b'\n') => At::Line,
            (At::LastLf, b'\n') => return Ok(true),
            _ => return Err("a line of a chunked body ends with a bare CR"),
        };
        Ok(false)
    }

    fn size_end(&mut self) -> At {
        self.line = 0;
        if self.size == 0 { At::Line } else { At::Data(self.size) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn finds_the_end() {
        for body in [
            "0\r\n\r\n",
            "5\r\nhello\r\n0\r\n\r\n",
            "5;ext=1\r\nhello\r\nA\r\n0123456789\r\n000\r\nX-T: 1\r\nY: 2\r\n\r\n",
        ] {
            let bytes = format!("{body}GET / next");
            assert_eq!(Chunks::default().read(bytes.as_bytes()), Ok((body.len(), true)), "{body:?}");
            let mut chunks = Chunks::default();
            for (at, byte) in body.bytes().enumerate() {
                let (count, ended) = chunks.read(&[byte]).expect("well-formed");
                assert_eq!((count, ended), (1, at + 1 == body.len()));
            }
        }
    }

    #[test]
    fn refuses_what_has_two_readings() {
        for body in [
            "\r\n",
            "x\r\n",
            "5\nhello\r\n",
            "5 \r\nhello\r\n",
            "-1\r\n",
            "3\r\nhello\r\n",
            "0\r\nA: b\n\r\n",
            "0\r\nA: b\r\n c\r\n\r\n",
            "5\rhello",
            "ffffffffffffffffff\r\n",
            "0x5\r\nhello\r\n",
            "5;a\nb\r\nhello",
        ] {
            assert!(Chunks::default().read(body.as_bytes()).is_err(), "{body:?}");
        }
    }

    proptest! {
        #[test]
        fn splits_do_not_matter(parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..50), 0..5), step in 1_usize..20) {
            let mut body = Vec::new();
            for part in &parts {
                body.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
                body.extend_from_slice(part);
                body.extend_from_slice(b"\r\n");
            }
            body.extend_from_slice(b"0\r\n\r\n");
            let mut chunks = Chunks::default();
            let (mut total, mut ended) = (0, false);
            for piece in body.chunks(step) {
                let (count, done) = chunks.read(piece).expect("well-formed");
                total += count;
                ended |= done;
            }
            prop_assert!(ended);
            prop_assert_eq!(total, body.len());
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = Chunks::default().read(&bytes);
        }
    }
}
