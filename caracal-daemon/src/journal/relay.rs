//! Takes the answers of a group from the writer's thread; gives them to those who wait, from a task inside the runtime.
//!
//! Waking a task from outside the runtime costs a lock and often a system call for each; from inside it costs next to
//! nothing. So a group costs one wake-up, however many wait.

use super::{JournalError, Receipt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::{Notify, oneshot};

/// Where one waiter waits.
pub(super) type Waiter = oneshot::Sender<Result<Receipt, JournalError>>;
type Answer = (Waiter, Result<Receipt, JournalError>);

/// Hands answers over. Without a runtime around it answers where it is called.
#[derive(Debug)]
pub(super) struct Relay(Option<Arc<Shared>>);

#[derive(Debug, Default)]
struct Shared {
    answers: Mutex<Vec<Answer>>,
    ready: Notify,
    closed: AtomicBool,
}

impl Relay {
    /// A relay into the runtime of the caller, if there is one.
    pub(super) fn new() -> Relay {
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return Relay(None) };
        let shared = Arc::new(Shared::default());
        let inside = Arc::clone(&shared);
        runtime.spawn(async move {
            loop {
                let closed = inside.closed.load(Ordering::Acquire);
                answer(std::mem::take(&mut *inside.answers.lock().unwrap_or_else(PoisonError::into_inner)));
                if closed {
                    return;
                }
                inside.ready.notified().await;
            }
        });
        Relay(Some(shared))
    }

    /// Answers each.
    pub(super) fn give(&self, answers: Vec<Answer>) {
        match &self.0 {
            // One waiter is woken as cheaply as the task that would wake it.
            Some(shared) if answers.len() > 1 => {
                shared.answers.lock().unwrap_or_else(PoisonError::into_inner).extend(answers);
                shared.ready.notify_one();
            }
            _ => answer(answers),
        }
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.closed.store(true, Ordering::Release);
            shared.ready.notify_one();
        }
    }
}

fn answer(answers: Vec<Answer>) {
    for (waiter, answer) in answers {
        // Nobody is there any more: a call whose agent hung up.
        let _ = waiter.send(answer);
    }
}
