//! `cargo xtask demo`: the whole story in a minute, offline, against a provider of our own.
//!
//! The story is told by a second process, as root and in a mount namespace of its own: its network namespaces, its
//! kernel programs' pins and its daemon end with it, and the host's configuration is not touched.

mod stage;
mod story;

use std::{path::PathBuf, time::Instant};

use anyhow::{Result, bail};
use clap::Args;

use crate::{
    build,
    checkout::Checkout,
    progress,
    report::{Case, Report, Verdict},
    root, run, setup,
};

/// Show the whole, offline: a call with its cost, a refused host, a spent budget, a killed daemon, a verified ledger.
///
/// A stand-in provider on this machine answers for the real host names and keeps its own bill. Nothing leaves the machine.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The half that runs as root: the daemon to show.
    #[arg(long, hide = true, requires = "stand_in")]
    caracald: Option<PathBuf>,
    /// The half that runs as root: the provider to call.
    #[arg(long, hide = true, requires = "caracald")]
    stand_in: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if let (Some(caracald), Some(stand_in)) = (&arguments.caracald, &arguments.stand_in) {
        return story::tell(caracald, stand_in);
    }
    let checkout = Checkout::find()?;
    build::all(&checkout)?;
    show(&checkout)?;
    root::left_nothing(&checkout)
}

/// The demo and the first command, as the subject `demo` of `cargo xtask test`.
pub(crate) fn report(checkout: &Checkout) -> Report {
    let (mut report, started) = (Report::start("demo", &checkout.root), Instant::now());
    let mut attempt = |name: &str, outcome: Result<()>| {
        report.cases.push(match outcome {
            Ok(()) => Case::new(name, Verdict::Passed),
            Err(error) => Case::new(name, Verdict::Failed).because(format!("{error:#}")),
        });
    };
    attempt("cargo xtask demo, to its end", show(checkout));
    attempt("cargo xtask run, twice", run::attempt(checkout));
    report.finish(started);
    report
}

/// Tells the story, of what was built before.
fn show(checkout: &Checkout) -> Result<()> {
    setup::for_demo(checkout)?;
    checkout.cargo("building the stand-in provider", &build::release("stand-in"))?;
    root::ask("for the demo: it makes network namespaces and loads the kernel programs")?;
    let mut command = root::command("unshare");
    command
        .arg("--mount")
        .arg(std::env::current_exe()?)
        .arg("demo")
        .arg("--caracald")
        .arg(checkout.caracald())
        .arg("--stand-in")
        .arg(checkout.target.join("release/stand-in"));
    let status = progress::status("the demo", &mut command)?;
    if !status.success() {
        bail!("the demo ended with {status}");
    }
    Ok(())
}
