//! At boot: an agent's service cannot start before the door stands. systemd's own reading of the units is the judge where
//! it is installed; a boot itself is for another machine.

use std::path::{Path, PathBuf};
use std::process::Command;
use support::daemon::{Cgroup, Daemon, caracald};
use support::report;
use support::scene::Scene;

fn unit(name: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../systemd").join(name);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The values of a key, of every line that sets it.
fn values<'a>(unit: &'a str, key: &str) -> Vec<&'a str> {
    let lines = unit.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    lines.flat_map(str::split_whitespace).collect()
}

#[test]
fn an_agent_s_service_waits_for_the_door() {
    report::plain("escape", "systemd ordering", || {
        let (daemon, drop_in) = (unit("caracald.service"), unit("caracal-agent.conf"));
        assert_eq!(values(&daemon, "Type"), ["notify"], "started means: the door stands");
        assert_eq!(values(&drop_in, "Requires"), ["caracald.service"], "no daemon, no agent");
        assert_eq!(values(&drop_in, "After"), ["caracald.service"]);
        let slice = values(&drop_in, "Slice");
        assert!(!slice.is_empty() && slice.iter().all(|slice| values(&daemon, "After").contains(slice)));
        if !Path::new("/usr/lib/systemd/systemd").exists() {
            // A machine of the kernels' matrix; on a host the runner installs it.
            return report::omitted("escape", "systemd ordering: systemd-analyze", "no systemd in this machine", 1);
        }
        let dir = tempfile::tempdir().expect("a directory");
        let put = |name: &str, text: &str| -> PathBuf {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(&path, text).expect("a unit");
            path
        };
        // Documentation names pages that are installed elsewhere.
        let installed = daemon.replace("/usr/bin/caracald", &caracald().display().to_string());
        let service = put("caracald.service", &installed.replace("Documentation=", "#"));
        let agent = put("my-agent.service", "[Service]\nExecStart=/bin/true\n");
        let _drop_in = put("my-agent.service.d/caracal.conf", &drop_in);
        let verify = |agent: &Path| {
            let said = Command::new("systemd-analyze")
                .args(["verify", "--man=no", "--recursive-errors=yes"])
                .env("SYSTEMD_UNIT_PATH", format!("{}:", dir.path().display()))
                .arg(&service)
                .arg(agent)
                .output()
                .expect("systemd-analyze runs");
            (said.status.success(), String::from_utf8_lossy(&said.stderr).into_owned())
        };
        let (good, said) = verify(&agent);
        assert!(good && !said.contains("my-agent") && !said.contains("caracald.service"), "{said}");
        // It can say no: an agent before the daemon is a circle.
        let _circle = put("my-agent.service.d/wrong.conf", "[Unit]\nBefore=caracald.service\n");
        let (_, said) = verify(&agent);
        assert!(said.contains("ordering cycle"), "a circle goes unseen: {said}");
    });
}

#[test]
fn what_the_configuration_names_is_governed_before_the_daemon_is_ready() {
    report::plain("escape", "configured cgroups", || {
        let scene = Scene::new(crate::STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        let rules = format!(
            "{}\n[[agent]]\nname = \"service\"\ncgroup = \"{}\"\n\n[[agent]]\nname = \"later\"\ncgroup = \"/not-there.slice\"\n",
            crate::RULES,
            cgroup.path().display()
        );
        let daemon = Daemon::start(&scene, &rules);
        let status = daemon.json(&["status"]);
        let agents = status["agents"].as_array().expect("agents");
        assert_eq!(agents.len(), 1, "{status:#}");
        assert_eq!(agents[0]["agent"], "service");
        let ran = crate::attempt(&scene, &cgroup, &["udp", "203.0.113.10:4433"]);
        assert_eq!(ran.code, Some(3), "{}", ran.screen());
        scene.wire.silent();
    });
}
