//! A kernel on disk: where its parts are in the unpacked tree, whichever way its packages lay them out.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// A kernel on disk.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Kernel {
    /// See [`super::Suite::series`].
    pub(crate) series: String,
    /// See [`super::Suite::name`].
    pub(crate) suite: String,
    /// What `uname -r` says in it.
    pub(crate) release: String,
    /// The packages it was unpacked from.
    pub(crate) packages: Vec<Package>,
    /// Where it is unpacked.
    #[serde(skip)]
    pub(crate) tree: PathBuf,
    /// Not looked up in this run: no mirror could be asked.
    #[serde(skip)]
    pub(crate) kept: bool,
}

/// A package as the suite's index describes it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub(crate) struct Package {
    pub(crate) name: String,
    pub(crate) version: String,
    /// Of the package file, from the signed index; apt refuses another.
    pub(crate) sha256: String,
    #[serde(skip)]
    pub(super) depends: String,
}

impl Kernel {
    /// The kernel itself: in /boot, or (from 7.x on) beside its modules.
    pub(crate) fn image(&self) -> Result<PathBuf> {
        let candidates = [
            self.tree.join("boot").join(format!("vmlinuz-{}", self.release)),
            self.tree.join("usr/lib/modules").join(&self.release).join("vmlinuz"),
            self.tree.join("lib/modules").join(&self.release).join("vmlinuz"),
        ];
        let found = candidates.into_iter().find(|path| path.is_file());
        found.with_context(|| format!("there is no kernel in {}", self.tree.display()))
    }

    /// Where its modules are.
    pub(crate) fn modules(&self) -> PathBuf {
        let here = |below: &str| self.tree.join(below).join(&self.release);
        if here("usr/lib/modules").is_dir() { here("usr/lib/modules") } else { here("lib/modules") }
    }

    pub(super) fn read(home: &Path) -> Option<Self> {
        let text = fs::read(home.join("kernel.json")).ok()?;
        let mut kernel: Self = serde_json::from_slice(&text).ok()?;
        kernel.tree = home.join("tree");
        kernel.image().is_ok().then_some(kernel)
    }
}
