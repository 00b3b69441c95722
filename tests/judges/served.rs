//! The log as `caracald ledger serve` gives it over HTTP, before judges that read it there; and keys that were handed over, and
//! details that were erased, before all of them.

use crate::forgeries::{link_missing, sign_again};
use crate::log::{self, size};
use crate::{SUBJECT, panel};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use support::daemon::{Daemon, caracald};
use support::report;
use support::served::Served;

/// Judges of the log of a daemon that has stopped. `dir` is for files of this test.
pub(crate) fn judged(daemon: &mut Daemon<'_>, dir: &Path) {
    let case = |name: &str, url: &str, keys: &str| {
        let case = dir.join(name);
        std::fs::create_dir_all(&case).expect("a directory");
        std::fs::write(case.join("url"), url).expect("written");
        std::fs::write(case.join("keys"), keys).expect("written");
        case
    };
    let first = keys(daemon, &[]);
    report::case(SUBJECT, "caracald ledger serve: judges read the log over HTTP", || {
        let served = Served::start(&daemon.config(), &[]);
        let owner = std::os::unix::fs::MetadataExt::uid(&std::fs::metadata(daemon.state().join("data")).expect("data"));
        assert!(owner != 0 && served.uid() == owner, "it runs as {} and not as {owner}", served.uid());
        let sound = case("served", &served.url, &first);
        // The same ledger with one bit of one record changed.
        let forged = Served::start(&tampered(daemon, dir), &[]);
        let forged_case = case("served, and changed", &forged.url, &first);
        let mut judges = Vec::new();
        for (name, ask) in panel::over_http() {
            let said = ask(&[&sound, &forged_case]);
            assert_eq!(said.get("served"), Some(&Ok(())), "{name}");
            assert!(matches!(said.get("served, and changed"), Some(Err(_))), "{name} takes a changed record");
            judges.push(name);
        }
        assert_eq!(verify(daemon, &["--url", &forged.url]).0, Some(3));
        let report = verify(daemon, &["--url", &served.url]);
        // As it stopped, the daemon may have recorded what it had counted since the export: a refusal, for one.
        let whole = dir.join("whole");
        let _written = daemon.command(&["ledger", "export"]).arg(&whole).ran().ok();
        let leaves = size(&whole);
        assert!(leaves >= size(&dir.join("newer")));
        assert_eq!((report.0, report.1["leaves"].as_u64()), (Some(0), Some(leaves)));
        let mut more = Map::new();
        more.insert("judges".into(), json!(judges));
        more
    });
    report::plain(SUBJECT, "caracald ledger rotate-key: old receipts hold, old keys sign nothing more", || {
        let receipt = dir.join("before.tlog-proof");
        let _written = daemon.command(&["ledger", "prove", "3", "--out"]).arg(&receipt).ran().ok();
        let old = dir.join("old.pub");
        std::fs::write(&old, &first).expect("written");
        // A thief has the keys of before.
        let (keeper, stolen) = (daemon.state().join("keeper"), dir.join("stolen"));
        std::fs::create_dir_all(&stolen).expect("a directory");
        let names = ["ledger-p256.pem", "ledger-ed25519.pem"];
        for name in names {
            std::fs::copy(keeper.join(name), stolen.join(name)).expect("a key");
        }
        let before = size(&dir.join("newer"));
        // While it runs: it signs its next checkpoint with the new keys.
        daemon.restart();
        let said = daemon.command(&["ledger", "rotate-key"]).ran().ok().stdout;
        assert!(said.contains("New keys sign the log"), "{said}");
        log::grow(daemon, 300, &dir.join("rotated"));
        daemon.stop();
        let after = size(&dir.join("rotated"));
        assert!(after > before);
        let (history, new) = (dir.join("history"), dir.join("new.pub"));
        std::fs::write(&history, keys(daemon, &["--history"])).expect("written");
        std::fs::write(&new, keys(daemon, &[])).expect("written");
        let at = |path: &Path| path.to_str().expect("a path").to_owned();
        let (receipt, old, new, history, folder) =
            (at(&receipt), at(&old), at(&new), at(&history), at(&dir.join("rotated")));
        let config = daemon.config();
        let sound = |words: &[&str], sound: bool| {
            let (code, report) = verify_with(&config, words);
            assert_eq!(code, Some(if sound { 0 } else { 3 }), "{words:?}: {report}");
        };
        sound(&["--receipt", &receipt, "--public-key", &history], true);
        sound(&["--receipt", &receipt, "--public-key", &old], true);
        sound(&["--receipt", &receipt, "--public-key", &new], false);
        sound(&[], true);
        sound(&["--folder", &folder, "--public-key", &history], true);
        sound(&["--folder", &folder, "--public-key", &new], true);
        sound(&["--folder", &folder, "--public-key", &old], false);
        sound(&["--folder", &folder, "--public-key", &old, "--history", &history], true);
        let served = Served::start(&daemon.config(), &[]);
        sound(&["--url", &served.url, "--public-key", &history], true);
        // Judges who know nothing of hand-overs read the log with the keys of today, and its hand-over with either.
        let today = case("after a hand-over", &served.url, &keys(daemon, &[]));
        for (name, ask) in panel::over_http() {
            assert_eq!(ask(&[&today]).get("after a hand-over"), Some(&Ok(())), "{name}");
        }
        let forged = dir.join("forged");
        link_missing(Path::new(&folder), &forged);
        let note = std::fs::read_to_string(forged.join("checkpoint")).expect("a checkpoint");
        // The names and ids of the lines are those of the old keys: any checkpoint of theirs has them.
        let like = std::fs::read_to_string(dir.join("newer/checkpoint")).expect("a checkpoint");
        let signed = sign_again(&stolen, &like, &note);
        std::fs::remove_file(forged.join("checkpoint")).expect("removed");
        std::fs::write(forged.join("checkpoint"), signed).expect("written");
        sound(&["--folder", &at(&forged), "--public-key", &old], true);
        sound(&["--folder", &at(&forged), "--public-key", &history], false);
    });
    report::plain(SUBJECT, "caracald ledger erase: unreadable for ever, and the ledger verifies", || {
        let details = |daemon: &Daemon<'_>| {
            let lines = daemon.command(&["ledger", "query", "--json"]).ran().ok().stdout;
            let parsed = lines.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
            let readable =
                |line: &Value| line["record"]["data"]["caracal.agent"].is_string() && line["detail"].is_object();
            parsed.filter(readable).collect::<Vec<_>>()
        };
        daemon.restart();
        let before = details(daemon);
        let agent = before[0]["record"]["data"]["caracal.agent"].as_str().expect("an agent").to_owned();
        let refused = daemon.command(&["ledger", "erase", "--agent", &agent]).ran();
        assert!(refused.code != Some(0) && refused.stderr.contains("--yes"), "{}", refused.screen());
        let of =
            |lines: &[Value]| lines.iter().filter(|line| line["record"]["data"]["caracal.agent"] == *agent).count();
        assert!(of(&before) > 0 && of(&details(daemon)) == of(&before));
        let _said = daemon.command(&["ledger", "erase", "--agent", &agent, "--yes"]).ran().ok();
        assert_eq!(of(&details(daemon)), 0, "a detail of {agent} can be read");
        // The daemon forgot the key too: what it writes from now on can be read.
        log::grow(daemon, 20, &dir.join("erased"));
        let after = of(&details(daemon));
        assert!(after > 0 && after < of(&before), "{after} details can be read, and {} could", of(&before));
        daemon.stop();
        assert_eq!(verify(daemon, &[]).0, Some(0));
        let _said = daemon.command(&["ledger", "erase", "--agent", &agent, "--yes"]).ran().ok();
        assert_eq!(of(&details(daemon)), 0, "a detail of {agent} can be read");
        let again = daemon.command(&["ledger", "erase", "--agent", &agent, "--yes"]).ran();
        assert!(again.code != Some(0) && again.stderr.contains("there is no key"), "{}", again.screen());
    });
    report::plain(
        SUBJECT,
        "caracald ledger freeze: the log in its place names the old one first and has all of it",
        || {
            let old = daemon.state().join("data/ledger.sqlite");
            let (before, spent) = (verify(daemon, &[]).1, daemon.command(&["spend", "--json"]).ran().ok().stdout);
            let said = daemon.command(&["ledger", "freeze", "--yes"]).ran().ok().stdout;
            assert!(said.contains("took its place"), "{said}");
            let first = daemon.command(&["ledger", "query", "--json"]).ran().ok().stdout;
            let first: Value = serde_json::from_str(first.lines().next().expect("a record")).expect("JSON");
            assert_eq!(first["record"]["type"], "caracal.succession.v1");
            let origin = first["record"]["data"]["caracal.predecessor.origin"].as_str().expect("an origin");
            assert!(old.exists() && origin.starts_with("caracal/") && !origin.contains('.'), "{origin}");
            assert_eq!(daemon.command(&["spend", "--json"]).ran().ok().stdout, spent, "the same is spent");
            daemon.restart();
            log::grow(daemon, 20, &dir.join("anew"));
            daemon.stop();
            let (code, report) = verify(daemon, &[]);
            assert_eq!(code, Some(0), "{report}");
            assert!(report["leaves"].as_u64() > before["leaves"].as_u64());
            let today = keys(daemon, &[]);
            assert!(today.contains(".2/ledger+"), "{today}");
            let served = Served::start(&daemon.config(), &[]);
            let anew = case("in the place of a frozen log", &served.url, &today);
            for (name, ask) in panel::over_http() {
                assert_eq!(ask(&[&anew]).get("in the place of a frozen log"), Some(&Ok(())), "{name}");
            }
        },
    );
}

fn keys(daemon: &Daemon<'_>, words: &[&str]) -> String {
    daemon.command(&[&["ledger", "keys"], words].concat()).ran().ok().stdout
}

/// On this test's own network: that is where the log is served.
fn verify(daemon: &Daemon<'_>, words: &[&str]) -> (Option<i32>, Value) {
    verify_with(&daemon.config(), words)
}

fn verify_with(config: &Path, words: &[&str]) -> (Option<i32>, Value) {
    let mut verify = Command::new(caracald());
    verify.arg("--config").arg(config).args(["ledger", "verify", "--json"]).args(words);
    let output = verify.output().expect("caracald starts");
    let said = String::from_utf8_lossy(&output.stdout);
    (output.status.code(), serde_json::from_str(said.lines().next().unwrap_or_default()).unwrap_or_default())
}

/// A configuration of a ledger like the daemon's, in which one record is another one.
fn tampered(daemon: &Daemon<'_>, dir: &Path) -> PathBuf {
    const CHANGE: &str = "import sqlite3, sys\n\
        base = sqlite3.connect(sys.argv[1])\n\
        base.execute('DROP TRIGGER events_keep_update')\n\
        first, data = base.execute('SELECT first, data FROM events ORDER BY first LIMIT 1 OFFSET 1').fetchone()\n\
        data = bytearray(data)\n\
        data[-9] ^= 1\n\
        base.execute('UPDATE events SET data = ? WHERE first = ?', (bytes(data), first))\n\
        base.commit()\n";
    let state = dir.join("tampered");
    std::fs::create_dir_all(state.join("data")).expect("a directory");
    let file = state.join("data/ledger.sqlite");
    std::fs::copy(daemon.state().join("data/ledger.sqlite"), &file).expect("a ledger");
    let changed = Command::new("/usr/bin/python3").args(["-c", CHANGE]).arg(&file).status().expect("python3 starts");
    assert!(changed.success(), "the ledger was not changed");
    let config = dir.join("tampered.toml");
    std::fs::write(&config, format!("state_dir = \"{}\"\n", state.display())).expect("written");
    config
}
