//! `run`: a command as a governed agent, in the caller's own session, terminal, directory and environment.

mod deputies;

use std::ffi::OsString;
use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::DirBuilderExt;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;
use serde_json::Value;

use super::control::{Control, ControlError};
use super::spawn::{self, Cover, SpawnError, SpawnPlan, Uncovered, exit_code};
use super::trust;
use crate::agent::CgroupId;
use crate::config::Config;
use crate::keeper::control::Request;
use crate::keeper::govern::sanitise;
use deputies::Deputies;

const EXAMPLES: &str = "Examples:
  caracald run -- claude
  caracald run --agent builder -- codex exec 'mend the tests'
  caracald run --learn -- ./agent.py      # then put the policy that it prints into the configuration

The daemon must be running: `sudo caracald attach`. The command keeps your directory, terminal and environment; added are
the variables that make it trust the local CA. Its exit code is passed on.";

/// Run a command as a governed agent.
///
/// Everything that the command and its children send goes through the daemon: allowed hosts only, paid calls within the
/// budgets. Sockets of helpers outside (docker, D-Bus, ssh and gpg agents, tmux) are hidden unless a `[[unix]]` rule names them. At its end it says what was spent and what was refused, with the lines for the configuration that would allow it.
///
/// An ordinary user's command keeps its groups and their rights, in a user namespace of its own: other users and groups read
/// as `nobody` and `nogroup` there, and it gives no file to a supplementary group.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct RunArgs {
    /// The agent's name, for policies, budgets and records; by default the command's.
    #[arg(long, value_name = "NAME")]
    agent: Option<String>,
    /// Lift the host allow list for this run, record what was reached, and print the policy that would have sufficed. Sockets
    /// of helpers are left in reach, and said. Budgets stay in force.
    #[arg(long)]
    learn: bool,
    /// No summary at the end.
    #[arg(long)]
    quiet: bool,
    /// The command.
    #[arg(last = true, required = true, value_name = "CMD")]
    command: Vec<OsString>,
}

/// Runs the command.
///
/// # Errors
/// When the daemon is not running, or refuses to govern it. The command does not run then.
pub fn run(args: &RunArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let name = args.agent.clone().unwrap_or_else(|| {
        let program = args.command.first().map(PathBuf::from).unwrap_or_default();
        sanitise(&program.file_name().unwrap_or_default().to_string_lossy())
    });
    let mut control = Control::connect(config)?;
    let certificate = control.ask(&Request::CaCertificate)?;
    let inherited: Vec<_> = std::env::vars_os().collect();
    let directory = TrustDirectory::make()?;
    let trust = trust::prepare(certificate.as_str().unwrap_or_default(), &inherited, &directory.0)?;
    let mut hide = vec![config.runtime_dir.clone(), config.state_dir.clone()];
    hide.extend(config.escrow.folder.clone());
    let deputies = Deputies::of(&config.unix, &name, &inherited);
    hide.extend_from_slice(&deputies.caches);
    if !args.learn {
        hide.extend_from_slice(&deputies.withheld);
    }
    let plan =
        SpawnPlan { argv: args.command.clone(), env: trust.apply(&inherited), covers: Cover::trust(&trust), hide };
    let prepared = match spawn::prepare(&plan) {
        Ok(prepared) => prepared,
        Err(error) => return Ok(failed(&error)),
    };
    let pid = u32::try_from(prepared.pid().as_raw())?;
    let started = control.ask(&Request::Run { agent: name, learn: args.learn, pid })?;
    if !args.quiet {
        for limit in prepared.limits() {
            eprintln!("caracald: not covered: {limit}");
        }
        say_deputies(&deputies, args.learn, prepared.limits());
    }
    let running = match prepared.release() {
        Ok(running) => running,
        Err(error) => return Ok(failed(&error)),
    };
    let code = exit_code(running.wait()?);
    let told = match control.ask(&Request::Ended) {
        Err(ControlError::Broken(_)) => ask_again(config, &started),
        told => told,
    };
    match told {
        Ok(summary) if !args.quiet => print(&summary),
        Ok(_) => {}
        Err(error) => eprintln!("caracald: no summary: {error}"),
    }
    Ok(ExitCode::from(u8::try_from(code).unwrap_or(125)))
}

/// Asks the daemon that took this one's place: an upgrade cuts the connection.
fn ask_again(config: &Config, started: &Value) -> Result<Value, ControlError> {
    let id = CgroupId(started["id"].as_u64().unwrap_or_default());
    let began = Instant::now();
    loop {
        let told = Control::connect(config).and_then(|mut control| control.ask(&Request::Summary { id }));
        let patience = match &told {
            // Stopped, and its socket removed; or it is just being made anew.
            Err(ControlError::NotRunning { why, .. }) if why.kind() == ErrorKind::NotFound => Duration::from_secs(1),
            Err(ControlError::NotRunning { .. } | ControlError::Broken(_)) => Duration::from_secs(10),
            _ => return told,
        };
        if began.elapsed() >= patience {
            return told;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn failed(error: &SpawnError) -> ExitCode {
    eprintln!("caracald: {error}");
    ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(125))
}

/// Says which sockets of helpers the command does not find, or finds because it learns. What nothing could hide is among the
/// limits.
fn say_deputies(deputies: &Deputies, learn: bool, limits: &[Uncovered]) {
    if deputies.withheld.is_empty() || limits.iter().any(|limit| matches!(limit, Uncovered::NoUserNamespace { .. })) {
        return;
    }
    let said =
        if learn { "left in reach while it learns, and hidden without --learn" } else { "hidden from the command" };
    eprintln!("caracald: {said}, unless a [[unix]] rule names it: {}", deputies.list());
}

/// What an agent did, for people: at the end of `run`, and of an attached cgroup that learned.
pub(in crate::cli) fn print(summary: &Value) {
    eprintln!("caracald: {}", summary["text"].as_str().unwrap_or("nothing was sent"));
    let refused = summary["refused"].as_array().map(Vec::as_slice).unwrap_or_default();
    for line in refused {
        eprintln!("  refused {}", line["what"].as_str().unwrap_or("?"));
        if let Some(rule) = line["allow"].as_str() {
            for rule in rule.lines() {
                eprintln!("      {rule}");
            }
        }
    }
    if refused.iter().any(|line| line["allow"].is_string()) {
        eprintln!(
            "caracald: to allow what you want of it, add its lines to caracal.toml, then: sudo caracald policy reload"
        );
    }
    if let Some(policy) = summary["policy"].as_str() {
        eprintln!("caracald: this policy would have sufficed:\n\n{policy}");
    }
}

/// Where the bundle lies while the command runs: public data in a directory of its own.
struct TrustDirectory(PathBuf);

impl TrustDirectory {
    fn make() -> anyhow::Result<TrustDirectory> {
        use anyhow::Context;
        let base = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_dir());
        let base = base.unwrap_or_else(std::env::temp_dir);
        let path = base.join(format!("caracal-{}", uuid::Uuid::now_v7().simple()));
        fs::DirBuilder::new().mode(0o755).create(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(TrustDirectory(path))
    }
}

impl Drop for TrustDirectory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}
