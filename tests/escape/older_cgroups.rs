//! cgroup v1's net_cls and net_prio, which before Linux 5.15 take sockets out of their v2 cgroup: no daemon starts beside one,
//! unless it is told to and records it, and one that comes into use later shuts the door.
//!
//! Where the kernel is such a one the controller is mounted for real; no class is set, which alone would do harm, until the
//! next boot. Elsewhere, also where it was booted without, the daemon, and nobody else, is shown the two files by which such a
//! kernel shows itself.

use crate::{RULES, World};
use serde_json::{Value, json};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::daemon::{Cgroup, Daemon};
use support::netns::until;
use support::report;
use support::scene::Scene;

const PATIENCE: Duration = Duration::from_secs(60);
const CODE: &str = "cgroup_v1_sockets";

/// The controller, and how it comes into use here.
struct Controller<'a> {
    scene: &'a Scene,
    /// Where it is mounted; nothing where files are shown in its stead.
    mount: Option<PathBuf>,
    list: PathBuf,
    release: PathBuf,
}

impl<'a> Controller<'a> {
    fn new(scene: &'a Scene) -> Controller<'a> {
        let running = fs::read_to_string("/proc/sys/kernel/osrelease").expect("the kernel's release");
        let numbers: Vec<u32> =
            running.split(['.', '-']).take(2).map(|word| word.trim().parse().unwrap_or(0)).collect();
        let booted = fs::read_to_string("/proc/cmdline").expect("the kernel's command line");
        let mounts = numbers < vec![5, 15] && !booted.contains("cgroup_no_v1");
        let mount = mounts.then(|| scene.net.files().join("net_cls.d"));
        let this = Controller {
            scene,
            mount,
            list: scene.file("cgroups", ""),
            release: scene.file("osrelease", "5.10.0-46-cloud-amd64\n"),
        };
        this.unused();
        this
    }

    /// Has the daemon see it from its next start on.
    fn shown_to(&self, daemon: &mut Daemon<'_>, last: &str) {
        let mounts = match self.mount {
            Some(_) => String::new(),
            None => format!(
                "mount --bind {} /proc/sys/kernel/osrelease && mount --bind {} /proc/cgroups && ",
                self.release.display(),
                self.list.display()
            ),
        };
        daemon.start_by(&["unshare", "--mount", "sh", "-c", &format!("{mounts}exec \"$@\" {last}"), "sh"]);
    }

    fn used(&self) {
        match &self.mount {
            Some(at) => {
                let line = format!("mkdir -p {0} && mount -t cgroup -o net_cls none {0}", at.display());
                let _done = self.scene.net.a.shell(&line).expect("this kernel has net_cls");
            }
            None => self.say(4),
        }
    }

    fn unused(&self) {
        match &self.mount {
            Some(at) => drop(self.scene.net.a.shell(&format!("umount {}; true", at.display()))),
            None => self.say(0),
        }
    }

    /// In place: it is mounted over the kernel's own.
    fn say(&self, hierarchy: u32) {
        let text =
            format!("#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t0\t9\t1\nnet_cls\t{hierarchy}\t1\t1\n");
        fs::write(&self.list, text).expect("the list");
    }
}

impl Drop for Controller<'_> {
    fn drop(&mut self) {
        self.unused();
    }
}

fn status(daemon: &Daemon<'_>) -> Value {
    // It exits 1 while the door is shut.
    serde_json::from_str(&daemon.command(&["status", "--json"]).ran().stdout).unwrap_or_default()
}

#[track_caller]
fn recorded(daemon: &Daemon<'_>, words: &[&str]) {
    let all = |text: &str| words.iter().all(|word| text.contains(word));
    let _records = daemon.records_when(|records| records.iter().any(|record| all(record.text("caracal.message"))));
}

#[test]
fn no_daemon_starts_beside_one_unless_it_is_told_to_and_records_it() {
    report::plain("escape", "net_cls before 5.15: refused, or degraded and recorded", || {
        let scene = Scene::new(crate::STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        let controller = Controller::new(&scene);
        let mut daemon = Daemon::configured(&scene, RULES);
        daemon.attach(&cgroup.path());
        controller.shown_to(&mut daemon, "");
        controller.used();
        daemon.launch();
        let _ended = until("caracald refuses", PATIENCE, || daemon.exited().is_some());
        let (exit, logs) = (daemon.exited(), daemon.logs());
        assert!(exit.is_some_and(|code| code != 0), "it must not be served: {exit:?}\n{logs}");
        let wanted =
            ["require = \"network\" cannot be enforced here: net_cls is in use", "cgroup_no_v1=net_cls,net_prio", CODE];
        for wanted in wanted {
            assert!(logs.contains(wanted), "{wanted:?} is not said:\n{logs}");
        }
        assert!(!logs.lines().any(|line| line.trim() == "ready"), "{logs}");
        let pins = format!("test -e /sys/fs/bpf/caracal/{}-v1", daemon.instance());
        assert!(scene.net.a.shell(&pins).is_err(), "a first start that was refused leaves no pins\n{logs}");

        controller.shown_to(&mut daemon, "--allow-degraded");
        daemon.restart();
        let status = status(&daemon);
        assert_eq!((&status["level"], &status["door"]), (&json!("degraded"), &json!("open")), "{status:#}");
        let uncovered = status["enforced"]["uncovered"].as_array().expect("what is uncovered");
        assert!(uncovered.iter().any(|one| one["code"] == CODE), "{status:#}");
        let said = daemon.command(&["status"]).ran().stdout;
        assert!(said.contains("level degraded") && said.contains("net_cls is in use"), "{said}");
        recorded(&daemon, &["degraded: less than is required; level degraded (net_cls is in use", CODE]);
        let _ran = daemon.verify();
        daemon.stop();
    });
}

#[test]
fn one_that_comes_into_use_later_shuts_the_door_until_it_goes() {
    report::case("escape", "net_cls before 5.15: mounted while a daemon runs", || {
        let scene = Scene::new(crate::STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        let controller = Controller::new(&scene);
        let mut daemon = Daemon::configured(&scene, RULES);
        daemon.attach(&cgroup.path());
        controller.shown_to(&mut daemon, "");
        daemon.restart();
        let _ca = daemon.ca();
        let world = World { scene: &scene, cgroup: &cgroup, daemon };
        assert_eq!(world.allowed(), "200");
        assert_eq!(status(&world.daemon)["level"], "network");

        controller.used();
        let began = Instant::now();
        let shut =
            until("the door is shut", PATIENCE, || world.daemon.logs().contains("the door is shut: net_cls is in use"));
        assert!(shut.is_ok(), "{}", world.daemon.logs());
        let seen_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        until("no request passes", PATIENCE, || world.allowed() == "000").expect("it is shut");
        let told = status(&world.daemon);
        assert_eq!((&told["level"], &told["door"]), (&json!("degraded"), &json!("shut")), "{told:#}");
        let ran = world.daemon.run("true").ran();
        assert!(ran.screen().contains("nothing is started: net_cls is in use"), "{}", ran.screen());

        controller.unused();
        until("allowed requests pass", PATIENCE, || world.allowed() == "200").expect("the door opens");
        recorded(&world.daemon, &["the door is shut: net_cls is in use"]);
        recorded(&world.daemon, &["no longer so: net_cls is in use"]);
        let _ran = world.daemon.verify();
        scene.wire.silent();
        json!({ "seen_ms": seen_ms }).as_object().cloned().unwrap_or_default()
    });
}
