//! An event stream of a server of tools over which we may say something as well (MCP's older transport: the stream's first
//! event names the place where messages are posted, and their answers come over the stream).
//!
//! The server's bytes pass as they are and in their order. A message of ours stands between two events, never in one: it waits
//! until one has ended (WHATWG HTML, 9.2.6: a blank line; lines end with LF, CR or both).

use crate::http::body::BodyError;
use crate::http::listeners::{Endpoint, Listeners, Seat};
use bytes::Bytes;
use http_body::{Body, Frame};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use tokio::sync::mpsc;

/// The longest event in which the place is looked for, bytes.
const MOST_FIRST: usize = 8 * 1_024;

/// Where in a stream of events we stand.
#[derive(Debug, Default)]
struct Lines {
    /// Nothing stands in this line yet.
    empty: bool,
    /// The last byte was a CR: a LF after it ends the same line.
    cr: bool,
    /// The line before was blank, and this one is empty.
    between: bool,
}

impl Lines {
    fn step(&mut self, byte: u8) {
        match byte {
            b'\n' if self.cr => self.cr = false,
            b'\n' | b'\r' => (self.between, self.empty, self.cr) = (self.empty, true, byte == b'\r'),
            _ => (self.between, self.empty, self.cr) = (false, false, false),
        }
    }

    /// Whether something may stand here, whatever comes next.
    fn is_between(&self) -> bool {
        self.between && !self.cr
    }

    /// Whether something may stand before `next`.
    fn is_between_before(&self, next: u8) -> bool {
        self.between && !(self.cr && next == b'\n')
    }
}

/// What is known of who may say something.
#[derive(Debug)]
enum Ear {
    /// The first event has not ended.
    Learning { first: Vec<u8>, from: Endpoint, listeners: Arc<Listeners> },
    /// Messages come from here.
    Open { messages: mpsc::Receiver<Bytes>, _seat: Seat },
    /// It is no such stream, or it has ended.
    Shut,
}

/// A stream that we may say something on.
#[derive(Debug)]
pub struct Told<B> {
    body: B,
    lines: Lines,
    ear: Ear,
    /// Heard, and the event that passes has not ended.
    waiting: Option<Bytes>,
    /// Goes out next.
    next: Option<Bytes>,
    /// What the server sent behind that.
    rest: Option<Bytes>,
}

impl<B> Told<B> {
    /// The stream `body`, which was asked for at `from`.
    #[must_use]
    pub fn new(body: B, from: Endpoint, listeners: Arc<Listeners>) -> Told<B> {
        let ear = Ear::Learning { first: Vec::new(), from, listeners };
        Told { body, lines: Lines { empty: true, ..Lines::default() }, ear, waiting: None, next: None, rest: None }
    }

    fn hear(&mut self, context: &mut Context<'_>) {
        if self.waiting.is_none()
            && let Ear::Open { messages, .. } = &mut self.ear
            && let Poll::Ready(message) = messages.poll_recv(context)
        {
            self.waiting = message;
        }
    }

    /// What goes out of `data` now; the rest is kept, behind a message that waits for the end of an event in it.
    fn pass(&mut self, mut data: Bytes) -> Bytes {
        let mut end = None;
        for (at, byte) in data.iter().copied().enumerate() {
            if self.waiting.is_some() && self.lines.is_between_before(byte) {
                end = Some(at);
                break;
            }
            self.lines.step(byte);
            self.learn(byte);
        }
        if let Some(at) = end {
            self.rest = Some(data.split_off(at));
            self.next = self.waiting.take();
        }
        if data.is_empty() { self.next.take().unwrap_or_default() } else { data }
    }

    /// Reads the first event, which names the place.
    fn learn(&mut self, byte: u8) {
        let Ear::Learning { first, from, listeners } = &mut self.ear else { return };
        first.push(byte);
        if !self.lines.between {
            if first.len() > MOST_FIRST {
                self.ear = Ear::Shut;
            }
            return;
        }
        match event(first) {
            Event::Nothing => first.clear(),
            Event::Endpoint(reference) => {
                let seat = from.named(&reference).and_then(|endpoint| listeners.listen(endpoint));
                self.ear = seat.map_or(Ear::Shut, |(seat, messages)| Ear::Open { messages, _seat: seat });
            }
            Event::Other => self.ear = Ear::Shut,
        }
    }
}

/// What an event is.
#[derive(Debug, PartialEq, Eq)]
enum Event {
    /// Comments, or a blank line more.
    Nothing,
    /// The place where messages are posted.
    Endpoint(String),
    /// Any other.
    Other,
}

fn event(bytes: &[u8]) -> Event {
    let Ok(text) = std::str::from_utf8(bytes) else { return Event::Other };
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let (mut kind, mut data) = ("", None::<String>);
    for line in text.split(['\r', '\n']) {
        let (field, value) = line.split_once(':').unwrap_or((line, ""));
        let value = value.strip_prefix(' ').unwrap_or(value);
        match (field, &mut data) {
            ("event", _) => kind = value,
            ("data", Some(data)) => {
                data.push('\n');
                data.push_str(value);
            }
            ("data", None) => data = Some(value.to_owned()),
            _ => {}
        }
    }
    match (kind, data) {
        (_, None) => Event::Nothing,
        ("endpoint", Some(data)) => Event::Endpoint(data),
        (_, Some(_)) => Event::Other,
    }
}

impl<B> Body for Told<B>
where
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        let ours = |message| Poll::Ready(Some(Ok(Frame::data(message))));
        if let Some(message) = this.next.take() {
            return ours(message);
        }
        this.hear(context);
        if this.lines.is_between()
            && let Some(message) = this.waiting.take()
        {
            return ours(message);
        }
        let data = match this.rest.take() {
            Some(rest) => rest,
            None => match ready!(Pin::new(&mut this.body).poll_frame(context)).map(|frame| frame.map(Frame::into_data))
            {
                Some(Ok(Ok(data))) => data,
                end => {
                    // Nothing may follow. Who still has something to say is told so.
                    (this.ear, this.waiting) = (Ear::Shut, None);
                    let end = end.map(|end| end.map(|frame| frame.map_or_else(|trailers| trailers, Frame::data)));
                    return Poll::Ready(end);
                }
            },
        };
        Poll::Ready(Some(Ok(Frame::data(this.pass(data)))))
    }

    fn is_end_stream(&self) -> bool {
        let said = self.next.is_none() && self.waiting.is_none() && self.rest.is_none();
        said && self.body.is_end_stream()
    }
}

#[cfg(test)]
mod tests;
