//! Which logs are served, and the readers of their database. Takes a path; gives a file. At most [`READERS`] look at once.

use super::File;
use crate::bus::signed_run::is_host_id;
use crate::ledger::fleet_verify;
use crate::ledger::note;
use crate::ledger::postgres::{Database, PostgresStore, READER};
use crate::ledger::sqlite::SqliteStore;
use crate::ledger::store::StoreError;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// Connections to the database.
const READERS: usize = 8;
/// How long a request may wait for one of them, and then for its answer.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long a name that was not there stays unknown.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// Why there is no answer. Come again.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Busy {
    /// The database.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// Everybody asks at once.
    #[error("all {READERS} readers of the ledger are busy")]
    Full,
}

/// The logs of one database.
#[derive(Debug)]
pub struct Logs {
    room: Semaphore,
    place: Place,
}

#[derive(Debug)]
enum Place {
    /// One host's own log: its files are at the root.
    Host { path: PathBuf, idle: Mutex<Vec<SqliteStore>>, known: AtomicU64 },
    /// Those of many hosts: each below its name.
    Fleet { url: String, idle: Mutex<Vec<Database>>, names: Mutex<Names> },
}

#[derive(Debug, Default)]
struct Names {
    logs: BTreeMap<String, (i32, Arc<AtomicU64>)>,
    looked: Option<Instant>,
}

impl Logs {
    /// The log of the host whose ledger is at `path`.
    #[must_use]
    pub fn host(path: PathBuf) -> Logs {
        let (idle, known) = (Mutex::default(), AtomicU64::new(0));
        Logs { room: Semaphore::new(READERS), place: Place::Host { path, idle, known } }
    }

    /// Every log in the PostgreSQL at `url`.
    #[must_use]
    pub fn fleet(url: String) -> Logs {
        let (idle, names) = (Mutex::default(), Mutex::default());
        Logs { room: Semaphore::new(READERS), place: Place::Fleet { url, idle, names } }
    }

    /// The file at `path`, without its leading slash; `None` if there is none.
    pub(crate) async fn read(&self, path: &str) -> Result<Option<(File, Vec<u8>)>, Busy> {
        let (name, rest) = match &self.place {
            Place::Host { .. } => ("", path),
            Place::Fleet { .. } => match path.split_once('/').filter(|(name, _)| is_host_id(name)) {
                Some(parts) => parts,
                None => return Ok(None),
            },
        };
        let Some(file) = File::parse(rest) else { return Ok(None) };
        let _room = timeout(PATIENCE, self.room.acquire()).await.map_err(|_| Busy::Full)?;
        let bytes = timeout(PATIENCE, self.ask(name, file)).await.map_err(|_| Busy::Full)??;
        Ok(bytes.map(|bytes| (file, bytes)))
    }

    /// Whether the database answers.
    pub(crate) async fn is_ready(&self) -> bool {
        let Ok(Ok(_room)) = timeout(PATIENCE, self.room.acquire()).await else { return false };
        let looks = async {
            match &self.place {
                Place::Host { .. } => self.ask("", File::Checkpoint).await.is_ok(),
                Place::Fleet { names, .. } => {
                    lock(names).looked = None;
                    self.log("").await.is_ok()
                }
            }
        };
        timeout(PATIENCE, looks).await.unwrap_or(false)
    }

    async fn ask(&self, name: &str, file: File) -> Result<Option<Vec<u8>>, StoreError> {
        match &self.place {
            Place::Host { path, idle, known } => {
                let taken = lock(idle).pop();
                let mut store = match taken {
                    Some(store) => store,
                    None => SqliteStore::read(path).await?,
                };
                // One that failed is not used again.
                let bytes = file.read(&mut store, known).await?;
                lock(idle).push(store);
                Ok(bytes)
            }
            Place::Fleet { idle, .. } => {
                let Some((log, known)) = self.log(name).await? else { return Ok(None) };
                let mut store = PostgresStore::reader(self.database()?, log);
                let bytes = file.read(&mut store, &known).await;
                lock(idle).push(store.into_database());
                bytes
            }
        }
    }

    fn database(&self) -> Result<Database, StoreError> {
        match &self.place {
            Place::Fleet { url, idle, .. } => {
                let taken = lock(idle).pop();
                taken.map_or_else(|| Database::new(url, Some(READER)), Ok)
            }
            Place::Host { .. } => Err(StoreError::Damaged("a host's log is not in PostgreSQL".to_owned())),
        }
    }

    /// The number of the log of this name. The names are read again when there is another one.
    async fn log(&self, name: &str) -> Result<Option<(i32, Arc<AtomicU64>)>, StoreError> {
        let Place::Fleet { idle, names, .. } = &self.place else { return Ok(None) };
        {
            let names = lock(names);
            let found = names.logs.get(name).cloned();
            if found.is_some() || names.looked.is_some_and(|at| at.elapsed() < LOOK_AGAIN) {
                return Ok(found);
            }
        }
        let mut database = self.database()?;
        let all = fleet_verify::logs(&mut database).await;
        if all.is_err() {
            database.down();
        }
        lock(idle).push(database);
        let mut names = lock(names);
        for (log, origin) in all? {
            let name = note::name_of(&origin);
            names.logs.entry(name.to_owned()).or_insert_with(|| (log, Arc::default()));
        }
        names.looked = Some(Instant::now());
        Ok(names.logs.get(name).cloned())
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
