//! The door is shut whenever the daemon is not there: killed, stopped, broken, full.

use crate::{RULES, World, attempt, case};
use std::process::Stdio;
use std::time::Duration;
use support::daemon::{Cgroup, alive};
use support::netns::until;
use support::scene::Scene;
use support::wire::CANARY_PORT;

/// Places on both families, TCP and UDP.
const EVERYWHERE: &[(&str, &str)] =
    &[("tcp", "203.0.113.10"), ("tcp", "[2001:db8:ca::10]"), ("tcp", "[::ffff:203.0.113.10]"), ("udp", "203.0.113.10")];

fn to(address: &str) -> String {
    format!("{address}:{CANARY_PORT}")
}

fn control(scene: &Scene, cgroup: &Cgroup) {
    for (kind, address) in EVERYWHERE {
        scene.wire.clear();
        let _ran = attempt(scene, cgroup, &[kind, &to(address)]);
        assert!(!scene.wire.packets().is_empty(), "the control does not leak: {kind} {address}");
    }
}

/// Every attempt is refused by the kernel itself.
#[track_caller]
fn shut(world: &World<'_>) {
    for (kind, address) in EVERYWHERE {
        let ran = world.attempt(&[kind, &to(address)]);
        assert_eq!(ran.code, Some(3), "{kind} to {address}: {}", ran.screen());
    }
    assert_ne!(world.allowed(), "200");
    world.scene.wire.silent();
}

#[test]
fn kill_9_shuts_the_door_and_a_restart_adopts_it() {
    case("kill -9, then a restart", RULES, control, |world| {
        assert_eq!(world.allowed(), "200");
        for _ in 0..3 {
            world.daemon.kill();
            shut(world);
            world.daemon.restart();
            assert_eq!(world.allowed(), "200");
        }
    });
}

/// `kill`, to one process.
fn signal(pid: i32, signal: i32) {
    // SAFETY: kill takes integers; the pid is the daemon's.
    unsafe { libc::kill(pid, signal) };
}

#[test]
fn a_killed_keeper_takes_its_data_path_with_it() {
    case("kill -9 of the keeper alone", RULES, control, |world| {
        assert_eq!(world.allowed(), "200");
        let keeper = world.daemon.keeper().expect("a keeper");
        let data_path = world.daemon.data_path().expect("a data path");
        signal(keeper, libc::SIGKILL);
        until("the data path ends too", Duration::from_secs(60), || !alive(data_path)).expect("it ends");
        shut(world);
        world.daemon.kill();
        world.daemon.restart();
        assert_eq!(world.allowed(), "200");
    });
}

#[test]
fn a_killed_data_path_is_started_again_and_the_door_is_shut_meanwhile() {
    case("kill -9 of the data path alone", RULES, control, |world| {
        for _ in 0..3 {
            assert_eq!(world.allowed(), "200");
            let data_path = world.daemon.data_path().expect("a data path");
            signal(data_path, libc::SIGKILL);
            // Whatever is tried until the next one is there, nothing leaves.
            until("another data path serves", Duration::from_secs(30), || {
                let _ran = world.attempt(&["tcp", &to("203.0.113.10")]);
                world.scene.wire.silent();
                world.allowed() == "200"
            })
            .expect("it comes back");
            assert_ne!(world.daemon.data_path(), Some(data_path));
        }
        let _ran = world.daemon.verify();
    });
}

#[test]
fn a_stopped_data_path_lets_the_lease_run_out() {
    case("SIGSTOP of the data path alone", RULES, control, |world| {
        assert_eq!(world.allowed(), "200");
        let data_path = world.daemon.data_path().expect("a data path");
        signal(data_path, libc::SIGSTOP);
        until("the kernel refuses by itself", Duration::from_secs(60), || {
            let ran = world.attempt(&["tcp", &to("203.0.113.10")]);
            world.scene.wire.silent();
            ran.code == Some(3)
        })
        .expect("the lease runs out");
        shut(world);
        signal(data_path, libc::SIGCONT);
        until("it recovers", Duration::from_secs(60), || world.allowed() == "200").expect("the lease is renewed");
        assert_eq!(world.daemon.data_path(), Some(data_path), "the same one");
    });
}

#[test]
fn a_stopped_daemon_lets_the_lease_run_out() {
    case("SIGSTOP", RULES, control, |world| {
        assert_eq!(world.allowed(), "200");
        world.daemon.signal(libc::SIGSTOP);
        until("the kernel refuses by itself", Duration::from_secs(60), || {
            let ran = world.attempt(&["tcp", &to("203.0.113.10")]);
            world.scene.wire.silent();
            ran.code == Some(3)
        })
        .expect("the lease runs out");
        shut(world);
        world.daemon.signal(libc::SIGCONT);
        until("it recovers", Duration::from_secs(60), || world.allowed() == "200").expect("the lease is renewed");
    });
}

#[test]
fn a_start_with_a_broken_policy_denies_everything() {
    case("a broken policy at start", RULES, control, |world| {
        world.daemon.kill();
        world.daemon.configure("[[allow]]\nhosts = [\"example.com\"\n");
        world.daemon.launch();
        let patience = Duration::from_secs(5);
        // It may refuse to start or stay and deny: both are shut.
        let _either = until("it ends", patience, || world.daemon.exited().is_some());
        assert_ne!(world.allowed(), "200", "{}", world.daemon.logs());
        for (kind, address) in EVERYWHERE {
            assert_ne!(world.attempt(&[kind, &to(address)]).code, Some(0), "{kind} {address}");
        }
        world.daemon.kill();
        world.daemon.configure(RULES);
        world.daemon.restart();
        assert_eq!(world.allowed(), "200");
    });
}

#[test]
fn a_broken_reload_keeps_the_last_good_set() {
    case("a broken policy at reload", RULES, control, |world| {
        assert_eq!(world.allowed(), "200");
        world.daemon.configure("[[allow]]\nhosts = [\"example.com\"\n");
        let ran = world.daemon.command(&["policy", "reload"]).ran();
        assert_ne!(ran.code, Some(0), "a broken reload must say so: {}", ran.screen());
        assert_eq!(world.allowed(), "200");
        world.daemon.configure("[[allow]]\nhosts = [\"other.example\"]\n");
        let _ran = world.daemon.command(&["policy", "reload"]).ran().ok();
        assert_eq!(world.allowed(), "403");
        // The same by the signal that `systemctl reload` sends.
        let hang_up = || signal(world.daemon.keeper().expect("a keeper"), libc::SIGHUP);
        world.daemon.configure(RULES);
        hang_up();
        until("the new set is in force", Duration::from_secs(30), || world.allowed() == "200").expect("a reload");
        let before = world.daemon.logs().len();
        world.daemon.configure("[[allow]]\nhosts = [\"example.com\"\n");
        hang_up();
        let said = || world.daemon.logs().get(before..).is_some_and(|text| text.contains("is not reloaded"));
        until("the daemon says that it did not load", Duration::from_secs(30), said).expect("a line in its log");
        assert_eq!(world.allowed(), "200");
    });
}

#[test]
fn a_full_disk_refuses_and_recovers() {
    support::report::plain("escape", "a full disk", || {
        let scene = Scene::new(crate::STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        control(&scene, &cgroup);
        let rules = "[journal]\nsegment_bytes = 1048576\nlimit_bytes = 16777216\n".to_owned() + RULES;
        let mut daemon = support::daemon::Daemon::configured(&scene, &rules);
        let state = daemon.state().display().to_string();
        scene
            .net
            .a
            .shell(&format!("mkdir -p {state} && mount -t tmpfs -o size=64m,mode=755 full {state}"))
            .expect("a small disk");
        daemon.attach(&cgroup.path());
        daemon.restart();
        let _ca = daemon.ca();
        scene.wire.clear();
        let world = World { scene: &scene, cgroup: &cgroup, daemon };
        assert_eq!(world.allowed(), "200");
        let _full = scene.net.a.shell(&format!("cat /dev/zero > {state}/filler || true"));
        // What was set aside before may still be used up; then every request is refused and none is forwarded unrecorded.
        until("the daemon refuses", Duration::from_secs(120), || world.allowed() != "200").expect("a refusal");
        let forwarded = scene.requests("example.com", "/hello");
        assert_ne!(world.allowed(), "200");
        assert_eq!(scene.requests("example.com", "/hello"), forwarded);
        scene.wire.silent();
        scene.net.a.shell(&format!("rm {state}/filler")).expect("room");
        until("it resumes", Duration::from_secs(30), || world.allowed() == "200").expect("a recovery");
        let _ran = world.daemon.verify();
    });
}

/// Keeps the ledger's database from being written until a file exists.
const HOLDER: &str = "
import os, sqlite3, sys, time
database = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)
database.execute('BEGIN IMMEDIATE')
print('held', flush=True)
while not os.path.exists(sys.argv[2]):
    time.sleep(0.05)
database.execute('ROLLBACK')
";

#[test]
fn a_journal_at_its_limit_refuses_says_why_and_resumes() {
    let rules = format!("[journal]\nsegment_bytes = 1048576\nlimit_bytes = 3145728\n\n{RULES}");
    case("a journal at its limit", &rules, control, |world| {
        assert_eq!(world.allowed(), "200");
        let database = world.daemon.state().join("data/ledger.sqlite");
        assert!(database.exists(), "{} is not there", database.display());
        let held = world.scene.file("held", "");
        let out = std::fs::OpenOptions::new().write(true).open(&held).expect("a file");
        let free = world.scene.net.files().join("free");
        let holder = world.scene.net.a.run("python3").args(["-c", HOLDER]).arg(&database).arg(&free);
        let mut holder = holder.spawn(Stdio::from(out), Stdio::null()).expect("python3");
        until("the ledger is held", Duration::from_secs(60), || {
            std::fs::read_to_string(&held).is_ok_and(|text| text.contains("held"))
        })
        .expect("a hold");
        // Every destination is a record of its own.
        let mut flood = 0_u8;
        until("the journal is full", Duration::from_secs(120), || {
            flood += 1;
            let _ran = world.attempt(&["swarm", "1000", &format!("198.51.{}.0", 100 + 4 * (flood % 32))]);
            world.allowed() != "200"
        })
        .expect("a refusal");
        let forwarded = world.scene.requests("example.com", "/hello");
        let told = world.daemon.run("curl").args(["-sS", "https://example.com/hello"]).ran();
        assert!(
            told.stdout.contains("limit") && told.stdout.contains("ledger"),
            "it does not say why: {}",
            told.screen()
        );
        assert_eq!(world.scene.requests("example.com", "/hello"), forwarded, "forwarded without a record");
        std::fs::write(&free, "").expect("the file that frees it");
        let _status = holder.wait();
        until("the ledger catches up", Duration::from_secs(60), || world.allowed() == "200").expect("it resumes");
        let _ran = world.daemon.verify();
    });
}

#[test]
fn a_stop_leaves_the_door_shut_and_detach_opens_it() {
    case("SIGTERM, then detach", RULES, control, |world| {
        world.daemon.stop();
        shut(world);
        let ran = world.daemon.command(&["detach"]).ran().ok();
        // The judge again: without the pins the same attempt leaks.
        let _ran = world.attempt(&["tcp", &to("203.0.113.10")]);
        assert!(!world.scene.wire.packets().is_empty(), "detach left something behind: {}", ran.screen());
        world.scene.wire.clear();
    });
}
