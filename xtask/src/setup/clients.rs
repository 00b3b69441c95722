//! SDKs and agents that the contracts drive, in pinned versions, below the target directory.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::{go, packages, resolved};
use crate::{checkout::Checkout, pins, progress};

/// Where the installed clients are.
#[derive(Clone, Debug)]
pub(crate) struct Clients {
    /// The Python interpreter that has the pinned SDKs.
    pub(crate) python: PathBuf,
    /// The directory that holds `node_modules` with the pinned SDKs and agents.
    pub(crate) node: PathBuf,
    /// The judges of the ledger that are written in Go.
    pub(crate) judge: PathBuf,
    /// systemd-resolved.
    pub(crate) resolved: PathBuf,
}

/// Installs the clients that are missing or have another version than the pinned one.
///
/// # Errors
/// When pip or npm fails, or Node.js is too old for the agents.
pub(crate) fn install(checkout: &Checkout) -> Result<Clients> {
    let tools = checkout.tools();
    Ok(Clients {
        python: python(checkout, &tools.join("python"), "the Python SDKs", pins::PYTHON)?,
        node: node(checkout, &tools.join("node"), pins::NODE)?,
        judge: go::judge(checkout)?,
        resolved: resolved::unpack(checkout)?,
    })
}

/// The same with the agents' newest versions, beside the pinned ones.
///
/// # Errors
/// When npm fails.
pub(crate) fn newest(checkout: &Checkout, pinned: &Clients) -> Result<Clients> {
    let log = checkout.log("npm-newest");
    let mut wanted = Vec::new();
    for pin in pins::NODE {
        let (name, _) = pin.rsplit_once('@').context("a pin has a version")?;
        if AGENTS.iter().any(|(_, agent)| *agent == name) {
            let mut npm = Command::new("npm");
            npm.args(["view", "--no-update-notifier", name, "version"]);
            progress::quietly(&format!("asking npm for the newest {name}"), &mut npm, &log)?;
            wanted.push(format!("{name}@{}", fs::read_to_string(&log)?.trim()));
        } else {
            wanted.push((*pin).to_owned());
        }
    }
    let wanted: Vec<&str> = wanted.iter().map(String::as_str).collect();
    Ok(Clients { node: node(checkout, &checkout.tools().join("node-newest"), &wanted)?, ..pinned.clone() })
}

/// The agents, by the word that their cases begin with and by their package.
pub(crate) const AGENTS: [(&str, &str); 2] = [("Claude Code", "@anthropic-ai/claude-code"), ("Codex", "@openai/codex")];

impl Clients {
    /// Tells the contracts where the clients are.
    pub(crate) fn environment(&self) -> [(&'static str, PathBuf); 4] {
        [
            ("CARACAL_PYTHON", self.python.clone()),
            ("CARACAL_NODE", self.node.clone()),
            ("CARACAL_JUDGE", self.judge.clone()),
            ("CARACAL_RESOLVED", self.resolved.clone()),
        ]
    }

    /// The installed version of a package from npm.
    ///
    /// # Errors
    /// When it is not installed.
    pub(crate) fn version(&self, package: &str) -> Result<String> {
        let path = self.node.join("node_modules").join(package).join("package.json");
        let text = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
        let manifest: serde_json::Value = serde_json::from_str(&text)?;
        let version = manifest.get("version").and_then(serde_json::Value::as_str);
        Ok(version.with_context(|| format!("{} names no version", path.display()))?.to_owned())
    }
}

/// A proxy from PyPI that the benchmark compares with, in an environment of its own.
///
/// # Errors
/// When pip fails.
pub(crate) fn proxy(checkout: &Checkout, name: &str, pins: &[&str]) -> Result<()> {
    packages::install(checkout, "to compare with Python's proxies", packages::PYTHON)?;
    python(checkout, &checkout.tools().join(name), name, pins).map(drop)
}

fn python(checkout: &Checkout, home: &Path, what: &str, pins: &[&str]) -> Result<PathBuf> {
    let interpreter = home.join("bin/python");
    if has(home, pins) {
        return Ok(interpreter);
    }
    start_over(home)?;
    // The system's interpreter: one below a home directory could not be read by another user.
    let mut venv = Command::new("/usr/bin/python3");
    venv.args(["-m", "venv"]).arg(home);
    progress::quietly("making a Python environment", &mut venv, &checkout.log("venv"))?;
    let mut pip = Command::new(&interpreter);
    pip.args(["-m", "pip", "install", "--no-input", "--disable-pip-version-check"]).args(pins);
    progress::quietly(&format!("fetching {what}"), &mut pip, &checkout.log("pip"))?;
    stamp(home, pins)?;
    Ok(interpreter)
}

fn node(checkout: &Checkout, home: &Path, pins: &[&str]) -> Result<PathBuf> {
    if has(home, pins) {
        return Ok(home.to_path_buf());
    }
    let version = Command::new("node").arg("--version").output().context("node does not start")?;
    let version = String::from_utf8_lossy(&version.stdout).trim().to_owned();
    let major = version.trim_start_matches('v').split('.').next().and_then(|major| major.parse::<u32>().ok());
    if major.is_none_or(|major| major < pins::NODE_MAJOR) {
        bail!("Node.js {} or newer is needed to test, here is {version}", pins::NODE_MAJOR);
    }
    start_over(home)?;
    fs::write(home.join("package.json"), "{\"private\": true}\n")?;
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--no-update-notifier", "--save-exact"])
        .args(pins)
        .current_dir(home);
    progress::quietly("fetching the Node SDKs, Claude Code and Codex", &mut npm, &checkout.log("npm"))?;
    stamp(home, pins)?;
    Ok(home.to_path_buf())
}

/// Whether the last installation here ended well and had the same pins.
fn has(home: &Path, pins: &[&str]) -> bool {
    fs::read_to_string(home.join("pins")).is_ok_and(|stamp| stamp == pins.join("\n"))
}

fn stamp(home: &Path, pins: &[&str]) -> Result<()> {
    fs::write(home.join("pins"), pins.join("\n")).with_context(|| home.display().to_string())
}

fn start_over(home: &Path) -> Result<()> {
    if home.exists() {
        fs::remove_dir_all(home).with_context(|| home.display().to_string())?;
    }
    fs::create_dir_all(home).with_context(|| home.display().to_string())
}
