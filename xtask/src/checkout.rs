//! Where things are: the checkout, what is built in it, and how cargo is called from inside cargo.

use std::{
    env, fs,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{progress, root};

/// The checkout and the directory that cargo builds into.
#[derive(Clone, Debug)]
pub(crate) struct Checkout {
    pub(crate) root: PathBuf,
    pub(crate) target: PathBuf,
}

impl Checkout {
    /// Finds the checkout that this xtask was built from, and cargo's target directory for it.
    pub(crate) fn find() -> Result<Self> {
        let manifest =
            env::var_os("CARGO_MANIFEST_DIR").map_or_else(|| PathBuf::from(env!("CARGO_MANIFEST_DIR")), PathBuf::from);
        let root = manifest.parent().context("xtask stands at the top of the file system")?.to_path_buf();
        refuse_foreign_root(&root)?;
        // As the contracts are told it; root, who runs them, need have no cargo.
        if let Some(target) = env::var_os("CARGO_TARGET_DIR").map(PathBuf::from).filter(|target| target.is_absolute()) {
            return Ok(Self { target, root });
        }
        let output = cargo()
            .args(["metadata", "--no-deps", "--format-version", "1"])
            .current_dir(&root)
            .output()
            .context("cargo metadata does not start")?;
        if !output.status.success() {
            bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
        }
        let metadata: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let target = metadata
            .get("target_directory")
            .and_then(serde_json::Value::as_str)
            .context("cargo metadata names no target_directory")?;
        Ok(Self { target: PathBuf::from(target), root })
    }

    /// Tools that belong to this checkout alone.
    pub(crate) fn tools(&self) -> PathBuf {
        self.target.join("tools")
    }

    /// The kernel programs, ready to be embedded.
    pub(crate) fn bpf_object(&self) -> PathBuf {
        self.target.join("bpf/caracal.o")
    }

    /// The same with lines for engineers, which are never shipped.
    pub(crate) fn bpf_log_object(&self) -> PathBuf {
        self.target.join("bpf/caracal-log.o")
    }

    /// The daemon and command line.
    pub(crate) fn caracald(&self) -> PathBuf {
        self.target.join("release/caracald")
    }

    /// The same with link-time optimisation, as it is shipped.
    pub(crate) fn shipped(&self) -> PathBuf {
        self.target.join("dist/caracald")
    }

    /// What the tests and the benchmark leave behind.
    pub(crate) fn report(&self) -> PathBuf {
        self.target.join("report")
    }

    /// Output of a step that is shown only when the step fails.
    pub(crate) fn log(&self, name: &str) -> PathBuf {
        self.target.join("log").join(format!("{name}.log"))
    }

    /// Runs `cargo ARGUMENTS` here with its own progress on the terminal.
    pub(crate) fn cargo(&self, what: &str, arguments: &[&str]) -> Result<()> {
        self.cargo_with(what, arguments, &self.bpf_object())
    }

    /// The same, with these kernel programs for the daemon to carry.
    pub(crate) fn cargo_with(&self, what: &str, arguments: &[&str], programs: &Path) -> Result<()> {
        let mut command = cargo();
        command.args(arguments).current_dir(&self.root).env("CARACAL_BPF_OBJECT", programs);
        progress::aloud(what, &mut command)
    }
}

/// The cargo that called us, without what it put into our environment.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    forget_cargo(&mut command);
    command
}

/// Removes what `cargo run` adds, so that a second cargo or another toolchain is not misled by the first.
pub(crate) fn forget_cargo(command: &mut Command) {
    for (name, _) in env::vars_os() {
        let known = name.to_str().is_some_and(|name| {
            name.starts_with("CARGO_PKG_")
                || name.starts_with("CARGO_BIN_")
                || ["CARGO", "CARGO_MANIFEST_DIR", "CARGO_MANIFEST_PATH", "CARGO_PRIMARY_PACKAGE", "LD_LIBRARY_PATH"]
                    .contains(&name)
        });
        if known {
            command.env_remove(&name);
        }
    }
}

/// `sudo cargo xtask` would leave root-owned files in a person's checkout.
fn refuse_foreign_root(root: &Path) -> Result<()> {
    let owner = fs::metadata(root).with_context(|| root.display().to_string())?.uid();
    if root::am_root() && owner != 0 && env::var_os("SUDO_UID").is_some() {
        bail!("run `cargo xtask` as yourself: it asks for sudo only for the step that needs it");
    }
    Ok(())
}
