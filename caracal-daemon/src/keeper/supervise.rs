//! A data path, watched and started again when it dies, until a signal says stop or upgrade. Never opens the door: what is
//! pinned denies until the data path has proved itself.

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::fcntl::Flock;
use nix::sys::signal::{SigSet, Signal};

use super::child::{self, Inherited};
use super::control::AttachOptions;
use super::govern::Governor;
use super::keys::Keys;
use super::level::Level;
use super::order::{Order, Orders};
use super::places::{Places, load};
use super::predecessors::{self, Predecessors};
use super::serve::{enrol, thread};
use super::{KeeperError, Signer, flows, signing, sockets, truth, upgrade, vouch};
use crate::clock::monotonic_ns;
use crate::config::{Config, Require};

/// How long a data path may take from its start to its first renewal of the lease.
const FIRST_RENEWAL: Duration = Duration::from_secs(60);
/// How long streams may go on after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(10);

/// A keeper that is ready to start data paths.
pub(super) struct Keeper<'a> {
    pub(super) config: &'a Config,
    pub(super) places: &'a Places,
    pub(super) host_id: &'a str,
    pub(super) netns: u64,
    pub(super) user: child::User,
    pub(super) inherited: &'a Inherited,
    pub(super) keys: &'a Arc<Keys>,
    pub(super) governor: &'a Arc<Governor>,
    pub(super) agent: Option<&'a str>,
    pub(super) options: AttachOptions,
    pub(super) lock: &'a Flock<File>,
    /// Where this program was started from; an upgrade puts another one there.
    pub(super) program: &'a Path,
    /// The one before handed over.
    pub(super) upgraded: bool,
    /// Data paths from before an upgrade.
    pub(super) predecessors: RefCell<Predecessors>,
}

impl Keeper<'_> {
    /// Keeps a data path running until a signal asks to stop.
    pub(super) fn supervise(
        &self,
        signals: &SigSet,
        cgroups: &[PathBuf],
        ready: impl FnOnce(&[serde_json::Value]),
    ) -> Result<(), KeeperError> {
        let mut ready = Some(ready);
        let mut pause = Duration::from_millis(100);
        loop {
            let started = Instant::now();
            // A lease that was left open says nothing about the data path that is to come.
            let left = self.governor.kernel().lease_deadline()?;
            let mut child = self.start()?;
            match self.first_renewal(&mut child, left) {
                Ok(()) => {
                    // Once more: the data path has made its directories.
                    enrol(self.config, self.places, &mut self.governor.kernel());
                    self.tell_released();
                    // Only what the command line names learns by its word.
                    let named = cgroups.iter().map(|cgroup| self.attach(cgroup, self.options));
                    let options = AttachOptions { learn: false, ..self.options };
                    let configured = self.configured();
                    let configured = configured.iter().map(|cgroup| self.attach(cgroup, options));
                    let attached: Result<Vec<_>, _> = named.chain(configured).collect();
                    let attached = match attached {
                        Ok(attached) => attached.into_iter().flatten().collect::<Vec<_>>(),
                        Err(why) => {
                            self.stop(&mut child);
                            return Err(why);
                        }
                    };
                    if let Some(ready) = ready.take() {
                        let level = Level::of(&self.governor.kernel());
                        let degraded = level.name() == "degraded"
                            || (self.config.require == Require::Full && level.lacks.is_some());
                        let degraded = if degraded { "degraded: less than is required; " } else { "" };
                        let upgraded = if self.upgraded { "upgraded in place; " } else { "" };
                        let sentence = format!("{upgraded}{degraded}{}", level.sentence());
                        let _ = self.governor.order(&Order::Lifecycle(sentence));
                        ready(&attached);
                    }
                }
                Err(why) if ready.is_some() => {
                    let _ = child.kill();
                    let _ = child.wait();
                    return Err(why);
                }
                Err(why) => tracing::error!(%why, "The data path does not come up; the door stays shut."),
            }
            if self.watch(signals, &mut child)? {
                return Ok(());
            }
            let _ = self.governor.kernel().close_lease();
            self.governor.set_orders(None);
            self.predecessors.borrow_mut().end();
            pause = if started.elapsed() > Duration::from_secs(10) {
                Duration::from_millis(100)
            } else {
                (pause * 2).min(Duration::from_secs(5))
            };
            std::thread::sleep(pause);
        }
    }

    fn start(&self) -> Result<Child, KeeperError> {
        let predecessors = self.predecessors.borrow();
        let (child, roads) =
            child::start(self.config, self.host_id, self.netns, self.user, self.inherited, &predecessors.roads())?;
        let keys: Arc<dyn Signer> = Arc::clone(self.keys) as Arc<dyn Signer>;
        thread("signing", move || signing::serve(roads.signing, &keys))?;
        let governor = Arc::clone(self.governor);
        thread("sockets", move || sockets::serve(roads.doors, &governor))?;
        let governor = Arc::clone(self.governor);
        thread("vouch", move || {
            truth::go_first();
            vouch::serve(roads.vouch, || governor.truth().vouches());
        })?;
        let copy = |map: &OwnedFd| map.try_clone().map_err(|error| KeeperError::Kernel(error.to_string()));
        let (connections, queries) = (copy(&self.inherited.sources)?, copy(&self.inherited.resolving)?);
        thread("flows", move || flows::serve(roads.flows, &connections, &queries))?;
        let orders = Orders::new(roads.orders).map_err(|error| KeeperError::Gone(error.to_string()))?;
        self.governor.set_orders(Some(Arc::new(orders)));
        Ok(child)
    }

    fn first_renewal(&self, child: &mut Child, left: u64) -> Result<(), KeeperError> {
        let started = Instant::now();
        while started.elapsed() < FIRST_RENEWAL {
            let deadline = self.governor.kernel().lease_deadline()?;
            if deadline != left && deadline > monotonic_ns() {
                return Ok(());
            }
            if let Ok(Some(status)) = child.try_wait() {
                return Err(KeeperError::Gone(format!("the data path ended at its start: {}", describe(status))));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Err(KeeperError::Gone("the data path did not prove itself within a minute".to_owned()))
    }

    /// Has recorded what `detach` released while no keeper ran.
    fn tell_released(&self) {
        let told: Vec<String> = load(&self.places.released());
        if told.into_iter().all(|message| self.governor.order(&Order::Lifecycle(message)).is_ok()) {
            let _ = fs::remove_file(self.places.released());
        }
    }

    /// The cgroups of the configuration that are there.
    fn configured(&self) -> Vec<PathBuf> {
        let named = self.config.agent.iter().filter_map(|entry| entry.cgroup.clone());
        named
            .filter(|path| {
                let there = self.governor.is_there(path);
                if !there {
                    tracing::warn!(path = %path.display(), "A configured cgroup is not there; attach it once it is.");
                }
                there
            })
            .collect()
    }

    /// Attaches what was asked for; what an earlier keeper left attached is adopted already.
    fn attach(&self, cgroup: &Path, options: AttachOptions) -> Result<Option<serde_json::Value>, KeeperError> {
        if self.governor.is_attached(cgroup) {
            return Ok(None);
        }
        let name = self
            .config
            .agent
            .iter()
            .find(|entry| entry.cgroup.as_deref() == Some(cgroup))
            .map(|entry| entry.name.as_str());
        self.governor.attach(cgroup, self.agent.or(name), options).map(Some).map_err(KeeperError::Refused)
    }

    /// Waits for a signal or for the child's end. True: stop.
    fn watch(&self, signals: &SigSet, child: &mut Child) -> Result<bool, KeeperError> {
        loop {
            match signals.wait() {
                Ok(Signal::SIGHUP) => match self.governor.reload() {
                    Ok(_) => tracing::info!("The policy is reloaded."),
                    Err(why) => tracing::error!(%why, "The policy is not reloaded; the last good one stays."),
                },
                Ok(Signal::SIGUSR2) => {
                    if let Err(why) = self.upgrade(child) {
                        tracing::error!(%why, "No upgrade.");
                    }
                    if self.predecessors.borrow().has(child.id()) {
                        // It has let go of everything already.
                        return Ok(false);
                    }
                }
                Ok(Signal::SIGCHLD) => {
                    self.predecessors.borrow_mut().reap();
                    if let Ok(Some(status)) = child.try_wait() {
                        tracing::error!(
                            status = describe(status),
                            "The data path died; the door is shut until it is back."
                        );
                        return Ok(false);
                    }
                }
                Ok(_) => {
                    self.stop(child);
                    return Ok(true);
                }
                Err(error) => return Err(KeeperError::Kernel(error.to_string())),
            }
        }
    }

    /// Ends the data path and becomes the program that lies in this one's place. Comes back only when that failed: before
    /// anything was ended, or with a data path to be started anew.
    fn upgrade(&self, child: &mut Child) -> Result<(), String> {
        let version = upgrade::try_program(self.program)?;
        tracing::info!(version, "Upgrading in place.");
        let until = monotonic_ns() + u64::try_from(upgrade::AT_MOST.as_nanos()).unwrap_or(0);
        self.governor.order(&Order::HandOver)?;
        self.governor.kernel().set_lease(until).map_err(|error| error.to_string())?;
        match self.part(child) {
            Ok(road) => self.predecessors.borrow_mut().add(child.id(), road),
            Err(why) => {
                tracing::warn!(why, "What is open has {} s to end before the upgrade.", DRAIN.as_secs());
                self.wait_for_end(child);
            }
        }
        let predecessors = self.predecessors.borrow();
        let error = upgrade::become_program(self.program, self.lock.as_fd(), &self.inherited.sockets, &predecessors);
        Err(format!("{}: {error}", self.program.display()))
    }

    /// Has the data path let go of what its successor needs; gives the successor's end of the road between the two.
    fn part(&self, child: &mut Child) -> Result<OwnedFd, String> {
        let (theirs, ours) = predecessors::road().map_err(|error| error.to_string())?;
        self.governor.order_with(&Order::Part, &[theirs.as_fd()])?;
        match child.try_wait() {
            Ok(None) => Ok(ours),
            _ => Err("it has ended".to_owned()),
        }
    }

    /// Shuts the door, lets streams end, and waits for the journal to be written out.
    fn stop(&self, child: &mut Child) {
        let _ = self.governor.kernel().close_lease();
        let _ = self.governor.order(&Order::Stop);
        self.wait_for_end(child);
        self.predecessors.borrow_mut().end();
        let _ = self.governor.kernel().close_lease();
        let _ = fs::remove_file(&self.places.control);
    }

    /// Waits until the data path has ended, and ends it when it takes too long.
    fn wait_for_end(&self, child: &mut Child) {
        let asked = Instant::now();
        while asked.elapsed() < DRAIN + Duration::from_secs(5) {
            if let Ok(Some(_)) = child.try_wait() {
                break;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn describe(status: ExitStatus) -> String {
    status.to_string()
}
