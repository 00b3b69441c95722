//! Each redirected connection arrives where its process sent it: many of them, of all address families, from source ports
//! that are used again at once, with thousands open beside them. The other host says at which address it was called.

use crate::{PROBE, STAND_IN};
use serde_json::{Map, json};
use std::collections::{BTreeMap, VecDeque};
use std::io::Write as _;
use std::net::{Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use support::catalogue::ECHO_PORTS;
use support::daemon::{Cgroup, Daemon};
use support::report;
use support::scene::Scene;

const RULES: &str = "[limits]\nconnections_per_agent = 40000\nconnections = 40000\n\n[[allow]]\n\
                     hosts = [\"12.0.0.0/8\", \"2001:db8:c::/48\"]\nports = [5001, 5002, 5003, 5004]\nmode = \"tcp\"\n";

/// Tell every caller which address and port he called, and keep the connection until they are dropped.
struct Servers {
    kept: Arc<Mutex<VecDeque<TcpStream>>>,
    /// While it is set, each fourth caller is told of the next port: as if he had arrived where he did not call.
    astray: Arc<AtomicBool>,
}

/// The prober's last line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Said {
    right: u64,
    wrong: u64,
    failed: u64,
    most_open: u64,
}

impl Said {
    fn read(text: &str) -> Option<Said> {
        let mut numbers = text.lines().last()?.split(' ').filter_map(|word| word.parse().ok());
        let mut next = || numbers.next();
        Some(Said { right: next()?, wrong: next()?, failed: next()?, most_open: next()? })
    }

    /// Whether `count` connections, `open` of them at once, went where they should.
    fn judge(self, count: u64, open: u64) -> Result<(), String> {
        let Said { right, wrong, failed, most_open } = self;
        match () {
            () if wrong > 0 => Err(format!("{wrong} arrived at another one's destination")),
            () if right + failed != count => Err(format!("{count} were asked for, and {right} + {failed} were made")),
            // A refused connection is no wrong one, but a daemon that refuses many proves little.
            () if failed > count / 100 => Err(format!("{failed} of {count} failed")),
            // Threads do not run in step; all but a tenth were open at one moment.
            () if most_open < open / 10 * 9 => Err(format!("only {most_open} of {open} were open at once")),
            () => Ok(()),
        }
    }
}

impl Servers {
    fn open(scene: &Scene, open: usize) -> Servers {
        // Callers hang up first: by the time one is dropped here, as many newer ones are kept.
        let keep = open + 4_000;
        let kept = Arc::new(Mutex::new(VecDeque::new()));
        let (astray, calls) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        for port in ECHO_PORTS {
            let bound = scene.net.b.inside(|| Ok(TcpListener::bind((Ipv6Addr::UNSPECIFIED, port))?));
            let (listener, kept) = (bound.expect("a listener"), Arc::clone(&kept));
            let (astray, calls) = (Arc::clone(&astray), Arc::clone(&calls));
            std::thread::spawn(move || {
                for mut stream in listener.incoming().flatten() {
                    let Ok(at) = stream.local_addr() else { continue };
                    let other = astray.load(Ordering::SeqCst) && calls.fetch_add(1, Ordering::SeqCst) % 4 == 0;
                    let port = at.port() + u16::from(other);
                    let _gone = writeln!(stream, "{}", SocketAddr::new(at.ip().to_canonical(), port));
                    let mut kept = kept.lock().unwrap_or_else(PoisonError::into_inner);
                    kept.push_back(stream);
                    while kept.len() > keep {
                        drop(kept.pop_front());
                    }
                }
            });
        }
        Servers { kept, astray }
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }
}

/// How many connections are made, and how many of them stay open at once. `CARACAL_DESTINATIONS=COUNT:OPEN` says others: an
/// emulated machine has no time for a million.
fn size() -> (u64, usize) {
    let named = std::env::var("CARACAL_DESTINATIONS").ok();
    let named = named.as_deref().and_then(|text| text.split_once(':'));
    let named = named.and_then(|(count, open)| Some((count.parse().ok()?, open.parse().ok()?)));
    named.unwrap_or(if report::long() { (1_000_000, 30_000) } else { (50_000, 1_000) })
}

/// How many of `open` connections can be open at once: the daemon has two descriptors for each, and a sixteenth of what it may
/// have is for other things. Prober and daemon inherit the limit, which root raises where it may (`CAP_SYS_RESOURCE`).
fn room_for(open: usize) -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    /// Connections that end while others begin.
    const ENDING: usize = 500;
    let wanted = u64::try_from(open * 2 + 20_000).unwrap_or(u64::MAX);
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the limit");
    if hard >= wanted || setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        setrlimit(Resource::RLIMIT_NOFILE, soft.max(wanted), hard.max(wanted)).expect("within the hard limit");
        return open;
    }
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("within the hard limit");
    (usize::try_from(hard - hard / 16).unwrap_or(0) / 2).saturating_sub(ENDING).min(open)
}

#[test]
fn no_connection_arrives_at_another_ones_destination() {
    let (count, wanted) = size();
    let open = room_for(wanted);
    if open < wanted {
        let why = format!(
            "root may not raise the limit on descriptors here (no CAP_SYS_RESOURCE), which is enough for {open}; in a machine of its \
             own it may: cargo xtask vm newest --memory 8192 -- sh -c 'CARACAL_DESTINATIONS={}:{wanted} $ESCAPE destinations'",
            wanted * 2
        );
        report::skipped("escape", &format!("{wanted} connections open at once"), &why);
    }
    report::case("escape", "original destinations", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let (cgroup, ungoverned) = (Cgroup::new(), Cgroup::new());
        let servers = Servers::open(&scene, open);
        let probe = |cgroup: &Cgroup, count: u64, open: usize| {
            let limit = Duration::from_secs(if report::long() { 7_200 } else { 300 });
            let run = scene.agent(PROBE).cgroup(&cgroup.path()).limit(limit);
            run.args(["destinations", "7", &count.to_string(), &open.to_string()]).ran().ok()
        };
        // Without a daemon every connection is right: else the server or the prober would be wrong. In a cgroup of their own: the
        // last packets of these, as their sockets close, would be counted as refused in one that is governed by then.
        let control = probe(&ungoverned, 800, 80);
        assert!(control.stdout.starts_with("right 800 wrong 0 failed 0 open "), "{}", control.screen());
        // Planted: connections that arrive elsewhere are seen, and by the judge.
        servers.astray.store(true, Ordering::SeqCst);
        let planted = probe(&ungoverned, 800, 80);
        servers.astray.store(false, Ordering::SeqCst);
        let said = Said::read(&planted.stdout).unwrap_or_else(|| panic!("{}", planted.screen()));
        assert!(said.wrong >= 100 && said.judge(800, 80).is_err(), "planted, not seen: {}", planted.screen());
        let mut daemon = Daemon::configured(&scene, RULES);
        daemon.attach(&cgroup.path());
        daemon.restart();
        scene.wire.clear();
        let ran = probe(&cgroup, count, open);
        let said = Said::read(&ran.stdout).unwrap_or_else(|| panic!("{}", ran.screen()));
        report::figure("escape", "destinations", said.right + said.wrong);
        report::figure("escape", "wrong_destinations", said.wrong);
        said.judge(count, open as u64).unwrap_or_else(|why| panic!("{why}: {}{}", ran.screen(), daemon.logs()));
        let Said { failed, most_open, .. } = said;
        report::figure("escape", "destinations_open_at_once", most_open);
        let reason = |line: &str| {
            let (count, reason) = line.strip_prefix("failed ")?.split_once(' ')?;
            Some((reason.to_owned(), json!(count.parse::<u64>().ok()?)))
        };
        let reasons: Map<_, _> = ran.stdout.lines().filter_map(reason).collect();
        // Each that failed was refused by the kernel's programs, which count packets of open flows beside: while a busy machine
        // keeps the daemon from proving itself, the lease runs out.
        let status = daemon.json(&["status"]);
        let most = status["data_path"]["connections_most"].as_u64().unwrap_or(0);
        assert!(most > most_open, "the daemon takes {most} connections: {status}");
        let agents = status["agents"].as_array().map(Vec::as_slice).unwrap_or_default();
        let counted: u64 = agents.iter().filter_map(|agent| agent["refused_by_kernel"].as_u64()).sum();
        // For which reasons: a lease that ran out, packets of what was open meanwhile, and connections that came when the
        // daemon's listener was full. Nobody was unknown, no map was full, nothing was misread.
        let mut refused_for: BTreeMap<String, u64> = BTreeMap::new();
        for (why, count) in agents.iter().filter_map(|agent| agent["refused_for"].as_object()).flatten() {
            *refused_for.entry(why.clone()).or_default() += count.as_u64().unwrap_or(0);
        }
        let expected = ["lease_expired", "packet_refused", "daemon_absent"];
        let strange: Vec<_> = refused_for.iter().filter(|(why, _)| !expected.contains(&why.as_str())).collect();
        assert!(strange.is_empty(), "{strange:?} of {refused_for:?}: {}", daemon.logs());
        assert_eq!(refused_for.values().sum::<u64>(), counted, "{refused_for:?}");
        let refused: u64 =
            reasons.iter().filter(|(why, _)| why.contains("refused")).filter_map(|(_, n)| n.as_u64()).sum();
        assert!(refused == failed && refused <= counted, "{counted} were refused: {reasons:?}: {}", daemon.logs());
        let lapses = ["is not renewed", "does not vouch"].map(|words| daemon.logs().matches(words).count());
        let packets = scene.wire.packets();
        let carried: Vec<_> = packets.iter().filter(|packet| packet.carries()).take(5).collect();
        assert!(carried.is_empty(), "bytes left the host outside the data path: {carried:?}");
        let mut more = Map::new();
        more.insert("failed_by".into(), reasons.into());
        more.insert("refused_by_kernel".into(), json!(counted));
        more.insert("refused_for".into(), json!(refused_for));
        more.insert("lease_lapses".into(), json!(lapses.iter().sum::<usize>()));
        more.insert("connections".into(), json!(count));
        more.insert("open_at_once".into(), json!(most_open));
        more.insert("failed".into(), json!(failed));
        more
    });
}

#[test]
fn planted_what_the_prober_says_of_a_wrong_run_is_red() {
    let said = |text: &str| Said::read(text).expect("four numbers").judge(1_000, 100);
    assert_eq!(said("failed 3 connect: refused\nright 997 wrong 0 failed 3 open 95\n"), Ok(()));
    for (text, why) in [
        ("right 999 wrong 1 failed 0 open 100", "another one's destination"),
        ("right 998 wrong 0 failed 0 open 100", "were made"),
        ("right 980 wrong 0 failed 20 open 100", "failed"),
        ("right 1000 wrong 0 failed 0 open 80", "at once"),
    ] {
        assert!(said(text).is_err_and(|said| said.contains(why)), "{text}");
    }
    assert_eq!(Said::read(""), None);
}
