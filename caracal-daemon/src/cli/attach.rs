//! `attach` and `detach`.

mod report;

pub(in crate::cli) use report::{sockets, trust};

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use clap::Args;
use tracing_subscriber::EnvFilter;

use super::control::Control;
use super::settings;
use crate::config::{Config, DEFAULT_PATH, starter};
use crate::keeper::KeeperError;
use crate::keeper::control::{AttachOptions, Request};
use crate::keeper::release::release;
use crate::keeper::serve::serve;

const EXAMPLES: &str = "Examples:
  sudo caracald attach                                            # for `caracald run`
  sudo caracald attach --cgroup my.slice/agent.service            # and a service that exists
  sudo caracald attach --learn --cgroup my.slice/agent.service    # and let it pass while its policy is found out
  systemctl show -p ControlGroup my-agent.service                 # says where a service's cgroup is

Without a configuration a starter one is written first: model providers under a small daily budget, and nothing else.";

/// Start the daemon in the foreground, and govern cgroups that exist.
///
/// Without --cgroup it governs only what `caracald run` starts. Prints `ready` (and tells systemd so) once the door is
/// open. Stopping it shuts the door: governed processes are refused until it is back, or until `caracald detach`.
/// Where a daemon is running already, the cgroups are added to it.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub struct AttachArgs {
    /// A cgroup v2 directory: an absolute path, or one below the cgroup mount. Can be given more than once.
    #[arg(long, value_name = "PATH")]
    pub cgroup: Vec<PathBuf>,
    /// The agent's name for the cgroups; by default their directories' names.
    #[arg(long, value_name = "NAME", requires = "cgroup")]
    pub agent: Option<String>,
    /// Govern a cgroup even where a root process in it could undo the pins, or holds a socket that nothing can fence;
    /// recorded in the ledger, shown by `status`.
    ///
    /// Where this starts the daemon it is as allow_degraded = true in the configuration, for all that the daemon governs:
    /// it also starts on a kernel that cannot enforce what `require` asks for, and bears with programs of others that run
    /// after ours.
    #[arg(long, requires = "cgroup")]
    pub allow_degraded: bool,
    /// Add the local CA to the host's own certificate store, for processes that have no mount namespace of their own.
    /// Undone by `detach`.
    #[arg(long, requires = "cgroup")]
    pub trust_system: bool,
    /// Lift the host allow list for these cgroups and record what they reach, until they are detached: `detach` then prints the
    /// policy that would have sufficed. Budgets stay in force. With `require = "full"` every unix socket outside is in reach
    /// meanwhile, and recorded.
    #[arg(long, requires = "cgroup")]
    pub learn: bool,
    /// Print what was found and done as JSON, one line a cgroup.
    #[arg(long)]
    pub json: bool,
}

/// Release an attached cgroup: its processes connect directly again.
///
/// Also while no daemon runs, whose pins still keep everything shut: then without --cgroup it releases all that the
/// daemon governed, what `caracald run` started as well.
#[derive(Debug, Args)]
pub struct DetachArgs {
    /// The cgroup, as it was attached.
    #[arg(long, value_name = "PATH")]
    pub cgroup: Vec<PathBuf>,
}

/// Runs `attach`.
///
/// # Errors
/// When the daemon cannot start, or a cgroup cannot be governed.
pub fn attach(args: AttachArgs, path: &Path) -> anyhow::Result<ExitCode> {
    if path == Path::new(DEFAULT_PATH) && !path.exists() && nix::unistd::geteuid().is_root() {
        write_starter(path)?;
    }
    let mut config = settings(path)?;
    config.allow_degraded |= args.allow_degraded;
    let options =
        AttachOptions { allow_degraded: config.allow_degraded, trust_system: args.trust_system, learn: args.learn };
    if let Ok(mut control) = Control::connect(&config) {
        if args.cgroup.is_empty() {
            anyhow::bail!("the daemon is running already: `caracald status` shows it");
        }
        for cgroup in args.cgroup {
            let value = control.ask(&Request::Attach { cgroup, agent: args.agent.clone(), options })?;
            report::attached(&value, args.json);
        }
        return Ok(ExitCode::SUCCESS);
    }
    start_logging();
    serve(&config, &args.cgroup, args.agent.as_deref(), options, |attached| {
        for value in attached {
            report::attached(value, args.json);
        }
        println!("ready");
        notify_systemd();
    })?;
    Ok(ExitCode::SUCCESS)
}

/// Runs `detach`.
///
/// # Errors
/// When the cgroup is not governed, or none is named while the daemon runs.
pub fn detach(args: &DetachArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let Ok(mut control) = Control::connect(config) else {
        let released = release(config, &args.cgroup)?;
        if released.is_empty() {
            println!("nothing is governed");
        }
        for released in released {
            println!("released {released}: its processes connect directly now");
        }
        return Ok(ExitCode::SUCCESS);
    };
    if args.cgroup.is_empty() {
        return Err(
            KeeperError::Refused("the daemon is running: name what to release with --cgroup PATH".to_owned()).into()
        );
    }
    for cgroup in &args.cgroup {
        let released = control.ask(&Request::Detach { cgroup: cgroup.clone() })?;
        println!("released {}: its processes connect directly now", cgroup.display());
        if released["learned"].is_object() {
            super::run::print(&released["learned"]);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Logs of the daemon go to standard error; `RUST_LOG` chooses.
pub(crate) fn start_logging() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let _ = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(false).try_init();
}

fn write_starter(path: &Path) -> anyhow::Result<()> {
    use anyhow::Context;
    if let Some(directory) = path.parent() {
        std::fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    }
    std::fs::write(path, starter()).with_context(|| format!("cannot write {}", path.display()))?;
    eprintln!("caracald: wrote a starter configuration to {}: read it, it is short", path.display());
    Ok(())
}

/// `sd_notify(3)`: one datagram to the socket that systemd names.
fn notify_systemd() {
    let Some(path) = std::env::var_os("NOTIFY_SOCKET") else { return };
    let Ok(socket) = std::os::unix::net::UnixDatagram::unbound() else { return };
    use std::os::linux::net::SocketAddrExt;
    use std::os::unix::ffi::OsStrExt;
    let sent = match path.as_bytes().strip_prefix(b"@") {
        Some(name) => std::os::unix::net::SocketAddr::from_abstract_name(name)
            .and_then(|address| socket.send_to_addr(b"READY=1", &address)),
        None => socket.send_to(b"READY=1", &path),
    };
    if let Err(error) = sent {
        tracing::warn!(%error, "Cannot tell systemd that we are ready.");
    }
}
