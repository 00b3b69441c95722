//! The program under test, installed where a test may replace it as a package manager does: another file takes the name, and
//! what runs keeps the old one.

use crate::daemon::caracald;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A copy of the program in a directory of its own, which goes with this.
#[derive(Debug)]
pub struct Installed {
    _place: tempfile::TempDir,
    binary: PathBuf,
}

impl Installed {
    /// Installs it beside the one under test.
    ///
    /// # Panics
    /// When it cannot.
    #[must_use]
    #[expect(clippy::new_without_default, reason = "it copies a large file")]
    pub fn new() -> Installed {
        let program = caracald();
        let beside = program.parent().expect("a directory");
        let place = tempfile::Builder::new().prefix("caracal-installed-").tempdir_in(beside).expect("a directory");
        crate::netns::open_to_all(place.path()).expect("its mode");
        let installed = Installed { binary: place.path().join("caracald"), _place: place };
        installed.replace();
        installed
    }

    /// Where it is.
    #[must_use]
    pub fn binary(&self) -> &Path {
        &self.binary
    }

    /// Another file takes its name.
    ///
    /// # Panics
    /// When it cannot.
    pub fn replace(&self) {
        replace(&self.binary, b"");
    }
}

/// Puts the program at `path`, with some bytes `behind` its end, which nobody reads: another version.
///
/// # Panics
/// When it cannot.
pub fn replace(path: &Path, behind: &[u8]) {
    let fresh = path.with_extension("new");
    // By another process: a child that is being started here would hold a copy of the descriptor, and the program be busy.
    let line = r#"cp "$0" "$1" && cat >> "$1""#;
    let mut copy = Command::new("sh");
    copy.args(["-c", line]).arg(caracald()).arg(&fresh).stdin(Stdio::piped());
    let mut copying = copy.spawn().expect("sh");
    copying.stdin.take().expect("its input").write_all(behind).expect("written");
    assert!(copying.wait().expect("its end").success());
    std::fs::rename(&fresh, path).expect("it takes the name");
}
