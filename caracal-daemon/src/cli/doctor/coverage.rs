//! Which ways out this kernel closes: each attempt is made three times by a process of its own. Ungoverned it must work,
//! or nothing can be told; in a scratch cgroup with our programs, and under the clean spawn of `run`, it must not.
//! Takes root; gives a row for each way. Leaves nothing behind, and sends nothing to any network: all of it happens in a
//! network namespace that has only loopback.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use caracal_common::ABI_VERSION;
use caracal_common::denial::Hook;
use caracal_common::settings::Settings;
use serde::Serialize;

use super::attempts::MOVED_HALF_WAY;
use super::outside::{self, Outside};
use super::vectors::{Scope, VECTORS, Vector, attempts};
use super::zygote::{self, Zygote};
use crate::agent::Agent;
use crate::cli::spawn::{self, SpawnPlan, exit_code};
use crate::config::Require;
use crate::keeper::cgroup::{Cgroup, Hierarchy};
use crate::keeper::kernel::Kernel;

/// Whether a way out is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cover {
    /// Every attempt of it was refused.
    Covered,
    /// One got through.
    Uncovered,
    /// This kernel has no such thing.
    Absent,
    /// Could not be tried.
    Unknown,
}

/// What is known about one way out.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The way's name.
    pub name: &'static str,
    /// Its class in the catalogue.
    pub class: u8,
    /// Where it belongs.
    pub scope: Scope,
    /// In a cgroup that `attach` governs.
    pub attach: Cover,
    /// In what `run` starts.
    pub run: Cover,
    /// The hooks whose counters moved when it was refused.
    pub refused_by: Vec<&'static str>,
    /// What would close it, where it is open.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub closer: Option<&'static str>,
}

/// The results of one attempt: 0, an error number, or nothing when it could not be made.
#[derive(Clone, Debug, Default)]
struct Results {
    control: Option<i32>,
    attach: Option<i32>,
    run: Option<i32>,
    hooks: Vec<&'static str>,
}

/// No root: nothing can be tried.
#[must_use]
pub fn untried() -> Vec<Row> {
    VECTORS.iter().map(|vector| row(vector, &BTreeMap::new())).collect()
}

/// Tries everything, with the LSM's programs where `require` is `full`. Call it from the first thread, before there are others: it changes this process's network
/// namespace, and starts confined children.
///
/// # Errors
/// When this is not root, or the programs do not load.
pub fn probe(require: Require) -> anyhow::Result<Vec<Row>> {
    let dir = nix::unistd::mkdtemp(&std::env::temp_dir().join("caracal-doctor-XXXXXX"))?;
    let outside = Outside::open(&dir)?;
    let scratch = Scratch::make(&dir, require)?;
    let results = scratch.try_all(&outside)?;
    Ok(VECTORS.iter().map(|vector| row(vector, &results)).collect())
}

/// Errors that say that the kernel has no such socket, or gives it to nobody with these rights.
const ABSENT: [i32; 11] = [
    libc::EAFNOSUPPORT,
    libc::EOPNOTSUPP,
    libc::EPROTONOSUPPORT,
    libc::ESOCKTNOSUPPORT,
    libc::ENOPROTOOPT,
    libc::ENODEV,
    libc::ENXIO,
    libc::ENOENT,
    libc::ENOSYS,
    libc::EPERM,
    libc::EACCES,
];

fn row(vector: &Vector, results: &BTreeMap<&str, Results>) -> Row {
    let of: Vec<Results> = vector.attempts.iter().map(|name| results.get(name).cloned().unwrap_or_default()).collect();
    let attach = cover(of.iter().map(|one| (one.control, one.attach)));
    let run = cover(of.iter().map(|one| (one.control, one.run)));
    let mut refused_by: Vec<&'static str> = of.iter().flat_map(|one| one.hooks.iter().copied()).collect();
    refused_by.sort_unstable();
    refused_by.dedup();
    let open = [attach, run].contains(&Cover::Uncovered);
    let Vector { name, class, scope, .. } = *vector;
    Row { name, class, scope, attach, run, refused_by, closer: open.then_some(vector.closer) }
}

/// From controls and results: one attempt that gets through is enough to be open.
fn cover(results: impl Iterator<Item = (Option<i32>, Option<i32>)>) -> Cover {
    let mut all = Cover::Absent;
    for (control, result) in results {
        match (control, result) {
            (Some(0), Some(0)) => return Cover::Uncovered,
            (Some(0), Some(_)) if all == Cover::Absent => all = Cover::Covered,
            (Some(0), Some(_)) => {}
            (Some(errno), _) if ABSENT.contains(&errno) => {}
            _ => all = Cover::Unknown,
        }
    }
    all
}

/// Our programs on a scratch cgroup.
struct Scratch {
    dir: PathBuf,
    pins: PathBuf,
    kernel: Option<Kernel>,
    governed: Cgroup,
    beside: Cgroup,
    zygote: Zygote,
}

impl Scratch {
    fn make(dir: &Path, require: Require) -> anyhow::Result<Scratch> {
        let hierarchy = Hierarchy::find()?;
        let name = format!("caracal-doctor-{}", std::process::id());
        let pins = Kernel::pin_directory(&format!("doctor-ways-{}", std::process::id()));
        let governed = hierarchy.make(&name)?;
        let beside = hierarchy.make(&format!("{name}-beside"))?;
        let mut scratch =
            Scratch { dir: dir.to_owned(), pins, kernel: None, governed, beside, zygote: Zygote::new(dir) };
        // Ports that nobody here uses.
        let mut kernel =
            Kernel::load(&scratch.pins, Settings { abi: ABI_VERSION, tcp_port: 15_001, dns_port: 15_053 }, require)?;
        let governed = kernel.govern(&scratch.governed);
        let agent = Agent {
            name: "doctor".into(),
            cgroup: scratch.governed.id,
            path: scratch.governed.path.clone(),
            uid: 0,
            learn: false,
        };
        let admitted = kernel.admit(&agent, scratch.governed.level);
        scratch.kernel = Some(kernel);
        governed?;
        admitted?;
        let pin = scratch.pins.join("links").join(scratch.governed.id.0.to_string()).join("egress");
        let write = |file: &str, path: &Path| fs::write(dir.join(file), path.display().to_string());
        write(outside::PIN, &pin)?;
        write(outside::BESIDE, &scratch.beside.absolute)?;
        write(outside::GOVERNED, &scratch.governed.absolute)?;
        Ok(scratch)
    }

    fn try_all(mut self, outside: &Outside) -> anyhow::Result<BTreeMap<&'static str, Results>> {
        let mut all = BTreeMap::new();
        // First: the controls of some undo what governs.
        let _waiting = outside.offer();
        let spawned = self.spawned().unwrap_or_default();
        outside.withdraw();
        for name in attempts() {
            let offers = name == "inherited_listener";
            let with_offer = |work: &mut dyn FnMut() -> Option<i32>| {
                let _waiting = offers.then(|| outside.offer());
                let result = work();
                outside.withdraw();
                result
            };
            let control = with_offer(&mut || self.child(name, false));
            let before = self.refusals();
            let attach = with_offer(&mut || self.child(name, true));
            let before = before.unwrap_or_default();
            let hooks = self
                .refusals()
                .unwrap_or_default()
                .into_iter()
                .filter(|(hook, count)| before.get(hook).copied().unwrap_or(0) < *count);
            let hooks = hooks.map(|(hook, _)| hook).collect();
            let run = if MOVED_HALF_WAY.contains(&name) { Some(libc::EPERM) } else { spawned.get(name).copied() };
            all.insert(name, Results { control, attach, run, hooks });
        }
        Ok(all)
    }

    /// Refusals so far, by hook.
    fn refusals(&mut self) -> Option<BTreeMap<&'static str, u64>> {
        let mut all = BTreeMap::new();
        for (key, count) in self.kernel.as_mut()?.counters().ok()? {
            if key.why != 0
                && let Some(hook) = Hook::from_number(key.hook)
            {
                *all.entry(hook.code()).or_default() += count;
            }
        }
        Some(all)
    }

    /// An attempt in a process of its own, moved into the governed cgroup or left where it is. Gives its exit code.
    fn child(&mut self, name: &str, governed: bool) -> Option<i32> {
        let cgroup = &self.governed;
        self.zygote.attempt(name, |pid| !governed || cgroup.admit(pid).is_ok())
    }

    /// All of them under the clean spawn, in the governed cgroup: their exit codes.
    fn spawned(&self) -> Option<BTreeMap<String, i32>> {
        let mut argv = vec![std::env::current_exe().ok()?.into_os_string(), "doctor".into(), "--place".into()];
        argv.push(self.dir.clone().into_os_string());
        for name in attempts().into_iter().filter(|name| !MOVED_HALF_WAY.contains(name)) {
            argv.extend(["--attempt", name].map(Into::into));
        }
        let plan = SpawnPlan { argv, env: std::env::vars_os().collect(), covers: Vec::new(), hide: Vec::new() };
        let tried = || -> Result<i32, Box<dyn std::error::Error>> {
            let prepared = spawn::prepare(&plan)?;
            self.governed.admit(u32::try_from(prepared.pid().as_raw())?)?;
            Ok(exit_code(prepared.release()?.wait()?))
        };
        let ended = tried().inspect_err(|error| tracing::debug!(%error, "Cannot try a clean spawn.")).ok()?;
        (ended == 0).then(|| zygote::codes(&self.dir))
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Some(kernel) = &mut self.kernel {
            let _gone = kernel.release(self.governed.id);
        }
        self.kernel = None;
        let end = Instant::now() + Duration::from_secs(2);
        while !(self.governed.remove() && self.beside.remove()) && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
        let _gone = fs::remove_dir_all(&self.pins);
        let _gone = fs::remove_dir_all(&self.dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_open_attempt_opens_the_way_and_an_unmade_one_is_not_a_closed_one() {
        let cover = |results: &[(Option<i32>, Option<i32>)]| cover(results.iter().copied());
        assert_eq!(cover(&[(Some(0), Some(1)), (Some(0), Some(111))]), Cover::Covered);
        assert_eq!(cover(&[(Some(0), Some(1)), (Some(0), Some(0))]), Cover::Uncovered);
        assert_eq!(cover(&[(Some(libc::EAFNOSUPPORT), Some(1))]), Cover::Absent);
        assert_eq!(cover(&[(Some(libc::EAFNOSUPPORT), Some(97)), (Some(0), Some(1))]), Cover::Covered);
        assert_eq!(cover(&[(Some(libc::EIO), Some(1))]), Cover::Unknown);
        assert_eq!(cover(&[(Some(0), None)]), Cover::Unknown);
        assert_eq!(cover(&[(None, None)]), Cover::Unknown);
        assert!(untried().iter().all(|row| row.attach == Cover::Unknown && row.run == Cover::Unknown));
    }
}
