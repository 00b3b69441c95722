//! Starts that cannot work.

use crate::{RULES, case, fails};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::process::{Command, Stdio};
use std::time::Duration;
use support::daemon::{Cgroup, caracald};
use support::ledger::Record;
use support::netns::until;

#[test]
fn not_root() {
    case("not root", RULES, |scene, daemon| {
        let config = daemon.config();
        fails(
            scene.agent(caracald()).arg("--config").arg(config).arg("attach").limit(Duration::from_secs(30)).ran(),
            &["root"],
        );
    });
}

#[test]
fn an_unknown_key_is_named_with_its_line() {
    case("unknown configuration key", "[listen]\ntcp_prot = 1\n", |_, daemon| {
        let code = fails(daemon.command(&["policy", "check"]).ran(), &["tcp_prot", "caracal.toml"]);
        assert_eq!(
            fails(daemon.command(&["attach"]).ran(), &["tcp_prot"]),
            code,
            "the same mistake has the same exit code"
        );
    });
}

#[test]
fn malformed_cedar_is_named_with_its_file() {
    case("malformed Cedar", "[policy]\ncedar = [\"bad.cedar\"]\n", |_, daemon| {
        let file = daemon.config().with_file_name("bad.cedar");
        std::fs::write(&file, "permit(principal, action resource);\n").expect("a policy");
        fails(daemon.command(&["policy", "check"]).ran(), &["bad.cedar"]);
    });
}

#[test]
fn a_missing_configuration_is_named() {
    case("no configuration", RULES, |scene, _| {
        let run =
            scene.net.a.run(caracald()).clean_env().args(["--config", "/nowhere/caracal.toml", "policy", "check"]);
        fails(run.ran(), &["/nowhere/caracal.toml"]);
    });
}

#[test]
fn a_taken_port_is_named() {
    case("port taken", "[listen]\ntcp_port = 15999\n", |scene, daemon| {
        let _held = scene.net.a.inside(|| Ok(TcpListener::bind("127.0.0.1:15999")?)).expect("the port");
        fails(daemon.command(&["attach"]).limit(Duration::from_secs(30)).ran(), &["15999"]);
    });
}

#[test]
fn a_path_that_is_no_cgroup_is_named() {
    case("not a cgroup", RULES, |_, daemon| {
        for path in ["/tmp", "/sys/fs/cgroup/no-such-cgroup"] {
            fails(
                daemon.command(&["attach", "--cgroup", path]).limit(Duration::from_secs(30)).ran(),
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
            fails(daemon.command(&["attach", "--cgroup", &again]).limit(Duration::from_secs(30)).ran(), &[says]);
        }
        let agents = |daemon: &support::daemon::Daemon<'_>| {
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

#[test]
fn a_key_that_others_can_read_is_refused() {
    case("world-readable CA key", RULES, |scene, daemon| {
        daemon.restart();
        daemon.stop();
        let found = scene.net.a.shell(&format!("find {} -name ca.key", daemon.state().display())).expect("find");
        let key = std::path::PathBuf::from(found.trim());
        assert_eq!(std::fs::metadata(&key).expect("the CA key").permissions().mode() & 0o777, 0o600);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).expect("its mode");
        fails(daemon.command(&["attach"]).limit(Duration::from_secs(30)).ran(), &["ca.key", "chmod"]);
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).expect("its mode");
        daemon.restart();
        daemon.stop();
    });
}

#[test]
fn a_second_daemon_is_told_of_the_first() {
    case("already running", RULES, |_, daemon| {
        daemon.restart();
        fails(daemon.command(&["attach"]).limit(Duration::from_secs(30)).ran(), &["already"]);
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
        let ran = daemon.run(support::programs::python()).args(["-c", script]).ran().ok();
        assert!(ran.stdout.contains("garbage: done"), "{}", ran.screen());
        assert_eq!(scene.log("request").len(), 0, "something was let through: {:?}", scene.log("request"));
        let ran = daemon.run("curl").args(["-sS", "https://example.com/hello"]).ran().ok();
        assert!(ran.stdout.contains("hello"));
        until("the refusals are recorded", Duration::from_secs(10), || {
            daemon.records().iter().any(|record| record.text("caracal.decision") == "deny")
        })
        .expect("a record");
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
            fails(daemon.command(args).ran(), &["was a daemon ever started with this configuration"]);
        }
    });
}
