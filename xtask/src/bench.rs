//! `cargo xtask bench`: every peer in one run, and what that says about the goals.
//!
//! The measuring half is behind the feature `bench`, so that no other verb has to wait for an HTTP stack to compile:
//! this file builds it optimised and starts it as root, which makes the namespaces.

#[cfg(feature = "bench")]
mod answer;
#[cfg(feature = "bench")]
mod awake;
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
mod peer_litellm;
#[cfg(feature = "bench")]
mod peer_mitmproxy;
#[cfg(feature = "bench")]
mod peer_squid;
#[cfg(feature = "bench")]
mod process;
#[cfg(feature = "bench")]
mod profile;
#[cfg(feature = "bench")]
mod provider;
#[cfg(feature = "bench")]
mod scene;

use std::process::Command;

use anyhow::{Result, bail};
use clap::{Args, ValueEnum, builder::PossibleValue};

use crate::{build, checkout::Checkout, progress, report, root, setup, test};

/// Measure caracald beside a direct connection, a bare proxy that does nothing (the floor), and squid.
///
/// All in one run, in turns, on one machine: compare the ratios, not the seconds. Leaves target/report/bench.json. With
/// `--plane` the shared plane is measured in its place: appends, checkpoints and audits; its figures stand in plane.json.
#[derive(Args, Clone, Debug)]
pub(crate) struct Arguments {
    /// Which proxies to measure; `all` adds mitmproxy and LiteLLM.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "floor,squid,caracal")]
    peers: Vec<Choice>,
    /// One short round: shows that everything works, says little about speed.
    #[arg(long)]
    quick: bool,
    /// Only these loads, for instance `paid-32`; without it all, and the goals need all.
    #[arg(long, value_delimiter = ',')]
    loads: Vec<String>,
    /// Measure what the tests run rather than what is shipped: built sooner, without link-time optimisation, as is the floor.
    #[arg(long)]
    release: bool,
    /// Measure Kafka, PostgreSQL and Redis with the workers, and hold that against its bars.
    #[arg(long, conflicts_with_all = ["peers", "quick", "loads", "release"])]
    plane: bool,
    /// With `--plane`: at the size that the goals name, inclusion proofs at 10^7 leaves in place of 10^6. Takes 12 GB for
    /// temporary files.
    #[arg(long, requires = "plane")]
    long: bool,
}

/// A peer by its name, or all of them.
#[derive(Clone, Copy, Debug)]
enum Choice {
    All,
    One(PeerName),
}

impl ValueEnum for Choice {
    fn value_variants<'a>() -> &'a [Self] {
        use PeerName::{Caracal, Direct, Floor, Litellm, Mitmproxy, Squid};
        &[
            Self::All,
            Self::One(Direct),
            Self::One(Floor),
            Self::One(Squid),
            Self::One(Mitmproxy),
            Self::One(Litellm),
            Self::One(Caracal),
        ]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        match self {
            Self::All => Some(PossibleValue::new("all").help("every one of them")),
            Self::One(name) => name.to_possible_value(),
        }
    }
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
    /// mitmproxy, without an add-on
    Mitmproxy,
    /// LiteLLM's proxy, with clients that do without TLS
    Litellm,
    /// caracald with everything on
    Caracal,
}

impl PeerName {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Floor => "floor",
            Self::Squid => "squid",
            Self::Mitmproxy => "mitmproxy",
            Self::Litellm => "litellm",
            Self::Caracal => "caracal",
        }
    }
}

impl Arguments {
    fn profile(&self) -> &'static str {
        if self.release { "release" } else { "dist" }
    }

    fn peers(&self) -> Vec<PeerName> {
        let named = self.peers.iter().flat_map(|choice| match choice {
            Choice::All => PeerName::value_variants().to_vec(),
            Choice::One(name) => vec![*name],
        });
        named.collect()
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if arguments.plane {
        return test::plane_speed(arguments.long);
    }
    let checkout = Checkout::find()?;
    if arguments.release {
        build::all(&checkout)?;
    } else {
        build::shipped(&checkout)?;
    }
    let peers = arguments.peers();
    setup::for_bench(&checkout, &peers)?;
    let floor = ["build", "--locked", "--profile", arguments.profile(), "--bin=xtask", "--features=xtask/bench"];
    checkout.cargo("building the benchmark", &[floor.as_slice(), &build::PACKAGES].concat())?;
    root::ask("to run the benchmark: it makes network namespaces and loads the kernel programs")?;
    let reports = report::Inbox::new()?;
    let status = progress::status("measuring", &mut measurement(&checkout, arguments, &peers, &reports))?;
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
fn measurement(checkout: &Checkout, arguments: &Arguments, peers: &[PeerName], reports: &report::Inbox) -> Command {
    // A mount namespace of its own: pins and resolver are gone when it ends.
    let mut command = root::command("unshare");
    command.arg("--mount").arg(checkout.target.join(arguments.profile()).join("xtask"));
    let peers: Vec<&str> = peers.iter().map(|peer| peer.name()).collect();
    command.args(["bench-measure", "--peers", &peers.join(","), "--commit", &report::commit(&checkout.root)]);
    command.arg("--report").arg(reports.path()).arg("--caracald");
    command.arg(if arguments.release { checkout.caracald() } else { checkout.shipped() });
    command.arg("--tools").arg(checkout.tools());
    if arguments.quick {
        command.arg("--quick");
    }
    if !arguments.loads.is_empty() {
        command.args(["--loads", &arguments.loads.join(",")]);
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
