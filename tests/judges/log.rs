//! Two logs of real daemons, as `ledger export` writes them: one at two of its states, and another one.

use crate::again::again;
use crate::served;
use crate::{LOAD, STAND_IN};
use std::path::{Path, PathBuf};
use std::time::Duration;
use support::daemon::Daemon;
use support::report;
use support::scene::Scene;

const RULES: &str = "[[allow]]\nhosts = [\"api.openai.com\"]\n\n[[budget]]\nname = \"purse\"\nlimit = \"1000 USD\"\nwindow = \"total\"\n";

/// Where they are.
#[derive(Debug)]
pub(crate) struct Logs {
    /// The log, some hundred records ago.
    pub(crate) older: PathBuf,
    /// The log.
    pub(crate) newer: PathBuf,
    /// Another log.
    pub(crate) other: PathBuf,
    /// The public keys of the log and of the other one.
    pub(crate) keys: [PathBuf; 2],
    /// The log's private keys: a forger who has them can still not change what somebody remembers.
    pub(crate) private: PathBuf,
    /// Receipts: of record 7 in the older and in the newer log, and of another record in the newer one.
    pub(crate) receipts: [PathBuf; 3],
}

impl Logs {
    /// Records in the log.
    pub(crate) fn size(&self) -> u64 {
        size(&self.newer)
    }
}

/// How many records the checkpoint of an exported log covers.
pub(crate) fn size(log: &Path) -> u64 {
    let checkpoint = std::fs::read_to_string(log.join("checkpoint")).expect("a checkpoint");
    checkpoint.lines().nth(1).and_then(|line| line.parse().ok()).expect("a size")
}

/// Makes them below `dir`.
///
/// # Panics
/// When a daemon, the load or an export fails.
pub(crate) fn make(dir: &Path) -> Logs {
    let scene = Scene::new(STAND_IN).expect("the scene stands");
    let (first, second, others) = if report::long() { (9_000, 25_000, 300) } else { (350, 1_300, 320) };
    let logs = Logs {
        older: dir.join("older"),
        newer: dir.join("newer"),
        other: dir.join("other"),
        keys: [dir.join("keys"), dir.join("other-keys")],
        private: dir.join("private"),
        receipts: ["older", "newer", "other"].map(|name| dir.join(format!("{name}.tlog-proof"))),
    };
    let mut daemon = Daemon::start(&scene, RULES);
    grow(&daemon, first, &logs.older);
    prove(&daemon, "7", &logs.receipts[0]);
    grow(&daemon, second, &logs.newer);
    prove(&daemon, "7", &logs.receipts[1]);
    prove(&daemon, "300", &logs.receipts[2]);
    keys(&daemon, &logs.keys[0]);
    std::fs::create_dir(&logs.private).expect("a directory");
    for name in ["ledger-p256.pem", "ledger-ed25519.pem"] {
        let key = daemon.state().join("keeper").join(name);
        std::fs::copy(&key, logs.private.join(name)).unwrap_or_else(|error| panic!("{}: {error}", key.display()));
    }
    daemon.stop();
    again(&daemon, dir);
    served::judged(&mut daemon, dir);
    let mut daemon = Daemon::start(&scene, RULES);
    grow(&daemon, others, &logs.other);
    keys(&daemon, &logs.keys[1]);
    daemon.stop();
    logs
}

/// Adds records until the log has a tile that is not full, as forgeries need one, and exports it.
pub(crate) fn grow(daemon: &Daemon<'_>, requests: u64, to: &Path) {
    let mut more = requests;
    loop {
        let args = ["--clients", "32", "--words", "output=5", "--requests", &more.to_string()];
        let _answered = daemon.run(LOAD).args(args).limit(Duration::from_secs(1_800)).ran().ok();
        let _verified = daemon.caught_up();
        let _written = daemon.command(&["ledger", "export"]).arg(to).ran().ok();
        if !size(to).is_multiple_of(256) {
            return;
        }
        std::fs::remove_dir_all(to).expect("removed");
        more = 1;
    }
}

fn prove(daemon: &Daemon<'_>, index: &str, to: &Path) {
    let _written = daemon.command(&["ledger", "prove", index, "--out"]).arg(to).ran().ok();
}

fn keys(daemon: &Daemon<'_>, to: &Path) {
    let keys = daemon.command(&["ledger", "keys"]).ran().ok().stdout;
    std::fs::write(to, keys).expect("the keys");
}
