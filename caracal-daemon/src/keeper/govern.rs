//! What is governed: the slice that `run` starts agents in, and every attached cgroup. Changes the kernel's maps, tells
//! the data path, and cleans up when an agent is gone.

mod attach;
mod inbound;
mod status;
mod watch;

pub use watch::{Again, Flights};

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::os::fd::BorrowedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::KeeperError;
use super::cgroup::{self, Cgroup, Hierarchy, within};
use super::control::{AttachOptions, Caller};
use super::cookie;
use super::kernel::Kernel;
use super::live::Live;
use super::namespaces::Namespaces;
use super::order::{Answer, Order, Orders};
use super::parting::Parting;
use super::serve::{Places, Registry, save};
use super::truth::Truth;
use crate::agent::{Agent, CgroupId};
use crate::config::{Config, InboundRule, UnixRule};

/// How long a data path may take to be there for a question about what an upgrade has cut.
const STARTS_WITHIN: Duration = Duration::from_secs(10);

/// A governed cgroup and the agent that it is.
#[derive(Debug)]
struct Governed {
    agent: Agent,
    cgroup: Cgroup,
    /// Made by `run`, removed when it is empty.
    leaf: bool,
    /// How it was attached.
    options: AttachOptions,
}

/// An agent that `run` started.
#[derive(Debug)]
pub struct Started {
    agent: Agent,
}

impl Started {
    /// What the caller is told.
    #[must_use]
    pub fn to_json(&self) -> Value {
        json!({ "agent": &*self.agent.name, "cgroup": self.agent.path, "id": self.agent.cgroup })
    }
}

/// The keeper's state, shared by its threads.
#[derive(Debug)]
pub struct Governor {
    hierarchy: Hierarchy,
    slice: Cgroup,
    kernel: Mutex<Kernel>,
    governed: Mutex<BTreeMap<CgroupId, Governed>>,
    orders: Mutex<Option<Arc<Orders>>>,
    ca_certificate: String,
    admin_group: Option<u32>,
    /// Where the agents are written down for the next keeper.
    registry: PathBuf,
    /// What attached workloads hold and trust.
    live: Live,
    instance: String,
    /// The configuration that this keeper was started with; its file is read again when asked.
    config: Config,
    namespaces: Namespaces,
    inbound: Mutex<Vec<InboundRule>>,
    parting: Parting,
    truth: Truth,
    /// When this keeper began, and from where: `CLOCK_MONOTONIC`, nanoseconds, and a path.
    began: (u64, PathBuf),
    /// Of the configuration: go on where somebody else's program could undo ours.
    allow_degraded: bool,
}

impl Governor {
    /// Governs the slice first: it is pinned before anything can be started in it.
    ///
    /// # Errors
    /// When the slice cannot be made or attached.
    pub fn new(
        hierarchy: Hierarchy,
        config: &Config,
        mut kernel: Kernel,
        ca_certificate: String,
        admin_group: Option<u32>,
        live: Live,
        namespaces: Namespaces,
    ) -> Result<Governor, KeeperError> {
        let instance = config.instance.as_str();
        let slice = hierarchy.make(&format!("{instance}.slice"))?;
        kernel.govern(&slice)?;
        Ok(Governor {
            hierarchy,
            slice,
            kernel: Mutex::new(kernel),
            governed: Mutex::default(),
            orders: Mutex::default(),
            ca_certificate,
            admin_group,
            registry: Places::of(config).registry(),
            live,
            instance: instance.to_owned(),
            config: config.clone(),
            namespaces,
            inbound: Mutex::default(),
            parting: Parting::default(),
            truth: Truth::default(),
            began: (crate::clock::monotonic_ns(), std::env::current_exe().unwrap_or_default()),
            allow_degraded: config.allow_degraded,
        })
    }

    /// The kernel side.
    pub fn kernel(&self) -> MutexGuard<'_, Kernel> {
        self.kernel.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new data path is there, or none: tells it every agent.
    pub fn set_orders(&self, orders: Option<Arc<Orders>>) {
        *self.orders.lock().unwrap_or_else(PoisonError::into_inner) = orders.clone();
        let Some(orders) = orders else { return };
        for agent in self.agents() {
            if let Err(why) = orders.give(&Order::Admit(agent)) {
                tracing::warn!(%why, "Cannot tell the data path about an agent.");
            }
        }
        self.namespaces.hand_over(self, &orders);
        if let Err(why) = orders.give(&Order::Serve) {
            tracing::warn!(%why, "Cannot tell the data path to begin.");
        }
    }

    /// The road to the data path, while there is one.
    #[must_use]
    pub fn orders(&self) -> Option<Arc<Orders>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Gives the data path an order.
    ///
    /// # Errors
    /// When it is gone, hangs, or says no.
    pub fn order(&self, order: &Order) -> Answer {
        match self.orders() {
            Some(orders) => orders.give(order),
            None => Err("the data path is not running; the door is shut. See the daemon's log".to_owned()),
        }
    }

    /// Orders something of the data path, with descriptors.
    ///
    /// # Errors
    /// When it is not running, or says no.
    pub fn order_with(&self, order: &Order, descriptors: &[BorrowedFd<'_>]) -> Answer {
        let orders = self.orders().ok_or("the data path is not running")?;
        orders.give_with(order, descriptors)
    }

    /// The CA's certificate, PEM.
    #[must_use]
    pub fn ca_certificate(&self) -> &str {
        &self.ca_certificate
    }

    /// Whether a process is governed: in the slice, or in an attached cgroup.
    ///
    /// # Errors
    /// When the process is gone.
    pub fn governs(&self, pid: u32) -> io::Result<bool> {
        let path = self.hierarchy.of_process(pid)?;
        Ok(within(&path, &self.slice.path) || self.governed().values().any(|one| within(&path, &one.cgroup.path)))
    }

    /// The network namespaces that are served.
    #[must_use]
    pub fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    /// The cookie of a network namespace.
    ///
    /// # Errors
    /// When the kernel does not tell it.
    pub fn cookie(&self, door: &File) -> Result<u64, KeeperError> {
        cookie::of(&mut self.kernel(), &self.hierarchy, &self.instance, door)
    }

    /// Every process that is in an agent's cgroup or below it.
    #[must_use]
    pub fn processes(&self) -> Vec<u32> {
        let paths: Vec<PathBuf> = self.governed().values().map(|one| one.cgroup.absolute.clone()).collect();
        paths.iter().flat_map(|path| cgroup::processes_below(path)).collect()
    }

    /// The agent that a thread belongs to.
    #[must_use]
    pub fn agent_of(&self, process: u32, thread: u32) -> Option<CgroupId> {
        let path = self.hierarchy.of_thread(process, thread).ok()?;
        self.governed().iter().find(|(_, one)| within(&path, &one.cgroup.path)).map(|(id, _)| *id)
    }

    /// Whether a process is of the admin group.
    #[must_use]
    pub fn is_admin(&self, pid: u32) -> bool {
        let Some(group) = self.admin_group else { return false };
        let Ok(status) = std::fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
        status
            .lines()
            .find_map(|line| line.strip_prefix("Groups:"))
            .is_some_and(|groups| groups.split_whitespace().any(|word| word.parse() == Ok(group)))
    }

    /// Puts a waiting child of the caller's into a leaf of the slice and makes it an agent.
    ///
    /// # Errors
    /// When it is not the caller's child, the name is not one, or the kernel refuses.
    pub fn run(&self, caller: Caller, name: &str, learn: bool, pid: u32) -> Result<Started, String> {
        check_name(name)?;
        check_child(caller, pid)?;
        if let Some(fault) = self.truth.fault() {
            return Err(format!("nothing is started: {fault}"));
        }
        let text = |error: KeeperError| error.to_string();
        let leaf = self.leaf(name).map_err(text)?;
        let agent = Agent { name: Arc::from(name), cgroup: leaf.id, path: leaf.path.clone(), uid: caller.uid, learn };
        let start = || -> Result<(), String> {
            self.order(&Order::Admit(agent.clone()))?;
            self.kernel().admit(&agent, leaf.level).map_err(text)?;
            leaf.admit(pid).map_err(text)?;
            // The child may have been another one when it was checked, if the first had died in between.
            check_child(caller, pid)
        };
        if let Err(why) = start() {
            let _ = self.kernel().dismiss(leaf.id);
            leaf.remove();
            return Err(why);
        }
        self.governed().insert(
            leaf.id,
            Governed { agent: agent.clone(), cgroup: leaf, leaf: true, options: AttachOptions::default() },
        );
        self.register();
        self.open_inbound();
        // `run` may have been called in another network namespace than ours.
        self.namespaces.look(Some(pid));
        Ok(Started { agent })
    }

    /// The started process has ended: says what the agent did, and removes the leaf unless something still runs in it.
    ///
    /// # Errors
    /// When the data path cannot say.
    pub fn ended(&self, started: &Started) -> Answer {
        let summary = self.order(&Order::Summary(started.agent.cgroup));
        self.sweep(started.agent.cgroup);
        summary
    }

    /// The same for a caller whose connection an upgrade has cut; `own` is the user whose agent it must be.
    ///
    /// # Errors
    /// When there is no such agent of `run`, or the data path cannot say.
    pub fn summary(&self, id: CgroupId, own: Option<u32>) -> Answer {
        let running = self.governed().get(&id).filter(|one| one.leaf).map(|one| one.agent.clone());
        let agent = running.or_else(|| self.parting.find(id));
        if agent.is_none_or(|agent| own.is_some_and(|uid| uid != agent.uid)) {
            return Err("no agent of yours that `run` started has this number".to_owned());
        }
        let began = Instant::now();
        loop {
            // The data path of after the upgrade may only be starting.
            match self.order(&Order::Summary(id)) {
                Err(_) if began.elapsed() < STARTS_WITHIN => std::thread::sleep(Duration::from_millis(50)),
                told => {
                    self.sweep(id);
                    return told;
                }
            }
        }
    }

    /// Removes the leaf of an agent that is gone, which is dismissed some time later. One that still runs stays governed.
    pub fn sweep(&self, id: CgroupId) {
        let mut governed = self.governed();
        let Some(one) = governed.get(&id) else { return };
        if !one.leaf || one.cgroup.populated() || !one.cgroup.remove() {
            return;
        }
        let Some(gone) = governed.remove(&id) else { return };
        drop(governed);
        self.register();
        self.open_inbound();
        // Nobody is in it any more, and what its sockets still have to send may go.
        for id in self.parting.add(gone.agent, crate::clock::monotonic_ns()) {
            self.dismiss(id);
        }
    }

    /// Takes an agent's standing away for good.
    fn dismiss(&self, id: CgroupId) {
        if let Err(error) = self.kernel().dismiss(id) {
            tracing::warn!(%error, "Cannot dismiss an agent.");
        }
        let _ = self.order(&Order::Dismiss(id));
    }

    /// Removes every leaf that nothing runs in any more, and dismisses agents that are long gone.
    pub fn sweep_all(&self) {
        for id in self.parting.due(crate::clock::monotonic_ns()) {
            self.dismiss(id);
        }
        let leaves: Vec<_> = self.governed().iter().filter(|(_, one)| one.leaf).map(|(id, _)| *id).collect();
        leaves.into_iter().for_each(|id| self.sweep(id));
    }

    /// Takes new rules for unix sockets, for the agents that are there and those that come.
    fn set_unix_rules(&self, rules: Vec<UnixRule>) {
        let agents = self.agents();
        let mut kernel = self.kernel();
        kernel.set_unix_rules(rules);
        for agent in &agents {
            if let Err(error) = kernel.allow_unix(agent) {
                tracing::warn!(%error, agent = &*agent.name, "Cannot allow an agent's unix sockets.");
            }
        }
    }

    /// Looks at every attached workload again, for sockets that came into it.
    pub fn look_again(&self) {
        self.each_attached(|cgroup, agent| self.live.look_again(&self.kernel, cgroup, agent));
    }

    /// Looks at every attached workload again, for mount namespaces without the CA.
    pub fn trust_again(&self) {
        self.each_attached(|cgroup, agent| self.live.trust_again(cgroup, agent));
    }

    /// Does something about each attached workload and records what it says.
    fn each_attached(&self, work: impl Fn(&Cgroup, &Agent) -> Vec<String>) {
        let attached: Vec<Agent> =
            self.governed().values().filter(|one| !one.leaf).map(|one| one.agent.clone()).collect();
        for agent in attached {
            let Ok(cgroup) = self.hierarchy.open(Path::new(&agent.path)) else { continue };
            if cgroup.id != agent.cgroup {
                continue;
            }
            for message in work(&cgroup, &agent) {
                tracing::warn!(message, "An attached workload changed.");
                let _ = self.order(&Order::Lifecycle(message));
            }
        }
    }

    /// Writes every agent into the registry, which the next keeper adopts from: at once, so that a keeper killed at any
    /// moment leaves no agent without a name.
    fn register(&self) {
        let governed = self.governed();
        let agents: Registry = governed.iter().map(|(id, one)| (id.0, one.agent.clone())).collect();
        save(&self.registry, &agents);
    }

    /// A copy of who is governed, in the order of their cgroups.
    fn agents(&self) -> Vec<Agent> {
        self.governed().values().map(|one| one.agent.clone()).collect()
    }

    /// The last of the keeper's locks: whoever holds it takes no other one and waits for nobody. What an attached workload was
    /// seen to hold ([`Live`]) comes before the kernel, and the kernel before this: the watch asks it with the kernel in hand.
    fn governed(&self) -> MutexGuard<'_, BTreeMap<CgroupId, Governed>> {
        self.governed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A new leaf below the slice; if the slice was removed and made again, the new one is governed first.
    fn leaf(&self, name: &str) -> Result<Cgroup, KeeperError> {
        let slice = self.hierarchy.make(&self.slice.path)?;
        self.kernel().govern(&slice)?;
        for number in 1..100_000 {
            let path = format!("{}/{name}-{number}", self.slice.path);
            if !self.hierarchy.root().join(path.trim_start_matches('/')).exists() {
                return self.hierarchy.make(&path);
            }
        }
        Err(KeeperError::Cgroup(format!("too many cgroups below {}", self.slice.path)))
    }
}

fn check_name(name: &str) -> Result<(), String> {
    let good = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    if (1..=64).contains(&name.len()) && name.bytes().all(good) && !name.starts_with(['.', '-', '_']) {
        return Ok(());
    }
    Err(format!(
        "{name:?} is not an agent's name: a-z, 0-9, dot, dash and underscore, at most 64, a letter or digit first"
    ))
}

/// A directory's or command's name as an agent's name.
#[must_use]
pub fn sanitise(name: &str) -> String {
    let mut out: String = name
        .to_ascii_lowercase()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '-' })
        .take(64)
        .collect();
    while out.starts_with(['.', '-', '_']) {
        out.remove(0);
    }
    if out.is_empty() { "agent".to_owned() } else { out }
}

/// The process must be the caller's child and run as the same user.
fn check_child(caller: Caller, pid: u32) -> Result<(), String> {
    let status =
        std::fs::read_to_string(format!("/proc/{pid}/status")).map_err(|error| format!("process {pid}: {error}"))?;
    let field = |name: &str| {
        status
            .lines()
            .find_map(|line| line.strip_prefix(name))
            .and_then(|rest| rest.split_whitespace().next()?.parse::<u32>().ok())
    };
    if field("PPid:") != Some(caller.pid) {
        return Err(format!("process {pid} is not a child of the caller's"));
    }
    if caller.uid != 0 && field("Uid:") != Some(caller.uid) {
        return Err(format!("process {pid} runs as another user"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_checked_and_made() {
        assert!(check_name("claude").is_ok());
        assert!(check_name("../etc").is_err());
        assert!(check_name("").is_err());
        assert_eq!(sanitise("My Agent!"), "my-agent-");
        assert_eq!(sanitise("..."), "agent");
        assert!(check_name(&sanitise("é.service")).is_ok());
    }
}
