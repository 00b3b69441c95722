//! Two sides of one thing polled in one task: what drives a connection, and who waits for it.
//!
//! They wake each other all the time, and need not: both are polled again before the task rests. Passed on, such a wake would
//! queue the task behind others and wake another thread to look for it, a few microseconds for each request and each piece
//! of an answer. A wake that comes while neither is polled reaches the task, as it should.

use futures_util::task::AtomicWaker;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Rounds in one poll of the task; then it queues like others.
const MOST_ROUNDS: usize = 8;

/// Nobody polls.
const RESTING: u8 = 0;
/// Both are being polled.
const POLLING: u8 = 1;
/// The same, and one of them was woken meanwhile.
const WOKEN: u8 = 2;

/// Who is woken by either side.
#[derive(Debug)]
pub(super) struct Together {
    shared: Arc<Shared>,
    waker: Waker,
}

#[derive(Debug, Default)]
struct Shared {
    state: AtomicU8,
    task: AtomicWaker,
}

impl Wake for Shared {
    fn wake(self: Arc<Shared>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Shared>) {
        if self.state.swap(WOKEN, Ordering::AcqRel) == RESTING {
            self.task.wake();
        }
    }
}

impl Default for Together {
    fn default() -> Together {
        let shared = Arc::<Shared>::default();
        Together { waker: Waker::from(Arc::clone(&shared)), shared }
    }
}

impl Together {
    /// Polls `wait`, and when it waits `drive`, until `wait` is ready or both of them rest. `context` is the task's.
    pub(super) fn poll<T>(
        &self,
        context: &mut Context<'_>,
        mut wait: impl FnMut(&mut Context<'_>) -> Poll<T>,
        mut drive: impl FnMut(&mut Context<'_>),
    ) -> Poll<T> {
        self.shared.task.register(context.waker());
        let mut own = Context::from_waker(&self.waker);
        for _ in 0..MOST_ROUNDS {
            self.shared.state.store(POLLING, Ordering::Release);
            if let Poll::Ready(ready) = wait(&mut own) {
                return self.rest(Poll::Ready(ready));
            }
            drive(&mut own);
            if let Poll::Ready(ready) = wait(&mut own) {
                return self.rest(Poll::Ready(ready));
            }
            if self.shared.state.compare_exchange(POLLING, RESTING, Ordering::AcqRel, Ordering::Acquire).is_ok() {
                return Poll::Pending;
            }
        }
        context.waker().wake_by_ref();
        self.rest(Poll::Pending)
    }

    /// A wake that came meanwhile is forgotten: whoever waits for more polls both again.
    fn rest<T>(&self, polled: Poll<T>) -> Poll<T> {
        self.shared.state.store(RESTING, Ordering::Release);
        polled
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::AtomicUsize;

    #[derive(Default)]
    struct Count(AtomicUsize);

    impl Wake for Count {
        fn wake(self: Arc<Count>) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn task() -> (Arc<Count>, Waker) {
        let count = Arc::<Count>::default();
        (Arc::clone(&count), Waker::from(count))
    }

    #[test]
    fn what_they_do_for_each_other_wakes_nobody() {
        let (woken, waker) = task();
        let together = Together::default();
        let mut steps = 0;
        let polled = together.poll(
            &mut Context::from_waker(&waker),
            |context| {
                steps += 1;
                context.waker().wake_by_ref();
                if steps == 5 { Poll::Ready(steps) } else { Poll::Pending }
            },
            |_| (),
        );
        assert_eq!(polled, Poll::Ready(5), "it is polled for as long as it gets on");
        assert_eq!(woken.0.load(Ordering::Relaxed), 0);
    }

    #[test]
    fn a_wake_while_both_rest_reaches_the_task_that_polled_last() {
        let (first, first_waker) = task();
        let (second, second_waker) = task();
        let together = Together::default();
        let mut registered = None;
        for waker in [&first_waker, &second_waker] {
            let polled: Poll<()> = together.poll(
                &mut Context::from_waker(waker),
                |context| {
                    registered = Some(context.waker().clone());
                    Poll::Pending
                },
                |_| (),
            );
            assert!(polled.is_pending());
        }
        registered.expect("it was polled").wake();
        assert_eq!((first.0.load(Ordering::Relaxed), second.0.load(Ordering::Relaxed)), (0, 1));
    }

    #[test]
    fn one_that_always_wants_more_lets_others_have_their_turn() {
        let (woken, waker) = task();
        let mut rounds = 0;
        let polled: Poll<()> = Together::default().poll(
            &mut Context::from_waker(&waker),
            |_| Poll::Pending,
            |context| {
                rounds += 1;
                context.waker().wake_by_ref();
            },
        );
        assert!(polled.is_pending());
        assert_eq!((rounds, woken.0.load(Ordering::Relaxed)), (MOST_ROUNDS, 1), "it is polled again, behind others");
    }

    #[test]
    fn a_wake_from_another_thread_is_never_lost() {
        for _ in 0..2_000 {
            let (woken, waker) = task();
            let together = Together::default();
            let done = Arc::new(AtomicU8::new(0));
            let other = {
                let (done, waker) = (Arc::clone(&done), together.waker.clone());
                std::thread::spawn(move || {
                    done.store(1, Ordering::Release);
                    waker.wake();
                })
            };
            let mut seen = false;
            let polled: Poll<()> = together.poll(
                &mut Context::from_waker(&waker),
                |_| {
                    seen = done.load(Ordering::Acquire) == 1;
                    if seen { Poll::Ready(()) } else { Poll::Pending }
                },
                |_| (),
            );
            other.join().expect("it ends");
            assert!(
                polled.is_ready() || woken.0.load(Ordering::Relaxed) == 1,
                "what it did was seen, or the task was woken"
            );
        }
    }
}
