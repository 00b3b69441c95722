//! `upgrade`: the running daemon becomes the program that was installed over it.

use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Args;

use super::control::Control;
use crate::config::Config;
use crate::keeper::control::Request;
use crate::keeper::upgrade::AT_MOST;

/// How long the new daemon may take over one `status`, before it is asked again.
const ANSWERS_WITHIN: Duration = Duration::from_secs(25);

/// Let the running daemon become the program that was installed over it, without a moment in which the door is open to
/// anybody else or shut to allowed connections.
///
/// New connections wait meanwhile; open streams go on at the old program for [upgrade] drain_ms, ten minutes by default, and
/// are cut then. The program must lie where the daemon was started
/// from. The daemon does the same on SIGUSR2.
#[derive(Debug, Args)]
pub struct UpgradeArgs {}

/// Runs the verb.
///
/// # Errors
/// When no daemon runs, the program does not say its version, or the new one is not there in time.
pub fn run(_args: &UpgradeArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let told = Control::connect(config)?.ask(&Request::Upgrade)?;
    let asked = Instant::now();
    while asked.elapsed() < AT_MOST + Duration::from_secs(15) {
        std::thread::sleep(Duration::from_millis(50));
        // Nobody answers in between.
        let status =
            Control::patient(config, ANSWERS_WITHIN).ok().and_then(|mut control| control.ask(&Request::Status).ok());
        // The door is held open meanwhile: only a data path that answers is there.
        let there = |status: &serde_json::Value| {
            status["began_ns"] != told["began_ns"] && status["door"] == "open" && status["data_path"]["error"].is_null()
        };
        if status.as_ref().is_some_and(there) {
            println!("upgraded to {}", told["version"].as_str().unwrap_or_default());
            return Ok(ExitCode::SUCCESS);
        }
    }
    anyhow::bail!("the new daemon is not ready; its log says why, and `caracald status` whether the old one goes on")
}
