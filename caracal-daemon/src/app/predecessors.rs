//! Data paths from before an upgrade, which end what they had begun: their records are written here, and the holds of their
//! calls stand in the budgets here until their outcomes come. What is still open when the last of them has gone is charged in
//! full, as after a crash.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{MsgFlags, recv, send};
use tokio::io::unix::AsyncFd;
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::agent::CgroupId;
use crate::budget::{Budgets, Ending, Hold};
use crate::clock::Clock;
use crate::event::{Kind, Record, Sealed};
use crate::intercept::{Doings, Stack, record_warnings};
use crate::journal::Journal;
use crate::journal::successor::{DOINGS, DONE, LEAF, LONGEST, RECORD};
use crate::keeper::Signer;
use crate::ledger::books::OpenIntent;
use crate::meter::Provider;

/// What is taken over from them.
pub(super) struct Inheritance {
    roads: Vec<OwnedFd>,
    calls: HashMap<String, (OpenIntent, Hold)>,
}

impl Inheritance {
    /// Puts the holds of what is under way there back into the budgets. Without a road nothing is, and `open` is empty.
    pub(super) fn take(roads: Vec<OwnedFd>, open: Vec<OpenIntent>, budgets: &Budgets) -> Inheritance {
        let restored = open.into_iter().map(|intent| {
            let provider = Provider::named(&intent.provider).map_or("", Provider::name);
            let who = (provider, Arc::from(intent.model.as_str()));
            let hold = budgets.restore(intent.windows.clone(), intent.hold, who);
            (intent.call.clone(), (intent, hold))
        });
        Inheritance { roads, calls: restored.collect() }
    }
}

/// Serves them.
#[derive(Debug)]
pub(super) struct Predecessors {
    any: bool,
    left: Arc<AtomicUsize>,
    leaving: watch::Sender<bool>,
    tasks: Mutex<JoinSet<()>>,
}

struct Desk {
    stack: Arc<Stack>,
    journal: Journal,
    clock: Clock,
    signer: Arc<dyn Signer>,
    calls: Mutex<HashMap<String, (OpenIntent, Hold)>>,
    left: Arc<AtomicUsize>,
}

impl Predecessors {
    /// Serves them until each has gone. Call it inside a tokio runtime.
    ///
    /// # Errors
    /// When a road is none.
    pub(super) fn serve(
        inheritance: Inheritance,
        stack: &Arc<Stack>,
        journal: &Journal,
        clock: &Clock,
        signer: &Arc<dyn Signer>,
    ) -> io::Result<Predecessors> {
        let Inheritance { roads, calls } = inheritance;
        let any = !roads.is_empty();
        let left = Arc::new(AtomicUsize::new(roads.len()));
        let desk = Arc::new(Desk {
            stack: Arc::clone(stack),
            journal: journal.clone(),
            clock: clock.clone(),
            signer: Arc::clone(signer),
            calls: Mutex::new(calls),
            left: Arc::clone(&left),
        });
        let (leaving, _) = watch::channel(false);
        let mut tasks = JoinSet::new();
        for road in roads {
            let flags = OFlag::from_bits_retain(fcntl(&road, FcntlArg::F_GETFL)?);
            fcntl(&road, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
            // SAFETY: it owns its descriptor, which is open for as long as it is registered.
            let road = unsafe { AsyncFd::register(road) }?;
            let (desk, leaving) = (Arc::clone(&desk), leaving.subscribe());
            tasks.spawn(async move { desk.attend(road, leaving).await });
        }
        Ok(Predecessors { any, left, leaving, tasks: Mutex::new(tasks) })
    }

    /// Whether there were any: they tell what agents did.
    pub(super) fn any(&self) -> bool {
        self.any
    }

    /// How many are left.
    pub(super) fn count(&self) -> usize {
        self.left.load(Ordering::Acquire)
    }

    /// Reads no more of what they say, each message being answered or left on its road: another data path goes on.
    pub(super) async fn leave(&self) {
        self.leaving.send_replace(true);
        let mut tasks = std::mem::take(&mut *self.tasks.lock().unwrap_or_else(PoisonError::into_inner));
        while tasks.join_next().await.is_some() {}
    }
}

impl Desk {
    async fn attend(&self, road: AsyncFd<OwnedFd>, mut leaving: watch::Receiver<bool>) {
        let mut message = vec![0; LONGEST];
        loop {
            let received = tokio::select! {
                biased;
                _ = leaving.wait_for(|leaving| *leaving) => return,
                received = receive(&road, &mut message) => received,
            };
            let length = match received {
                Ok(length) if length > 0 => length,
                _ => break,
            };
            let answer = self.execute(message.get(..length).unwrap_or_default()).await;
            let answer = match answer {
                Ok(said) => [&[DONE], &*said].concat(),
                Err(why) => [&b"-"[..], why.as_bytes()].concat(),
            };
            // One answer a message, and nothing else goes that way: there is room.
            if send(road.as_raw_fd(), &answer, MsgFlags::MSG_NOSIGNAL).is_err() {
                break;
            }
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.charge_what_is_left().await;
        }
    }

    async fn execute(&self, message: &[u8]) -> Result<Vec<u8>, String> {
        match message.split_first() {
            Some((&RECORD, bytes)) => {
                let sealed = Sealed::from_bytes(bytes.to_vec()).ok_or("that is no record")?;
                self.record(sealed).await.map(|()| Vec::new())
            }
            Some((&DOINGS, bytes)) => {
                let (agent, doings): (CgroupId, Doings) = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
                self.stack.tally().add(agent, doings);
                Ok(Vec::new())
            }
            Some((&LEAF, bytes)) => {
                let (name, spki): (String, Vec<u8>) = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
                let signer = Arc::clone(&self.signer);
                let issued = tokio::task::spawn_blocking(move || signer.issue_leaf(&name, &spki)).await;
                issued.map_err(|error| error.to_string())?.map_err(|error| error.to_string())
            }
            _ => Err("this version does not know that".to_owned()),
        }
    }

    /// Writes one of their records; an outcome ends its hold.
    async fn record(&self, sealed: Sealed) -> Result<(), String> {
        let mut bytes = Vec::with_capacity(sealed.record_len());
        sealed.place(0, &[0; 32], &mut bytes);
        let record = Record::parse(&bytes).map_err(|error| error.to_string())?;
        let append = self.journal.append_sealed(sealed);
        if record.kind != Kind::Outcome.code() {
            return append.await.map_err(|error| error.to_string());
        }
        let call = record.data.call.as_deref().unwrap_or_default();
        let Some((intent, hold)) = self.calls().remove(call) else {
            // Its intent never was durable, and nothing was sent.
            return Ok(());
        };
        let cost = record.data.cost.unwrap_or(intent.hold);
        let ending = match record.data.settle.as_deref() {
            Some("settled") => Ending::Settled(cost),
            Some("released") => Ending::Released,
            _ if cost > intent.hold => Ending::Beyond(cost),
            _ => Ending::Charged,
        };
        let about = (record.at, Some(Arc::from(intent.agent.as_str())), intent.call.parse().ok());
        let (recorded, warnings) = hold.end_after(ending, append).await;
        record_warnings(&self.journal, &warnings, about).await;
        recorded.map_err(|error| error.to_string())
    }

    async fn charge_what_is_left(&self) {
        let open = std::mem::take(&mut *self.calls());
        for (intent, hold) in open.into_values() {
            let outcome = self.journal.append(intent.crash_outcome(self.clock.now()));
            if let (Err(error), _) = hold.end_after(Ending::Charged, outcome).await {
                tracing::error!(%error, "an outcome could not be recorded; its hold stands as charged");
            }
        }
    }

    fn calls(&self) -> MutexGuard<'_, HashMap<String, (OpenIntent, Hold)>> {
        self.calls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn receive(road: &AsyncFd<OwnedFd>, into: &mut [u8]) -> io::Result<usize> {
    loop {
        let mut ready = road.readable().await?;
        let received = ready.try_io(|road| Ok(recv(road.as_raw_fd(), into, MsgFlags::empty())?));
        if let Ok(received) = received {
            return received;
        }
    }
}
