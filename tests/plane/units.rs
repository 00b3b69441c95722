//! The units of the workers and of what serves logs: systemd itself reads them, and says how much they leave open.

use crate::SUBJECT;
use std::path::Path;
use std::process::Command;
use support::daemon::caracald;
use support::report;

/// Above this, in tenths, systemd calls a unit's exposure more than OK.
const EXPOSURE: &str = "22";

#[test]
fn the_workers_units_are_what_systemd_takes() {
    report::plain(SUBJECT, "systemd units of the workers and of what serves logs", || {
        let all: [(&str, &[&str]); 3] = [
            ("ledger", &["worker", "ledger"]),
            ("spend", &["worker", "spend"]),
            ("serve", &["ledger", "serve", "--fleet"]),
        ];
        for (kind, command) in all {
            let name = format!("caracal-{kind}.service");
            let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd").join(&name);
            let unit = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
            let line =
                |key: &str| unit.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('=')).unwrap_or("");
            let words: Vec<&str> = line("ExecStart").split_whitespace().collect();
            assert!(words[0] == "/usr/bin/caracald" && words[1..].starts_with(command), "{words:?}");
            let known = Command::new(caracald()).args(&words[1..]).arg("--help").output().expect("caracald runs");
            assert!(known.status.success(), "{}", String::from_utf8_lossy(&known.stderr));
            assert_eq!(
                (line("Restart"), line("NoNewPrivileges"), line("CapabilityBoundingSet")),
                ("always", "yes", "")
            );
            let there = Command::new("systemd-analyze").arg("--version").output();
            there.unwrap_or_else(|error| panic!("systemd-analyze: {error}; `cargo xtask test plane` installs it"));
            let dir = tempfile::tempdir().expect("a directory");
            let installed = unit
                .replace("/usr/bin/caracald", &caracald().display().to_string())
                .replace("caracal-worker", "daemon")
                .replace("Documentation=", "#");
            let analyze = |text: &str, words: &[&str]| {
                let file = dir.path().join(&name);
                std::fs::write(&file, text).expect("a unit");
                let said = Command::new("systemd-analyze").args(words).arg(&file).output().expect("it runs");
                (said.status.success(), String::from_utf8_lossy(&said.stderr).into_owned())
            };
            let verify = ["verify", "--man=no"];
            let (good, said) = analyze(&installed, &verify);
            assert!(good && said.is_empty(), "{said}");
            let (_, said) = analyze(&installed.replace("ProtectSystem=strict", "ProtectSistem=strict"), &verify);
            assert!(said.contains("ProtectSistem"), "a word that systemd does not know goes unseen: {said}");
            let security = ["security", "--offline=yes", "--threshold", EXPOSURE];
            let (closed, said) = analyze(&installed, &security);
            assert!(closed, "{said}");
            let open = installed.lines().filter(|line| !line.starts_with("Protect") && !line.starts_with("SystemCall"));
            let (closed, _) = analyze(&open.collect::<Vec<_>>().join("\n"), &security);
            assert!(!closed, "an open unit goes unseen");
        }
    });
}
