//! `caracald ledger serve`: a log as its files, over HTTP, for auditors anywhere.

use super::{block_on, database_url};
use crate::config::Config;
use crate::ledger::StateDir;
use crate::ledger::serve::{Counters, Logs, serve};
use crate::telemetry::metrics;
use anyhow::Context as _;
use clap::Args;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// How often the ledger is asked whether it answers, for `/readyz` beside the metrics.
const LOOK: Duration = Duration::from_secs(1);

#[derive(Args, Debug)]
pub(super) struct ServeArgs {
    /// Where to listen. It is plain HTTP: put a proxy with TLS in front of it before others than auditors of your own come.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:8780")]
    listen: SocketAddr,
    /// Serve the logs of all hosts in PostgreSQL, each below /NAME/, as [postgres] of the configuration names it: NAME is the
    /// log's, such as fleet-0 (`caracald ledger --help` says what a log is).
    #[arg(long)]
    fleet: bool,
    /// Where `/metrics`, `/healthz` and `/readyz` are served. Nowhere by default: those who read the log are not to read these.
    #[arg(long, value_name = "ADDRESS")]
    metrics: Option<SocketAddr>,
}

/// Runs `caracald ledger serve` until it is killed.
///
/// # Errors
/// When there is no ledger, or the address cannot be taken.
pub(super) fn run(args: &ServeArgs, config: &Config, state: &StateDir) -> anyhow::Result<ExitCode> {
    crate::cli::attach::start_logging();
    let listener = std::net::TcpListener::bind(args.listen).with_context(|| format!("--listen {}", args.listen))?;
    listener.set_nonblocking(true)?;
    let logs = if args.fleet {
        Logs::fleet(database_url(config)?)
    } else {
        super::there(state)?;
        let ledger = state.ledger();
        become_owner(&ledger).with_context(|| format!("become the owner of {}", ledger.display()))?;
        Logs::host(ledger)
    };
    let address = listener.local_addr()?;
    let (logs, counters, ready) = (Arc::new(logs), Arc::new(Counters::default()), Arc::new(AtomicBool::new(false)));
    if let Some(address) = args.metrics {
        let (counters, ready) = (Arc::clone(&counters), Arc::clone(&ready));
        metrics::serve(address, move || counters.rows(), move || ready.load(Ordering::Relaxed))?;
    }
    block_on(async {
        if args.metrics.is_some() {
            let logs = Arc::clone(&logs);
            tokio::spawn(async move {
                loop {
                    ready.store(logs.is_ready().await, Ordering::Relaxed);
                    tokio::time::sleep(LOOK).await;
                }
            });
        }
        let listener = tokio::net::TcpListener::from_std(listener)?;
        let below = if args.fleet { "NAME/" } else { "" };
        println!("serving http://{address}/{below}checkpoint");
        serve(listener, logs, counters).await;
        Ok(ExitCode::SUCCESS)
    })
}

/// Whoever reads strangers' bytes is not root: the ledger's owner, the data path's user, can read it as well.
fn become_owner(ledger: &Path) -> anyhow::Result<()> {
    let owner = std::fs::metadata(ledger)?;
    if !nix::unistd::geteuid().is_root() || owner.uid() == 0 {
        return Ok(());
    }
    let (uid, gid) = (nix::unistd::Uid::from_raw(owner.uid()), nix::unistd::Gid::from_raw(owner.gid()));
    nix::unistd::setgroups(&[])?;
    nix::unistd::setresgid(gid, gid, gid)?;
    nix::unistd::setresuid(uid, uid, uid)?;
    nix::sys::prctl::set_no_new_privs()?;
    Ok(())
}
