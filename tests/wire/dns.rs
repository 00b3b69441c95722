//! Names: asked over UDP and TCP by resolvers that nobody here wrote. Only what the policy allows is asked for, the rest is
//! answered at once from the reserved range.

use crate::case;
use std::process::Stdio;
use std::time::Duration;
use support::netns::{NAME_SERVER, until};
use support::programs;
use support::scene::Scene;

const RULES: &str = "[[allow]]\nhosts = [\"example.com\"]\n";
const REFUSED: &str = "198.18.0.1";

fn asked(scene: &Scene, name: &str) -> Vec<u64> {
    scene.log("query").iter().filter(|line| line["name"] == name).filter_map(|line| line["type"].as_u64()).collect()
}

#[test]
fn both_transports_and_every_type_are_answered_from_the_policy() {
    case("DNS over UDP and TCP, type by type", RULES, |scene, daemon| {
        let script = include_str!("../programs/dns_all.py");
        let tunnel = "736563726574.denied.example";
        let run = daemon.run("python3").args(["-c", script, "example.com", "denied.example", tunnel]);
        let ran = run.ran().ok();
        let (four, six) = (scene.address("example.com"), "2001:db8:ca::1c");
        let mut expected = vec![format!("example.com A 0 {four}/False"), format!("example.com AAAA 0 {six}/False")];
        for name in ["denied.example", tunnel] {
            expected.extend([format!("{name} A 0 {REFUSED}/True"), format!("{name} AAAA 0 100::1/True")]);
            // Nothing of other types, and no word that the name does not exist: that costs some clients ten seconds.
            expected.extend(["MX", "TXT", "SVCB", "HTTPS", "ANY"].map(|kind| format!("{name} {kind} 0")));
        }
        expected.extend(["MX", "TXT", "SVCB", "HTTPS", "ANY"].map(|kind| format!("example.com {kind} 0")));
        let mut said: Vec<&str> = ran.stdout.lines().map(str::trim_end).collect();
        said.sort_unstable();
        expected.sort_unstable();
        assert_eq!(said, expected, "{}", ran.screen());
        assert_eq!(asked(scene, "denied.example"), [0; 0]);
        assert_eq!(asked(scene, tunnel), [0; 0]);
        let types = asked(scene, "example.com");
        assert!(types.contains(&1) && !types.contains(&65) && !types.contains(&64), "{types:?}");
        let _records = daemon.records_when(|records| {
            records.iter().any(|record| record.is_denial("host_not_allowed") && record.detail["host"] == tunnel)
        });
    });
}

#[test]
fn every_kind_of_resolver_gets_the_same_answers() {
    case("DNS by glibc, musl and c-ares", RULES, |scene, daemon| {
        let source = scene.file("resolve.c", include_str!("../programs/resolve.c"));
        let binary = |compiler: &str, more: &[&str]| {
            let to = scene.net.files().join(format!("resolve-{compiler}"));
            let run = scene.net.a.run(programs::host(compiler)).args(more).arg("-o").arg(&to).arg(&source);
            let _ran = run.ran().ok();
            to
        };
        let names = ["example.com", "denied.example"];
        let node = "const dns = require('dns').promises; (async () => { for (const name of process.argv.slice(1)) \
                    for (const address of await dns.resolve4(name)) console.log(name, address) })()";
        let expected = format!("example.com {}\ndenied.example {REFUSED}\n", scene.address("example.com"));
        let runs = [
            ("glibc", daemon.run(binary("cc", &[]))),
            ("musl", daemon.run(binary("musl-gcc", &["-static"]))),
            ("c-ares", daemon.run(programs::host("node")).args(["-e", node])),
        ];
        for (which, run) in runs {
            let ran = run.args(names).ran().ok();
            assert_eq!(ran.stdout, expected, "{which}: {}", ran.screen());
        }
        assert_eq!(asked(scene, "denied.example"), [0; 0]);
    });
}

#[test]
fn only_expansions_of_the_search_list_do_not_exist() {
    support::report::plain("wire", "DNS: a search list", || {
        let scene = Scene::new(crate::STAND_IN).expect("the scene stands");
        // Written in place: it is mounted over the host's own.
        let text = format!("nameserver {NAME_SERVER}\nsearch corp.example\noptions ndots:5\n");
        std::fs::write(scene.net.files().join("resolv.conf"), text).expect("resolv.conf");
        let mut daemon = support::daemon::Daemon::start(&scene, RULES);
        scene.wire.clear();
        let look_up = |name: &str| daemon.run("getent").args(["ahostsv4", name]).ran().ok().stdout;
        // The expansion comes first, does not exist, and the name itself is found.
        assert!(look_up("example.com").starts_with(&scene.address("example.com").to_string()));
        assert!(look_up("denied.example").starts_with(REFUSED));
        for name in ["example.com.corp.example", "denied.example.corp.example", "denied.example"] {
            assert_eq!(asked(&scene, name), [0; 0], "{name}");
        }
        scene.wire.silent();
        daemon.stop();
    });
}

/// A cache of the host's asks for whoever may speak to its socket: `run` starts nothing that can.
#[test]
fn no_cache_of_the_host_asks_for_a_refused_name() {
    case("DNS: nscd of the host", RULES, |scene, daemon| {
        let settings = "enable-cache hosts yes\nenable-cache passwd no\nenable-cache group no\nenable-cache services no\n\
                        enable-cache netgroup no\n";
        let settings = scene.file("nscd.conf", settings);
        // Its socket's place is compiled in: this host's, seen in this test's mounts alone.
        let nscd =
            "mkdir -p /run/nscd && mount -t tmpfs none /run/nscd && exec \"$0\" --foreground --config-file \"$1\"";
        let run = scene.net.a.run("sh").args(["-c", nscd]).arg(programs::host("nscd")).arg(settings);
        let mut nscd = run.spawn(Stdio::null(), Stdio::null()).expect("nscd starts");
        until("nscd listens", Duration::from_secs(60), || {
            scene.net.a.run("test").args(["-S", "/run/nscd/socket"]).ran().code == Some(0)
        })
        .expect("it listens");
        // The control is governed by nobody: nscd asks for it.
        let _ran = scene.agent("getent").args(["ahostsv4", "other.example"]).ran().ok();
        assert_ne!(asked(scene, "other.example"), [0; 0], "the control did not reach the name server");
        scene.wire.clear();
        let ran = daemon.run("getent").args(["ahostsv4", "denied.example"]).ran().ok();
        assert!(ran.stdout.starts_with(REFUSED), "{}", ran.screen());
        let _ended = nscd.kill();
        let _status = nscd.wait();
        assert_eq!(asked(scene, "denied.example"), [0; 0]);
    });
}
