//! Resolvers that a program brings along, and one that the host has: Go's own, and systemd-resolved by its stub and by its
//! socket. Not a byte of a refused name leaves the host by either, also not one that carries bytes in a TXT query.

use crate::case;
use serde_json::Value;
use std::process::{Child, Stdio};
use std::time::Duration;
use support::netns::{NAME_SERVER, Run, until};
use support::programs;
use support::scene::Scene;

const RULES: &str = "[[allow]]\nhosts = [\"example.com\"]\n";
const REFUSED: &str = "198.18.0.1";
/// Bytes of somebody else's, as a name.
const TUNNEL: &str = "736563726574.denied.example";

/// The names that reached the name server.
fn asked(scene: &Scene) -> Vec<String> {
    let name = |line: &Value| line["name"].as_str().unwrap_or_default().to_owned();
    scene.log("query").iter().map(name).collect()
}

#[track_caller]
fn nothing_of_it_left(scene: &Scene) {
    let left: Vec<String> = asked(scene).into_iter().filter(|name| name.contains("denied")).collect();
    assert!(left.is_empty(), "the name server was asked for {left:?}");
}

#[test]
fn the_resolver_of_go_gets_what_policy_allows() {
    case("DNS by Go's own resolver", RULES, |scene, daemon| {
        let source = scene.file("resolve.go", include_str!("../programs/resolve.go"));
        let binary = scene.net.files().join("resolve-go");
        let cache = tempfile::tempdir().expect("a directory");
        // On the host: the compiler asks nobody, and the program has no C library to resolve with.
        let built = std::process::Command::new(programs::host("go"))
            .args(["build", "-o"])
            .args([&binary, &source])
            .envs([("CGO_ENABLED", "0"), ("GO111MODULE", "off"), ("GOFLAGS", ""), ("GOTOOLCHAIN", "local")])
            .env("GOCACHE", cache.path())
            .output()
            .expect("go starts");
        assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
        // Without a daemon the name server is asked for each.
        let _ran = scene.agent(&binary).args(["other.example"]).ran();
        assert!(asked(scene).iter().any(|name| name == "other.example"), "the control did not reach the name server");
        scene.wire.clear();
        let ran = daemon.run(&binary).args(["example.com", "denied.example", TUNNEL]).ran().ok();
        let expected = format!(
            "example.com {}\nexample.com TXT 0\ndenied.example {REFUSED}\ndenied.example TXT 0\n{TUNNEL} {REFUSED}\n{TUNNEL} TXT 0\n",
            scene.address("example.com")
        );
        assert_eq!(ran.stdout, expected, "{}", ran.screen());
        nothing_of_it_left(scene);
    });
}

/// systemd-resolved in the world of a test: it answers on 127.0.0.53 and at its socket.
struct Resolved(Child);

impl Resolved {
    fn start(scene: &Scene) -> Resolved {
        // It gives up root for this user, whom Debian's package makes.
        let users = scene.net.files().join("passwd");
        let known = std::fs::read_to_string(&users).expect("the users");
        if !known.contains("systemd-resolve:") {
            let text = known + "systemd-resolve:x:64801:64801:resolver:/:/usr/sbin/nologin\n";
            std::fs::write(&users, text).expect("the users");
        }
        let line = "mount -t tmpfs -o mode=755 none /run/systemd && mkdir -p /run/systemd/resolved.conf.d /run/systemd/resolve && \
                    chown 64801:64801 /run/systemd/resolve && \
                    printf '[Resolve]\\nDNS=%s\\nFallbackDNS=\\nDNSSEC=no\\nLLMNR=no\\nMulticastDNS=no\\n' \"$1\" \
                    > /run/systemd/resolved.conf.d/test.conf && exec \"$0\"";
        let log = std::fs::File::create(scene.net.files().join("resolved.log")).expect("a log");
        let run = scene.net.a.run("sh").args(["-c", line]).arg(programs::resolved()).arg(NAME_SERVER);
        let child = run.spawn(Stdio::null(), Stdio::from(log)).expect("systemd-resolved starts");
        let resolved = Resolved(child);
        let listens = || scene.net.a.shell("test -S /run/systemd/resolve/io.systemd.Resolve").is_ok();
        until("systemd-resolved listens", Duration::from_secs(30), listens).unwrap_or_else(|error| {
            panic!("{error}: {}", std::fs::read_to_string(scene.net.files().join("resolved.log")).unwrap_or_default())
        });
        // Written in place: it is mounted over the host's own.
        std::fs::write(scene.net.files().join("resolv.conf"), "nameserver 127.0.0.53\n").expect("resolv.conf");
        resolved
    }
}

impl Drop for Resolved {
    fn drop(&mut self) {
        let _ended = self.0.kill();
        let _status = self.0.wait();
    }
}

#[test]
fn systemd_resolved_asks_for_no_refused_name() {
    case("DNS: systemd-resolved of the host", RULES, |scene, daemon| {
        let _resolved = Resolved::start(scene);
        let varlink = scene.file("varlink.py", include_str!("../programs/varlink.py"));
        let script = include_str!("../programs/dns_all.py");
        let by_socket = |run: Run, name: &str| run.arg(&varlink).arg(name).ran().ok().stdout;
        // Without a daemon it asks the name server for whoever speaks to it.
        assert!(by_socket(scene.agent("/usr/bin/python3"), "other.example").contains("asked"));
        assert!(asked(scene).iter().any(|name| name == "other.example"), "the control did not reach the name server");
        let _ran = scene.agent("getent").args(["ahostsv4", "another.example"]).ran();
        assert!(asked(scene).iter().any(|name| name == "another.example"), "nor did the stub's");
        scene.wire.clear();
        // Its stub is a name server like any other: the daemon answers in its place.
        let ran = daemon.run("python3").args(["-c", script, "denied.example", TUNNEL]).ran().ok();
        for name in ["denied.example", TUNNEL] {
            assert!(ran.stdout.contains(&format!("{name} A 0 {REFUSED}/True")), "{}", ran.screen());
            assert!(ran.stdout.lines().any(|line| line.trim_end() == format!("{name} TXT 0")), "{}", ran.screen());
        }
        let ran = daemon.run("getent").args(["ahostsv4", "denied.example"]).ran().ok();
        assert!(ran.stdout.starts_with(REFUSED), "{}", ran.screen());
        let ran = daemon.run("getent").args(["ahostsv4", "example.com"]).ran().ok();
        assert!(ran.stdout.starts_with(&scene.address("example.com").to_string()), "{}", ran.screen());
        // Its socket is out of reach.
        for name in ["denied.example", TUNNEL] {
            let said = by_socket(daemon.run("/usr/bin/python3"), name);
            assert!(said.contains("not asked"), "{said}");
        }
        nothing_of_it_left(scene);
    });
}
