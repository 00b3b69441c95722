//! A new binary takes the old one's place: the door is shut in between, and never open beside the daemon.

use crate::{PROBE, RULES, case};
use std::process::Stdio;
use std::time::Duration;
use support::daemon::Cgroup;
use support::netns::until;
use support::wire::CANARY_PORT;

#[test]
fn an_update_of_the_binary_leaves_no_gap() {
    case("an update of the binary", RULES, |scene, daemon| {
        let cgroup = Cgroup::new();
        let to = format!("203.0.113.10:{CANARY_PORT}");
        let attempt = || scene.agent(PROBE).user(0).cgroup(&cgroup.path()).args(["tcp", &to]).ran();
        assert_eq!(attempt().code, Some(0), "the control does not get out");
        assert!(!scene.wire.packets().is_empty(), "the judge does not see the control");
        let binary = scene.net.files().join("caracald");
        let version = |number: u8| support::installed::replace(&binary, &[number; 16]);
        version(1);
        daemon.install(&binary);
        daemon.attach(&cgroup.path());
        daemon.restart();
        scene.wire.clear();
        let ca = daemon.ca();
        let allowed = || {
            let run = scene.agent("curl").cgroup(&cgroup.path()).args(["-sS", "-o", "/dev/null", "-w", "%{http_code}"]);
            run.args(["--max-time", "10", "--cacert"]).arg(&ca).arg("https://example.com/hello").ran().stdout
        };
        assert_eq!(allowed(), "200");
        // Somebody in the cgroup tries all the time.
        let tried = scene.home.path().join("tried");
        let tries = || std::fs::read_to_string(&tried).map_or(0, |text| text.lines().count());
        let line = format!("while :; do {PROBE} tcp {to}; echo $? >> {}; done", tried.display());
        let run = scene.agent("sh").cgroup(&cgroup.path()).args(["-c", &line]);
        let mut insistent = run.spawn(Stdio::null(), Stdio::null()).expect("a process in the cgroup");
        let more_tries = || {
            let before = tries();
            until("attempts", Duration::from_secs(60), || tries() > before + 3).expect("it tries");
        };
        for number in 2..4 {
            more_tries();
            version(number);
            // The old one goes on until it is told to stop.
            assert_eq!(allowed(), "200");
            daemon.stop();
            more_tries();
            assert_ne!(allowed(), "200", "the door is open without a daemon");
            daemon.restart();
            assert_eq!(allowed(), "200");
        }
        more_tries();
        let _dead = insistent.kill();
        let _status = insistent.wait();
        let codes = std::fs::read_to_string(&tried).expect("what became of the attempts");
        assert!(codes.lines().all(|code| code != "0"), "an attempt was answered: {codes}");
        scene.wire.silent();
        // The new one's ledger goes on where the old one's had signed.
        until("the ledger goes on", Duration::from_secs(30), || {
            let ledger = &daemon.json(&["status"])["data_path"]["ledger"];
            ledger["trouble"].is_null() && ledger["size"].as_u64() > Some(0) && ledger["size"] == ledger["checkpoint"]
        })
        .unwrap_or_else(|_| panic!("{}\n{}", daemon.json(&["status"])["data_path"]["ledger"], daemon.logs()));
        let _ran = daemon.verify();
        daemon.stop();
    });
}
