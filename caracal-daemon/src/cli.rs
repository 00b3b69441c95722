//! The command line: one file per verb. Says what happened and what to do next; exits with a stable code.

// First: its macros take the place of the standard library's in all that follow.
#[macro_use]
mod output;

pub mod attach;
pub mod budgets;
pub mod ca;
pub mod control;
pub mod dead;
pub mod doctor;
pub mod events;
pub mod hosts;
pub mod ledger;
pub mod manual;
pub mod measure;
pub mod policy;
pub mod prices;
pub mod run;
pub mod setup;
pub mod spawn;
pub mod spend;
pub mod status;
pub mod trust;
pub mod upgrade;
pub mod worker;

use std::io::IsTerminal as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::config::{Config, DEFAULT_PATH, Require};
use crate::keeper::control::Request;
use crate::keeper::order::EventsQuery;

/// Exit codes beyond 0 and 1, after `sysexits.h`.
pub mod exit {
    /// A provider's export and the ledger differ.
    pub const DIFFERS: u8 = 4;
    /// The command line or the configuration is wrong.
    pub const USAGE: u8 = 64;
    /// The daemon is not running.
    pub const UNAVAILABLE: u8 = 69;
    /// A file or the system refused.
    pub const SYSTEM: u8 = 71;
    /// Not permitted: needs root, or you are governed.
    pub const NOT_PERMITTED: u8 = 77;
}

/// Puts every network byte of an AI agent behind a policy, a budget and a proof.
///
/// An operator names a cgroup; from then on each outbound socket of each process in it goes through this daemon, or
/// nowhere. `caracald run -- CMD` governs one command; `sudo caracald attach` is the daemon.
#[derive(Debug, Parser)]
#[command(name = "caracald", version, after_help = EXIT_CODES)]
pub struct Cli {
    /// The configuration file.
    #[arg(long, global = true, value_name = "FILE", default_value = DEFAULT_PATH)]
    pub config: PathBuf,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

const EXIT_CODES: &str = "First steps: `sudo caracald doctor`; `sudo caracald attach` in one terminal and `caracald run -- CMD` in another; \
`caracald events` and `caracald spend` for what happened; `caracald policy explain HOST` for why.

Exit codes: 0 done; 1 the answer is no (a denial, a failed check), or any failure that has no code of its own; 3 a ledger or receipt does not hold; \
4 a provider's export and the ledger differ; 64 command line or configuration; \
69 the daemon is not running; 71 the system refused; 77 not permitted. `run` exits as its command does, or 125 to 127 as shells do.";

/// Every verb. What its arguments say of themselves is its help.
#[derive(Debug, Subcommand)]
pub enum Verb {
    Run(run::RunArgs),
    Attach(attach::AttachArgs),
    Detach(attach::DetachArgs),
    Upgrade(upgrade::UpgradeArgs),
    Status(status::StatusArgs),
    Doctor(doctor::DoctorArgs),
    Events(events::EventsArgs),
    Spend(spend::SpendArgs),
    Budgets(budgets::BudgetsArgs),
    Prices(prices::PricesArgs),
    Ledger(ledger::LedgerArgs),
    Worker(worker::WorkerArgs),
    Hosts(hosts::HostsArgs),
    Dlq(dead::DlqArgs),
    Setup(setup::SetupArgs),
    /// Check, test and explain the policy, or put it into force.
    Policy(policy::PolicyArgs),
    Ca(ca::CaArgs),
    Completions(manual::CompletionsArgs),
    Man(manual::ManArgs),
    #[command(hide = true)]
    Measure(measure::MeasureArgs),
    /// The unprivileged half of the daemon; started by it.
    #[command(hide = true)]
    DataPath(crate::app::DataPathArgs),
    /// The process that tries to get out of what is governed; started by the daemon.
    #[command(hide = true)]
    Canary,
}

/// Runs the verb.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            if error.use_stderr() {
                let _ = error.print();
                return ExitCode::from(exit::USAGE);
            }
            let text = error.render();
            match std::io::stdout().is_terminal() {
                true => print!("{}", text.ansi()),
                false => print!("{text}"),
            }
            return output::ended(ExitCode::SUCCESS);
        }
    };
    // A daemon, and what passes another command's exit code on.
    let goes_on =
        matches!(cli.verb, Verb::Attach(_) | Verb::Worker(_) | Verb::DataPath(_) | Verb::Canary | Verb::Run(_));
    let code = match dispatch(cli) {
        Ok(code) => code,
        Err(_) if output::is_gone() => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("caracald: {}", told(&error));
            ExitCode::from(code_of(&error))
        }
    };
    if goes_on { code } else { output::ended(code) }
}

fn dispatch(cli: Cli) -> anyhow::Result<ExitCode> {
    // The daemon's halves do not share the caller's directory.
    let config = std::path::absolute(&cli.config)?;
    let config = config.as_path();
    match cli.verb {
        Verb::Run(args) => run::run(&args, &settings(config)?),
        Verb::Attach(args) => attach::attach(args, config),
        Verb::Detach(args) => attach::detach(&args, &settings(config)?),
        Verb::Upgrade(args) => upgrade::run(&args, &settings(config)?),
        Verb::Status(args) => status::run(&args, &settings(config)?),
        Verb::Doctor(args) => {
            if doctor::attempted(&args)? {
                return Ok(ExitCode::SUCCESS);
            }
            let hooks = hooks();
            // A configuration that cannot be read is somebody else's to tell.
            let config = settings(config).ok();
            let asked = args.level.unwrap_or_else(|| config.as_ref().map(|config| config.require).unwrap_or_default());
            // What this kernel does not take whole is not in force anywhere on it.
            let whole = hooks.iter().all(|hook| hook.error.is_none());
            let require = if whole { asked } else { Require::Network };
            let ways = || match nix::unistd::geteuid().is_root() {
                true => doctor::coverage::probe(require).map_err(|error| format!("{error:#}")),
                false => Err("only root can try them".to_owned()),
            };
            let connections = config.map(|config| config.limits).unwrap_or_default().connections;
            let asked = doctor::Asked { level: asked, tried: require, connections };
            let code = doctor::run(&args, &hooks, &asked, ways, &mut output::Output)?;
            Ok(ExitCode::from(u8::try_from(code).unwrap_or(1)))
        }
        Verb::Policy(args) => policy(args, config),
        Verb::Events(args) => events(&args, &settings(config)?),
        Verb::Spend(args) => spend(&args, &settings(config)?),
        Verb::Budgets(args) => budgets::run(&args, &settings(config)?),
        Verb::Prices(args) => prices::run(&args, &settings(config)?),
        Verb::Ledger(args) => ledger(args, &settings(config)?),
        Verb::Worker(args) => worker::run(&args, &settings(config)?),
        Verb::Hosts(args) => hosts::run(args, &settings(config)?),
        Verb::Dlq(args) => dead::run(args, &settings(config)?),
        Verb::Setup(args) => setup::run(&args, &settings(config)?),
        Verb::Ca(args) => ca::run(&args, &settings(config)?),
        Verb::Completions(args) => manual::completions(&args),
        Verb::Man(args) => manual::man(&args),
        Verb::DataPath(args) => crate::app::run(&args, config),
        Verb::Measure(args) => measure::run(&args),
        Verb::Canary => Ok(crate::keeper::canary::run().map(|()| ExitCode::SUCCESS)?),
    }
}

/// Every program tried on this kernel, by root; by others none, and `doctor` says so.
fn hooks() -> Vec<doctor::Hook> {
    let hook = |name: &str, required, error| doctor::Hook { name: name.to_owned(), required, error };
    match crate::keeper::kernel::Kernel::try_programs() {
        Ok(tried) => {
            let network = tried.network.into_iter().map(|(name, error)| hook(name, true, error));
            let full = tried.full.into_iter().map(|(name, error)| hook(&format!("lsm {name}"), false, error));
            network.chain(full).collect()
        }
        Err(error) => vec![hook("programs", true, Some(error.to_string()))],
    }
}

/// Root reads the state directory, also while no daemon runs; others ask the daemon for what is theirs.
fn events(args: &events::EventsArgs, config: &Config) -> anyhow::Result<ExitCode> {
    if nix::unistd::geteuid().is_root() {
        return events::run(args, &config.state_dir);
    }
    anyhow::ensure!(!args.follow && args.agent.len() < 2, "without root: at most one --agent, and no --follow");
    let query = EventsQuery {
        uid: None,
        agent: args.agent.first().cloned(),
        limit: u32::try_from(args.limit).unwrap_or(u32::MAX),
    };
    let answer = control::Control::connect(config)?.ask(&Request::Events(query))?;
    let lines = answer["lines"].as_array().map(Vec::as_slice).unwrap_or_default();
    if args.json {
        lines.iter().filter_map(|line| line.as_str()).for_each(|line| println!("{line}"));
    } else {
        println!("{}", answer["table"].as_str().unwrap_or_default());
    }
    Ok(ExitCode::SUCCESS)
}

fn spend(args: &spend::SpendArgs, config: &Config) -> anyhow::Result<ExitCode> {
    anyhow::ensure!(args.verb.is_none() || nix::unistd::geteuid().is_root(), crate::keeper::KeeperError::NotRoot);
    if let Some(spend::Verb::Reconcile(args)) = &args.verb {
        return spend::reconcile(args, config);
    }
    if args.fleet {
        return spend::fleet(args, config);
    }
    if nix::unistd::geteuid().is_root() {
        return spend::run(args, &config.state_dir);
    }
    anyhow::ensure!(
        args.is_plain(),
        "without root: only your own agents' sums by agent, model and day; leave out --by, --agent, --since and --until"
    );
    let answer = control::Control::connect(config)?.ask(&Request::Spend)?;
    let form = if args.json { "json" } else { "table" };
    println!("{}", answer[form].as_str().unwrap_or_default());
    Ok(ExitCode::SUCCESS)
}

fn ledger(args: ledger::LedgerArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let host_id = std::fs::read_to_string(config.state_dir.join("host-id")).unwrap_or_default();
    ledger::run(args, config, host_id.trim())
}

fn policy(mut args: policy::PolicyArgs, path: &Path) -> anyhow::Result<ExitCode> {
    path.clone_into(&mut args.config);
    policy::run(&args, &|| Ok(control::Control::connect(&settings(path)?)?.ask(&Request::Reload)?))
}

/// The configuration, or the default one where the default file is not there (a user's command needs only its paths).
pub(crate) fn settings(path: &Path) -> anyhow::Result<Config> {
    if path == Path::new(DEFAULT_PATH) && !path.exists() {
        return Ok(Config::default());
    }
    Ok(Config::load(path)?)
}

/// An error and its causes, each once: many say their cause themselves.
fn told(error: &anyhow::Error) -> String {
    error.chain().fold(String::new(), |text, cause| match cause.to_string() {
        cause if text.contains(cause.trim_end()) => text,
        cause if text.is_empty() => cause,
        cause => format!("{text}: {cause}"),
    })
}

/// The exit code of an error, by its type.
fn code_of(error: &anyhow::Error) -> u8 {
    use crate::keeper::KeeperError;
    if error.is::<crate::config::ConfigError>() || error.is::<spend::NotByWindow>() {
        return exit::USAGE;
    }
    if let Some(error) = error.downcast_ref::<control::ControlError>() {
        return error.exit_code();
    }
    match error.downcast_ref::<KeeperError>() {
        Some(KeeperError::NotRoot) => exit::NOT_PERMITTED,
        Some(KeeperError::Cgroup(_) | KeeperError::Refused(_)) => exit::USAGE,
        Some(_) => exit::SYSTEM,
        None => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn a_cause_is_said_once() {
        let cause = anyhow::anyhow!("line 3: no\n");
        assert_eq!(
            told(&cause.context("x is no book: line 3: no").context("x.toml")),
            "x.toml: x is no book: line 3: no"
        );
        assert_eq!(told(&anyhow::anyhow!("b").context("a")), "a: b");
        let error = crate::meter::Listing::parse("[[model]]\nname = 1\n").expect_err("no book");
        let text = told(&anyhow::Error::from(error).context("x.toml"));
        assert_eq!(text.matches("TOML parse error").count(), 1, "{text}");
    }

    /// Every argument and verb that is shown says what it is.
    #[test]
    fn nothing_is_without_help() {
        fn look(command: &clap::Command, path: &str) {
            for argument in command.get_arguments().filter(|argument| !argument.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{path}: {} says nothing", argument.get_id());
            }
            for verb in command.get_subcommands().filter(|verb| !verb.is_hide_set()) {
                assert!(verb.get_about().is_some(), "{path} {} says nothing", verb.get_name());
                look(verb, &format!("{path} {}", verb.get_name()));
            }
        }
        let mut command = Cli::command();
        command.build();
        look(&command, "caracald");
    }

    /// The long help of a verb, in one line.
    fn help(path: &[&str]) -> String {
        let mut command = Cli::command();
        command.build();
        let found = path.iter().fold(&mut command, |at, name| at.find_subcommand_mut(name).expect("a verb"));
        found.render_long_help().to_string().split_whitespace().collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn help_says_what_the_code_does() {
        let drain = crate::config::Upgrade::default().drain_ms / 60_000;
        assert_eq!(drain, 10, "the help of `upgrade` says ten minutes");
        assert!(help(&["upgrade"]).contains("ten minutes"));
        let text = help(&["spend", "reconcile"]);
        assert!(
            text.contains("day,provider,model") && text.contains("Exits 0 when the two agree, 4 when not"),
            "{text}"
        );
        assert!(help(&["attach"]).contains("`require` asks for"));
        assert!(help(&["events"]).contains("without --follow") && help(&["spend"]).contains("cannot use --by"));
    }
}
