//! The keeper's life: keys, listeners, programs, pins; then a data path, watched and started again when it dies.
//!
//! Order matters: whatever is pinned denies until the data path has proved itself, so nothing here can open the door.

use std::cell::RefCell;
use std::fs::{self, File};
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus};
use std::sync::Arc;
use std::time::{Duration, Instant};

use caracal_common::settings::Settings;
use caracal_common::{ABI_VERSION, name};
use nix::fcntl::Flock;
use nix::sys::signal::{SigSet, Signal};

use super::cgroup::Hierarchy;
use super::child::{self, Inherited};
use super::control::{self, AttachOptions};
use super::cookie;
use super::govern::Governor;
use super::kernel::Kernel;
use super::keys::Keys;
use super::level::{self, Level};
use super::listeners::Listeners;
use super::live::Live;
use super::namespaces::Namespaces;
use super::order::{Order, Orders};
use super::places::{host_id, make_directories, take_lock};
use super::predecessors::{self, Predecessors};
use super::refusals;
use super::upgrade::{self, HandedOver};
use super::{KeeperError, Signer, flows, namespaces, signing, sockets, truth, vouch};
use crate::clock::{Clock, monotonic_ns};
use crate::config::{Config, Require};

pub(super) use super::places::mount_bpffs;
pub use super::places::{Places, Registry, load, lock, save};

/// How long a data path may take from its start to its first renewal of the lease.
const FIRST_RENEWAL: Duration = Duration::from_secs(60);
/// How long streams may go on after a stop was asked for.
const DRAIN: Duration = Duration::from_secs(10);

/// Serves until SIGTERM or SIGINT. `ready` is called once the door has opened for the first time.
///
/// # Errors
/// When the keeper cannot start. What was pinned stays pinned, and shut.
pub fn serve(
    config: &Config,
    cgroups: &[PathBuf],
    agent: Option<&str>,
    options: AttachOptions,
    ready: impl FnOnce(&[serde_json::Value]),
) -> Result<(), KeeperError> {
    if !nix::unistd::geteuid().is_root() {
        return Err(KeeperError::NotRoot);
    }
    let signals = block_signals()?;
    let program = std::env::current_exe().map_err(|error| KeeperError::Kernel(error.to_string()))?;
    let handed_over = HandedOver::take()?;
    let predecessors = Predecessors::take()?;
    let upgraded = handed_over.is_some();
    let (held, handed_listeners) = handed_over.map(|handed| (handed.lock, handed.listeners)).unzip();
    let places = Places::of(config);
    let user = child::user(&config.user)?;
    make_directories(&places, user)?;
    child::allow_descriptors(config.limits.connections);
    let lock = take_lock(&places, held.map(File::from))?;
    let host_id = host_id(&config.state_dir)?;
    let keys = Arc::new(Keys::open(&places.keeper, &host_id, Clock::system())?);
    let hierarchy = Hierarchy::find()?;
    mount_bpffs()?;
    // Before the programs: a taken port must not leave anything behind.
    let sockets = match handed_listeners {
        Some(listeners) => listeners,
        None => Listeners::open(config.listen.tcp_port, config.listen.dns_port)?,
    };
    let settings = Settings { abi: ABI_VERSION, tcp_port: config.listen.tcp_port, dns_port: config.listen.dns_port };
    let mut kernel = Kernel::load(&Kernel::pin_directory(config.instance.as_str()), settings, config.require)?;
    // Whoever waits in the sockets that were handed over is not shut out.
    if !upgraded {
        kernel.close_lease()?;
    }
    kernel.set_unix_rules(config.unix.clone());
    enrol(config, &places, &mut kernel);
    check_level(config, &kernel)?;
    let netns = cookie::of_own(&mut kernel, &hierarchy, config.instance.as_str())?;
    // What an earlier keeper served has no listener now.
    kernel.keep_namespace(netns)?;
    let denials = kernel.take_denials()?;
    let maps = [name::LEASE, name::SOURCES, name::RESOLVING].map(|name| kernel.map_descriptor(name));
    let [lease, sources, resolving] = maps;
    let inherited = Inherited { sockets, lease: lease?, sources: sources?, resolving: resolving? };
    let group = admin_group(config)?;
    let certificate = keys.ca_certificate().to_owned();
    let live = Live::new(&hierarchy, &places, config.instance.as_str(), &certificate)?;
    let (namespaces, hints) = Namespaces::new(config.listen.tcp_port, config.listen.dns_port)
        .map_err(|error| KeeperError::Kernel(error.to_string()))?;
    let governor = Arc::new(Governor::new(hierarchy, config, kernel, certificate, group, live, namespaces)?);
    governor.set_inbound(&config.inbound);
    governor.adopt();
    // Before anything can open the door.
    governor.look_at_programs();
    if let Some(fault) = governor.truth().fault() {
        return Err(KeeperError::Refused(fault));
    }
    watch(&governor)?;
    thread("namespaces", {
        let governor = Arc::clone(&governor);
        move || namespaces::follow(&governor, &hints)
    })?;
    let listener = control::listen(&places.control)
        .map_err(|error| KeeperError::Listen(format!("cannot listen on {}: {error}", places.control.display())))?;
    thread("control-accept", {
        let governor = Arc::clone(&governor);
        move || control::serve(&listener, &governor)
    })?;
    thread("refusals", {
        let governor = Arc::clone(&governor);
        let counted = places.keeper.join("counted.json");
        move || refusals::drain(denials, &governor, &counted)
    })?;
    thread("sweep", {
        let governor = Arc::clone(&governor);
        move || loop {
            std::thread::sleep(Duration::from_secs(1));
            governor.sweep_all();
        }
    })?;

    over_and_over("trust", &governor, Governor::trust_again)?;
    over_and_over("live", &governor, Governor::look_again)?;

    let keeper = Keeper {
        config,
        places: &places,
        host_id: &host_id,
        netns,
        user,
        inherited: &inherited,
        keys: &keys,
        governor: &governor,
        agent,
        options,
        lock: &lock,
        program: &program,
        upgraded,
        predecessors: RefCell::new(predecessors),
    };
    keeper.supervise(&signals, cgroups, ready)
}

struct Keeper<'a> {
    config: &'a Config,
    places: &'a Places,
    host_id: &'a str,
    netns: u64,
    user: child::User,
    inherited: &'a Inherited,
    keys: &'a Arc<Keys>,
    governor: &'a Arc<Governor>,
    agent: Option<&'a str>,
    options: AttachOptions,
    lock: &'a Flock<File>,
    /// Where this program was started from; an upgrade puts another one there.
    program: &'a Path,
    /// The one before handed over.
    upgraded: bool,
    /// Data paths from before an upgrade.
    predecessors: RefCell<Predecessors>,
}

impl Keeper<'_> {
    /// Keeps a data path running until a signal asks to stop.
    fn supervise(
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
                    let wanted = cgroups.iter().cloned().chain(self.configured());
                    let attached: Result<Vec<_>, _> = wanted.map(|cgroup| self.attach(&cgroup)).collect();
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
    fn attach(&self, cgroup: &Path) -> Result<Option<serde_json::Value>, KeeperError> {
        if self.governor.is_attached(cgroup) {
            return Ok(None);
        }
        let name = self
            .config
            .agent
            .iter()
            .find(|entry| entry.cgroup.as_deref() == Some(cgroup))
            .map(|entry| entry.name.as_str());
        self.governor.attach(cgroup, self.agent.or(name), self.options).map(Some).map_err(KeeperError::Refused)
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

/// Shuts the daemon's own files to agents, where the LSM's programs run; the level says so where they do not.
fn enrol(config: &Config, places: &Places, kernel: &mut Kernel) {
    if kernel.lsm().prove().is_err() {
        return;
    }
    if let Err(error) = kernel.enrol(&level::property(config, places)) {
        tracing::error!(%error, "The daemon's own files are not shut to agents by the kernel.");
    }
}

/// Refuses to start below the level that is required. What a first start had pinned goes; what is governed stays shut.
fn check_level(config: &Config, kernel: &Kernel) -> Result<(), KeeperError> {
    let level = Level::of(kernel);
    let below = level.name() == "degraded" || (config.require == Require::Full && level.lacks.is_some());
    if config.allow_degraded || !below {
        return Ok(());
    }
    if kernel.governed().next().is_none() {
        let _ = fs::remove_dir_all(Kernel::pin_directory(config.instance.as_str()));
    }
    let required = if config.require == Require::Full { "full" } else { "network" };
    let lacks = level.lacks.as_deref().unwrap_or_default();
    let open: Vec<String> = level.uncovered.iter().map(|(code, words)| format!("\n  {code}: {words}")).collect();
    Err(KeeperError::Refused(format!(
        "require = \"{required}\" cannot be enforced here: {lacks}. `caracald doctor` tries each way out on this kernel; say \
         require = \"network\" where that suffices, or allow_degraded = true to govern all the same and have that recorded. \
         Open would be:{}",
        open.concat()
    )))
}

fn describe(status: ExitStatus) -> String {
    status.to_string()
}

fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), KeeperError> {
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(work)
        .map(drop)
        .map_err(|error| KeeperError::Kernel(format!("cannot start the thread {name}: {error}")))
}

/// A thread that looks for ever: a fiftieth of the time at most, however much there is to look at, and each second at most.
fn over_and_over(name: &str, governor: &Arc<Governor>, look: fn(&Governor)) -> Result<(), KeeperError> {
    let governor = Arc::clone(governor);
    thread(name, move || {
        loop {
            let began = Instant::now();
            look(&governor);
            std::thread::sleep((began.elapsed() * 50).max(Duration::from_secs(1)));
        }
    })
}

/// The watch over the kernel: it looks, sends the canary, and has both recorded.
fn watch(governor: &Arc<Governor>) -> Result<(), KeeperError> {
    let copy = || Arc::clone(governor);
    let (looks, flies, works) = (copy(), copy(), copy());
    thread("truth", move || truth::watch(&looks))?;
    thread("canary", move || truth::send_canaries(&flies))?;
    thread("truth-work", move || truth::work_off(&works))
}

/// Signals are taken by the main thread alone.
fn block_signals() -> Result<SigSet, KeeperError> {
    let mut set = SigSet::empty();
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP, Signal::SIGCHLD, Signal::SIGUSR2] {
        set.add(signal);
    }
    set.thread_block().map_err(|error| KeeperError::Kernel(error.to_string()))?;
    Ok(set)
}

fn admin_group(config: &Config) -> Result<Option<u32>, KeeperError> {
    let Some(name) = &config.admin_group else { return Ok(None) };
    match nix::unistd::Group::from_name(name) {
        Ok(Some(group)) => Ok(Some(group.gid.as_raw())),
        _ => Err(KeeperError::Refused(format!("admin_group: there is no group {name:?} on this host"))),
    }
}
