//! The data path: builds every stage in order, proves them alive for the lease, serves agents, obeys the keeper.
//! Gives up its rights before it reads anything. Never opens the door by itself: the probe does.

mod build;
mod correct;
mod elsewhere;
#[cfg(test)]
mod holds;
mod metrics;
mod orders;
mod parting;
mod predecessors;
mod prober;
mod refusals;

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use clap::Args;
use nix::unistd::{Gid, Uid};
use tokio::net::{TcpListener, UdpSocket};
use tokio::sync::watch;
use tokio::task::JoinSet;

pub(crate) use build::{dialer, meter, price_book, price_book_text};

use caracal_common::flow::DNS_PORT;

use crate::agent::CgroupId;
use crate::capture::flows::Flows;
use crate::capture::lease::Lease;
use crate::capture::listen::{Accepted, Gate, Limits, Probes};
use crate::capture::roster::Roster;
use crate::config::Config;
use crate::dns::answer::Transport;
use crate::dns::serve::{self as dns, Desk};
use crate::intercept::{self, Stack};
use crate::journal::Successor;
use crate::keeper::child;
use crate::keeper::flows::RemoteFlows;
use crate::keeper::sandbox;
use crate::keeper::vouch::Vouch;
use crate::telemetry::Telemetry;

/// How long streams may go on after the keeper said stop.
const DRAIN: Duration = Duration::from_secs(10);
/// How long the ledger may take for the journal's last records.
const FLUSH: Duration = Duration::from_secs(4);

/// What the keeper tells its data path on the command line.
#[derive(Debug, Args)]
pub struct DataPathArgs {
    /// The host's id in records.
    #[arg(long)]
    host_id: String,
    /// The cookie of the network namespace of the listeners.
    #[arg(long)]
    netns: u64,
    /// The user to become.
    #[arg(long)]
    uid: u32,
    /// The group to become.
    #[arg(long)]
    gid: u32,
    /// How many data paths from before an upgrade still end what they had begun.
    #[arg(long, default_value_t = 0)]
    predecessors: usize,
    /// The state directory; below it, `data` is this process's own.
    #[arg(long)]
    state: PathBuf,
}

/// Everything that serves agents.
#[derive(Debug)]
struct App {
    stack: Arc<Stack>,
    gate: Arc<Gate>,
    lease: Lease,
    stages: build::Stages,
    /// Set when the keeper said stop: no new connection, and no renewal.
    stopping: AtomicBool,
    /// Set once every agent is known.
    begun: watch::Sender<bool>,
    /// Set when another data path comes: the lease is the keeper's then.
    handing_over: AtomicBool,
    /// The loops that take connections and queries.
    front: Mutex<JoinSet<()>>,
    stop: watch::Sender<bool>,
    desk: Arc<Desk>,
    elsewhere: elsewhere::Elsewhere,
    predecessors: predecessors::Predecessors,
    /// Set once another data path has the journal.
    successor: OnceLock<Arc<Successor>>,
    /// How long what is open may go on then.
    drain: Duration,
}

impl App {
    /// Whether something is open that may end by itself.
    fn is_busy(&self) -> bool {
        let open = self.gate.telemetry.open.load(Ordering::Relaxed) > 0 || self.gate.limits.in_use();
        open || self.desk.is_busy() || self.stack.reads_on()
    }
}

/// Runs the data path until the keeper says stop.
///
/// # Errors
/// When it was not started by the keeper, or a stage cannot be built.
pub fn run(args: &DataPathArgs, config: &Path) -> anyhow::Result<ExitCode> {
    let received = child::receive(args.predecessors)?;
    crate::cli::attach::start_logging();
    // Before a thread is started and before a byte is parsed: every thread inherits this.
    sandbox::confine(Uid::from_raw(args.uid), Gid::from_raw(args.gid))?;
    let config = Config::load(config)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(serve(args, config, received))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(args: &DataPathArgs, config: Config, received: child::Received) -> anyhow::Result<()> {
    let child::Received { signing, orders, doors, flows, vouch, sockets, lease, sources, resolving, predecessors } =
        received;
    let telemetry = Arc::new(Telemetry::default());
    let most = &config.limits;
    let limits = Limits::new(most.connections, child::connections_allowed(), most.connections_per_agent);
    let listen = config.listen.metrics;
    let drain = Duration::from_millis(config.upgrade.drain_ms);
    let roads = build::Roads { signing, doors, predecessors };
    let (stack, stages, predecessors) = build::build(args, config, roads, &telemetry).await?;
    let gate = Arc::new(Gate {
        netns: args.netns,
        flows: Flows::new(sources, resolving, RemoteFlows::new(flows)?),
        roster: Roster::default(),
        probes: Probes::default(),
        limits,
        telemetry,
    });
    let app = Arc::new(App {
        desk: Arc::new(desk(&gate, &stack, &stages)),
        elsewhere: elsewhere::Elsewhere::default(),
        gate,
        stack,
        lease: Lease::map(&lease)?,
        stages,
        stopping: AtomicBool::new(false),
        begun: watch::channel(false).0,
        handing_over: AtomicBool::new(false),
        front: Mutex::default(),
        predecessors,
        successor: OnceLock::new(),
        drain,
        stop: watch::channel(false).0,
    });
    orders::obey(orders, Arc::clone(&app))?;
    if let Some(address) = listen {
        metrics::start(address, Arc::clone(&app));
    }
    // Who waits in the listening sockets would be a stranger before the keeper has told of every agent.
    let _ = app.begun.subscribe().wait_for(|begun| *begun).await;
    let [v4, v6] = sockets.tcp;
    let probed = v4.local_addr()?;
    let mut front = JoinSet::new();
    for listener in [v4, v6] {
        front.spawn(accept(Arc::clone(&app), TcpListener::from_std(listener)?));
    }
    for socket in sockets.dns_udp {
        let (socket, netns, desk) = (Arc::new(UdpSocket::from_std(socket)?), args.netns, Arc::clone(&app.desk));
        front.spawn(async move { ended("DNS over UDP", dns::udp(socket, netns, desk).await) });
    }
    for listener in sockets.dns_tcp {
        front.spawn(dns::tcp(TcpListener::from_std(listener)?, args.netns, Arc::clone(&app.desk)));
    }
    *app.front.lock().unwrap_or_else(PoisonError::into_inner) = front;
    tokio::spawn(prober::renew(Arc::clone(&app), probed, Vouch::new(vouch)?));
    let mut stop = app.stop.subscribe();
    let _ = stop.wait_for(|stop| *stop).await;
    finish(&app).await;
    Ok(())
}

/// A serving loop that ends is a reason to start anew: the lease closes the door meanwhile.
fn ended(what: &str, result: std::io::Result<()>) {
    tracing::error!(what, ?result, "A serving loop ended; the data path starts anew.");
    std::process::abort();
}

async fn accept(app: Arc<App>, listener: TcpListener) {
    loop {
        match app.gate.accept(&listener, app.gate.netns).await {
            Ok(accepted) => serve_one(&app, accepted),
            Err(error) => {
                // Out of descriptors, most likely: the probe does not come through either, and the door shuts.
                tracing::error!(%error, "Cannot accept.");
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Serves what was accepted, as a task of its own.
fn serve_one(app: &Arc<App>, accepted: Accepted) {
    match accepted {
        Accepted::Agent(captured, permit) => {
            let stack = Arc::clone(&app.stack);
            tokio::spawn(async move {
                let _permit = permit;
                intercept::intercept(stack, captured).await;
            });
        }
        Accepted::Probe(stream) => {
            tokio::spawn(prober::answer(Arc::clone(app), stream));
        }
        Accepted::TooMany(captured) => intercept::too_many(&app.stack, captured),
        Accepted::Stranger => {}
    }
}

fn desk(gate: &Arc<Gate>, stack: &Arc<Stack>, stages: &build::Stages) -> Desk {
    let (gate, stack) = (Arc::clone(gate), Arc::clone(stack));
    Desk {
        policy: Arc::clone(&stages.policy),
        resolver: Arc::clone(stack.resolver()),
        who: Box::new(move |netns, from, transport| {
            let flow = match transport {
                Transport::Udp => gate.flows.query(netns, from),
                Transport::Tcp => gate.flows.connection(netns, from).filter(|flow| flow.port == DNS_PORT),
            }?;
            gate.roster.agent(CgroupId(flow.agent))
        }),
        decided: Box::new(move |agent, host, decision, addresses| stack.name_decided(agent, host, decision, addresses)),
        places: dns::Places::default(),
    }
}

/// Lets streams end, then writes out what is counted and hands the journal's last records to the ledger.
async fn finish(app: &Arc<App>) {
    if let Some(successor) = app.successor.get() {
        return parting::drain(app, Arc::clone(successor)).await;
    }
    let waited = tokio::time::timeout(DRAIN, async {
        while app.is_busy() || app.predecessors.count() > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    if waited.await.is_err() {
        tracing::warn!("Streams were still open at the end of the drain limit.");
    }
    app.stack.flush().await;
    if let Some(escrow) = &app.stages.escrow {
        escrow.stop().await;
    }
    // Nothing is signed once the keeper is gone, and the journal has it all: no reason to wait for ever.
    let why = match tokio::time::timeout(FLUSH, app.stages.ledger.flush()).await {
        Ok(Ok(_)) => {
            let app = Arc::clone(app);
            let stopped = tokio::task::spawn_blocking(move || {
                if let Some(publisher) = &app.stages.publisher {
                    publisher.stop();
                }
                app.stages.ledger.stop();
            });
            let _ = tokio::time::timeout(FLUSH, stopped).await;
            return;
        }
        Ok(Err(why)) => why.to_string(),
        Err(_) => "it did not end in time".to_owned(),
    };
    tracing::warn!(%why, "The ledger is behind the journal; it catches up at the next start.");
}
