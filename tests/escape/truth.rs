//! What is pinned is no proof. Each way in which enforcement is lost is seen within a second, put right or shut, and
//! recorded; the judge looks on all the while.

use crate::foreign_program::{At, ForeignProgram};
use crate::hang;
use crate::{PROBE, RULES, World, case_with};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};
use support::daemon::Cgroup;
use support::netns::until;
use support::report;
use support::scene::Scene;
use support::wire::CANARY_PORT;

/// The promise.
const SEEN_WITHIN: Duration = Duration::from_secs(1);
const PATIENCE: Duration = Duration::from_secs(30);

/// Places on both families, TCP and UDP.
const EVERYWHERE: &[(&str, &str)] = &[("tcp", "203.0.113.10"), ("tcp", "[2001:db8:ca::10]"), ("udp", "203.0.113.10")];

fn to(address: &str) -> String {
    format!("{address}:{CANARY_PORT}")
}

fn control(scene: &Scene, cgroup: &Cgroup) {
    for (kind, address) in EVERYWHERE {
        scene.wire.clear();
        let _ran = crate::attempt(scene, cgroup, &[kind, &to(address)]);
        assert!(!scene.wire.packets().is_empty(), "the control does not leak: {kind} {address}");
    }
}

/// Nothing gets out of the cgroup.
#[track_caller]
fn held(world: &World<'_>) {
    for (kind, address) in EVERYWHERE {
        let _ran = world.attempt(&[kind, &to(address)]);
    }
    world.scene.wire.silent();
}

/// Does it, and waits until the daemon says `words`; gives how long that took, milliseconds.
#[track_caller]
fn seen(world: &World<'_>, words: &str, does: impl FnOnce()) -> u64 {
    let count = || world.daemon.logs().matches(words).count();
    let before = count();
    does();
    let began = Instant::now();
    // A look at the log costs less than the thousandth part of what is measured.
    let said = until(words, PATIENCE, || count() > before);
    let took = began.elapsed();
    assert!(said.is_ok(), "the daemon never says {words:?}:\n{}", world.daemon.logs());
    assert!(took <= SEEN_WITHIN, "{words:?} was seen after {took:?}");
    u64::try_from(took.as_millis()).unwrap_or(u64::MAX)
}

/// The ledger has a record with these words.
#[track_caller]
fn recorded(world: &World<'_>, words: &str) {
    let _records = world
        .daemon
        .records_when(|records| records.iter().any(|record| record.text("caracal.message").contains(words)));
}

#[track_caller]
fn opens(world: &World<'_>) {
    until("allowed requests pass", PATIENCE, || world.allowed() == "200").expect("the door opens");
}

fn door(world: &World<'_>) -> String {
    // `status` exits 1 while the door is shut.
    let ran = world.daemon.command(&["status", "--json"]).ran();
    let status: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
    status["door"].as_str().unwrap_or_default().to_owned()
}

fn pins(world: &World<'_>) -> String {
    format!("/sys/fs/bpf/caracal/{}-v1", world.daemon.instance())
}

fn links(world: &World<'_>) -> String {
    use std::os::unix::fs::MetadataExt as _;
    let id = std::fs::metadata(world.cgroup.path()).expect("the cgroup").ino();
    format!("{}/links/{id}", pins(world))
}

fn plain(name: &str, work: impl FnOnce(&mut World<'_>) -> u64) {
    case_with(
        name,
        RULES,
        control,
        |_| (),
        |world| {
            world.scene.wire.clear();
            assert_eq!(world.allowed(), "200");
            let took = work(world);
            let _ran = world.daemon.verify();
            json!({ "seen_ms": took })
        },
    );
}

#[test]
fn a_pin_that_is_unlinked_is_put_back() {
    plain("a pin unlinked", |world| {
        let pin = format!("{}/egress", links(world));
        let a = &world.scene.net.a;
        let took = seen(world, "it is put back", || drop(a.shell(&format!("rm {pin}")).expect("unlinked")));
        held(world);
        let _there = a.shell(&format!("test -e {pin}")).expect("it is pinned again");
        recorded(world, "/egress was gone; it is put back");
        opens(world);
        took
    });
}

#[test]
fn a_bpf_file_system_that_is_unmounted_is_mounted_and_filled_again() {
    plain("bpffs unmounted", |world| {
        let a = &world.scene.net.a;
        let hosts = || std::fs::read_dir("/sys/fs/bpf/caracal").map_or(0, |all| all.flatten().count());
        let before = hosts();
        let took = seen(world, "it is put back", || drop(a.shell("umount /sys/fs/bpf").expect("unmounted")));
        assert_eq!(hosts(), before, "the new pins are this test's own, not the host's");
        held(world);
        opens(world);
        // The new pins are as good as the old ones: they hold without a process, and are adopted.
        world.daemon.kill();
        for (kind, address) in EVERYWHERE {
            assert_eq!(world.attempt(&[kind, &to(address)]).code, Some(3), "{kind} {address}");
        }
        world.scene.wire.silent();
        world.daemon.restart();
        opens(world);
        took
    });
}

#[test]
fn links_that_are_detached_are_attached_again() {
    plain("links detached", |world| {
        let a = &world.scene.net.a;
        let all = a.shell(&format!("ls -d {}/*", links(world))).expect("the pins");
        let took = seen(world, "it is put back", || {
            let _ran = a.run(PROBE).arg("detach").args(all.split_whitespace()).ran().ok();
        });
        held(world);
        recorded(world, "the kernel did not run");
        opens(world);
        took
    });
}

#[test]
fn a_cgroup_that_is_removed_and_made_again_is_governed_again() {
    plain("a cgroup made again", |world| {
        let path = world.cgroup.path();
        let remake = || {
            // The canary may be on its visit.
            until("the cgroup goes", PATIENCE, || {
                let _leaf = std::fs::remove_dir(path.join("caracal-canary"));
                std::fs::remove_dir(&path).is_ok()
            })
            .expect("it goes");
            std::fs::create_dir(&path).expect("made again");
        };
        let took = seen(world, "was removed and made again", remake);
        held(world);
        opens(world);
        recorded(world, "was removed and made again: it is governed anew");
        // And the slice of `run`.
        let slice = path.parent().expect("a parent").join(format!("{}.slice", world.daemon.instance()));
        let again = seen(world, "was removed and made again", || {
            until("the slice goes", PATIENCE, || {
                let _leaf = std::fs::remove_dir(slice.join("caracal-canary"));
                std::fs::remove_dir(&slice).is_ok()
            })
            .expect("it goes");
        });
        let ran = world.daemon.run("curl").args(["-sS", "-o", "/dev/null", "-w", "%{http_code}"]);
        let ran = ran.args(["--max-time", "20", "https://example.com/hello"]).ran();
        assert_eq!(ran.stdout, "200", "{}", ran.screen());
        took.max(again)
    });
}

#[test]
fn a_program_of_another_s_that_could_undo_ours_shuts_the_door() {
    plain("a foreign program that could undo", |world| {
        let path = world.cgroup.path();
        let mut foreign = None;
        let took = seen(world, "could undo a refusal", || foreign = Some(ForeignProgram::attach(&path, At::Connect4)));
        until("the door is shut", SEEN_WITHIN, || door(world) == "shut").expect("it is shut");
        held(world);
        assert_ne!(world.allowed(), "200");
        // Nothing is started, and nothing is attached beside it.
        let ran = world.daemon.run("true").ran();
        assert_ne!(ran.code, Some(0), "{}", ran.screen());
        assert!(ran.screen().contains("somebody"), "{}", ran.screen());
        drop(foreign);
        opens(world);
        recorded(world, "no longer so");
        let other = Cgroup::new();
        let _foreign = ForeignProgram::attach(&other.path(), At::Connect4);
        // It runs before ours there, and can take nothing back.
        let _ran = world.daemon.command(&["attach", "--cgroup"]).arg(other.path()).ran().ok();
        took
    });
}

#[test]
fn a_program_of_another_s_that_can_only_refuse_more_is_noted() {
    plain("a foreign program that can only refuse", |world| {
        let path = world.cgroup.path();
        let mut foreign = None;
        let took = seen(world, "can only refuse more", || foreign = Some(ForeignProgram::attach(&path, At::Egress)));
        held(world);
        assert_eq!(world.allowed(), "200");
        let status = world.daemon.json(&["status"]);
        assert!(status["truth"]["notes"].to_string().contains("somebody"), "{}", status["truth"]);
        drop(foreign);
        recorded(world, "can only refuse more");
        took
    });
}

#[test]
fn a_canary_that_gets_out_shuts_the_door() {
    case_with(
        "the canary",
        RULES,
        control,
        |_| (),
        |world| {
            let keeper = world.daemon.keeper().expect("a keeper");
            assert_eq!(world.allowed(), "200");
            world.scene.wire.clear();
            // Nobody looks at the programs; only the canary can tell.
            let watch = hang::only(hang::threads(keeper, "truth"));
            let a = &world.scene.net.a;
            let all = a.shell(&format!("ls -d {}/*", links(world))).expect("the pins");
            let took = seen(world, "the canary got out", || {
                let _ran = a.run(PROBE).arg("detach").args(all.split_whitespace()).ran().ok();
            });
            until("the door is shut", PATIENCE, || door(world) == "shut").expect("it is shut");
            let said = world.daemon.logs();
            for way in ["tcp4", "udp", "udp-connected", "raw", "heard-tcp4", "heard-udp"] {
                assert!(said.contains(way), "the canary did not try {way}: {said}");
            }
            let back = world.daemon.logs().matches("it is put back").count();
            let _at = watch.release();
            // Until then nothing of ours is there, and what the agent sends goes out.
            until("the programs are back", PATIENCE, || world.daemon.logs().matches("it is put back").count() > back)
                .expect("they are put back");
            world.scene.wire.clear();
            opens(world);
            held(world);
            let _ran = world.daemon.verify();
            json!({ "seen_ms": took })
        },
    );
}

#[test]
fn canaries_come_back_after_they_were_killed_and_count_for_nobody() {
    report::plain("escape", "the canary's own refusals", || {
        let scene = Scene::new(crate::STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        let mut daemon = support::daemon::Daemon::configured(&scene, RULES);
        daemon.attach(&cgroup.path());
        daemon.restart();
        let canary = || {
            let own = daemon.processes().into_iter();
            let named = |pid: &i32| {
                let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
                line.starts_with(b"caracald: canary")
            };
            own.into_iter().find(named)
        };
        let mut first = None;
        until("a canary flies", PATIENCE, || {
            first = canary();
            first.is_some()
        })
        .expect("a canary");
        let pid = first.expect("a canary");
        // SAFETY: kill takes integers; the pid is the daemon's child, which its parent has not waited for.
        unsafe { libc::kill(pid, libc::SIGKILL) };
        until("another one flies", PATIENCE, || canary().is_some_and(|other| other != pid)).expect("another canary");
        let untried = || daemon.json(&["status"])["truth"]["untried"].as_array().map_or(0, Vec::len);
        until("it has tried everywhere", PATIENCE, || untried() == 0).expect("it tries");
        let records = daemon.records();
        let denials: Vec<_> = records.iter().filter(|record| record.text("caracal.decision") == "deny").collect();
        assert!(denials.is_empty(), "what the canary is refused is nobody's: {denials:?}");
        let leaf: PathBuf = cgroup.path().join("caracal-canary");
        assert!(leaf.is_dir());
        let _ran = daemon.command(&["detach", "--cgroup"]).arg(cgroup.path()).ran().ok();
        until("its leaf goes", PATIENCE, || !leaf.exists()).expect("it goes");
    });
}

/// The watch looks five times a second, and must not take a release for a cgroup that was removed and made again.
#[test]
fn a_released_cgroup_stays_released() {
    plain("a release under the watch", |world| {
        use std::os::unix::fs::MetadataExt as _;
        let cgroup = Cgroup::new();
        let path = cgroup.path();
        let path = path.to_str().expect("a path in UTF-8");
        let id = std::fs::metadata(path).expect("the cgroup").ino();
        let links = format!("{}/links/{id}", pins(world));
        let there = || world.scene.net.a.shell(&format!("ls {links}")).is_ok();
        for round in 0..20 {
            // At another place between two looks each time.
            std::thread::sleep(Duration::from_millis(round * 10));
            let _ran = world.daemon.command(&["attach", "--cgroup", path]).ran().ok();
            assert!(there(), "attached");
            let _ran = world.daemon.command(&["detach", "--cgroup", path]).ran().ok();
            let end = Instant::now() + Duration::from_millis(500);
            while Instant::now() < end {
                assert!(!there(), "round {round}: its programs are back\n{}", world.daemon.logs());
            }
        }
        let again = world.daemon.logs().matches("was removed and made again").count();
        assert_eq!(again, 0, "{}", world.daemon.logs());
        0
    });
}
