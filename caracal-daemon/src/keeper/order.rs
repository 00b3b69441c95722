//! What the keeper tells the data path, and what it answers.

use std::io;
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use serde::{Deserialize, Serialize};

use super::frame;
use crate::agent::{Agent, CgroupId};

/// How long the data path may take to answer before the keeper says that it hangs.
const PATIENCE: Duration = Duration::from_secs(20);

/// Refusals of one kind that the kernel made, added up by the keeper.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelRefusal {
    /// The agent's cgroup, 0 if unknown.
    pub agent: u64,
    /// A `caracal_common::denial::Why` as its number.
    pub why: u32,
    /// A `caracal_common::denial::Hook` as its number.
    pub hook: u32,
    /// How many.
    pub count: u64,
    /// Destination or source of one of them, where it is known.
    pub address: Option<std::net::SocketAddr>,
    /// Its process id.
    pub tgid: u32,
    /// Its task name.
    pub comm: String,
    /// The unix socket that it wanted, `@` in front of an abstract one; empty where none is known.
    pub socket: String,
}

/// An order.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Order {
    /// A cgroup is an agent from now on.
    Admit(Agent),
    /// It is none any more.
    Dismiss(CgroupId),
    /// Every agent is known: take connections from now on. Some may wait already, and are nobody's before that.
    Serve,
    /// Serve another network namespace: its listeners come with the order, in the order of
    /// [`super::listeners::Listeners::descriptors`]. Given again, they replace those of before.
    Listen {
        /// The namespace's cookie.
        netns: u64,
    },
    /// Serve it no longer.
    Unlisten {
        /// The namespace's cookie.
        netns: u64,
    },
    /// What the kernel refused since the last such order. Answered with [`Recorded`].
    KernelRefusals(Vec<KernelRefusal>),
    /// What do records tell already of what the kernel refused? Answered with [`Told`].
    KernelTold {
        /// The sequence number to begin with; `None`: none of them, only where the next record will stand.
        since: Option<u64>,
    },
    /// What the kernel counted so far, every few seconds: recorded where records leave the host.
    Heartbeat(crate::event::KernelCounts),
    /// Something to record: an attach, a release, an adoption.
    Lifecycle(String),
    /// Read the policy again.
    Reload,
    /// The state of the data path.
    Status,
    /// What an agent did, for `run`'s last words.
    Summary(CgroupId),
    /// Records, newest last.
    Events(EventsQuery),
    /// Totals.
    Spend {
        /// Only these agents; `None`: all.
        agents: Option<Vec<String>>,
    },
    /// Every budget's window.
    Budgets {
        /// Of the parts that are an agent's, only those of these; `None`: all.
        agents: Option<Vec<String>>,
    },
    /// Put a charge right.
    Correct {
        /// What is to be put right.
        asked: CorrectionAsked,
        /// The user id of whoever asked.
        uid: u32,
    },
    /// Delete the key that seals an agent's details, and record it. Answers whether there was one.
    Erase {
        /// The agent's name.
        agent: String,
    },
    /// Finish and exit.
    Stop,
    /// Take nothing new; the lease is left as it is. Another data path comes.
    HandOver,
    /// Let go of journal, ledger and budgets, then end what is open and exit. The road to the data path that comes is with
    /// the order. Answered once that one may start; an error: it may start once this one has ended.
    Part,
}

/// How many of the refusals are records now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// So many of them, from the first on.
    pub recorded: usize,
    /// The sequence number behind the last of them.
    pub next: Option<u64>,
}

/// What records tell of the kernel's counters.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Told {
    /// The sequence number of the record to come: all before it was looked at.
    pub next: u64,
    /// Agent, why and hook as their numbers, and how much a record adds.
    pub list: Vec<(u64, u32, u32, u64)>,
}

/// Which records.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct EventsQuery {
    /// Only those of agents of this user; `None`: everybody's.
    pub uid: Option<u32>,
    /// Only those of this agent.
    pub agent: Option<String>,
    /// At most so many.
    pub limit: u32,
}

/// A correction that is asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CorrectionAsked {
    /// The leaf of the outcome that charged the call.
    pub leaf: u64,
    /// The call.
    pub call: String,
    /// What is to be added to the charge, nano-USD.
    pub nano: i64,
    /// Why.
    pub reason: String,
}

/// The data path's answer: a JSON value, or a sentence that says what went wrong.
pub type Answer = Result<serde_json::Value, String>;

/// The keeper's end of the road to the data path: one order at a time.
#[derive(Debug)]
pub struct Orders(Mutex<Road>);

#[derive(Debug)]
struct Road {
    stream: UnixStream,
    /// Answers that nobody waited for any longer: they come before the one to the next order.
    owed: u32,
}

impl Orders {
    /// Over this end of the pair.
    ///
    /// # Errors
    /// When the socket takes no time limit.
    pub fn new(stream: UnixStream) -> io::Result<Orders> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        Ok(Orders(Mutex::new(Road { stream, owed: 0 })))
    }

    /// Gives an order and waits for the answer.
    ///
    /// # Errors
    /// When the data path is gone or hangs, or says no.
    pub fn give(&self, order: &Order) -> Answer {
        self.give_with(order, &[])
    }

    /// Gives an order and descriptors with it, and waits for the answer.
    ///
    /// # Errors
    /// When the data path is gone or hangs, or says no.
    pub fn give_with(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> Answer {
        let mut road = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        road.give(order, descriptors, PATIENCE).map_err(|error| format!("the data path does not answer: {error}"))?
    }
}

impl Road {
    fn give(&mut self, order: &Order, descriptors: &[BorrowedFd<'_>], patience: Duration) -> io::Result<Answer> {
        // Half an order, or half an answer, and nobody knows where the next one begins: the data path starts anew.
        let cut = |stream: &UnixStream, error: io::Error| {
            let _ = stream.shutdown(Shutdown::Both);
            error
        };
        if let Err(error) = frame::write_with(&mut self.stream, order, descriptors) {
            return Err(cut(&self.stream, error));
        }
        self.owed += 1;
        loop {
            let mut one = [PollFd::new(self.stream.as_fd(), PollFlags::POLLIN)];
            let wait = PollTimeout::try_from(patience).unwrap_or(PollTimeout::MAX);
            if poll(&mut one, wait)? == 0 {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let answer = frame::read::<Answer>(&mut self.stream).map_err(|error| cut(&self.stream, error))?;
            self.owed -= 1;
            if self.owed == 0 {
                return Ok(answer);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;
    use std::io::Write as _;

    #[test]
    fn an_answer_that_nobody_waited_for_is_not_the_next_ones() {
        let (ours, mut theirs) = UnixStream::pair().expect("a pair");
        let mut road = Road { stream: ours, owed: 0 };
        let late = road.give(&Order::Status, &[], Duration::ZERO).expect_err("nobody answered");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        for number in [1, 2] {
            frame::write::<Answer>(&mut theirs, &Ok(Value::from(number))).expect("written");
        }
        let answer = road.give(&Order::Reload, &[], PATIENCE).expect("an answer");
        assert_eq!((answer, road.owed), (Ok(Value::from(2)), 0));
        // Nobody can tell what comes after this.
        theirs.write_all(&[1, 0, 0, 0, b'?']).expect("written");
        road.give(&Order::Status, &[], PATIENCE).expect_err("no answer");
        assert!(frame::read::<Order>(&mut theirs).is_ok() && frame::read::<Order>(&mut theirs).is_ok());
        assert!(frame::read::<Order>(&mut theirs).is_ok() && frame::read::<Order>(&mut theirs).is_err());
    }
}
