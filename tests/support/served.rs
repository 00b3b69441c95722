//! A log that `caracald ledger serve` serves.

use crate::daemon::caracald;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// The server. It ends when dropped.
#[derive(Debug)]
pub struct Served {
    child: Child,
    /// Where: `http://127.0.0.1:PORT`.
    pub url: String,
}

impl Served {
    /// Serves the log of this configuration; with `--fleet` among `words`, all logs.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(config: &Path, words: &[&str]) -> Served {
        let mut child = Command::new(caracald())
            .arg("--config")
            .arg(config)
            .args(["ledger", "serve", "--listen", "127.0.0.1:0"])
            .args(words)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("caracald starts");
        let mut line = String::new();
        BufReader::new(child.stdout.take().expect("its output")).read_line(&mut line).expect("a line");
        let after = line.split_once("http://").map(|(_, after)| after);
        let place = after.and_then(|after| after.split('/').next()).unwrap_or_else(|| panic!("it says {line:?}"));
        Served { child, url: format!("http://{place}") }
    }

    /// The user that it runs as.
    ///
    /// # Panics
    /// When it has ended.
    #[must_use]
    pub fn uid(&self) -> u32 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find(|line| line.starts_with("Uid:")).expect("its user");
        line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}
