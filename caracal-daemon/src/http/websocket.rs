//! WebSocket frames (RFC 6455), for sockets whose messages are read. Takes frames of either side; gives whole messages, and
//! writes them as one frame each. Refuses extensions, frames that are masked wrongly, and messages above the limit.

use crate::http::room::{Full, Taken};
use bytes::{Bytes, BytesMut};
use std::io;
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout_at};

/// What a frame is (RFC 6455, 5.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Text.
    Text,
    /// Binary data.
    Binary,
    /// The end.
    Close,
    /// A question whether the other is there.
    Ping,
    /// The answer.
    Pong,
}

impl Kind {
    fn code(self) -> u8 {
        match self {
            Kind::Text => 1,
            Kind::Binary => 2,
            Kind::Close => 8,
            Kind::Ping => 9,
            Kind::Pong => 10,
        }
    }

    fn of(code: u8) -> Option<Kind> {
        [Kind::Text, Kind::Binary, Kind::Close, Kind::Ping, Kind::Pong].into_iter().find(|kind| kind.code() == code)
    }
}

/// A whole message, or a control frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// What it is.
    pub kind: Kind,
    /// Its bytes, unmasked.
    pub data: Bytes,
}

impl Message {
    /// A text.
    #[must_use]
    pub fn text(data: Bytes) -> Message {
        Message { kind: Kind::Text, data }
    }

    /// The end of a socket, with a code of RFC 6455, 7.4.1.
    #[must_use]
    pub fn close(code: u16) -> Message {
        Message { kind: Kind::Close, data: Bytes::copy_from_slice(&code.to_be_bytes()) }
    }
}

/// Which side's frames: those of a client are masked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Who opened the socket.
    Client,
    /// Who accepted it.
    Server,
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what)
}

/// A message that is not read to its end, though it may be one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unread {
    /// There is no room for it beside what else is read to be priced.
    #[error(transparent)]
    Full(Full),
    /// It did not come in time.
    #[error("a message did not come in time")]
    Late,
}

impl Unread {
    /// The one that an error of a reader stands for, if it does for any.
    #[must_use]
    pub fn of(error: &io::Error) -> Option<Unread> {
        error.get_ref()?.downcast_ref().copied()
    }
}

/// Reads messages of one side.
#[derive(Debug)]
pub struct Reader<R> {
    from: R,
    side: Side,
    most: usize,
    /// A message of which not all frames are here.
    open: Option<(Kind, BytesMut)>,
    /// Where its bytes count, and how long it may take.
    bounds: Option<(Taken, Duration)>,
    /// Until when what has begun must have come.
    until: Option<Instant>,
}

/// The end of `work`, which must be there until then.
async fn by<T>(until: Option<Instant>, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match until {
        Some(until) => timeout_at(until, work).await.unwrap_or_else(|_| Err(io::Error::other(Unread::Late))),
        None => work.await,
    }
}

impl<R: AsyncRead + Unpin> Reader<R> {
    /// Of messages of at most `most` bytes.
    pub fn new(from: R, side: Side, most: usize) -> Reader<R> {
        Reader { from, side, most, open: None, bounds: None, until: None }
    }

    /// Counts the bytes of each message in `room` until its last copy is gone, and waits for the rest of it so long.
    #[must_use]
    pub fn within(self, room: Taken, time: Duration) -> Reader<R> {
        Reader { bounds: Some((room, time)), ..self }
    }

    /// A message that is whole.
    fn whole(&mut self, kind: Kind, data: BytesMut) -> Message {
        self.until = None;
        let Some((room, _)) = &mut self.bounds else { return Message { kind, data: data.freeze() } };
        let next = room.next();
        Message { kind, data: std::mem::replace(room, next).keep(data) }
    }

    /// The next message; `None` at an end between two frames.
    ///
    /// # Errors
    /// What is no frame, or too long, and what the stream fails with.
    pub async fn next(&mut self) -> io::Result<Option<Message>> {
        loop {
            let mut head = [0; 2];
            if by(self.until, self.from.read(head.get_mut(..1).unwrap_or_default())).await? == 0 {
                return if self.open.is_none() { Ok(None) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
            }
            if let (None, Some((_, time))) = (self.until, &self.bounds) {
                self.until = Some(Instant::now() + *time);
            }
            by(self.until, self.from.read_exact(head.get_mut(1..).unwrap_or_default())).await?;
            let [first, second] = head;
            let (fin, code) = (first & 0x80 != 0, first & 0x0f);
            if first & 0x70 != 0 {
                return Err(bad("a frame of an extension that was not agreed on"));
            }
            if (second & 0x80 != 0) != (self.side == Side::Client) {
                return Err(bad("a frame whose mask is not its side's"));
            }
            let data = by(self.until, self.data(second, code >= 8)).await?;
            match (code, self.open.take()) {
                // Control frames stand between those of a message.
                (8.., open) => {
                    if open.is_none() {
                        self.until = None;
                    }
                    self.open = open;
                    let kind = Kind::of(code).filter(|_| fin).ok_or_else(|| bad("a control frame in parts"))?;
                    return Ok(Some(Message { kind, data: data.freeze() }));
                }
                (0, Some((kind, mut before))) => {
                    before.extend_from_slice(&data);
                    if fin {
                        return Ok(Some(self.whole(kind, before)));
                    }
                    self.open = Some((kind, before));
                }
                (1 | 2, None) => {
                    let kind = Kind::of(code).ok_or_else(|| bad("an unknown frame"))?;
                    if fin {
                        return Ok(Some(self.whole(kind, data)));
                    }
                    self.open = Some((kind, data));
                }
                _ => return Err(bad("a frame out of place")),
            }
        }
    }

    /// The rest of a frame: its length, its mask and its data.
    async fn data(&mut self, second: u8, control: bool) -> io::Result<BytesMut> {
        let length = match second & 0x7f {
            126 => u64::from(self.from.read_u16().await?),
            127 => self.from.read_u64().await?,
            short => u64::from(short),
        };
        if control && length > 125 {
            return Err(bad("a control frame that is too long"));
        }
        let before = self.open.as_ref().map_or(0, |(_, data)| data.len());
        let length = usize::try_from(length).ok().filter(|length| before.saturating_add(*length) <= self.most);
        let length = length.ok_or_else(|| bad("a message that is too long"))?;
        let mut mask = [0; 4];
        if self.side == Side::Client {
            self.from.read_exact(&mut mask).await?;
        }
        // Grows with what comes: a length that is only said costs nothing.
        let mut data = BytesMut::new();
        while data.len() < length {
            let piece = (length - data.len()).min(64 << 10);
            if let Some((room, _)) = self.bounds.as_mut().filter(|_| !control) {
                room.more(piece).map_err(|full| io::Error::other(Unread::Full(full)))?;
            }
            let at = data.len();
            data.resize(at + piece, 0);
            self.from.read_exact(data.get_mut(at..).unwrap_or_default()).await?;
        }
        if self.side == Side::Client {
            apply(mask, &mut data);
        }
        Ok(data)
    }
}

fn apply(mask: [u8; 4], data: &mut [u8]) {
    for (byte, key) in data.iter_mut().zip(mask.iter().cycle()) {
        *byte ^= key;
    }
}

/// Writes a message as one frame of `side`'s.
///
/// # Errors
/// What the stream fails with.
pub async fn write<W: AsyncWrite + Unpin>(to: &mut W, side: Side, message: &Message) -> io::Result<()> {
    let masked = if side == Side::Client { 0x80 } else { 0 };
    let length = message.data.len();
    let mut frame = Vec::with_capacity(length + 14);
    frame.push(0x80 | message.kind.code());
    match (u8::try_from(length), u16::try_from(length)) {
        (Ok(short @ 0..=125), _) => frame.push(masked | short),
        (_, Ok(middle)) => {
            frame.push(masked | 126);
            frame.extend_from_slice(&middle.to_be_bytes());
        }
        _ => {
            frame.push(masked | 127);
            frame.extend_from_slice(&u64::try_from(length).unwrap_or(u64::MAX).to_be_bytes());
        }
    }
    if side == Side::Client {
        // The random half of an id; a mask is there for proxies that would take data for requests (RFC 6455, 10.3).
        let mask = mask();
        frame.extend_from_slice(&mask);
        let at = frame.len();
        frame.extend_from_slice(&message.data);
        apply(mask, frame.get_mut(at..).unwrap_or_default());
    } else {
        frame.extend_from_slice(&message.data);
    }
    to.write_all(&frame).await?;
    to.flush().await
}

fn mask() -> [u8; 4] {
    let id = uuid::Uuid::now_v7();
    id.as_bytes().last_chunk().copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn read(side: Side, bytes: &[u8]) -> Vec<io::Result<Option<Message>>> {
        let mut reader = Reader::new(bytes, side, 70_000);
        let mut all = Vec::new();
        loop {
            let next = reader.next().await;
            let ends = !matches!(next, Ok(Some(_)));
            all.push(next);
            if ends {
                return all;
            }
        }
    }

    #[tokio::test]
    async fn what_is_written_is_read_at_every_length() {
        for side in [Side::Client, Side::Server] {
            for length in [0, 1, 125, 126, 65_535, 65_536, 70_000] {
                let message = Message::text(vec![7; length].into());
                let mut bytes = Vec::new();
                write(&mut bytes, side, &message).await.expect("written");
                let read = read(side, &bytes).await;
                assert_eq!(read.first().and_then(|one| one.as_ref().ok()), Some(&Some(message)), "{length}");
                assert!(matches!(read.get(1), Some(Ok(None))));
            }
        }
    }

    #[tokio::test]
    async fn a_message_in_parts_is_whole_and_control_frames_stand_between() {
        let bytes = b"\x01\x03abc\x89\x01p\x00\x01d\x80\x02ef\x88\x02\x03\xe8";
        let got: Vec<Message> = read(Side::Server, bytes).await.into_iter().flatten().flatten().collect();
        let want = [
            Message { kind: Kind::Ping, data: Bytes::from_static(b"p") },
            Message::text(Bytes::from_static(b"abcdef")),
            Message::close(1_000),
        ];
        assert_eq!(got, want);
    }

    #[tokio::test]
    async fn what_is_no_frame_is_an_error() {
        for bytes in [
            &b"\xc1\x01a"[..],                           // compressed
            b"\x81\x81abcd",                             // masked, of a server
            b"\x80\x01a",                                // goes on with nothing
            b"\x01\x01a\x81\x01b",                       // begins twice
            b"\x09\x01a",                                // a ping in parts
            b"\x89\x7e\x00\x7e",                         // a long ping
            b"\x83\x01a",                                // an unknown kind
            b"\x81\x7f\x00\x00\x00\x00\x00\x01\x11\x71", // 70,001 bytes
            b"\x81\x7f\xff\xff\xff\xff\xff\xff\xff\xff", // far more
            b"\x81\x05ab",                               // cut
            b"\x01\x01a",                                // cut between two frames of one message
        ] {
            assert!(read(Side::Server, bytes).await.last().is_some_and(Result::is_err), "{bytes:?}");
        }
        assert!(read(Side::Client, b"\x81\x01a").await.last().is_some_and(Result::is_err), "not masked, of a client");
    }
}
