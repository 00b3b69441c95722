//! What commands show of a running daemon: events as they come, and the local CA.

use crate::{RULES, case};
use std::process::Stdio;
use std::time::Duration;
use support::ledger::Record;
use support::netns::until;

const PATIENCE: Duration = Duration::from_secs(60);

#[test]
fn events_are_followed_as_they_are_written() {
    case("events --follow", RULES, |scene, daemon| {
        daemon.restart();
        let refuse = |path: &str| {
            let url = format!("https://denied.example{path}");
            daemon.run("curl").args(["-sS", "-o", "/dev/null", &url]).ran()
        };
        let refused = |records: &[Record], path: &str| {
            records
                .iter()
                .filter(|record| record.is_denial("host_not_allowed") && record.detail["path"] == path)
                .count()
        };
        let _ran = refuse("/before");
        let _recorded = daemon.records_when(|records| refused(records, "/before") == 1);

        let out = scene.file("followed", "");
        let to = std::fs::OpenOptions::new().append(true).open(&out).expect("a file");
        let follow = daemon.command(&["events", "--follow", "--json"]);
        let mut following = follow.spawn(Stdio::from(to), Stdio::null()).expect("caracald starts");
        let shown = |path: &str| {
            let text = std::fs::read_to_string(&out).unwrap_or_default();
            // The last line may be half written.
            let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
            if whole.is_empty() { 0 } else { refused(&Record::read(whole), path) }
        };
        until("what was there is shown", PATIENCE, || shown("/before") == 1).expect("the first");
        let _ran = refuse("/after");
        until("what comes is shown", PATIENCE, || shown("/after") == 1).expect("the second");
        assert!(following.try_wait().is_ok_and(|ended| ended.is_none()), "it goes on");
        following.kill().expect("ended");
        let _status = following.wait();
        assert_eq!((shown("/before"), shown("/after")), (1, 1), "each once");
        daemon.stop();
    });
}

#[test]
fn the_ca_that_is_shown_is_the_one_that_is_exported() {
    case("ca show", RULES, |scene, daemon| {
        daemon.restart();
        let file = scene.net.files().join("exported.pem");
        let _written = daemon.command(&["ca", "export", "--out"]).arg(&file).ran().ok();
        let openssl =
            scene.agent("openssl").user(0).args(["x509", "-noout", "-fingerprint", "-sha256", "-subject", "-in"]);
        let judge = openssl.arg(&file).ran().ok().stdout;
        let fingerprint = judge.lines().find_map(|line| line.split_once("ingerprint=")).expect("a fingerprint").1;
        let shown = daemon.json(&["ca", "show"]);
        let ours = shown["sha256"].as_str().expect("a fingerprint");
        let bare = |text: &str| text.replace(':', "").to_lowercase();
        assert_eq!(bare(ours), bare(fingerprint), "{shown} and {judge}");
        let table = daemon.command(&["ca", "show"]).ran().ok().stdout;
        for part in [ours, shown["subject"].as_str().expect("a subject"), "not before", "not after"] {
            assert!(table.contains(part), "{part} is not in {table}");
        }
        daemon.stop();
    });
}
