//! Loopback that is not the agent's own: by rule, in the agent's own namespace and never in the host's; and the other
//! way round, a port of the agent's that others may connect to.

use crate::{Namespace, World, case, controlled};
use std::process::{Child, Stdio};
use std::time::Duration;
use support::netns::{Run, until};
use support::scene::Scene;
use support::wire::CANARY_PORT;

/// A web server that answers its name, and says `up` when it listens.
const SERVER: &str = "
import http.server, sys
class Named(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = sys.argv[2].encode()
        self.send_response(200)
        self.send_header('Content-Length', str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *words):
        pass
server = http.server.HTTPServer(('0.0.0.0', int(sys.argv[1])), Named)
print('up', flush=True)
server.serve_forever()
";

/// A server that is ended with the test.
struct Server(Child);

impl Server {
    /// `python` is where and as whom it runs.
    fn start(world: &World<'_>, python: Run, port: u16, name: &str) -> Server {
        let out = world.scene.file(&format!("server-{port}-{name}"), "");
        let to = std::fs::OpenOptions::new().write(true).open(&out).expect("a file");
        let run = python.args(["-c", SERVER, &port.to_string(), name]);
        let server = Server(run.spawn(Stdio::from(to), Stdio::null()).expect("python3"));
        until("the server listens", Duration::from_secs(20), || {
            std::fs::read_to_string(&out).is_ok_and(|text| text == "up\n")
        })
        .expect("it is up");
        server
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

const LOOPBACK: &str = "[[allow]]\nhosts = [\"example.com\"]\n\n[[allow]]\nhosts = [\"127.0.0.1\", \"10.66.0.1\"]\n\
                        ports = [8088]\nprivate = true\n";

#[test]
fn a_rule_about_loopback_means_the_agents_own() {
    case("a loopback service by rule, the same port in both namespaces", LOOPBACK, |world| {
        let namespace = Namespace::new(world.scene, world.cgroup);
        let python = || world.scene.agent("python3");
        let _hosts: Vec<Server> = [8088, 8089].map(|port| Server::start(world, python(), port, "the-hosts")).into();
        let inner = || namespace.run(world.scene, "python3");
        let _theirs: Vec<Server> = [8088, 8089].map(|port| Server::start(world, inner(), port, "the-agents")).into();
        // Control: both answer to their own side, ungoverned.
        let plain = |port: u16| format!("curl -sS --max-time 5 http://127.0.0.1:{port}/");
        assert_eq!(world.scene.agent("sh").args(["-c", &plain(8088)]).ran().ok().stdout, "the-hosts");
        assert_eq!(namespace.run(world.scene, "sh").args(["-c", &plain(8088)]).ran().ok().stdout, "the-agents");
        // Governed: each its own.
        let ran = world.within(&namespace, &world.fetch("http://127.0.0.1:8088/")).ok();
        assert_eq!(ran.stdout, "the-agents 200", "{}", ran.screen());
        let here =
            world.scene.agent("sh").cgroup(&world.cgroup.path()).args(["-c", &world.fetch("http://127.0.0.1:8088/")]);
        assert_eq!(here.ran().ok().stdout, "the-hosts 200");
        // A port that no rule names is neither's.
        let ran = world.within(&namespace, &world.fetch("http://127.0.0.1:8089/")).ok();
        assert!(ran.stdout.ends_with(" 403") && !ran.stdout.contains("the-"), "{}", ran.screen());
        // An address that the namespace has, and the host as well: a peer inside the container, not outside.
        let give = "ip addr add 10.66.0.1/32 dev lo";
        let _ran = namespace.run(world.scene, "sh").args(["-c", give]).ran().ok();
        world.scene.net.a.shell(give).expect("an address");
        let ran = world.within(&namespace, &world.fetch("http://10.66.0.1:8088/")).ok();
        assert_eq!(ran.stdout, "the-agents 200", "{}", ran.screen());
        // Nobody there: an honest error, and still not the host's.
        drop(_theirs);
        let ran = world.within(&namespace, &world.fetch("http://127.0.0.1:8088/")).ok();
        assert!(ran.stdout.ends_with(" 504") && !ran.stdout.contains("the-"), "{}", ran.screen());
    });
}

/// Counts TCP packets that arrive by the cable from a namespace: `ETH_P_IP` is 0x0800, packet(7).
const CATCH: &str = "
import os, socket, sys
s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800))
s.bind(('out', 0x0800))
s.settimeout(0.2)
print('up', flush=True)
seen = 0
while not os.path.exists(sys.argv[1]):
    try:
        packet = s.recv(65536)
        seen += packet[9] == 6
    except TimeoutError:
        pass
print(seen, flush=True)
";

/// How many TCP packets came by the cable while `work` ran.
fn caught(scene: &Scene, work: impl FnOnce()) -> u64 {
    let (out, end) = (scene.file("caught", ""), scene.net.files().join("caught-enough"));
    let _old = std::fs::remove_file(&end);
    let to = std::fs::OpenOptions::new().write(true).open(&out).expect("a file");
    let run = scene.net.a.run("python3").args(["-c", CATCH]).arg(&end);
    let mut catcher = run.spawn(Stdio::from(to), Stdio::null()).expect("python3");
    let told = || std::fs::read_to_string(&out).unwrap_or_default();
    until("the catcher listens", Duration::from_secs(20), || told().starts_with("up")).expect("it is up");
    work();
    std::thread::sleep(Duration::from_millis(500));
    std::fs::write(&end, "").expect("a file");
    let _ended = catcher.wait();
    told().split_whitespace().last().and_then(|word| word.parse().ok()).expect("a count")
}

#[test]
fn loopback_that_its_root_leads_elsewhere_leads_nowhere() {
    let rules =
        format!("[[allow]]\nhosts = [\"127.0.0.1\"]\nports = [{CANARY_PORT}]\nprivate = true\nmode = \"tcp\"\n");
    controlled(
        "an agent's root routes 127.0.0.1 to a cable",
        &rules,
        |scene, cgroup| {
            let made = Namespace::new(scene, cgroup);
            crate::own::cable(scene, &made);
            let astray = "echo 1 > /proc/sys/net/ipv4/conf/all/route_localnet && ip rule add pref 5 lookup 7 && \
                          ip rule add pref 10 lookup local && ip rule del pref 0 && \
                          ip route add 127.0.0.0/8 via 10.77.0.1 dev eth0 src 10.77.0.2 table 7";
            let _ran = made.run(scene, "sh").args(["-c", astray]).ran().ok();
            // Control: what is sent to loopback goes out by the cable.
            let to = format!("127.0.0.1:{CANARY_PORT}");
            let seen = caught(scene, || drop(made.run(scene, crate::PROBE).args(["tcp", to.as_str()]).ran()));
            assert!(seen > 0, "the control does not leak");
            made
        },
        |world, namespace| {
            // By the rule, through us: our socket is bound to loopback.
            let to = format!("127.0.0.1:{CANARY_PORT}");
            let seen = caught(world.scene, || {
                for _ in 0..3 {
                    let run = namespace.run(world.scene, crate::PROBE).cgroup(&world.cgroup.path());
                    let ran = run.args(["tcp", to.as_str()]).ran();
                    assert_ne!(ran.code, Some(0), "{}", ran.screen());
                    std::thread::sleep(Duration::from_millis(300));
                }
            });
            assert_eq!(seen, 0, "TCP packets came by the cable");
        },
    );
}

#[test]
fn an_inbound_port_is_open_by_rule_alone() {
    let rules = |inbound: &str| format!("{}{inbound}", crate::RULES);
    let open = rules("\n[[inbound]]\nports = [1455]\n");
    case("an inbound callback by rule, and without", &open, |world| {
        let governed = || world.scene.agent("python3").cgroup(&world.cgroup.path());
        let _listening: Vec<Server> =
            [1455, 1456].map(|port| Server::start(world, governed(), port, "callback")).into();
        let from_outside = |port: u16| {
            let url = format!("http://127.0.0.1:{port}/");
            world.scene.agent("curl").args(["-sS", "--max-time", "20", &url]).ran()
        };
        assert_eq!(from_outside(1455).ok().stdout, "callback");
        assert_ne!(from_outside(1456).code, Some(0));
        // Not over a card of the host's, even with the rule.
        let cable = world.scene.net.b.run("curl").args(["-sS", "--max-time", "2", "http://198.51.100.1:1455/"]).ran();
        assert_ne!(cable.code, Some(0), "{}", cable.screen());
        // The rule opens the port for being asked, not for asking.
        let asking = "import socket; s = socket.socket(); s.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1); \
                      s.bind(('127.0.0.1', 1457)); s.connect(('203.0.113.10', 7)); print(s.getpeername())";
        let _ran = governed().args(["-c", asking]).ran();
        world.scene.wire.silent();
        let told = |records: &[support::ledger::Record]| {
            let refused = records.iter().any(|record| record.is_denial("inbound_refused"));
            refused && records.iter().any(|record| record.text("caracal.action") == "inbound")
        };
        let _records = world.daemon.records_when(told);
        // Taken away at a reload, and given again.
        world.daemon.configure(&rules(""));
        let _ran = world.daemon.command(&["policy", "reload"]).ran().ok();
        assert_ne!(from_outside(1455).code, Some(0));
        world.daemon.configure(&open);
        let _ran = world.daemon.command(&["policy", "reload"]).ran().ok();
        assert_eq!(from_outside(1455).ok().stdout, "callback");
        // Dead means shut, within the lease.
        world.daemon.kill();
        until("the lease runs out", Duration::from_secs(60), || from_outside(1455).code != Some(0))
            .expect("it is shut");
        world.daemon.restart();
        assert_eq!(from_outside(1455).ok().stdout, "callback");
    });
}
