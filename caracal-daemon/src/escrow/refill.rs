//! The one task that speaks to the vault. One message is on its way at a time; whatever comes of it, the next one says how
//! things are.

use super::kept::Kept;
use crate::budget::Budgets;
use crate::budget::escrow::{Holder, Opened, Standing, Step, Stepped, TURN_MS, Vault, VaultError};
use crate::clock;
use crate::money::NanoUsd;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// An answer that takes longer is none.
const ANSWER: Duration = Duration::from_secs(5);
/// How long to wait after something failed.
const RETRY: Duration = Duration::from_millis(500);
/// While a call waits for what others give back.
const SOON: Duration = Duration::from_millis(50);
/// Between two messages, at least: what comes meanwhile goes together.
const GAP: Duration = Duration::from_millis(5);
/// Messages of an orderly end, at most; each speaks of 256 slices.
const LAST_WORDS: u64 = 64;
/// For the last word of an orderly end.
const PARTING: Duration = Duration::from_secs(2);

/// How it stands.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Progress {
    /// Slices may be spent from for this long, if nothing is heard any more, ms.
    pub lease_ms: u64,
    /// The same as a time of the clock that never stops.
    #[serde(skip)]
    until: u64,
    /// The epoch.
    pub epoch: u64,
    /// Messages that were answered.
    pub answered: u64,
    /// Why slices are not refilled, if they are not.
    pub trouble: Option<Arc<str>>,
}

/// The running task.
#[derive(Debug)]
pub struct Refill {
    progress: watch::Receiver<Progress>,
    stop: watch::Sender<bool>,
    task: std::sync::Mutex<Option<JoinHandle<()>>>,
}

impl Refill {
    /// Starts it.
    #[must_use]
    pub fn start<V: Vault + 'static>(vault: V, holder: Holder, kept: Kept, budgets: Arc<Budgets>) -> Refill {
        let (report, progress) = watch::channel(Progress::default());
        let (stop, stopping) = watch::channel(false);
        let until = 0;
        let work = Work { vault, holder, kept, budgets, report, until };
        let task = std::sync::Mutex::new(Some(tokio::spawn(work.run(stopping))));
        Refill { progress, stop, task }
    }

    /// How it stands.
    #[must_use]
    pub fn progress(&self) -> Progress {
        let mut progress = self.progress.borrow().clone();
        progress.lease_ms = progress.until.saturating_sub(clock::boottime_ms());
        progress
    }

    /// Gives back what is not spent, and ends.
    pub async fn stop(&self) {
        self.stop.send_replace(true);
        let task = self.task.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        if let Some(task) = task {
            let _ = tokio::time::timeout(PARTING * 2, task).await;
        }
    }
}

struct Work<V> {
    vault: V,
    holder: Holder,
    kept: Kept,
    budgets: Arc<Budgets>,
    report: watch::Sender<Progress>,
    /// Until when the slices are lent.
    until: u64,
}

/// What comes next.
enum Next {
    /// When there is a reason, and after this long at the latest.
    After(Duration),
    /// After this long, whatever is asked.
    Pause(Duration),
    End,
}

impl<V: Vault> Work<V> {
    async fn run(mut self, mut stopping: watch::Receiver<bool>) {
        let wake = self.budgets.wake();
        let mut next = Next::Pause(Duration::ZERO);
        loop {
            let waited = async {
                match next {
                    Next::After(time) => drop(tokio::time::timeout(time, wake.notified()).await),
                    Next::Pause(time) => tokio::time::sleep(time).await,
                    Next::End => std::future::pending().await,
                }
            };
            let stop = async { drop(stopping.wait_for(|stop| *stop).await) };
            let ends = tokio::select! { () = waited => false, () = stop => true };
            if ends {
                return self.part().await;
            }
            next = match self.turn().await {
                Ok(next) => next,
                Err(trouble) => {
                    tracing::warn!(
                        trouble,
                        "shared budgets are not refilled; calls go on inside this host's slices until the lease runs out"
                    );
                    self.tell(Some(trouble.into()));
                    Next::Pause(RETRY)
                }
            };
        }
    }

    /// One message and its answer.
    async fn turn(&mut self) -> Result<Next, String> {
        let sent = clock::boottime_ms();
        if self.holder.must_open() {
            let opening = self.holder.opening();
            self.keep().await?;
            let answer = answered(self.vault.open(&opening)).await?;
            self.holder.opened(&answer, sent);
            if let Opened::Yes { shares, .. } = &answer {
                self.budgets.take_up(shares);
                self.stand(None);
                return Ok(Next::Pause(Duration::ZERO));
            }
        } else {
            let said = self.budgets.claims(sent, false);
            let step = self.holder.step(said.claims, false);
            self.keep().await?;
            let answer = answered(self.vault.step(&step)).await?;
            let unknown = self.hear(&step, &answer, sent);
            self.stand(unknown);
            if self.holder.standing() == &Standing::Live {
                tokio::time::sleep(GAP).await;
                return Ok(match (said.waiting, in_vain(&step, &answer)) {
                    (_, true) => Next::Pause(SOON),
                    (true, false) => Next::After(SOON),
                    (false, false) => Next::After(Duration::from_millis(TURN_MS)),
                });
            }
        }
        self.stand(None);
        Ok(match self.holder.standing() {
            Standing::Fenced => Next::End,
            _ => Next::Pause(RETRY),
        })
    }

    /// Gives a budget that the vault does not have, if there is one.
    fn hear(&mut self, step: &Step, answer: &Stepped, sent: u64) -> Option<Arc<str>> {
        if !self.holder.stepped(step.step, answer, sent) {
            return None;
        }
        let Stepped::Served { given, .. } = answer else { return None };
        self.budgets.hear(&step.claims, given);
        let unknown = step.claims.iter().zip(given).find(|(_, given)| given.limit.is_none());
        unknown.map(|(claim, _)| Arc::clone(&claim.key.budget))
    }

    /// Lends the slices for as long as the lease says, and tells why not.
    fn stand(&mut self, unknown: Option<Arc<str>>) {
        let vault = self.vault.name();
        let trouble: Option<String> = match self.holder.standing() {
            Standing::Live => unknown.map(|budget| {
                format!("{vault} has no shared budget {budget:?}; run `caracald setup postgres` with a configuration that has it")
            }),
            Standing::Closed => Some(format!("{vault} was not reached yet")),
            Standing::Busy(ms) => Some(format!(
                "another process has this host's slices for {} s: it was started elsewhere with a copy of this state, or this \
                 machine has just been started anew",
                ms.div_ceil(1_000)
            )),
            Standing::Halted(why) => Some(format!(
                "shared budgets are halted, since {vault} does not know what it knew: {why}. Once every host has \
                 reported, run `caracald budgets --accept`"
            )),
            Standing::Fenced => Some(
                "another process took this host's slices: two daemons run with one state. Stop one, and start the other again. \
                 Or `caracald budgets write-off` ended them while this host was not heard: then start this daemon again"
                    .to_owned(),
            ),
        };
        self.until = self.holder.until();
        self.tell(trouble.map(Into::into));
    }

    fn tell(&mut self, trouble: Option<Arc<str>>) {
        self.budgets.lend(self.until, trouble.clone());
        let known = self.holder.known();
        let before = self.report.borrow().trouble.clone();
        if let Some(trouble) = trouble.as_ref().filter(|trouble| before.as_ref() != Some(trouble)) {
            tracing::warn!(%trouble, "shared budgets");
        }
        let (until, epoch, answered) = (self.until, known.epoch, known.step);
        self.report.send_replace(Progress { lease_ms: 0, until, epoch, answered, trouble });
    }

    /// Before a message is sent: a host that says less than it did has lost records.
    async fn keep(&mut self) -> Result<(), String> {
        let (mut kept, known) = (self.kept.clone(), self.holder.known());
        let stored = tokio::task::spawn_blocking(move || kept.store(known).map(|()| kept)).await;
        let stored = stored.map_err(|error| error.to_string())?;
        self.kept = stored.map_err(|error| format!("what was said to the vault cannot be written down: {error}"))?;
        Ok(())
    }

    /// The last word: all that is not spent goes back.
    async fn part(mut self) {
        if self.holder.must_open() || self.holder.standing() == &Standing::Fenced {
            return;
        }
        self.budgets.lend(0, Some("this daemon ends".into()));
        let _ = tokio::time::timeout(PARTING, self.give_back()).await;
    }

    /// Says of every slice that it is not needed. A message has some of them: those that were spoken of longest ago.
    async fn give_back(&mut self) -> Result<(), String> {
        let began = clock::boottime_ms();
        for turn in 0..LAST_WORDS {
            // Each turn is later than the one before, so that none speaks of the same slices again.
            let said = self.budgets.claims(began.saturating_add(turn), true);
            let (more, step) = (said.more && turn + 1 < LAST_WORDS, self.holder.step(said.claims, !said.more));
            self.keep().await?;
            let answer = answered(self.vault.step(&step)).await?;
            self.hear(&step, &answer, began);
            if !more {
                break;
            }
        }
        Ok(())
    }
}

/// Something was asked for, and nothing was given.
fn in_vain(step: &Step, answer: &Stepped) -> bool {
    let Stepped::Served { given, .. } = answer else { return true };
    let wanted = step.claims.iter().any(|claim| claim.want > NanoUsd::ZERO);
    wanted && !step.claims.iter().zip(given).any(|(claim, given)| given.granted > claim.granted)
}

async fn answered<T>(asked: impl Future<Output = Result<T, VaultError>>) -> Result<T, String> {
    match tokio::time::timeout(ANSWER, asked).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(VaultError::Unreachable(format!("no answer in {} s", ANSWER.as_secs())).to_string()),
    }
}
