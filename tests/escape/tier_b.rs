//! What is not a socket of the agent's own: other families, descriptors from outside, unix sockets of helpers, other
//! cgroups and processes, `bpf`, and the daemon's property. Each attempt is made by root and by an ordinary user, first
//! without a daemon, where it must succeed, then in the attached cgroup, where it must not.
//!
//! These need the BPF LSM and say `require = "full"`. Where `doctor` reports that the kernel does not take the programs,
//! the case is written down as skipped with its reason, and another one checks that the daemon refuses to start.

mod outside;

use crate::{RULES, STAND_IN};
pub(crate) use outside::Helper;
use outside::{Outside, Tried, by_users, own, vector, vectors};
use serde_json::{Map, Value, json};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Stdio;
use std::sync::OnceLock;
use std::time::Duration;
use support::daemon::{Cgroup, Daemon, cgroup_mount};
use support::netns::{AGENT_UID, until};
use support::report;
use support::scene::Scene;

const REFUSED: Option<i32> = Some(3);
const OUT: Option<i32> = Some(0);

/// Has the configuration require `full`.
pub(crate) fn require_full(daemon: &Daemon<'_>) {
    let text = fs::read_to_string(daemon.config()).expect("the configuration");
    fs::write(daemon.config(), format!("require = \"full\"\n{text}")).expect("the configuration");
}

/// Whether this kernel takes every program of the LSM, as `doctor` reports: what is missing, if not.
pub(crate) fn offered(daemon: &Daemon<'_>) -> Result<(), String> {
    // Asked once: it tries everything, which takes a minute in an emulated machine.
    static ANSWER: OnceLock<Result<(), String>> = OnceLock::new();
    ANSWER.get_or_init(|| ask(daemon)).clone()
}

fn ask(daemon: &Daemon<'_>) -> Result<(), String> {
    let doctor: Value = serde_json::from_str(&daemon.doctor()).expect("doctor's JSON");
    let checks = doctor["checks"].as_array().expect("doctor's checks");
    let name = |check: &Value| check["name"].as_str().unwrap_or_default().to_owned();
    let hooks: Vec<&Value> = checks.iter().filter(|check| name(check).starts_with("hook lsm ")).collect();
    assert!(hooks.len() > 15, "doctor tries every program of the LSM: {doctor:#}");
    match hooks.into_iter().find(|check| check["state"] != "yes") {
        None => Ok(()),
        Some(check) => {
            assert_ne!(doctor["enforceable"], "full", "doctor does not contradict itself: {doctor:#}");
            Err(format!("{}: {}", name(check), check["found"].as_str().unwrap_or_default()))
        }
    }
}

/// Starts a daemon that requires `full`: it must refuse, say why and leave nothing pinned.
fn refuses(scene: &Scene, daemon: &mut Daemon<'_>) {
    daemon.launch();
    let _ended = until("caracald refuses", Duration::from_secs(180), || daemon.exited().is_some());
    let (exit, logs) = (daemon.exited(), daemon.logs());
    assert!(exit.is_some_and(|code| code != 0), "require = \"full\" must not be served here: {exit:?}\n{logs}");
    for wanted in ["require = \"full\" cannot be enforced here: ", "caracald doctor", "require = \"network\""] {
        assert!(logs.contains(wanted), "{wanted:?} is not said:\n{logs}");
    }
    assert!(!logs.lines().any(|line| line.trim() == "ready"), "{logs}");
    assert!(!pinned(scene, daemon, ""), "a first start that was refused leaves no pins\n{logs}");
}

/// Whether this is pinned, in the mount namespace that has the daemon's bpffs.
fn pinned(scene: &Scene, daemon: &Daemon<'_>, what: &str) -> bool {
    scene.net.a.shell(&format!("test -e /sys/fs/bpf/caracal/{}-v1/{what}", daemon.instance())).is_ok()
}

/// Makes the world, tries without a daemon, then lets `work` try with it.
fn case(name: &str, rules: &str, work: impl FnOnce(&Outside, &Cgroup, &mut Daemon<'_>)) {
    report::case("escape", name, || {
        let outside = Outside::new();
        let cgroup = Cgroup::new();
        let mut daemon = Daemon::configured(&outside.scene, rules);
        let mut more = Map::new();
        if let Err(why) = offered(&daemon) {
            let why = format!("UNCOVERED here, as doctor says: {why}");
            println!("skipped: {name}: {why}");
            more.insert("verdict".into(), json!("skipped"));
            more.insert("why".into(), json!(why));
            return more;
        }
        require_full(&daemon);
        daemon.attach(&cgroup.path());
        daemon.restart();
        let status = daemon.json(&["status"]);
        assert_eq!(status["level"], "full", "doctor says that the kernel takes all: {status:#}");
        work(&outside, &cgroup, &mut daemon);
        outside.scene.wire.silent();
        more
    });
}

/// Needs no help of the kernel's: on one that can, it must start; on one that cannot, it must not.
#[test]
fn what_is_required_is_enforced_or_the_daemon_does_not_start() {
    report::plain("escape", "require = full is enforced or refused, network loads nothing of it", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::configured(&scene, RULES);
        let offered = offered(&daemon);
        require_full(&daemon);
        match &offered {
            Err(_) => refuses(&scene, &mut daemon),
            Ok(()) => {
                daemon.restart();
                assert_eq!(daemon.json(&["status"])["level"], "full");
                assert!(pinned(&scene, &daemon, "lsm/bpf"));
                daemon.stop();
            }
        }
        // The same instance at `network`, the default: nothing of it is loaded, or left.
        daemon.configure(RULES);
        daemon.restart();
        assert!(pinned(&scene, &daemon, "maps") && !pinned(&scene, &daemon, "lsm"));
        let status = daemon.json(&["status"]);
        assert_eq!(status["level"], "network", "{status:#}");
        let said = daemon.command(&["status"]).ran().stdout;
        let line = said.lines().find(|line| line.starts_with("not full: ")).expect("status says why");
        assert!(line.contains("require = \"network\" is configured"), "{said}");
        assert_eq!(line.contains("would enforce more"), offered.is_ok(), "{offered:?}\n{said}");
        // What is in force, why not more, and what it leaves open is in the ledger too, by the same codes.
        let codes = status["enforced"]["uncovered"].as_array().expect("what is uncovered");
        let codes: Vec<&str> = codes.iter().filter_map(|one| one["code"].as_str()).collect();
        for code in ["socket_families", "foreign_sockets", "unix_sockets", "key_upcalls"] {
            assert!(codes.contains(&code), "{code} is open at network: {status:#}");
        }
        let sentence = |text: &str| {
            text.starts_with("level network (require = \"network\" is configured")
                && text.ends_with(&format!("not covered: {}", codes.join(", ")))
        };
        let _records =
            daemon.records_when(|records| records.iter().any(|record| sentence(record.text("caracal.message"))));
        let _ran = daemon.verify();
    });
}

#[test]
fn descriptors_families_peers_and_processes() {
    case("tier B: families, descriptors, unix peers, cgroups, processes", RULES, |outside, cgroup, daemon| {
        let (vectors, own) = (vectors(outside), own());
        let tries = by_users(&vectors);
        let before = outside.attempts(&Cgroup::new(), &tries);
        let tried = outside.attempts(cgroup, &tries);
        let mut absent = Vec::new();
        for (((uid, vector), before), ran) in tries.iter().zip(&before).zip(&tried) {
            if before.screen().contains("EAFNOSUPPORT") {
                absent.push(vector.args.join(" "));
                continue;
            }
            assert_eq!(before.code, OUT, "the control of {vector:?} as {uid} must get out: {}", before.screen());
            assert_eq!(ran.code, REFUSED, "{vector:?} as {uid}: {}", ran.screen());
        }
        assert!(absent.len() < 3, "too much is absent here to prove anything: {absent:?}");
        let own = by_users(&own);
        for ((uid, vector), ran) in own.iter().zip(outside.attempts(cgroup, &own)) {
            assert_eq!(ran.code, OUT, "{vector:?} as {uid} must pass: {}", ran.screen());
        }
        let reasons = [
            "socket_family_refused",
            "foreign_socket_refused",
            "listen_unbound_refused",
            "unix_peer_refused",
            "cgroup_write_refused",
            "trace_refused",
            "signal_refused",
            "bpf_refused",
        ];
        let records = daemon
            .records_when(|records| reasons.iter().all(|reason| records.iter().any(|record| record.is_denial(reason))));
        let (_, docker) = &outside.unix()[0];
        let named =
            records.iter().any(|record| record.is_denial("unix_peer_refused") && record.detail["path"] != Value::Null);
        assert!(named, "a refused unix socket has a name, such as {docker}");
    });
}

#[test]
fn whoever_is_not_governed_is_left_alone_also_while_the_daemon_is_dead() {
    case("tier B: the rest of the host is untouched", RULES, |outside, cgroup, daemon| {
        daemon.kill();
        let free = Cgroup::new();
        let all: Vec<_> = vectors(outside).into_iter().chain(own()).collect();
        let all = by_users(&all);
        for ((uid, vector), ran) in all.iter().zip(outside.attempts(&free, &all)) {
            let absent = ran.screen().contains("EAFNOSUPPORT");
            assert!(ran.code == OUT || absent, "{vector:?} as {uid} is not governed: {}", ran.screen());
        }
        let (kind, name) = &outside.unix()[0];
        let ran = outside.attempt(cgroup, 0, &vector("unix", &[kind, name]));
        assert_eq!(ran.code, REFUSED, "the pins hold: {}", ran.screen());
        daemon.restart();
        let ran = outside.attempt(cgroup, 0, &vector("unix", &[kind, name]));
        assert_eq!(ran.code, REFUSED, "and a restart changes nothing: {}", ran.screen());
    });
}

#[test]
fn unix_sockets_by_rule_and_by_learning() {
    case("tier B: unix sockets by rule", RULES, |outside, cgroup, daemon| {
        let (_, docker) = outside.unix().swap_remove(0);
        let wanted = vector("unix", &["stream", &docker]);
        assert_eq!(outside.attempt(cgroup, AGENT_UID, &wanted).code, REFUSED);
        daemon.configure(&format!("{RULES}\n[[unix]]\nsockets = [\"{}*\"]\n", docker.trim_end_matches("sock")));
        let keeper = daemon.keeper().expect("a keeper");
        // SAFETY: kill takes integers; the keeper has not been waited for.
        unsafe { libc::kill(keeper, libc::SIGHUP) };
        let let_in =
            until("the rule", Duration::from_secs(20), || outside.attempt(cgroup, AGENT_UID, &wanted).code == OUT);
        assert!(let_in.is_ok(), "a rule lets it pass\n{}", daemon.logs());
        let (_, bus) = outside.unix().swap_remove(1);
        assert_eq!(
            outside.attempt(cgroup, AGENT_UID, &vector("unix", &["stream", &bus])).code,
            REFUSED,
            "and no other"
        );
        // The rule goes again: what learns reaches it all the same, and that is recorded. By its path: what `run` starts is kept
        // from abstract sockets by Landlock as well.
        daemon.configure(RULES);
        // SAFETY: as above.
        unsafe { libc::kill(keeper, libc::SIGHUP) };
        let refused =
            until("no rule", Duration::from_secs(20), || outside.attempt(cgroup, AGENT_UID, &wanted).code == REFUSED);
        assert!(refused.is_ok(), "without the rule it is refused again\n{}", daemon.logs());
        let learned = |records: &[support::ledger::Record], path: &str| {
            let of = |record: &&support::ledger::Record| record.text("caracal.reason") == "unix_peer_learned";
            records.iter().filter(of).any(|record| record.detail.to_string().contains(path))
        };
        // An attempt that comes while the kernel's counters are read is counted without its path: then it is made again.
        let recorded = |path: &str, attempt: &dyn Fn() -> Tried| {
            for _ in 0..8 {
                let ran = attempt();
                assert_eq!(ran.code, OUT, "what learns is let pass: {}", ran.screen());
                if until("the record", Duration::from_secs(30), || learned(&daemon.records(), path)).is_ok() {
                    return;
                }
            }
            panic!("{path} was learned and is no record: {:#?}\n{}", daemon.records(), daemon.logs());
        };
        let uid = AGENT_UID.to_string();
        recorded(&docker, &|| {
            let run = daemon.run_as(&["--learn"], "python3").arg(&outside.program);
            run.args([&uid, "unix", "stream", &docker]).ran().into()
        });
        // An attached cgroup learns as well, until it is detached.
        let scholar = Cgroup::new();
        let _ran = daemon.command(&["attach", "--learn", "--cgroup"]).arg(scholar.path()).ran().ok();
        recorded(&bus, &|| outside.attempt(&scholar, AGENT_UID, &vector("unix", &["stream", &bus])));
        let _ran = daemon.command(&["detach", "--cgroup"]).arg(scholar.path()).ran().ok();
    });
}

#[test]
fn the_daemons_property() {
    case("tier B: keys, pins, configuration and the daemon itself, by root", RULES, |outside, cgroup, daemon| {
        let state = daemon.state();
        let text = |path: &Path| path.display().to_string();
        let (key, ledger) = (text(&state.join("keeper/ca.key")), text(&state.join("data/ledger.sqlite")));
        let (config, created) = (text(&daemon.config()), text(&state.join("keeper/created")));
        let pin = format!("/sys/fs/bpf/caracal/{}-v{}/lsm/bpf", daemon.instance(), 1);
        let control = text(&daemon.config().with_file_name("run").join("control.sock"));
        let keeper = daemon.keeper().expect("a keeper").to_string();
        let data_path = daemon.data_path().expect("a data path").to_string();
        let second = text(&outside.scene.home.path().join("second-name"));
        let refused = [
            vector("read", &[&key]),
            vector("by_handle", &[&key]),
            vector("read", &[&ledger]),
            vector("write", &[&ledger]),
            vector("truncate", &[&ledger]),
            vector("link", &[&ledger, &second]),
            vector("chmod", &[&key]),
            vector("unlink", &[&key]),
            vector("create", &[&created]),
            vector("rename", &[&text(&state)]),
            vector("write", &[&config]),
            vector("rename", &[&config]),
            vector("unlink", &[&pin]),
            vector("umount", &["/sys/fs/bpf"]),
            vector("unix", &["stream", &control]),
            vector("kill", &[&keeper, "9"]),
            vector("kill", &[&data_path, "9"]),
            vector("trace_of", &[&keeper]),
            vector("trace_of", &[&data_path]),
        ];
        let by_root: Vec<_> = refused.iter().map(|vector| (0, vector)).collect();
        for (vector, ran) in refused.iter().zip(outside.attempts(cgroup, &by_root)) {
            assert_eq!(ran.code, REFUSED, "{vector:?}: {}", ran.screen());
            assert!(ran.screen().contains("EPERM") || ran.screen().contains("EACCES"), "{vector:?}: {}", ran.screen());
        }
        assert_eq!(daemon.exited(), None, "it lives\n{}", daemon.logs());
        assert_eq!(outside.attempt(cgroup, 0, &vector("read", &[&config])).code, OUT, "it may be read");
        // The same by root outside, gentlest first: what was refused above was there to be done.
        let free = Cgroup::new();
        let done = [
            vector("read", &[&key]),
            vector("by_handle", &[&key]),
            vector("write", &[&config]),
            vector("chmod", &[&key]),
            vector("link", &[&ledger, &second]),
            vector("create", &[&created]),
            vector("kill", &[&keeper, "18"]),
            vector("unlink", &[&pin]),
        ];
        let by_root: Vec<_> = done.iter().map(|vector| (0, vector)).collect();
        for (vector, ran) in done.iter().zip(outside.attempts(&free, &by_root)) {
            assert_eq!(ran.code, OUT, "the control of {vector:?}: {}", ran.screen());
        }
    });
}

#[test]
fn a_root_process_may_be_attached_where_the_level_is_full_and_the_ledger_says_which() {
    case("tier B: the level is proven and recorded", RULES, |outside, cgroup, daemon| {
        let other = Cgroup::new();
        let mut sleeper = outside.scene.agent("sleep").user(0).cgroup(&other.path()).arg("600");
        sleeper = sleeper.limit(Duration::from_secs(600));
        let mut sleeper = sleeper.spawn(Stdio::null(), Stdio::null()).expect("a root process");
        let ran = daemon.command(&["attach", "--cgroup"]).arg(other.path()).ran();
        let _gone = sleeper.kill();
        let _gone = sleeper.wait();
        assert_eq!(ran.code, OUT, "{}", ran.screen());
        // The level in force is a record.
        let _records = daemon.records_when(|records| format!("{records:?}").contains("level full"));
        let status = daemon.command(&["status"]).ran().stdout;
        assert!(status.contains("level full") && status.contains("not covered: "), "{status}");
        assert!(fs::metadata(cgroup.path()).is_ok_and(|facts| facts.ino() > 0));
    });
}

/// No kernel help is needed for this one: the data path has no right that it could use, and what it would need to reach
/// is root's.
#[test]
fn a_taken_over_data_path_reaches_no_key() {
    report::plain("escape", "the data path's own rights", || {
        let outside = Outside::new();
        let daemon = Daemon::start(&outside.scene, RULES);
        let data_path = daemon.data_path().expect("a data path");
        let status = fs::read_to_string(format!("/proc/{data_path}/status")).expect("its status");
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default();
            line.trim_start_matches(':').split_whitespace().next().unwrap_or_default().to_owned()
        };
        for set in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
            assert_eq!(u64::from_str_radix(&field(set), 16), Ok(0), "{set}: {status}");
        }
        assert_eq!((field("NoNewPrivs").as_str(), field("Seccomp").as_str()), ("1", "2"), "{status}");
        let uid: u32 = field("Uid").parse().expect("a uid");
        assert_ne!(uid, 0);
        // Whatever runs as its user, without its filter: more than it has itself.
        let keeper = daemon.keeper().expect("a keeper").to_string();
        let key = daemon.state().join("keeper/ca.key").display().to_string();
        let free = Cgroup::new();
        for vector in [
            vector("read", &[&key]),
            vector("create", &[&format!("{key}.new")]),
            vector("trace_of", &[&keeper]),
            vector("read", &[&format!("/proc/{keeper}/mem")]),
            vector("kill", &[&keeper, "9"]),
        ] {
            let ran = outside.attempt(&free, uid, &vector);
            assert_eq!(ran.code, REFUSED, "{vector:?}: {}", ran.screen());
            assert_eq!(outside.attempt(&free, 0, &self::vector("read", &[&key])).code, OUT, "the control");
        }
        let open = fs::read_dir(format!("/proc/{data_path}/fd")).expect("its descriptors");
        let keys = open.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
        let held: Vec<_> = keys.filter(|path| path.starts_with(daemon.state().join("keeper"))).collect();
        assert!(held.is_empty(), "{held:?}");
        std::io::stdout().flush().expect("the end");
    });
}

/// The mount is where the cases put their cgroups: a test that finds none says so at once.
#[test]
fn there_is_a_cgroup_mount() {
    assert!(cgroup_mount().join("cgroup.procs").exists());
}
