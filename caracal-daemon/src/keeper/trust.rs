//! Trust in the local CA for workloads that run already: their environment cannot be changed any more, their files can.
//! Takes an attached cgroup; gives a verdict for each of its processes. A mount namespace of the workload's own gets the
//! CA mounted over its certificate bundle ([`cover`]); the host's own store is changed only where the operator says so
//! ([`host`]). Everything is written down before it is done, so that also a later keeper, or `detach` without one, undoes
//! it. Reads the workload's bundle as bytes and copies them: nothing here parses what a workload wrote.

pub mod cover;
pub mod host;
pub mod judge;

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::KeeperError;
use super::cgroup::Cgroup;
use super::held;
use super::serve::{Places, load, save};
use crate::cli::trust::bundle::{self, SYSTEM_BUNDLES};
use judge::Verdict;

/// How long the files of a workload may keep us waiting: its file systems may be its own.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the host's own tool may take to make its bundles anew.
const TOOL_PATIENCE: Duration = Duration::from_secs(120);
/// So many threads may wait for workloads' files.
const MOST_WAITING: usize = 16;
/// A bundle larger than this is left alone.
const MOST_BYTES: u64 = bundle::MAX_BYTES;

/// What was done, as it is written down.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Done {
    /// Files mounted over a workload's bundle: their names, by the cgroup that they were made for.
    covers: BTreeMap<u64, BTreeSet<String>>,
    /// The host's store.
    host: Option<host::Added>,
}

/// What an attach did for trust, and what each process makes of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// Where the CA was put, and where it could not be: sentences.
    pub places: Vec<String>,
    /// The processes.
    pub processes: Vec<Verdict>,
}

/// The trust of attached workloads.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    ca: String,
    instance: String,
    /// Files that are mounted into workloads: public data.
    public: PathBuf,
    /// Root's own: what was done, and copies of what was changed.
    private: PathBuf,
    written: PathBuf,
    done: Mutex<Done>,
    /// The cgroups that are attached. Locked while files are changed: a withdrawal must not be overtaken.
    attached: Mutex<BTreeSet<u64>>,
    /// The roots that were seen to already: cgroup, mount namespace, the root's device and inode.
    known: Mutex<BTreeSet<(u64, u64, u64, u64)>>,
}

impl Store {
    /// Of an instance. The CA may be another than that of the keeper before: then what that one mounted is taken off, and
    /// mounted anew by the next look.
    ///
    /// # Errors
    /// When the directory for public files cannot be made.
    pub fn open(places: &Places, instance: &str, ca: &str) -> Result<Store, KeeperError> {
        let public = places.runtime.join("trust");
        let failed = |error: io::Error| KeeperError::Refused(format!("{}: {error}", public.display()));
        fs::DirBuilder::new().recursive(true).mode(0o755).create(&public).map_err(failed)?;
        let written = places.keeper.join("trust.json");
        let done: Done = load(&written);
        let inner = Inner {
            ca: ca.trim().to_owned(),
            instance: instance.to_owned(),
            private: places.keeper.join("trust"),
            done: Mutex::new(done),
            attached: Mutex::default(),
            known: Mutex::default(),
            public,
            written,
        };
        inner.advise();
        let stale = inner.stale();
        let store = Store(Arc::new(inner));
        if stale && !ca.is_empty() {
            store.0.take_off(None).map_err(KeeperError::Refused)?;
        }
        Ok(store)
    }

    /// The cgroup is attached.
    pub fn adopt(&self, cgroup: u64) {
        // Not while a workload's files keep another thread waiting: this one must go on.
        let store = Arc::clone(&self.0);
        let _ = patiently(PATIENCE, move || store.attached().insert(cgroup));
    }

    /// Gives the workload's own namespaces the CA that have it not yet, and the host's store if `system`; judges its
    /// processes if `judge`.
    #[must_use]
    pub fn extend(&self, cgroup: &Cgroup, system: bool, judge: bool) -> Report {
        let (store, id) = (Arc::clone(&self.0), cgroup.id.0);
        let processes: Vec<(u32, String)> = held::holders(cgroup)
            .into_iter()
            .filter(|holder| holder.pid == holder.tid)
            .map(|holder| (holder.pid, holder.comm))
            .collect();
        patiently(if system { TOOL_PATIENCE } else { PATIENCE }, move || store.extend(id, &processes, system, judge))
            .unwrap_or_else(|| Report {
                places: vec!["the workload's files do not answer; its trust is unknown".to_owned()],
                processes: Vec::new(),
            })
    }

    /// Undoes it for a cgroup, or for all of them.
    ///
    /// # Errors
    /// When something cannot be undone; it stays written down.
    pub fn withdraw(&self, cgroup: Option<u64>) -> Result<(), String> {
        let store = Arc::clone(&self.0);
        patiently(TOOL_PATIENCE, move || {
            let mut attached = store.attached();
            match cgroup {
                Some(cgroup) => drop(attached.remove(&cgroup)),
                None => attached.clear(),
            }
            store.take_off(cgroup).and_then(|()| store.leave_host(cgroup))
        })
        .unwrap_or_else(|| Err("the workload's files did not answer; `caracald detach` again undoes the rest".into()))
    }
}

impl Inner {
    fn attached(&self) -> std::sync::MutexGuard<'_, BTreeSet<u64>> {
        self.attached.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn done(&self) -> std::sync::MutexGuard<'_, Done> {
        self.done.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A bundle of the host's roots and the CA, for the variables of a process that is started again.
    fn advise(&self) {
        let Ok(ca) = bundle::parse(self.ca.as_bytes()) else { return };
        let mut collector = bundle::Collector::new(&ca);
        collector.add_system(SYSTEM_BUNDLES);
        let _ = write(&self.advised(), bundle::to_pem(&collector.finish().certificates).as_bytes());
    }

    /// Where that bundle is.
    fn advised(&self) -> PathBuf {
        self.public.join("ca-bundle.pem")
    }

    /// Whether something is mounted that vouches for another CA.
    fn stale(&self) -> bool {
        let done = self.done();
        let mut names = done.covers.values().flatten();
        names.any(|name| !fs::read_to_string(self.public.join(name)).is_ok_and(|text| text.contains(&self.ca)))
    }

    fn extend(&self, cgroup: u64, processes: &[(u32, String)], system: bool, judge: bool) -> Report {
        let mut report = Report::default();
        let attached = self.attached();
        if !attached.contains(&cgroup) {
            return report;
        }
        let host = namespace("self").unwrap_or_default();
        for (pid, comm) in processes {
            let Some(own) = namespace(&pid.to_string()).filter(|own| *own != host) else { continue };
            // One root a namespace is the rule; a process that changed its root sees other files.
            let Ok(root) = fs::metadata(format!("/proc/{pid}/root")) else { continue };
            let known = (cgroup, own, root.dev(), root.ino());
            if !self.known.lock().unwrap_or_else(PoisonError::into_inner).insert(known) {
                continue;
            }
            match self.cover(cgroup, *pid, own) {
                Ok(0) => {}
                Ok(count) => report
                    .places
                    .push(format!("the CA is mounted over {count} bundles in the mount namespace of {comm} ({pid})")),
                Err(why) => {
                    report.places.push(format!("the mount namespace of {comm} ({pid}) does not get the CA: {why}"));
                }
            }
        }
        if system {
            match self.join_host(cgroup) {
                Ok(what) => report.places.push(what),
                Err(why) => report.places.push(format!("the host's store does not get the CA: {why}")),
            }
        }
        if judge {
            report.processes = processes
                .iter()
                .filter_map(|(pid, comm)| judge::judge(*pid, comm, &self.ca, &self.advised()))
                .collect();
        }
        report
    }

    /// Mounts over the bundles that a process sees. Gives how many.
    fn cover(&self, cgroup: u64, pid: u32, namespace: u64) -> Result<usize, String> {
        let place = cover::Place::open(pid).map_err(|error| error.to_string())?;
        let mut count = 0;
        let mut seen = BTreeSet::new();
        for path in SYSTEM_BUNDLES {
            let Some(target) = place.find(path).map_err(|error| format!("{path}: {error}"))? else { continue };
            let facts = target.metadata().map_err(|error| error.to_string())?;
            if !facts.is_file() || !seen.insert((facts.dev(), facts.ino())) {
                continue;
            }
            let old = read(&target).map_err(|error| format!("{path}: {error}"))?;
            if contains(&old, self.ca.as_bytes()) {
                continue;
            }
            if place.is_the_hosts(&target).map_err(|error| error.to_string())? {
                return Err("its mounts are shared with the host: make them private, or use --trust-system".to_owned());
            }
            let name = format!("{}-{cgroup}-{namespace}-{}.pem", self.instance, uuid::Uuid::now_v7().simple());
            let mut new = old;
            new.extend(format!("\n# The local CA of Caracal, instance {}\n{}\n", self.instance, self.ca).bytes());
            write(&self.public.join(&name), &new).map_err(|error| error.to_string())?;
            {
                let mut done = self.done();
                done.covers.entry(cgroup).or_default().insert(name.clone());
                save(&self.written, &*done);
            }
            place.mount(&self.public.join(&name), &target).map_err(|error| format!("{path}: {error}"))?;
            count += 1;
        }
        Ok(count)
    }

    /// Takes off what was mounted for a cgroup.
    fn take_off(&self, cgroup: Option<u64>) -> Result<(), String> {
        let wanted: Vec<(u64, BTreeSet<String>)> = {
            let done = self.done();
            done.covers
                .iter()
                .filter(|(id, _)| cgroup.is_none_or(|one| one == **id))
                .map(|(id, all)| (*id, all.clone()))
                .collect()
        };
        for (id, names) in wanted {
            cover::take_off(&names).map_err(|error| format!("a mounted bundle cannot be taken off: {error}"))?;
            for name in &names {
                let _ = fs::remove_file(self.public.join(name));
            }
            self.known.lock().unwrap_or_else(PoisonError::into_inner).retain(|(cgroup, ..)| *cgroup != id);
            let mut done = self.done();
            done.covers.remove(&id);
            save(&self.written, &*done);
        }
        Ok(())
    }

    fn join_host(&self, cgroup: u64) -> Result<String, String> {
        let mut done = self.done();
        let mut added = match done.host.take() {
            Some(added) if added.certificate_is(&self.ca) => added,
            // Another CA's, or an attempt that did not come to its end.
            Some(old) => {
                old.remove(&self.private).map_err(|error| error.to_string())?;
                host::Added::plan(&self.instance)
            }
            None => host::Added::plan(&self.instance),
        };
        added.cgroups.insert(cgroup);
        done.host = Some(added.clone());
        save(&self.written, &*done);
        let what = added.add(&self.ca, &self.private, |added| {
            done.host = Some(added.clone());
            save(&self.written, &*done);
        });
        what.map_err(|error| error.to_string())
    }

    fn leave_host(&self, cgroup: Option<u64>) -> Result<(), String> {
        let mut done = self.done();
        let Some(added) = &mut done.host else { return Ok(()) };
        match cgroup {
            Some(cgroup) => {
                added.cgroups.remove(&cgroup);
            }
            None => added.cgroups.clear(),
        }
        if added.cgroups.is_empty() {
            added.remove(&self.private).map_err(|error| format!("the host's store keeps the CA: {error}"))?;
            done.host = None;
        }
        save(&self.written, &*done);
        Ok(())
    }
}

/// The mount namespace of a process.
fn namespace(pid: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/mnt")).ok().map(|facts| facts.ino())
}

/// Does `work` on a thread of its own, which is left behind when it takes too long: a workload's file system may never
/// answer. `None`: it did not answer, or too many did not before.
fn patiently<T: Send + 'static>(limit: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    static RUNNING: AtomicUsize = AtomicUsize::new(0);
    if RUNNING.fetch_add(1, Ordering::AcqRel) >= MOST_WAITING {
        RUNNING.fetch_sub(1, Ordering::AcqRel);
        return None;
    }
    let (give, take) = std::sync::mpsc::sync_channel(1);
    let begun = std::thread::Builder::new().name("trust-files".to_owned()).spawn(move || {
        let _ = give.send(work());
        RUNNING.fetch_sub(1, Ordering::AcqRel);
    });
    if begun.is_err() {
        RUNNING.fetch_sub(1, Ordering::AcqRel);
        return None;
    }
    take.recv_timeout(limit).ok()
}

/// Reads a file through a descriptor that only names it.
fn read(target: &File) -> io::Result<Vec<u8>> {
    use std::os::fd::AsRawFd;
    let path = format!("/proc/self/fd/{}", target.as_raw_fd());
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path)?;
    let mut bytes = Vec::new();
    file.take(MOST_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MOST_BYTES {
        return Err(io::Error::other(format!("more than {MOST_BYTES} bytes")));
    }
    Ok(bytes)
}

/// Writes a public file whole.
fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    let fresh = path.with_extension("new");
    fs::write(&fresh, bytes)?;
    fs::set_permissions(&fresh, fs::Permissions::from_mode(0o644))?;
    fs::rename(&fresh, path)
}

/// Whether `part` stands in `whole`.
fn contains(whole: &[u8], part: &[u8]) -> bool {
    !part.is_empty() && whole.windows(part.len()).any(|window| window == part)
}
