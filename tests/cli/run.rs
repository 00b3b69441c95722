//! `caracald run`: exit codes, signals, environment, and what a governed process may not do.

use crate::{RULES, UNAVAILABLE, case, fails};
use std::os::unix::fs::PermissionsExt as _;
use support::daemon::caracald;

#[test]
fn exit_codes_and_signals_pass_through() {
    case("exit codes pass through", RULES, |_, daemon| {
        daemon.restart();
        for (line, code) in [("exit 0", 0), ("exit 7", 7), ("exit 255", 255)] {
            let ran = daemon.run("sh").args(["-c", line]).ran();
            assert_eq!(ran.code, Some(code), "{line}: {}", ran.screen());
        }
        // Died of the same signal, or told as a shell tells it.
        let ran = daemon.run("sh").args(["-c", "kill -TERM $$"]).ran();
        assert!(matches!(ran.code, None | Some(143)), "{}", ran.screen());
        let ran = daemon.run("/no/such/program").ran();
        assert_eq!(ran.code, Some(127), "{}", ran.screen());
        daemon.stop();
    });
}

#[test]
fn user_directory_and_environment_are_kept() {
    case("user, directory and environment are kept", RULES, |scene, daemon| {
        daemon.restart();
        let ran = daemon
            .run("sh")
            .args(["-c", "id -u; pwd; echo $MARK; cat /proc/self/status | grep NoNewPrivs"])
            .env("MARK", "kept")
            .ran()
            .ok();
        let expected =
            format!("{}\n{}\nkept\nNoNewPrivs:\t1\n", support::netns::AGENT_UID, scene.home.path().display());
        assert_eq!(ran.stdout, expected, "{}", ran.stderr);
        daemon.stop();
    });
}

#[test]
fn rights_of_supplementary_groups_are_kept() {
    case("files of a supplementary group", RULES, |scene, daemon| {
        daemon.restart();
        const GROUP: u32 = 4_243;
        let file = scene.file("shared-by-a-group", "of the group\n");
        std::os::unix::fs::chown(&file, Some(0), Some(GROUP)).expect("its group");
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o640)).expect("its mode");
        let read = |groups: &str| {
            let user = support::netns::AGENT_UID.to_string();
            let run = scene.agent("setpriv").user(0).args(["--reuid", &user, "--regid", &user, groups]);
            let run = run.arg(caracald()).arg("--config").arg(daemon.config());
            run.args(["run", "--quiet", "--agent", "scout", "--", "cat"]).arg(&file).ran()
        };
        assert_eq!(read(&format!("--groups={GROUP}")).ok().stdout, "of the group\n");
        let without = read("--clear-groups");
        assert!(without.code != Some(0) && without.stderr.contains("Permission denied"), "{}", without.screen());
        daemon.stop();
    });
}

#[test]
fn what_was_refused_is_listed_with_the_line_that_allows_it() {
    case("the summary at exit", RULES, |_, daemon| {
        daemon.restart();
        let ran = daemon.run("curl").args(["-sS", "-o", "/dev/null", "https://denied.example/"]).ran();
        assert!(ran.stderr.contains("denied.example") && ran.stderr.contains("[[allow]]"), "{}", ran.screen());
        daemon.stop();
    });
}

#[test]
fn a_refused_host_is_listed_once() {
    case("one line for one refused host", RULES, |_, daemon| {
        daemon.restart();
        let ran = daemon.run("curl").args(["-sS", "https://denied.example/one", "https://denied.example/two"]).ran();
        let lines: Vec<&str> = ran.stderr.lines().filter(|line| line.contains("refused denied.example")).collect();
        assert!(matches!(lines.as_slice(), [line] if line.contains("2 times")), "{}", ran.screen());
        daemon.stop();
    });
}

#[test]
fn learn_prints_the_policy_that_would_have_sufficed() {
    case("--learn", RULES, |scene, daemon| {
        daemon.restart();
        let urls = ["https://other.example/hello", "http://denied.example/hello"];
        let upload = ["--next", "-sS", "-d", "x", "https://other.example/echo"];
        let fetch = |daemon: &support::daemon::Daemon<'_>, options: &[&str]| {
            let format = ["-sS", "-o", "/dev/null", "-w", "%{http_code} "];
            let run = daemon.run_as(options, "curl").args(format).args(["-o", "/dev/null"]).args(urls).args(upload);
            run.args(["-o", "/dev/null", "-w", "%{http_code} "]).ran().ok()
        };
        let refused = fetch(daemon, &["--agent", "scout"]);
        assert_eq!(refused.stdout, "403 403 403 ", "{}", refused.screen());
        let learned = fetch(daemon, &["--agent", "scout", "--learn"]);
        assert_eq!(learned.stdout, "200 200 200 ", "{}", learned.screen());
        let (_, policy) = learned.stderr.split_once("would have sufficed:").expect("the policy");
        daemon.configure(policy);
        let _ran = daemon.command(&["policy", "check"]).ran().ok();
        let _ran = daemon.command(&["policy", "reload"]).ran().ok();
        let allowed = fetch(daemon, &["--agent", "scout"]);
        assert_eq!(allowed.stdout, "200 200 200 ", "it did not suffice: {policy}\n{}", allowed.screen());
        // And no more than that: another path, another host, another agent.
        let status = |agent: &str, url: &str| {
            let run = daemon.run_as(&["--agent", agent], "curl");
            run.args(["-sS", "-o", "/dev/null", "-w", "%{http_code}", url]).ran().ok().stdout
        };
        assert_eq!(status("scout", "https://other.example/text"), "403");
        assert_eq!(status("scout", "https://example.com/hello"), "403");
        assert_eq!(status("another", "https://other.example/hello"), "403");
        assert_eq!(scene.requests("other.example", "/text"), 0);
        daemon.stop();
    });
}

#[test]
fn without_a_daemon_it_says_how_to_start_one() {
    case("run without a daemon", RULES, |_, daemon| {
        fails(daemon.run("true").ran(), UNAVAILABLE, &["start it with `sudo caracald attach`"]);
    });
}

#[test]
fn a_governed_process_has_no_control() {
    case("a governed process may use no control command", RULES, |scene, daemon| {
        daemon.restart();
        let config = daemon.config().display().to_string();
        for command in ["status", "detach"] {
            let ran = daemon.run(caracald()).args(["--config", &config, command]).ran();
            assert_ne!(ran.code, Some(0), "{command}: {}", ran.screen());
        }
        // The control: outside the cage an ordinary user may run something, and root may ask.
        let _ran = daemon.json(&["status"]);
        let ran = scene.agent(caracald()).args(["--config", &config, "detach"]).ran();
        assert_ne!(ran.code, Some(0), "an ordinary user opened the door: {}", ran.screen());
        let _ran = daemon.run("true").ran().ok();
        daemon.stop();
    });
}
