//! `github.com/acme/demo.git`: a bare repository served as plain files, which every git client can clone.

use super::deliver::{Out, answer, full};
use anyhow::{Context as _, Result, ensure};
use hyper::Response;
use serde_json::json;
use std::path::{Component, Path, PathBuf};
use std::process::Command;

/// Makes the repository below `scratch`. Its commit ids are always the same.
///
/// # Errors
/// When git is not installed or fails.
pub fn repository(scratch: &Path) -> Result<PathBuf> {
    let work = scratch.join("work");
    let bare = scratch.join("demo.git");
    std::fs::create_dir_all(&work)?;
    let git = |dir: &Path, args: &[&str]| -> Result<()> {
        let output = Command::new("git")
            .args(args)
            .current_dir(dir)
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap_or_default())
            .env("HOME", scratch)
            .env("GIT_CONFIG_NOSYSTEM", "1")
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_NAME"), "Stand-in")))
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_EMAIL"), "stand-in@example.com")))
            .envs(["AUTHOR", "COMMITTER"].map(|who| (format!("GIT_{who}_DATE"), "2026-01-01T00:00:00Z")))
            .output()
            .context("git is needed for the stand-in's repository")?;
        ensure!(output.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(())
    };
    git(&work, &["init", "-q", "-b", "main"])?;
    std::fs::write(work.join("README.md"), "# demo\nA repository to clone.\n")?;
    git(&work, &["add", "."])?;
    git(&work, &["commit", "-q", "-m", "First commit"])?;
    std::fs::write(work.join("data.txt"), "0123456789abcdef\n".repeat(4_096))?;
    git(&work, &["add", "."])?;
    git(&work, &["commit", "-q", "-m", "Second commit"])?;
    git(scratch, &["clone", "-q", "--bare", "work", "demo.git"])?;
    git(&bare, &["repack", "-q", "-a", "-d"])?;
    git(&bare, &["update-server-info"])?;
    Ok(bare)
}

/// A file of the repository; `path` is what follows `/acme/demo.git/`.
#[must_use]
pub fn file(repository: &Path, path: &str) -> Response<Out> {
    let wanted = Path::new(path);
    let plain = wanted.components().all(|part| matches!(part, Component::Normal(_)));
    match std::fs::read(repository.join(wanted)) {
        Ok(bytes) if plain => Response::new(full(bytes)),
        _ => answer(404, &json!({"message": "Not Found"})),
    }
}
