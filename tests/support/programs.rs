//! The programs that nobody here wrote: SDKs and agents below `target/tools`, everything else from the host.

use crate::netns::open_to_all;
use std::path::{Path, PathBuf};

/// The workspace's `target` directory.
#[must_use]
pub fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"), PathBuf::from)
}

fn node(path: &str) -> PathBuf {
    let Some(prefix) = std::env::var_os("CARACAL_NODE") else { return tool(&format!("node/{path}")) };
    let found = PathBuf::from(prefix).join(path);
    assert!(found.exists(), "{} is missing: `cargo xtask test` installs it", found.display());
    found
}

fn tool(path: &str) -> PathBuf {
    let tool = target().join("tools").join(path);
    assert!(tool.exists(), "{} is missing: `cargo xtask test` installs it", tool.display());
    std::fs::canonicalize(target()).unwrap_or_else(|_| target()).join("tools").join(path)
}

/// Python with `openai`, `anthropic`, `requests` and `websockets`.
#[must_use]
pub fn python() -> PathBuf {
    std::env::var_os("CARACAL_PYTHON").map_or_else(|| tool("python/bin/python"), PathBuf::from)
}

/// The judges of the ledger that are written in Go.
#[must_use]
pub fn go_judge() -> PathBuf {
    std::env::var_os("CARACAL_JUDGE").map_or_else(|| tool("go/bin/judge"), PathBuf::from)
}

/// systemd-resolved, unpacked and not installed: a package would change the host's own resolver.
#[must_use]
pub fn resolved() -> PathBuf {
    std::env::var_os("CARACAL_RESOLVED").map_or_else(|| tool("resolved/systemd-resolved"), PathBuf::from)
}

/// The directory whose `node_modules` has `openai`, `@anthropic-ai/sdk` and `@modelcontextprotocol/sdk`.
#[must_use]
pub fn node_prefix() -> PathBuf {
    for package in ["openai", "@anthropic-ai/sdk", "@modelcontextprotocol/sdk"] {
        node(&format!("node_modules/{package}"));
    }
    node("")
}

/// Claude Code.
#[must_use]
pub fn claude() -> PathBuf {
    node("node_modules/.bin/claude")
}

/// Codex.
#[must_use]
pub fn codex() -> PathBuf {
    node("node_modules/.bin/codex")
}

/// A program of the host.
///
/// # Panics
/// When it is not installed.
#[must_use]
#[track_caller]
pub fn host(name: &str) -> PathBuf {
    let places = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&places)
        .filter(|dir| !dir.starts_with("/root"))
        .map(|dir| dir.join(name))
        .find(|path| path.is_file());
    found.unwrap_or_else(|| panic!("{name} is missing: `cargo xtask test` installs it"))
}

/// A fresh home of an agent that runs as [`crate::netns::AGENT_UID`].
///
/// # Panics
/// When it cannot be made.
#[must_use]
pub fn home() -> tempfile::TempDir {
    let dir = tempfile::Builder::new().prefix("caracal-home-").tempdir().expect("a scratch directory");
    open_to_all(dir.path()).expect("its mode");
    std::os::unix::fs::chown(dir.path(), Some(crate::netns::AGENT_UID), Some(crate::netns::AGENT_UID))
        .expect("its owner");
    dir
}
