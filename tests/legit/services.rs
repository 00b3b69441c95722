//! Services of the host on loopback: by rule from the agent's own namespace, and not without one.

use crate::{case, recorded, refused};
use std::process::{Child, Stdio};
use std::time::Duration;
use support::netns::until;
use support::scene::Scene;

const RULES: &str = "[[allow]]\nhosts = [\"127.0.0.1\"]\nports = [8080]\nmode = \"tcp\"\nprivate = true\n\n\
                     [[allow]]\nhosts = [\"localhost\"]\nports = [8081]\nprivate = true\n";

/// Three services of the agent's own host, governed by nobody.
struct Services(Vec<Child>);

impl Services {
    fn start(scene: &Scene) -> Services {
        let dir = scene.net.files().join("service");
        std::fs::create_dir(&dir).expect("a directory");
        std::fs::write(dir.join("data"), "0123456789abcdef\n".repeat(100_000)).expect("a file");
        let serve = |port: &str| {
            let run = scene.net.a.run("python3").dir(&dir).args(["-m", "http.server", "--bind", "127.0.0.1", port]);
            run.spawn(Stdio::null(), Stdio::null()).expect("a service")
        };
        let services = Services(["8080", "8081", "8082"].map(serve).into());
        until("the services listen", Duration::from_secs(60), || {
            ["8080", "8081", "8082"].iter().all(|port| {
                let url = format!("http://127.0.0.1:{port}/");
                scene.net.a.run("curl").args(["-sS", "-o", "/dev/null", url.as_str()]).ran().code == Some(0)
            })
        })
        .expect("they listen");
        services
    }
}

impl Drop for Services {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _gone = child.kill();
            let _status = child.wait();
        }
    }
}

#[test]
fn services_of_the_host_are_reached_by_rule() {
    case("services on loopback by rule", RULES, Services::start, |_, daemon, _| {
        let get = |url: &str| daemon.run("curl").args(["-sS", "--max-time", "30", "-w", "%{http_code}", url]).ran();
        let expected = "0123456789abcdef\n".repeat(100_000) + "200";
        for url in ["http://127.0.0.1:8080/data", "http://localhost:8081/data"] {
            let ran = get(url);
            assert!(ran.stdout == expected, "{url}: {} bytes: {}", ran.stdout.len(), ran.stderr);
        }
        recorded(daemon, "connect", "127.0.0.1", 8_080);
        recorded(daemon, "request", "localhost", 8_081);
        let ran = get("http://127.0.0.1:8082/data");
        assert!(!ran.stdout.contains("0123456789abcdef"), "{}", ran.screen());
        refused(daemon, "host_not_allowed", "127.0.0.1");
    });
}
