//! `cargo xtask bench`: every peer in one run, and what that says about the goals.
//!
//! The measuring half is behind the feature `bench`, so that no other verb has to wait for an HTTP stack to compile:
//! this file builds it in release mode and starts it as root, which makes the namespaces.

#[cfg(feature = "bench")]
mod answer;
#[cfg(feature = "bench")]
mod crypto;
#[cfg(feature = "bench")]
mod floor;
#[cfg(feature = "bench")]
mod goals;
#[cfg(feature = "bench")]
mod load;
#[cfg(feature = "bench")]
mod measure;
#[cfg(feature = "bench")]
mod peer;
#[cfg(feature = "bench")]
mod peer_caracal;
#[cfg(feature = "bench")]
mod peer_floor;
#[cfg(feature = "bench")]
mod peer_squid;
#[cfg(feature = "bench")]
mod process;
#[cfg(feature = "bench")]
mod provider;
#[cfg(feature = "bench")]
mod scene;

use std::process::Command;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};

use crate::{build, checkout::Checkout, progress, report, root, setup};

/// Measure caracald beside a direct connection, a bare proxy that does nothing (the floor), and squid.
///
/// All in one run, in turns, on one machine: compare the ratios, not the seconds. Leaves target/report/bench.json.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Which proxies to measure.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "floor,squid,caracal")]
    peers: Vec<PeerName>,
    /// One short round: shows that everything works, says little about speed.
    #[arg(long)]
    quick: bool,
}

/// What stands between client and provider. A direct connection is always measured.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum PeerName {
    /// nothing; always measured
    Direct,
    /// tokio, rustls and hyper, deciding and writing nothing
    Floor,
    /// squid with ssl_bump, one worker
    Squid,
    /// caracald with everything on
    Caracal,
}

impl PeerName {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Floor => "floor",
            Self::Squid => "squid",
            Self::Caracal => "caracal",
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let checkout = Checkout::find()?;
    build::all(&checkout)?;
    setup::for_bench(&checkout)?;
    checkout.cargo(
        "building the benchmark",
        &["build", "--locked", "--release", "--package", "xtask", "--features", "bench"],
    )?;
    root::ask("to run the benchmark: it makes network namespaces and loads the kernel programs")?;
    let reports = report::Inbox::new()?;
    let status = progress::status("measuring", &mut measurement(&checkout, arguments, &reports))?;
    for report in reports.collect()? {
        report.write(&checkout.report())?;
    }
    reports.remove()?;
    if !status.success() {
        bail!("the benchmark ended with {status}");
    }
    Ok(())
}

/// The measuring half, as root, told where everything is.
fn measurement(checkout: &Checkout, arguments: &Arguments, reports: &report::Inbox) -> Command {
    // A mount namespace of its own: pins and resolver are gone when it ends.
    let mut command = root::command("unshare");
    command.arg("--mount").arg(checkout.target.join("release/xtask"));
    let peers: Vec<&str> = arguments.peers.iter().map(|peer| peer.name()).collect();
    command.args(["bench-measure", "--peers", &peers.join(","), "--commit", &report::commit(&checkout.root)]);
    command.arg("--report").arg(reports.path()).arg("--caracald").arg(checkout.caracald());
    if arguments.quick {
        command.arg("--quick");
    }
    command
}

/// The hidden verbs of the measuring half: each is a process of its own, so that its CPU time is its own.
#[cfg(feature = "bench")]
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Part {
    #[command(name = "bench-measure", hide = true)]
    Measure(measure::Arguments),
    #[command(name = "bench-floor", hide = true)]
    Floor(floor::Arguments),
    #[command(name = "bench-provider", hide = true)]
    Provider(provider::Arguments),
    #[command(name = "bench-load", hide = true)]
    Load(load::Arguments),
}

#[cfg(feature = "bench")]
impl Part {
    pub(crate) fn run(&self) -> Result<()> {
        match self {
            Self::Measure(arguments) => measure::run(arguments),
            Self::Floor(arguments) => floor::run(arguments),
            Self::Provider(arguments) => provider::run(arguments),
            Self::Load(arguments) => load::run(arguments),
        }
    }
}

/// The same runtime for the floor, the provider and the load.
#[cfg(feature = "bench")]
fn runtime() -> Result<tokio::runtime::Runtime> {
    Ok(tokio::runtime::Builder::new_multi_thread().enable_all().build()?)
}
