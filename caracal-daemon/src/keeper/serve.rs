//! The keeper's life: keys, listeners, programs, pins; then a data path, which `supervise.rs` keeps running.
//!
//! Order matters: whatever is pinned denies until the data path has proved itself, so nothing here can open the door.

use std::cell::RefCell;
use std::fs::{self, File};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use caracal_common::settings::Settings;
use caracal_common::{ABI_VERSION, name};
use nix::sys::signal::{SigSet, Signal};

use super::cgroup::Hierarchy;
use super::child::{self, Inherited};
use super::control::{self, AttachOptions};
use super::cookie;
use super::govern::Governor;
use super::kernel::{Kernel, lines};
use super::keys::Keys;
use super::level::{self, Level};
use super::listeners::Listeners;
use super::live::Live;
use super::namespaces::Namespaces;
use super::places::{host_id, make_directories, take_lock};
use super::predecessors::Predecessors;
use super::refusals;
use super::supervise::Keeper;
use super::upgrade::HandedOver;
use super::{KeeperError, namespaces, truth};
use crate::clock::Clock;
use crate::config::{Config, Require};

pub(super) use super::places::mount_bpffs;
pub use super::places::{Places, Registry, load, lock, save};

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
    if let Some(reader) = kernel.take_lines()? {
        thread("lines", move || lines::follow(reader))?;
    }
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

/// Shuts the daemon's own files to agents, where the LSM's programs run; the level says so where they do not.
pub(super) fn enrol(config: &Config, places: &Places, kernel: &mut Kernel) {
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
    let required = config.require.name();
    let lacks = level.lacks.as_deref().unwrap_or_default();
    let open: Vec<String> = level.uncovered.iter().map(|(code, words)| format!("\n  {code}: {words}")).collect();
    Err(KeeperError::Refused(format!(
        "require = \"{required}\" cannot be enforced here: {lacks}. `caracald doctor` tries each way out on this kernel; say \
         require = \"network\" where that suffices, or allow_degraded = true to govern all the same and have that recorded. \
         Open would be:{}",
        open.concat()
    )))
}

pub(super) fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> Result<(), KeeperError> {
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
