//! The road to the next data path, which writes the journal from now on: takes records that this process still makes, one
//! at a time, and says when that one has them. No intent goes this way: whoever has let go of the journal has let go of the
//! budgets, and begins nothing that costs money.

use super::bell::Bell;
use super::writer::Message;
use super::{JournalError, Receipt};
use crate::event::{Kind, Sealed};
use nix::sys::socket::{MsgFlags, recv, send};
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::sync::{Mutex, PoisonError};
use tokio::sync::Semaphore;

/// The longest message, bytes: an agent's doings are longer than a record.
pub(crate) const LONGEST: usize = 512 << 10;
/// First byte of a message: a record, without its place.
pub(crate) const RECORD: u8 = b'r';
/// First byte of a message: what agents did since the last such message, as JSON.
pub(crate) const DOINGS: u8 = b'd';
/// First byte of a message: a leaf certificate is wanted.
pub(crate) const LEAF: u8 = b'l';
/// First byte of an answer: done, and what was asked for. Any other: a sentence that says why not.
pub(crate) const DONE: u8 = b'+';
/// The longest answer, bytes.
const LONGEST_ANSWER: usize = 16 << 10;

/// Nobody here asks for the place of such a record.
const NOWHERE: Receipt = Receipt { sequence: 0 };

/// Our end of a `SOCK_SEQPACKET` pair (unix(7)): a message is read whole or not at all.
#[derive(Debug)]
pub struct Successor(Mutex<OwnedFd>);

impl Successor {
    /// Over this end of the pair, which must block.
    #[must_use]
    pub fn new(road: OwnedFd) -> Successor {
        Successor(Mutex::new(road))
    }

    /// Sends a message and waits for its answer. Blocks.
    ///
    /// # Errors
    /// When the successor is gone, or says no.
    pub(crate) fn ask(&self, kind: u8, body: &[u8]) -> io::Result<Vec<u8>> {
        let road = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let message = [&[kind], body].concat();
        send(road.as_raw_fd(), &message, MsgFlags::MSG_NOSIGNAL)?;
        let mut answer = vec![0; LONGEST_ANSWER];
        let length = recv(road.as_raw_fd(), &mut answer, MsgFlags::empty())?;
        match answer.get(..length).unwrap_or_default().split_first() {
            Some((&DONE, said)) => Ok(said.to_vec()),
            Some((_, why)) => Err(io::Error::other(String::from_utf8_lossy(why).into_owned())),
            None => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }
}

/// Stands in the writer's place until the queue ends.
pub(super) fn serve(successor: &Successor, queue: &Receiver<Message>, bell: &Bell, room: &Semaphore) {
    let look = || match queue.try_recv() {
        Ok(message) => Some(Some(message)),
        Err(TryRecvError::Disconnected) => Some(None),
        Err(TryRecvError::Empty) => None,
    };
    while let Some(Some(message)) = look().or_else(|| bell.wait(None, look)) {
        match message {
            Message::Append { sealed, done, .. } => {
                let written = hand_over(successor, &sealed);
                room.add_permits(1);
                if let Err(error) = &written {
                    tracing::error!(%error, "the next data path did not take a record");
                }
                if let Some(done) = done {
                    let _ = done.send(written);
                }
            }
            Message::Probe(done) | Message::Flush(done) => drop(done.send(Ok(()))),
            Message::Release(_) => {}
            Message::Part(parting) => {
                let twice = JournalError::Unavailable("it has gone to another process already".into());
                let _ = parting.done.send(Err(twice));
            }
        }
    }
}

fn hand_over(successor: &Successor, sealed: &Sealed) -> Result<Receipt, JournalError> {
    if sealed.is(Kind::Intent) {
        return Err(JournalError::Unavailable("caracald is being upgraded; send the request again".into()));
    }
    if sealed.is(Kind::BudgetWarning) {
        // The successor has the budgets, and says it itself.
        return Ok(NOWHERE);
    }
    let written = successor.ask(RECORD, sealed.bytes());
    written.map(|_| NOWHERE).map_err(|error| JournalError::Unavailable(error.to_string()))
}
