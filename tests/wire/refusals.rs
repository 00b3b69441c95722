//! Refusals that a program can read, and things that must never reach anybody.

use crate::{RULES, case, curl};

#[test]
fn a_host_without_a_rule_is_refused_inside_tls() {
    case("403 inside TLS, with the sentence and the code", RULES, |scene, daemon| {
        for version in ["--http1.1", "--http2"] {
            // No -k: the refusal comes over a connection that curl trusts.
            let ran = curl(daemon, &[version, "-D", "-", "https://denied.example/secret?token=1"]).ok();
            let said = ran.stdout.to_lowercase();
            assert!(said.contains(" 403"), "{}", ran.screen());
            assert!(said.contains("x-caracal-reason: host_not_allowed"), "{}", ran.screen());
            assert!(ran.stdout.contains("Caracal") && ran.stdout.contains("denied.example"), "{}", ran.screen());
        }
        assert_eq!(scene.requests("denied.example", "/secret"), 0);
        let denied =
            |records: &[support::ledger::Record]| records.iter().any(|record| record.is_denial("host_not_allowed"));
        let records = daemon.records_when(denied);
        assert!(
            records.iter().all(|record| !record.data.to_string().contains("denied.example")),
            "the host stands in the open part"
        );
    });
}

#[test]
fn a_refused_name_is_not_asked_for() {
    case("a refused name is answered from the reserved range and nobody is asked", RULES, |scene, daemon| {
        let ran = daemon.run("getent").args(["ahostsv4", "denied.example"]).ran().ok();
        assert!(!ran.stdout.contains("203.0.113."), "the real address was told: {}", ran.screen());
        let asked = |name: &str| scene.log("query").iter().filter(|line| line["name"] == name).count();
        assert_eq!(asked("denied.example"), 0);
        // The control: an allowed name is asked for.
        let _ran = curl(daemon, &["https://example.com/hello"]).ok();
        assert!(asked("example.com") > 0);
    });
}

#[test]
fn another_host_in_the_request_is_misdirected() {
    case("421 when Host and server name differ", RULES, |scene, daemon| {
        let rules = curl(
            daemon,
            &[
                "--http1.1",
                "-o",
                "/dev/null",
                "-w",
                "%{http_code}",
                "-H",
                "Host: github.com",
                "https://example.com/hello",
            ],
        )
        .ok();
        assert_eq!(rules.stdout, "421", "{}", rules.screen());
        assert_eq!(scene.requests("github.com", "/hello") + scene.requests("example.com", "/hello"), 0);
    });
}

#[test]
fn a_name_that_leads_inside_is_refused() {
    let rules = "[[allow]]\nhosts = [\"private.example\", \"loopback.example\", \"metadata.example\"]\n";
    case("names with private, loopback and metadata addresses", rules, |scene, daemon| {
        for name in ["private.example", "loopback.example", "metadata.example"] {
            let ran = curl(daemon, &["-D", "-", &format!("https://{name}/hello")]).ok();
            assert!(
                ran.stdout.to_lowercase().contains("x-caracal-reason: private_address"),
                "{name}: {}",
                ran.screen()
            );
            assert_eq!(scene.requests(name, "/hello"), 0);
        }
    });
}

#[test]
fn an_upstream_with_another_certificate_is_refused() {
    let rules = "[[allow]]\nhosts = [\"wrong-certificate.example\"]\n";
    case("an upstream that shows another name's certificate", rules, |scene, daemon| {
        let ran = curl(daemon, &["-D", "-", "https://wrong-certificate.example/hello"]).ok();
        assert!(ran.stdout.to_lowercase().contains("x-caracal-reason: upstream_tls"), "{}", ran.screen());
        assert_eq!(scene.requests("wrong-certificate.example", "/hello"), 0);
    });
}

#[test]
fn the_address_that_the_agent_used_does_not_matter() {
    case("only our resolver's addresses are dialled", RULES, |scene, daemon| {
        // A hosts file that points somewhere else: the name is what is decided and dialled.
        let ran = curl(daemon, &["--resolve", "example.com:443:198.18.9.9", "https://example.com/hello"]).ok();
        assert!(ran.stdout.contains("hello from the stand-in"), "{}", ran.screen());
        assert!(scene.log("query").iter().any(|line| line["name"] == "example.com"));
    });
}
