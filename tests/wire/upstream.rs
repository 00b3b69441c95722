//! A company's network on the way out: its proxy, its name servers, and hosts that want to see a certificate.

use crate::{STAND_IN, case, curl};
use support::daemon::Daemon;
use support::ledger::Record;
use support::scene::{CORPORATE_NAME_SERVER, PROXY, Scene};

const ALLOWED: &str = r#"
[[allow]]
hosts = ["example.com", "github.com", "files.corp.example", "client-certificate.example"]
"#;

fn connects(scene: &Scene) -> Vec<String> {
    let target = |line: &serde_json::Value| line["target"].as_str().unwrap_or_default().to_owned();
    scene.log("connect").iter().map(target).collect()
}

#[test]
fn the_companys_proxy_is_used_and_passed_by() {
    let rules = format!("proxy = \"http://agent:pass%20word@{PROXY}\"\nno_proxy = [\"github.com\"]\n{ALLOWED}");
    case("[upstream] proxy and no_proxy", &rules, |scene, daemon| {
        let ran = curl(daemon, &["https://example.com/hello"]).ok();
        assert!(ran.stdout.contains("hello from the stand-in"), "{}", ran.screen());
        assert_eq!(connects(scene), ["example.com:443"]);
        let shown = scene.log("connect").first().map(|line| line["authorization"].clone());
        assert_eq!(shown, Some("Basic YWdlbnQ6cGFzcyB3b3Jk".into()), "agent:pass word, RFC 7617");
        let ran = curl(daemon, &["https://github.com/hello"]);
        assert!(ran.stdout.contains("Not Found"), "{}", ran.screen());
        assert_eq!(connects(scene).len(), 1, "an excepted host goes past the proxy");
        // What the agent itself says of proxies does not decide: a refused host never gets there.
        let ran = curl(daemon, &["-D", "-", "https://denied.example/hello"]).ok();
        assert!(ran.stdout.to_lowercase().contains("x-caracal-reason: host_not_allowed"), "{}", ran.screen());
        assert_eq!(connects(scene).len(), 1);
    });
}

#[test]
fn a_proxy_that_is_not_there_is_a_failure_and_no_way_round_it() {
    let rules = format!("proxy = \"http://203.0.113.60:3129\"\n{ALLOWED}");
    case("a proxy that does not answer", &rules, |scene, daemon| {
        let ran = curl(daemon, &["-D", "-", "https://example.com/hello"]).ok();
        assert!(ran.stdout.to_lowercase().contains("x-caracal-reason: upstream_"), "{}", ran.screen());
        assert_eq!(scene.requests("example.com", "/hello"), 0);
    });
}

#[test]
fn names_of_a_domain_are_asked_of_its_servers_alone() {
    let rules = format!(
        "[[upstream.split_dns]]\ndomain = \"corp.example\"\nservers = [\"{CORPORATE_NAME_SERVER}\"]\n{ALLOWED}"
    );
    case("split DNS", &rules, |scene, daemon| {
        for host in ["files.corp.example", "example.com"] {
            let ran = curl(daemon, &[&format!("https://{host}/hello")]).ok();
            assert!(ran.stdout.contains("hello from the stand-in"), "{}", ran.screen());
        }
        let asked = |name: &str| {
            let queries = scene.log("query").into_iter().filter(|line| line["name"] == name);
            queries.map(|line| line["server"] == CORPORATE_NAME_SERVER).collect::<Vec<_>>()
        };
        let (inside, outside) = (asked("files.corp.example"), asked("example.com"));
        assert!(!inside.is_empty() && inside.iter().all(|corporate| *corporate), "{inside:?}");
        assert!(!outside.is_empty() && outside.iter().all(|corporate| !corporate), "{outside:?}");
    });
}

/// Without `roots` the system's are what an upstream is checked against: those of the host as it is do not vouch for the
/// stand-in, and a store with its root does.
#[test]
fn the_systems_roots_are_what_counts_where_none_are_configured() {
    support::report::plain("wire", "system roots", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::configured(&scene, ALLOWED);
        let text = std::fs::read_to_string(daemon.config()).expect("the configuration");
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("roots =")).collect();
        assert_eq!(lines.len() + 1, text.lines().count(), "{text}");
        std::fs::write(daemon.config(), lines.join("\n")).expect("the configuration");
        daemon.restart();
        let ran = curl(&daemon, &["-D", "-", "https://example.com/hello"]).ok();
        assert!(ran.stdout.to_lowercase().contains("x-caracal-reason: upstream_tls"), "{}", ran.screen());
        assert_eq!(scene.requests("example.com", "/hello"), 0);
        daemon.stop();
        let (root, store) = (scene.root().display().to_string(), "/etc/ssl/certs/ca-certificates.crt");
        scene.net.a.shell(&format!("mount --bind {root} {store}")).expect("another store");
        daemon.restart();
        let ran = curl(&daemon, &["https://example.com/hello"]).ok();
        assert!(ran.stdout.contains("hello from the stand-in"), "{}", ran.screen());
        daemon.stop();
    });
}

#[test]
fn a_host_that_asks_is_shown_our_certificate() {
    // Without one the host turns us away: that is the control.
    case("a host that asks for a certificate, without one", ALLOWED, |scene, daemon| {
        let ran = curl(daemon, &["-D", "-", "https://client-certificate.example/hello"]).ok();
        assert!(ran.stdout.to_lowercase().contains("x-caracal-reason: upstream_"), "{}", ran.screen());
        assert_eq!(scene.requests("client-certificate.example", "/hello"), 0);
    });
    support::report::plain("wire", "[[upstream.client_certificate]]", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let file = |name: &str| scene.net.files().join(name).display().to_string();
        let rules = format!(
            "[[upstream.client_certificate]]\nhost = \"client-certificate.example\"\ncertificate = \"{}\"\n\
             key = \"{}\"\n{ALLOWED}",
            file("client.pem"),
            file("client.key"),
        );
        let mut daemon = Daemon::start(&scene, &rules);
        let ran = curl(&daemon, &["https://client-certificate.example/hello"]).ok();
        assert!(ran.stdout.contains("hello from the stand-in"), "{}", ran.screen());
        assert_eq!(scene.requests("client-certificate.example", "/hello"), 1);
        let refused = |record: &Record| record.is_denial("upstream_tls");
        assert!(!daemon.records().iter().any(refused));
        daemon.stop();
    });
}
