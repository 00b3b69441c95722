//! `cargo xtask services`: Apache Kafka, PostgreSQL and Redis on loopback with data of their own, for the contracts of the
//! shared plane and for whoever wants to try it.
//!
//! Nothing of it is a system service: each runs from a directory below /var/tmp, on a port that was free, and is gone
//! after `stop --remove`.

mod kafka;
mod place;
mod postgres;
mod redis;

use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::{Args, Subcommand};

use self::place::Place;
use crate::{checkout::Checkout, setup};

/// Start, stop and break Kafka, PostgreSQL and Redis for the tests.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  cargo xtask services start\n  eval \"$(cargo xtask services env)\"\n  \
                        cargo xtask services kill kafka && cargo xtask services start kafka\n  \
                        cargo xtask services stop --remove")]
pub(crate) struct Arguments {
    /// Where data, logs and ports are kept; by default a directory of this checkout's below /var/tmp.
    #[arg(long, global = true, value_name = "DIR")]
    dir: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Install what is missing and start what does not run; all three, or those named.
    Start { services: Vec<Name> },
    /// End in an orderly way; all three, or those named.
    Stop {
        services: Vec<Name>,
        /// Delete the data, too.
        #[arg(long)]
        remove: bool,
    },
    /// End without warning (SIGKILL), as a power loss of that service alone would.
    Kill { services: Vec<Name> },
    /// Halt (SIGSTOP): it neither answers nor closes its connections.
    Halt { services: Vec<Name> },
    /// Go on after `halt`.
    Resume { services: Vec<Name> },
    /// Print where they are, as assignments for a shell.
    Env,
}

/// One of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Name {
    Kafka,
    Postgres,
    Redis,
}

/// In the order in which they are started.
const ALL: [Name; 3] = [Name::Postgres, Name::Redis, Name::Kafka];

impl Name {
    fn text(self) -> &'static str {
        match self {
            Name::Kafka => "kafka",
            Name::Postgres => "postgres",
            Name::Redis => "redis",
        }
    }

    /// The variable that names it, and what it holds for this port.
    fn variable(self, port: u16) -> (&'static str, String) {
        match self {
            Name::Kafka => ("CARACAL_KAFKA", format!("127.0.0.1:{port}")),
            Name::Postgres => ("CARACAL_POSTGRES", format!("postgres://postgres@127.0.0.1:{port}/caracal")),
            Name::Redis => ("CARACAL_REDIS", format!("redis://127.0.0.1:{port}/")),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let checkout = Checkout::find()?;
    let dir = arguments.dir.clone().unwrap_or_else(|| default_dir(&checkout));
    let place = |name: Name| Place::new(&dir, name.text());
    match &arguments.verb {
        Verb::Start { services } => {
            install(&checkout)?;
            chosen(services).try_for_each(|name| start(&checkout, name, &place(name)))
        }
        Verb::Stop { services, remove } => {
            for name in chosen(services) {
                // PostgreSQL's fast shutdown is SIGINT; TERM would wait for its clients.
                let signal = if name == Name::Postgres { "INT" } else { "TERM" };
                place(name).stop(signal)?;
                if *remove {
                    place(name).remove()?;
                }
            }
            // Only when nothing is left in it.
            if *remove {
                let _ = std::fs::remove_dir(&dir);
            }
            Ok(())
        }
        Verb::Kill { services } => named(services)?.iter().try_for_each(|name| place(*name).stop("KILL")),
        Verb::Halt { services } => named(services)?.iter().try_for_each(|name| place(*name).signal_all("STOP")),
        Verb::Resume { services } => named(services)?.iter().try_for_each(|name| place(*name).signal_all("CONT")),
        Verb::Env => {
            for name in ALL {
                let (variable, value) = name.variable(place(name).known_port()?);
                println!("export {variable}={value}");
            }
            Ok(())
        }
    }
}

/// What the three need: Debian's packages, and Kafka's jars.
///
/// # Errors
/// When something cannot be installed; the text says what to install by hand.
pub(crate) fn install(checkout: &Checkout) -> Result<()> {
    setup::for_services(checkout)?;
    kafka::install(checkout)
}

fn start(checkout: &Checkout, name: Name, place: &Place) -> Result<()> {
    if place.runs() {
        return Ok(());
    }
    match name {
        Name::Kafka => kafka::start(checkout, place),
        Name::Postgres => postgres::start(place),
        Name::Redis => redis::start(place),
    }
}

fn chosen(services: &[Name]) -> impl Iterator<Item = Name> {
    let all = services.is_empty();
    let services = services.to_vec();
    ALL.into_iter().filter(move |name| all || services.contains(name))
}

fn named(services: &[Name]) -> Result<&[Name]> {
    if services.is_empty() {
        bail!("name what is to be broken: kafka, postgres, redis");
    }
    Ok(services)
}

/// Two checkouts run beside each other.
fn default_dir(checkout: &Checkout) -> PathBuf {
    let name: String =
        checkout.root.display().to_string().chars().map(|c| if c.is_alphanumeric() { c } else { '-' }).collect();
    PathBuf::from("/var/tmp").join(format!("caracal-services{name}"))
}
