//! Whether what runs already comes to trust the local CA: by mounts of its own, by the host's store on word, and not at all
//! otherwise.

use super::{PATIENCE, attach, detach};
use crate::{RULES, STAND_IN};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;
use support::daemon::{Cgroup, Daemon};
use support::netns::{AGENT_UID, until};
use support::report;
use support::scene::Scene;

/// Asks for an allowed page for ever, a new program each time, and writes down the status.
const ASK: &str =
    "while :; do curl -sS -o /dev/null -w '%{http_code}\\n' --max-time 5 https://example.com/hello; sleep 0.1; done";

/// A shell that asks, in the cgroup; with a mount namespace of its own or not.
struct Asking {
    child: Child,
    out: PathBuf,
}

impl Asking {
    fn start(scene: &Scene, cgroup: &Cgroup, own: bool) -> Asking {
        let out = scene.file("asking.out", "");
        let file = std::fs::OpenOptions::new().append(true).open(&out).expect("a file");
        let user = AGENT_UID.to_string();
        let drop = ["setpriv", "--reuid", &user, "--regid", &user, "--clear-groups", "sh", "-c", ASK];
        let run = scene.agent(if own { "unshare" } else { "setpriv" }).user(0).cgroup(&cgroup.path());
        let run = if own { run.args(["-m", "--propagation", "private"]).args(drop) } else { run.args(&drop[1..]) };
        let child = run.spawn(Stdio::from(file), Stdio::null()).expect("it starts");
        Asking { child, out }
    }

    /// The next answers are all this status.
    #[track_caller]
    fn gets(&self, status: &str) {
        let mut last = String::new();
        let done = until("the answers", PATIENCE, || {
            let _empty = std::fs::write(&self.out, "");
            std::thread::sleep(Duration::from_millis(700));
            last = std::fs::read_to_string(&self.out).unwrap_or_default();
            let mut lines = last.lines().filter(|line| line.len() == 3).peekable();
            lines.peek().is_some() && lines.all(|line| line == status)
        });
        assert!(done.is_ok(), "not {status}: {last}");
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        let _dead = self.child.kill();
        let _status = self.child.wait();
    }
}

/// Everything about the certificate stores of A.
fn stores(scene: &Scene) -> String {
    let list = "cd / && find etc/ssl usr/local/share/ca-certificates ! -type d -print0 | sort -z | xargs -0 -n1 sh -c \
                'echo \"$0 $(readlink \"$0\") $(sha256sum < \"$0\" 2>/dev/null)\"'";
    scene.net.a.shell(list).expect("the stores are read")
}

#[track_caller]
fn verdict(report: &Value, process: &str) -> String {
    let all = report["live"]["trust"]["processes"].as_array().cloned().unwrap_or_default();
    let found = all.iter().find(|one| one["process"] == process);
    found.unwrap_or_else(|| panic!("{process} is not judged: {report}"))["verdict"].as_str().unwrap_or("?").to_owned()
}

fn mounts(child: &Child) -> String {
    std::fs::read_to_string(format!("/proc/{}/mountinfo", child.id())).expect("it runs")
}

#[test]
fn a_workload_with_its_own_mounts_trusts_without_a_restart() {
    report::plain("escape", "trust of a running workload with its own mount namespace", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        let before = stores(&scene);
        let mut daemon = Daemon::start(&scene, RULES);
        let asking = Asking::start(&scene, &cgroup, true);
        asking.gets("000");
        let report = attach(&daemon, &cgroup, &[]);
        assert!(report["live"]["trust"]["places"].to_string().contains("mounted over"), "{report}");
        let _shell = verdict(&report, "sh");
        asking.gets("200");
        assert_eq!(stores(&scene), before, "the host's store was touched");
        let _ran = detach(&daemon, &cgroup);
        asking.gets("000");
        let table = mounts(&asking.child);
        assert!(!table.contains(daemon.instance()), "something is still mounted: {table}");

        // A killed keeper, and a detach without one.
        let _report = attach(&daemon, &cgroup, &[]);
        asking.gets("200");
        daemon.kill();
        assert!(mounts(&asking.child).contains(daemon.instance()), "the control: it is mounted");
        let _ran = detach(&daemon, &cgroup);
        let table = mounts(&asking.child);
        assert!(!table.contains(daemon.instance()), "something is still mounted: {table}");
        assert_eq!(stores(&scene), before, "the host's store was touched");
    });
}

#[test]
fn the_hosts_store_is_changed_only_on_word_and_comes_back_byte_by_byte() {
    report::plain("escape", "trust of a running workload by the host's store", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        // The host's stores, thrown away with the namespace.
        let files = scene.net.files().display().to_string();
        let copy = |from: &str, to: &str| {
            format!("mkdir {files}/{to} && cp -a {from}/. {files}/{to} && mount --bind {files}/{to} {from}")
        };
        for (from, to) in [("/etc/ssl", "ssl"), ("/usr/local/share/ca-certificates", "local")] {
            scene.net.a.shell(&copy(from, to)).expect("a copy");
        }
        let before = stores(&scene);
        let mut daemon = Daemon::start(&scene, RULES);
        let asking = Asking::start(&scene, &cgroup, false);
        asking.gets("000");
        let report = attach(&daemon, &cgroup, &[]);
        assert_eq!(report["live"]["trust"]["places"], json!([]), "{report}");
        // Fenced, and not trusting: refused, and never passed through.
        scene.wire.clear();
        asking.gets("000");
        scene.wire.silent();
        assert_eq!(stores(&scene), before, "without the word nothing changes");
        let _ran = detach(&daemon, &cgroup);
        let report = attach(&daemon, &cgroup, &["--trust-system"]);
        assert!(report["live"]["trust"]["places"].to_string().contains("the host's store has the CA"), "{report}");
        asking.gets("200");
        assert_ne!(stores(&scene), before);
        let _ran = detach(&daemon, &cgroup);
        assert_eq!(stores(&scene), before, "the store is not what it was");

        let _report = attach(&daemon, &cgroup, &["--trust-system"]);
        asking.gets("200");
        daemon.kill();
        let _ran = detach(&daemon, &cgroup);
        assert_eq!(stores(&scene), before, "the store is not what it was");
    });
}
