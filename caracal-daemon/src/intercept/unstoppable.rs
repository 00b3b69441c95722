//! Work that goes on when nobody waits for it any more. While somebody does, it runs in their task: one of its own would
//! be made, woken and often moved to another core for each call.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::runtime::Handle;

/// A future that is handed to the runtime when it is dropped before its end. Gives `None` if it panicked.
#[derive(Debug)]
pub(crate) struct Unstoppable<F>(Option<Pin<Box<F>>>)
where
    F: Future<Output: Send> + Send + 'static;

impl<F> Unstoppable<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    pub(crate) fn new(work: F) -> Unstoppable<F> {
        Unstoppable(Some(Box::pin(work)))
    }
}

impl<F> Future for Unstoppable<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<F::Output>> {
        let Some(mut work) = self.0.take() else { return Poll::Ready(None) };
        // What panicked is dropped and never polled again, so nothing sees it half-done.
        match catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context))) {
            Ok(Poll::Ready(output)) => Poll::Ready(Some(output)),
            Ok(Poll::Pending) => {
                self.0 = Some(work);
                Poll::Pending
            }
            Err(_) => Poll::Ready(None),
        }
    }
}

impl<F> Drop for Unstoppable<F>
where
    F: Future<Output: Send> + Send + 'static,
{
    fn drop(&mut self) {
        if let (Some(work), Ok(runtime)) = (self.0.take(), Handle::try_current()) {
            runtime.spawn(work);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    #[tokio::test]
    async fn what_is_dropped_half_way_goes_on() {
        let (start, started) = oneshot::channel::<()>();
        let (tell, told) = oneshot::channel();
        let mut work = Unstoppable::new(async move {
            started.await.ok();
            tell.send(7).ok();
        });
        std::future::poll_fn(|context| {
            assert!(Pin::new(&mut work).poll(context).is_pending());
            Poll::Ready(())
        })
        .await;
        drop(work);
        start.send(()).expect("it still waits");
        assert_eq!(told.await, Ok(7));
    }

    #[tokio::test]
    async fn an_end_and_a_panic_are_told_apart() {
        assert_eq!(Unstoppable::new(async { 1 }).await, Some(1));
        let panics = Unstoppable::new(async {
            assert!(std::hint::black_box(false), "on purpose");
        });
        assert_eq!(panics.await, None);
    }
}
