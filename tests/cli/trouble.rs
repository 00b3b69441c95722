//! Starts that cannot work.

use crate::{NO, NOT_PERMITTED, RULES, SYSTEM, USAGE, case, fails};
use serde_json::Value;
use std::collections::BTreeMap;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::daemon::{Cgroup, Daemon, caracald};
use support::ledger::Record;
use support::netns::until;
use support::scene::Scene;

#[test]
fn not_root() {
    case("not root", RULES, |scene, daemon| {
        let config = daemon.config();
        fails(
            scene.agent(caracald()).arg("--config").arg(config).arg("attach").limit(Duration::from_secs(30)).ran(),
            NOT_PERMITTED,
            &["this needs root: run it with sudo"],
        );
    });
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    case("unknown configuration key", "[listen]\ntcp_prot = 1\n", |_, daemon| {
        for command in [&["policy", "check"][..], &["attach"]] {
            fails(daemon.command(command).ran(), USAGE, &["tcp_prot", "caracal.toml"]);
        }
    });
}

#[test]
fn malformed_cedar_is_named_with_its_file() {
    case("malformed Cedar", "[policy]\ncedar = [\"bad.cedar\"]\n", |_, daemon| {
        let file = daemon.config().with_file_name("bad.cedar");
        std::fs::write(&file, "permit(principal, action resource);\n").expect("a policy");
        fails(daemon.command(&["policy", "check"]).ran(), USAGE, &["bad.cedar"]);
    });
}

#[test]
fn a_missing_configuration_is_named() {
    case("no configuration", RULES, |scene, _| {
        let run =
            scene.net.a.run(caracald()).clean_env().args(["--config", "/nowhere/caracal.toml", "policy", "check"]);
        fails(run.ran(), USAGE, &["/nowhere/caracal.toml"]);
    });
}

#[test]
fn a_taken_port_is_named() {
    case("port taken", "[listen]\ntcp_port = 15999\n", |scene, daemon| {
        let _held = scene.net.a.inside(|| Ok(TcpListener::bind("127.0.0.1:15999")?)).expect("the port");
        fails(daemon.command(&["attach"]).limit(Duration::from_secs(30)).ran(), SYSTEM, &["15999"]);
    });
}

#[test]
fn a_path_that_is_no_cgroup_is_named() {
    case("not a cgroup", RULES, |_, daemon| {
        for path in ["/tmp", "/sys/fs/cgroup/no-such-cgroup"] {
            fails(
                daemon.command(&["attach", "--cgroup", path]).limit(Duration::from_secs(30)).ran(),
                USAGE,
                &[path, "cgroup"],
            );
        }
    });
}

#[test]
fn a_governed_cgroup_is_not_governed_twice() {
    case("cgroup already governed", RULES, |_, daemon| {
        let cgroup = Cgroup::new();
        let (path, inside) = (cgroup.path(), cgroup.path().join("inside"));
        std::fs::create_dir(&inside).expect("a cgroup below");
        daemon.attach(&path);
        daemon.restart();
        let slice = support::daemon::cgroup_mount().join(format!("{}.slice", daemon.instance()));
        for (again, says) in [(&path, "governed already"), (&inside, "governed already"), (&slice, "slice")] {
            let again = again.display().to_string();
            fails(daemon.command(&["attach", "--cgroup", &again]).limit(Duration::from_secs(30)).ran(), NO, &[says]);
        }
        let agents = |daemon: &Daemon<'_>| {
            let status = daemon.json(&["status"]);
            status["agents"].as_array().map(Vec::len).unwrap_or_default()
        };
        assert_eq!(agents(daemon), 1, "{}", daemon.json(&["status"]));
        // A restart adopts it, and being told of it again is no mistake then.
        daemon.stop();
        daemon.restart();
        assert_eq!(agents(daemon), 1, "{}", daemon.json(&["status"]));
        daemon.stop();
    });
}

#[test]
fn a_body_that_two_readers_read_differently_is_refused() {
    let rules = "[[allow]]\nhosts = [\"api.openai.com\"]\n\n[[budget]]\nname = \"purse\"\nlimit = \"1 USD\"\nwindow = \"day\"\n";
    case("duplicate JSON keys on a priced host", rules, |scene, daemon| {
        daemon.restart();
        let ask = |body: &str| {
            let run = daemon.run("curl").args(["-sS", "-D", "-", "https://api.openai.com/v1/chat/completions"]);
            run.args(["-H", "Authorization: Bearer x", "-H", "Content-Type: application/json", "-d", body]).ran().ok()
        };
        let body = |more: &str| {
            format!(
                r#"{{"model":"gpt-4.1-mini","max_tokens":16,"messages":[{{"role":"user","content":"hello"}}]{more}}}"#
            )
        };
        for more in
            [r#","model":"gpt-5""#, r#","max_tokens":100000"#, r#","max_\u0074okens":100000"#, r#","n":1,"n":50"#]
        {
            let said = ask(&body(more)).stdout.to_lowercase();
            assert!(said.starts_with("http/2 400"), "{more}: {said}");
            assert!(said.contains("x-caracal-reason: ambiguous_request"), "{more}: {said}");
        }
        assert_eq!(scene.requests("api.openai.com", "/v1/chat/completions"), 0, "something was let through");
        assert_eq!(scene.bill().len(), 0);
        // The control: each key once.
        let said = ask(&body("")).stdout.to_lowercase();
        assert!(said.starts_with("http/2 200"), "{said}");
        let refused = |records: &[Record]| -> u64 {
            records.iter().filter(|record| record.is_denial("ambiguous_request")).map(Record::count).sum()
        };
        let records = daemon.records_when(|records| refused(records) >= 4 && records.iter().any(Record::is_outcome));
        assert_eq!(refused(&records), 4, "each refusal is recorded once: {records:#?}");
        daemon.stop();
    });
}

/// The CA key that a first start made; the daemon is stopped again.
fn made_key(scene: &Scene, daemon: &mut Daemon<'_>) -> std::path::PathBuf {
    daemon.restart();
    daemon.stop();
    let found = scene.net.a.shell(&format!("find {} -name ca.key", daemon.state().display())).expect("find");
    found.trim().into()
}

#[test]
fn a_key_that_others_can_read_is_refused() {
    case("world-readable CA key", RULES, |scene, daemon| {
        let key = made_key(scene, daemon);
        assert_eq!(std::fs::metadata(&key).expect("the CA key").permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("its mode");
        fails(daemon.command(&["attach"]).limit(Duration::from_secs(30)).ran(), SYSTEM, &["ca.key", "chmod"]);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        daemon.restart();
        daemon.stop();
    });
}

#[test]
fn a_key_that_is_none_is_named_with_what_to_do() {
    case("empty, malformed and missing CA key", RULES, |scene, daemon| {
        let key = made_key(scene, daemon);
        let good = std::fs::read(&key).expect("the CA key");
        let attach = || daemon.command(&["attach"]).limit(Duration::from_secs(30)).ran();
        let path = key.display().to_string();
        let half = good.get(..good.len() / 2).expect("half of it");
        for bad in [&b""[..], b"\x00\xffgarbage\n", half] {
            std::fs::write(&key, bad).expect("a bad key");
            fails(attach(), SYSTEM, &[&path, "is not a private key in PEM", "restore it"]);
        }
        std::fs::remove_file(&key).expect("removed");
        fails(attach(), SYSTEM, &[&path, "is missing while ca.pem is there: restore it, or remove ca.pem"]);
        assert!(!key.exists(), "a key that was lost is not made again unasked");
        std::fs::write(&key, good).expect("the CA key");
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        daemon.restart();
        daemon.stop();
    });
}

#[test]
fn a_host_without_cgroup_v2_is_told_how_to_have_it() {
    case("no cgroup v2", RULES, |scene, daemon| {
        // In a mount namespace of its own, which ends with the command.
        let line = "while umount -l -t cgroup2 -a 2>/dev/null && grep -q ' cgroup2 ' /proc/self/mounts; do :; done; exec \"$@\"";
        let run = scene.net.a.run("unshare").clean_env().args([
            "--mount",
            "--propagation",
            "private",
            "sh",
            "-c",
            line,
            "sh",
        ]);
        let run = run.arg(caracald()).arg("--config").arg(daemon.config()).arg("attach");
        let words = ["no cgroup v2 is mounted", "mount -t cgroup2 none /sys/fs/cgroup"];
        fails(run.limit(Duration::from_secs(60)).ran(), USAGE, &words);
        // Here it is as it was.
        daemon.restart();
        daemon.stop();
    });
}

#[test]
fn a_second_daemon_is_told_of_the_first() {
    case("already running", RULES, |_, daemon| {
        daemon.restart();
        fails(daemon.command(&["attach"]).limit(Duration::from_secs(30)).ran(), NO, &["the daemon is running already"]);
        let ran = daemon.run("true").ran();
        assert_eq!(ran.code, Some(0), "the first one suffered: {}", ran.screen());
        daemon.stop();
    });
}

#[test]
fn bytes_that_are_no_http_do_no_harm() {
    case("TLS garbage, half-open clients, malformed heads", RULES, |scene, daemon| {
        daemon.restart();
        let script = include_str!("../programs/garbage.py");
        let run = daemon.run(support::programs::python()).args(["-c", script]);
        let ran = run.limit(Duration::from_secs(180)).ran().ok();
        assert!(ran.stdout.contains("garbage: done"), "{}", ran.screen());
        let lines = ran.stdout.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let told: Vec<Value> = lines.filter(|line| line["name"].is_string()).collect();
        // What each is told: nothing where there is no HTTP, and the connection is closed. The reason is in the record.
        let expected = [
            ("half a hello", None, "tls_agent"),
            ("a record without end", None, "tls_agent"),
            ("zeros", None, "protocol_unknown"),
            ("ssh", None, "protocol_unknown"),
            ("long, in the clear", Some("400"), "head_invalid"),
            ("two framings", Some("400"), "ambiguous_request"),
            ("two hosts", Some("400"), "ambiguous_request"),
            ("a folded line", Some("400"), "ambiguous_request"),
            ("two lengths", Some("400"), "ambiguous_request"),
            ("a space before a colon", Some("400"), "ambiguous_request"),
            ("long", Some("400"), "head_invalid"),
        ];
        assert_eq!(told.len(), expected.len(), "{told:#?}");
        for (line, (name, status, reason)) in told.iter().zip(expected) {
            assert_eq!((line["name"].as_str(), line["status"].as_str()), (Some(name), status), "{line}");
            assert_eq!(line["reason"].as_str(), status.map(|_| reason), "{line}");
            let long = line["body"].as_str().is_some_and(|body| body.contains("its head is longer than 64 KB"));
            assert_eq!(long, name.starts_with("long"), "{line}");
        }
        assert_eq!(scene.log("request").len(), 0, "something was let through: {:?}", scene.log("request"));
        let ran = daemon.run("curl").args(["-sS", "https://example.com/hello"]).ran().ok();
        assert!(ran.stdout.contains("hello"));
        // Each once, and nothing else: the idle ones that said nothing were refused nothing.
        let refused = |records: &[Record]| {
            let mut reasons = BTreeMap::new();
            for record in records.iter().filter(|record| record.text("caracal.decision") == "deny") {
                *reasons.entry(record.text("caracal.reason").to_owned()).or_insert(0) += record.count();
            }
            reasons
        };
        let mut counts = BTreeMap::new();
        for (_, _, reason) in expected {
            *counts.entry(reason.to_owned()).or_insert(0_u64) += 1;
        }
        let all = expected.len() as u64;
        let records = daemon.records_when(|records| refused(records).values().sum::<u64>() >= all);
        assert_eq!(refused(&records), counts);
        daemon.stop();
    });
}

#[test]
fn a_reader_that_leaves_ends_a_command_quietly() {
    case("output into a closed pipe", RULES, |_, daemon| {
        let config = daemon.config();
        let left = |args: &[&str]| {
            // Nobody will ever read: the first write fails.
            let (reader, writer) = std::io::pipe().expect("a pipe");
            drop(reader);
            let mut command = Command::new(caracald());
            command.arg("--config").arg(&config).args(args).stdin(Stdio::null()).stdout(writer);
            let out = command.stderr(Stdio::piped()).output().expect("it ran");
            assert_eq!(String::from_utf8_lossy(&out.stderr), "", "{args:?}");
            out.status.signal()
        };
        for args in [
            &["prices", "show"][..],
            &["prices", "show", "--toml"],
            &["policy", "check"],
            &["completions", "bash"],
            &["help", "attach"],
        ] {
            assert_eq!(left(args), Some(libc::SIGPIPE), "{args:?}");
        }
        daemon.restart();
        let query = ["ledger", "query", "--json"];
        let recorded = || !daemon.command(&query).ran().stdout.is_empty();
        until("a record in the ledger", Duration::from_secs(60), recorded).expect("its start is one");
        for args in [&["status"][..], &["events"], &["spend", "--json"], &query] {
            assert_eq!(left(args), Some(libc::SIGPIPE), "{args:?}");
        }
        // With a reader they end as ever.
        let _said = daemon.command(&["spend"]).ran().ok();
        daemon.stop();
    });
}

#[test]
fn without_a_ledger_nothing_is_said_to_be_spent() {
    case("no ledger", RULES, |_, daemon| {
        for args in [&["spend"][..], &["events"], &["spend", "reconcile", "/dev/null"], &["ledger", "verify"]] {
            fails(daemon.command(args).ran(), NO, &["was a daemon ever started with this configuration"]);
        }
    });
}
