//! A call that waits until open holds give money back: until it is answered, its time is over, or it goes away.

use super::pool::{Answer, Pool};
use super::refuse;
use crate::refusal::{Reason, Refusal};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

/// A call in the queue. Dropped, it leaves the queue.
pub(crate) struct Waiting {
    pub(crate) pool: Arc<Pool>,
    pub(crate) id: u64,
    pub(crate) wait: oneshot::Receiver<Answer>,
    pub(crate) time: Duration,
    pub(crate) refusal: Refusal,
}

impl Waiting {
    /// The answer, at the latest when the time is over.
    pub(crate) async fn answer(mut self) -> Answer {
        let waited = tokio::time::timeout(self.time, Waiting::served(&self.pool, self.id, &mut self.wait)).await;
        if let Ok(answer) = waited {
            return answer;
        }
        Pool::leave(&self.pool, self.id);
        // Granted at the last moment.
        self.wait.try_recv().unwrap_or_else(|_| {
            let sentence = format!(
                "waited {} s for open calls to give money back, in vain. {}",
                self.time.as_secs(),
                self.refusal.sentence
            );
            Err(Refusal { limit: self.refusal.limit.take(), ..refuse(Reason::BudgetWaitTimeout, sentence) })
        })
    }

    /// The answer; looks again when a window turns.
    async fn served(pool: &Arc<Pool>, id: u64, wait: &mut oneshot::Receiver<Answer>) -> Answer {
        loop {
            let turns = pool.with(|state| state.turns(id)).max(Duration::from_millis(10));
            tokio::select! {
                answer = &mut *wait => return answer.unwrap_or_else(|_| Err(refuse(Reason::ShuttingDown, "is shutting down.".to_owned()))),
                () = tokio::time::sleep(turns) => Pool::serve(pool),
            }
        }
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        Pool::leave(&self.pool, self.id);
    }
}
