//! `caracald worker ledger|spend`: the stages behind the shared bus, anywhere.

use crate::clock::Clock;
use crate::config::Config;
use crate::ledger::postgres::{Database, READER};
use crate::ledger::worker::{Counters, Worker, WorkerError};
use crate::spend::fleet::{FleetError, FleetView};
use crate::telemetry::metrics::{self, Row};
use clap::{Args, Subcommand};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

/// How often the spend worker looks for new charges.
const LOOK: Duration = Duration::from_millis(100);
const RETRY: Duration = Duration::from_millis(500);

/// Run a stage behind the shared bus: as many as there are partitions, on any host.
#[derive(Args, Debug)]
pub struct WorkerArgs {
    #[command(subcommand)]
    command: WorkerCommand,
}

#[derive(Subcommand, Debug)]
enum WorkerCommand {
    /// Bring the bus into the ledger in PostgreSQL, and sign checkpoints.
    Ledger,
    /// Keep the view of spend in Redis up with the ledger.
    Spend(SpendWorkerArgs),
}

#[derive(Args, Debug)]
struct SpendWorkerArgs {
    /// Make the view anew from the ledger first.
    #[arg(long)]
    rebuild: bool,
    /// Catch up, then end.
    #[arg(long)]
    once: bool,
    /// Compare the view with the ledger, then end: 0 when they are equal up to the watermark, 1 when not.
    #[arg(long, conflicts_with = "rebuild")]
    check: bool,
}

/// Runs a worker until SIGTERM or SIGINT.
///
/// # Errors
/// When the configuration lacks something. What fails later is tried again.
pub fn run(args: &WorkerArgs, config: &Config) -> anyhow::Result<ExitCode> {
    super::attach::start_logging();
    match &args.command {
        WorkerCommand::Ledger => ledger(config),
        WorkerCommand::Spend(args) => spend(args, config),
    }
}

fn ledger(config: &Config) -> anyhow::Result<ExitCode> {
    let stop = until_told()?;
    let counters = Arc::new(Counters::default());
    let mut worker = Worker::new(config, Arc::clone(&counters))?;
    if let Some(address) = config.worker.listen {
        let ready = Arc::clone(&counters);
        let rows = move || counters.rows().into_iter().map(Row::from).collect();
        metrics::serve(address, rows, move || ready.logs.load(Ordering::Relaxed) > 0)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(worker.run(&stop));
    worker.end();
    Ok(ExitCode::SUCCESS)
}

fn spend(args: &SpendWorkerArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let (mut ledger, mut view) = places(config)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    if args.check {
        let now = i64::try_from(Clock::system().now().0 / 1_000_000_000)?;
        let differences = runtime.block_on(view.differences(&mut ledger, now))?;
        differences.iter().for_each(|difference| println!("{difference}"));
        return Ok(ExitCode::from(u8::from(!differences.is_empty())));
    }
    let stop = until_told()?;
    let (charges, failures) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
    let reached = Arc::new(AtomicBool::new(false));
    if let Some(address) = config.worker.listen {
        let (charges, failures, reached) = (Arc::clone(&charges), Arc::clone(&failures), Arc::clone(&reached));
        let rows = move || {
            let row = |name, help, value: &AtomicU64| Row::counter(name, help, value.load(Ordering::Relaxed));
            vec![
                row("caracal_spend_charges_total", "Rows of charges brought into the view.", &charges),
                row("caracal_spend_failures_total", "Steps that failed.", &failures),
            ]
        };
        metrics::serve(address, rows, move || reached.load(Ordering::Relaxed))?;
    }
    runtime.block_on(async {
        if args.rebuild {
            view.forget().await?;
        }
        while !stop.load(Ordering::Acquire) {
            match view.step(&mut ledger).await {
                Ok(count) => {
                    charges.fetch_add(count, Ordering::Relaxed);
                    reached.store(true, Ordering::Relaxed);
                    if count == 0 {
                        if args.once {
                            break;
                        }
                        tokio::time::sleep(LOOK).await;
                    }
                }
                Err(error) if args.once => return Err(error),
                Err(error) => {
                    tracing::warn!(code = error.code(), %error, "the view of spend does not go on; it is tried again");
                    failures.fetch_add(1, Ordering::Relaxed);
                    reached.store(false, Ordering::Relaxed);
                    view.down();
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
        Ok::<_, FleetError>(())
    })?;
    Ok(ExitCode::SUCCESS)
}

/// The ledger to read from, and the view.
pub(crate) fn places(config: &Config) -> anyhow::Result<(Database, FleetView)> {
    let postgres = config.postgres.as_ref().ok_or(WorkerError::Missing("postgres"))?.url()?;
    Ok((Database::new(&postgres, Some(READER))?, view(config)?))
}

/// The view.
pub(crate) fn view(config: &Config) -> anyhow::Result<FleetView> {
    let redis = config.redis.as_ref().ok_or(WorkerError::Missing("redis"))?;
    Ok(FleetView::new(redis, config.worker.name.as_str())?)
}

/// Becomes true at SIGTERM or SIGINT.
fn until_told() -> anyhow::Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&stop);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("signals".into()).spawn(move || {
        runtime.block_on(async {
            use tokio::signal::unix::{SignalKind, signal};
            let (Ok(mut term), Ok(mut int)) = (signal(SignalKind::terminate()), signal(SignalKind::interrupt())) else {
                tracing::error!("signals cannot be heard; end this worker with SIGKILL, nothing is lost");
                return;
            };
            tokio::select! { _ = term.recv() => {}, _ = int.recv() => {} }
            told.store(true, Ordering::Release);
        });
    })?;
    Ok(stop)
}
