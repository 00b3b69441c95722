//! Takes a record that no segment holds yet; keeps its bytes in a mapped file, so that they outlive the process.
//!
//! A store into a shared mapping needs no system call and is not undone by `kill -9`. So a record is safe from the moment
//! it is taken, though it is written with the next group, and a count of equal events is safe with each event. What is
//! found at a start is written then, unless the journal has a record of that id already. A power loss may take what was
//! kept, as it takes what was written and not synced.
//!
//! Never changes a place that is in use but by its owner; gives it free only when told that the record is written.

use crate::event::Sealed;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, munmap};
use std::fs::{File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

const NAME: &str = "kept";
const DRAFT: &str = "kept.new";
const MAGIC: [u8; 16] = *b"CARACAL-KEPT\0\0\0\x01";
/// Bytes of a place, and of the header before the first.
const PLACE: usize = 4_096;
/// Bytes of a place before the record's: its count (0: free), from where on the journal may have it, length and check.
const HEAD: usize = 24;
/// The journal cannot have it: it was not handed over.
const NOT_HANDED: u64 = u64::MAX;

/// The longest record that can be kept, bytes without its place in the chain.
pub(crate) const ROOM: usize = PLACE - HEAD;

/// The file, mapped.
pub(crate) struct Keep {
    base: NonNull<u8>,
    length: NonZeroUsize,
    free: Mutex<Free>,
}

#[derive(Debug, Default)]
struct Free {
    places: Vec<u32>,
    /// Another process is about to keep its records here.
    closed: bool,
}

// SAFETY: the mapping is plain memory; each place is written by the one owner of its `Slot` only, and its two words that
// others may read are atomics.
unsafe impl Send for Keep {}
// SAFETY: as above.
unsafe impl Sync for Keep {}

impl std::fmt::Debug for Keep {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        to.debug_struct("Keep").field("length", &self.length).finish_non_exhaustive()
    }
}

impl Drop for Keep {
    fn drop(&mut self) {
        // SAFETY: our own mapping, and every slot holds the `Arc` that ends here.
        let _ = unsafe { munmap(self.base.cast(), self.length.get()) };
    }
}

/// A record that an earlier process left.
#[derive(Debug)]
pub(crate) struct Found {
    /// The record, with its count.
    pub(crate) sealed: Sealed,
    /// The journal may have it, at or behind this sequence number; `None`: it was never handed over.
    pub(crate) from: Option<u64>,
    pub(crate) slot: Slot,
}

/// A place in use. Dropped without [`Slot::written`] it stays in use: the next start finds it.
#[derive(Debug)]
pub(crate) struct Slot {
    keep: Arc<Keep>,
    index: u32,
}

impl Keep {
    /// Opens the file in `dir`, or makes it with `places` places. Gives what is kept in it, oldest first.
    pub(crate) fn open(dir: &Path, places: usize) -> io::Result<(Arc<Keep>, Vec<Found>)> {
        let path = dir.join(NAME);
        if !path.exists() {
            make(dir, places)?;
        }
        let file = OpenOptions::new().read(true).write(true).open(&path)?;
        let length = usize::try_from(file.metadata()?.len()).map_err(io::Error::other)?;
        let mut magic = [0u8; MAGIC.len()];
        file.read_exact_at(&mut magic, 0)?;
        let whole = NonZeroUsize::new(length).filter(|_| magic == MAGIC && length.is_multiple_of(PLACE));
        let length = whole.ok_or_else(|| {
            io::Error::other(format!("{} is not what caracald keeps there; move it aside", path.display()))
        })?;
        let (access, flags) = (ProtFlags::PROT_READ | ProtFlags::PROT_WRITE, MapFlags::MAP_SHARED);
        // SAFETY: a fresh mapping of a file whose length was just read; nobody makes it shorter, and its blocks exist.
        let base = unsafe { mmap(None, length, access, flags, &file, 0) }?.cast();
        let keep = Arc::new(Keep { base, length, free: Mutex::default() });
        let count = u32::try_from(length.get() / PLACE - 1).map_err(io::Error::other)?;
        let (mut found, mut free) = (Vec::new(), Vec::with_capacity(count as usize));
        for index in (0..count).rev() {
            // Read, not looked at in the mapping: a look would bring the whole file into this process's memory.
            let mut in_use = [0u8; 8];
            file.read_exact_at(&mut in_use, (u64::from(index) + 1) * PLACE as u64)?;
            let slot = Slot { keep: Arc::clone(&keep), index };
            if in_use == [0; 8] {
                free.push(index);
            } else if let Some(one) = slot.read() {
                found.push(one);
            } else {
                // Half of a write that a power loss cut.
                tracing::warn!(index, "a record that was kept for the journal is not readable");
                Slot { keep: Arc::clone(&keep), index }.count().store(0, Ordering::Release);
                free.push(index);
            }
        }
        keep.free().places = free;
        found.sort_by(|one, other| one.sealed.id().cmp(&other.sealed.id()));
        Ok((keep, found))
    }

    /// Whether more may be kept here; closed before another process opens the file.
    pub(crate) fn set_closed(&self, closed: bool) {
        self.free().closed = closed;
    }

    /// Whether nothing is kept.
    pub(crate) fn is_empty(&self) -> bool {
        self.free().places.len() == self.length.get() / PLACE - 1
    }

    fn take(&self) -> Option<u32> {
        let mut free = self.free();
        if free.closed { None } else { free.places.pop() }
    }

    fn free(&self) -> MutexGuard<'_, Free> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps `sealed`, which stands for one event. `handed` is the sequence number at or behind which the journal will
    /// have it; `None`: it is not handed over yet. `None` when there is no room, or it is too long.
    pub(crate) fn put(self: &Arc<Keep>, sealed: &Sealed, handed: Option<u64>) -> Option<Slot> {
        let bytes = sealed.bytes();
        if bytes.len() > ROOM {
            return None;
        }
        let index = self.take()?;
        let slot = Slot { keep: Arc::clone(self), index };
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let to = slot.start();
        // SAFETY: the place is ours alone until it is free again, and HEAD + length fits in it.
        unsafe {
            to.add(16).cast::<u32>().write(length);
            to.add(20).cast::<u32>().write(check(bytes));
            std::ptr::copy_nonoverlapping(bytes.as_ptr(), to.add(HEAD).as_ptr(), bytes.len());
        }
        slot.hand_over(handed.unwrap_or(NOT_HANDED));
        // Last: a place counts from here on.
        slot.count().store(1, Ordering::Release);
        Some(slot)
    }
}

impl Slot {
    /// Counts one more event.
    pub(crate) fn add(&self) {
        self.count().fetch_add(1, Ordering::Release);
    }

    /// The journal may have it from now on, at or behind `from`.
    pub(crate) fn hand_over(&self, from: u64) {
        self.word(8).store(from, Ordering::Release);
    }

    /// The record is written, or not to be: the place is free.
    pub(crate) fn written(self) {
        self.count().store(0, Ordering::Release);
        self.keep.free().places.push(self.index);
    }

    fn start(&self) -> NonNull<u8> {
        // SAFETY: an index comes from the file's own length; the header is one place long.
        unsafe { self.keep.base.add((self.index as usize + 1) * PLACE) }
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        // SAFETY: a multiple of 8 inside a page-aligned place, used as an atomic by everybody while this borrow lasts.
        unsafe { AtomicU64::from_ptr(self.start().add(at).cast().as_ptr()) }
    }

    fn count(&self) -> &AtomicU64 {
        self.word(0)
    }

    fn read(self) -> Option<Found> {
        let from = self.start();
        // SAFETY: inside the place, which nobody else has.
        let (length, checked) = unsafe { (from.add(16).cast::<u32>().read(), from.add(20).cast::<u32>().read()) };
        let length = usize::try_from(length).ok().filter(|length| *length <= ROOM)?;
        // SAFETY: HEAD + length is inside the place.
        let bytes = unsafe { std::slice::from_raw_parts(from.add(HEAD).as_ptr(), length) }.to_vec();
        if check(&bytes) != checked {
            return None;
        }
        let mut sealed = Sealed::from_bytes(bytes)?;
        sealed.set_count(self.count().load(Ordering::Acquire));
        let handed = self.word(8).load(Ordering::Acquire);
        Some(Found { sealed, from: Some(handed).filter(|from| *from != NOT_HANDED), slot: self })
    }
}

fn check(bytes: &[u8]) -> u32 {
    crc32fast::hash(bytes)
}

/// Makes the file with all its blocks: a store into a hole on a full disk would be a signal, not an error.
fn make(dir: &Path, places: usize) -> io::Result<()> {
    let draft = dir.join(DRAFT);
    let length = (places + 1) * PLACE;
    let made = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft).and_then(|file| {
        allocate(&file, length)?;
        file.write_all_at(&MAGIC, 0)?;
        file.sync_all()?;
        std::fs::rename(&draft, dir.join(NAME))?;
        File::open(dir)?.sync_all()
    });
    if made.is_err() {
        let _ = std::fs::remove_file(&draft);
    }
    made
}

fn allocate(file: &File, length: usize) -> io::Result<()> {
    let size = i64::try_from(length).map_err(io::Error::other)?;
    match nix::fcntl::fallocate(file, nix::fcntl::FallocateFlags::empty(), 0, size) {
        Ok(()) => Ok(()),
        // Some file systems cannot: written zeros do it there.
        Err(nix::errno::Errno::EOPNOTSUPP) => file.write_all_at(&vec![0; length], 0),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Kind;
    use crate::event::write::tests::{paid, scribe};
    use proptest::prelude::*;

    fn open(dir: &Path) -> (Arc<Keep>, Vec<Found>) {
        Keep::open(dir, 8).expect("a file")
    }

    #[test]
    fn what_is_kept_is_found_with_its_count() {
        let dir = tempfile::tempdir().expect("a directory");
        let (_keys, scribe) = scribe();
        let seal = |call| scribe.seal(&paid(Kind::Outcome, uuid::Uuid::from_u128(call))).expect("sealed");
        let (keep, found) = open(dir.path());
        assert!(found.is_empty());
        let (one, two, three) = (seal(1), seal(2), seal(3));
        let counted = keep.put(&one, None).expect("kept");
        counted.add();
        counted.add();
        let _handed = keep.put(&two, Some(7)).expect("kept");
        keep.put(&three, Some(9)).expect("kept").written();
        drop((counted, keep));
        let (_, found) = open(dir.path());
        let mut counted = one.clone();
        counted.set_count(3);
        let mut seen: Vec<_> = found.iter().map(|found| (found.sealed.clone(), found.from)).collect();
        seen.sort_by_key(|(_, from)| *from);
        assert_eq!(seen, [(counted, None), (two, Some(7))]);
    }

    #[test]
    fn a_full_file_and_a_long_record_are_told() {
        let dir = tempfile::tempdir().expect("a directory");
        let (_keys, scribe) = scribe();
        let sealed = scribe.seal(&paid(Kind::Outcome, uuid::Uuid::nil())).expect("sealed");
        let (keep, _) = open(dir.path());
        let mut slots: Vec<Slot> = (0..8).map(|_| keep.put(&sealed, None).expect("kept")).collect();
        assert!(keep.put(&sealed, None).is_none());
        slots.pop().expect("a slot").written();
        keep.put(&sealed, None).expect("kept").written();
        let mut long = paid(Kind::Outcome, uuid::Uuid::nil());
        long.data.message = Some("x".repeat(ROOM));
        assert!(keep.put(&scribe.seal(&long).expect("sealed"), None).is_none());
    }

    #[test]
    fn another_file_is_refused_and_a_torn_place_is_passed_over() {
        let dir = tempfile::tempdir().expect("a directory");
        let (_keys, scribe) = scribe();
        let (keep, _) = open(dir.path());
        let slot = keep.put(&scribe.seal(&paid(Kind::Outcome, uuid::Uuid::nil())).expect("sealed"), None);
        let at = (slot.expect("kept").index as u64 + 1) * PLACE as u64;
        drop(keep);
        let path = dir.path().join(NAME);
        let file = OpenOptions::new().write(true).open(&path).expect("opened");
        file.write_all_at(b"?", at + 100).expect("written");
        let (keep, found) = open(dir.path());
        assert!(found.is_empty());
        assert_eq!(keep.free().places.len(), 8);
        drop(keep);
        file.write_all_at(b"?", 0).expect("written");
        assert!(Keep::open(dir.path(), 8).expect_err("another file").to_string().contains("move it aside"));
    }

    #[derive(Clone, Debug)]
    enum Step {
        Put(bool),
        Add(prop::sample::Index),
        HandOver(prop::sample::Index),
        Written(prop::sample::Index),
        Crash,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            3 => any::<bool>().prop_map(Step::Put),
            4 => any::<prop::sample::Index>().prop_map(Step::Add),
            2 => any::<prop::sample::Index>().prop_map(Step::HandOver),
            2 => any::<prop::sample::Index>().prop_map(Step::Written),
            1 => Just(Step::Crash),
        ]
    }

    /// A place in use, as the model has it: the record's number, its count, whether it is handed over.
    struct Used(u128, u64, bool, Slot);

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn any_course_of_events_leaves_exactly_what_is_not_written(steps in proptest::collection::vec(step(), 1..80)) {
            let dir = tempfile::tempdir().expect("a directory");
            let (_keys, scribe) = scribe();
            let seal = |number| scribe.seal(&paid(Kind::Outcome, uuid::Uuid::from_u128(number))).expect("sealed");
            let call = |sealed: &Sealed| {
                let mut bytes = Vec::new();
                sealed.place(0, &[0; 32], &mut bytes);
                let record = crate::event::Record::parse(&bytes).expect("a record");
                let call: uuid::Uuid = record.data.call.expect("a call").parse().expect("an id");
                (call.as_u128(), record.data.count.unwrap_or(1))
            };
            let (mut keep, _) = open(dir.path());
            let (mut used, mut next): (Vec<Used>, u128) = (Vec::new(), 0);
            for step in steps {
                match step {
                    Step::Put(handed) => {
                        let slot = keep.put(&seal(next), handed.then_some(3));
                        prop_assert_eq!(slot.is_some(), used.len() < 8);
                        used.extend(slot.map(|slot| Used(next, 1, handed, slot)));
                        next += 1;
                    }
                    Step::Add(at) if !used.is_empty() => {
                        let at = at.index(used.len());
                        used[at].3.add();
                        used[at].1 += 1;
                    }
                    Step::HandOver(at) if !used.is_empty() => {
                        let at = at.index(used.len());
                        used[at].3.hand_over(3);
                        used[at].2 = true;
                    }
                    Step::Written(at) if !used.is_empty() => used.swap_remove(at.index(used.len())).3.written(),
                    Step::Crash => {
                        let mut model: Vec<_> = used.drain(..).map(|Used(number, count, handed, _)| ((number, count), handed.then_some(3))).collect();
                        drop(keep);
                        let (again, found) = open(dir.path());
                        keep = again;
                        let mut seen: Vec<_> = found.iter().map(|found| (call(&found.sealed), found.from)).collect();
                        model.sort_unstable();
                        seen.sort_unstable();
                        prop_assert_eq!(seen, model);
                        found.into_iter().for_each(|found| found.slot.written());
                    }
                    _ => {}
                }
            }
        }
    }
}
