//! Reads one HTTP/1.1 answer as it arrives: just enough to know its status, its end, and how many events it carried.

use anyhow::{Context, Result, bail};

/// No answer of the benchmark is longer.
const LONGEST: usize = 1024 * 1024;

/// An answer that is arriving.
#[derive(Debug, Default)]
pub(super) struct Answer {
    raw: Vec<u8>,
    head: Option<Head>,
    body: Vec<u8>,
    /// How much of `raw` is in `body` already.
    used: usize,
    ended: bool,
}

#[derive(Clone, Copy, Debug)]
struct Head {
    status: u16,
    length: Length,
}

#[derive(Clone, Copy, Debug)]
enum Length {
    Known(usize),
    Chunked,
}

impl Answer {
    /// Takes what was read.
    pub(super) fn take(&mut self, bytes: &[u8]) -> Result<()> {
        self.raw.extend_from_slice(bytes);
        if self.raw.len() > LONGEST {
            bail!("the answer is longer than any that was asked for");
        }
        if self.head.is_none() {
            let Some(end) = find(&self.raw, b"\r\n\r\n") else {
                return Ok(());
            };
            self.head = Some(Head::read(self.raw.get(..end).unwrap_or_default())?);
            self.used = end + 4;
        }
        match self.head.map(|head| head.length) {
            Some(Length::Known(length)) => {
                self.body.extend_from_slice(self.raw.get(self.used..).unwrap_or_default());
                self.used = self.raw.len();
                self.ended = self.body.len() >= length;
            }
            Some(Length::Chunked) => self.chunks()?,
            None => {}
        }
        Ok(())
    }

    pub(super) fn ended(&self) -> bool {
        self.ended
    }

    pub(super) fn status(&self) -> Option<u16> {
        self.head.map(|head| head.status)
    }

    pub(super) fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// Server-sent events in the body so far.
    pub(super) fn events(&self) -> usize {
        self.body.windows(8).filter(|window| window.starts_with(b"\n\ndata: ")).count()
            + usize::from(self.body.starts_with(b"data: "))
    }

    /// Whether the stream said that it was complete.
    pub(super) fn says_done(&self) -> bool {
        find(&self.body, b"data: [DONE]").is_some()
    }

    /// The body for people, not too much of it.
    pub(super) fn text(&self) -> String {
        String::from_utf8_lossy(self.body.get(..self.body.len().min(500)).unwrap_or_default()).into_owned()
    }

    /// Moves every whole chunk into the body.
    fn chunks(&mut self) -> Result<()> {
        loop {
            let rest = self.raw.get(self.used..).unwrap_or_default();
            let Some(line) = find(rest, b"\r\n") else { return Ok(()) };
            let size =
                std::str::from_utf8(rest.get(..line).unwrap_or_default()).context("a chunk's size is not text")?;
            let size = size.split(';').next().unwrap_or_default().trim();
            let size = usize::from_str_radix(size, 16).with_context(|| format!("a chunk's size is `{size}`"))?;
            let Some(chunk) = rest.get(line + 2..line + 2 + size + 2) else {
                return Ok(());
            };
            self.body.extend_from_slice(chunk.get(..size).unwrap_or_default());
            self.used += line + 2 + size + 2;
            if size == 0 {
                self.ended = true;
                return Ok(());
            }
        }
    }
}

impl Head {
    fn read(head: &[u8]) -> Result<Self> {
        let head = std::str::from_utf8(head).context("the head is not text")?;
        let mut lines = head.split("\r\n");
        let status = lines.next().and_then(|line| line.split(' ').nth(1)).context("the answer has no status")?;
        let mut length = None;
        for (name, value) in lines.filter_map(|line| line.split_once(':')) {
            if name.eq_ignore_ascii_case("content-length") {
                length = Some(Length::Known(value.trim().parse()?));
            } else if name.eq_ignore_ascii_case("transfer-encoding") {
                length = Some(Length::Chunked);
            }
        }
        Ok(Self { status: status.parse()?, length: length.context("the answer's end is not told")? })
    }
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_may_come_byte_by_byte() {
        let text =
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n9\r\ndata: a\n\n\r\n9\r\ndata: b\n\n\r\n0\r\n\r\n";
        let mut answer = Answer::default();
        for (at, byte) in text.iter().enumerate() {
            assert!(!answer.ended(), "ended at {at}");
            answer.take(&[*byte]).unwrap();
        }
        assert!(answer.ended());
        assert_eq!((answer.status(), answer.events()), (Some(200), 2));
    }

    #[test]
    fn a_known_length_ends_the_answer() {
        let mut answer = Answer::default();
        answer.take(b"HTTP/1.1 400 Bad\r\ncontent-length: 5\r\n\r\nabc").unwrap();
        assert!(!answer.ended());
        answer.take(b"de").unwrap();
        assert!(answer.ended());
        assert_eq!((answer.status(), answer.text().as_str()), (Some(400), "abcde"));
    }

    #[test]
    fn a_chunk_that_is_no_chunk_is_an_error() {
        let mut answer = Answer::default();
        assert!(answer.take(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\nxyz\r\n").is_err());
    }
}
