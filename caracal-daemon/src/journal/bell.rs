//! Wakes the writer, when there is a reason to. A wake-up costs more than a record, and a writer that has just worked
//! looks again by itself.

use crate::clock::monotonic_ns;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, Ordering, fence};
use std::thread::Thread;
use std::time::Duration;

/// How soon a writer that has just worked looks again unasked.
const LOOKS_AGAIN: Duration = Duration::from_micros(500);

/// The writer's bell.
#[derive(Debug, Default)]
pub(crate) struct Bell {
    writer: OnceLock<Thread>,
    /// The writer sleeps for long: even what nobody waits for must wake it.
    asleep: AtomicBool,
}

impl Bell {
    /// `writer` is the thread to wake. To be told before the first ring.
    pub(crate) fn is_answered_by(&self, writer: Thread) {
        // A second writer would be a second journal, which has a bell of its own.
        let _ = self.writer.set(writer);
    }

    /// Something was put into the queue.
    pub(crate) fn ring(&self, waited_for: bool) {
        // The message first, then the look at the flag; the writer does it the other way round, so one of the two sees.
        fence(Ordering::SeqCst);
        if waited_for || self.asleep.load(Ordering::SeqCst) {
            self.wake();
        }
    }

    /// Wakes the writer in any case.
    pub(crate) fn wake(&self) {
        if let Some(writer) = self.writer.get() {
            writer.unpark();
        }
    }

    /// Waits at most `within`, in two steps: first a short look-out, in which only what is waited for wakes the writer,
    /// then for good. `look` gives what was in the queue.
    pub(crate) fn wait<T>(&self, within: Option<Duration>, mut look: impl FnMut() -> Option<T>) -> Option<T> {
        let until = within.map(|within| monotonic_ns().saturating_add(nanos(within)));
        let short = monotonic_ns().saturating_add(nanos(LOOKS_AGAIN));
        let found = sleep(Some(until.map_or(short, |until| until.min(short))), &mut look);
        if found.is_some() || until.is_some_and(|until| until <= short) {
            return found;
        }
        self.asleep.store(true, Ordering::SeqCst);
        fence(Ordering::SeqCst);
        let found = look().or_else(|| sleep(until, &mut look));
        self.asleep.store(false, Ordering::SeqCst);
        found
    }
}

/// Until something is found, or the time has come. A ring from before may end one sleep early, and the next one begins.
fn sleep<T>(until: Option<u64>, look: &mut impl FnMut() -> Option<T>) -> Option<T> {
    loop {
        match until.map(|until| until.saturating_sub(monotonic_ns())) {
            None => std::thread::park(),
            Some(0) => return None,
            Some(left) => std::thread::park_timeout(Duration::from_nanos(left)),
        }
        if let Some(found) = look() {
            return Some(found);
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::mpsc::channel;

    /// A writer that only counts what it takes.
    #[expect(clippy::disallowed_methods, reason = "as the journal makes it; a few messages here")]
    fn count(bell: &Arc<Bell>) -> (std::sync::mpsc::Sender<bool>, std::sync::mpsc::Receiver<u64>) {
        let (send, queue) = channel();
        let (tell, told) = channel();
        let ringing = Arc::clone(bell);
        let writer = std::thread::spawn(move || {
            let mut count = 0;
            let mut look = || match queue.try_recv() {
                Ok(_) => Some(true),
                Err(std::sync::mpsc::TryRecvError::Disconnected) => Some(false),
                Err(std::sync::mpsc::TryRecvError::Empty) => None,
            };
            while look().or_else(|| ringing.wait(None, &mut look)) == Some(true) {
                count += 1;
            }
            let _ = tell.send(count);
        });
        bell.is_answered_by(writer.thread().clone());
        (send, told)
    }

    #[test]
    fn nothing_is_left_lying_whoever_waits() {
        let bell = Arc::new(Bell::default());
        let (send, told) = count(&bell);
        for round in 0..2_000 {
            let waited_for = round % 3 == 0;
            send.send(waited_for).expect("taken");
            bell.ring(waited_for);
            if round % 500 == 0 {
                // Long enough to fall asleep for good: the next ring must wake it.
                std::thread::sleep(LOOKS_AGAIN * 2);
            }
        }
        drop(send);
        bell.wake();
        assert_eq!(told.recv(), Ok(2_000));
    }

    #[test]
    fn a_time_that_has_come_ends_the_wait() {
        let bell = Bell::default();
        assert_eq!(bell.wait(Some(Duration::from_millis(1)), || None::<()>), None);
        assert_eq!(bell.wait(Some(LOOKS_AGAIN * 2), || None::<()>), None);
        assert!(!bell.asleep.load(Ordering::SeqCst));
    }
}
