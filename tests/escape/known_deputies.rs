//! Helpers outside that listen where everybody knows: what `run` starts does not find their sockets, on any kernel, unless a
//! `[[unix]]` rule names them, or while it learns. A socket elsewhere stays in reach below the level `full`.

use crate::RULES;
use crate::tier_b::Helper;
use std::path::Path;
use support::daemon::Daemon;
use support::netns::{AGENT_UID, Ran, open_to_all};
use support::report;
use support::scene::Scene;

/// Sockets of the host's own world of a test, and of the agent's user.
fn places(scene: &Scene) -> Vec<(&'static str, String)> {
    let home = scene.home.path().display().to_string();
    vec![
        ("docker", "/run/docker.sock".to_owned()),
        ("containerd", "/run/containerd/containerd.sock".to_owned()),
        ("system bus", "/run/dbus/system_bus_socket".to_owned()),
        ("session bus", format!("/run/user/{AGENT_UID}/bus")),
        ("systemd", format!("/run/user/{AGENT_UID}/systemd/private")),
        ("gpg agent", format!("/run/user/{AGENT_UID}/gnupg/S.gpg-agent")),
        ("tmux", format!("{home}/tmux/tmux-{AGENT_UID}/default")),
        ("ssh agent", format!("{home}/keys/agent.1")),
    ]
}

/// Neither of them known by its name.
const ELSEWHERE: &str = "/run/user/4242/of-a-service";

struct Hosts<'a> {
    scene: &'a Scene,
    program: std::path::PathBuf,
    _helpers: Vec<Helper>,
}

impl<'a> Hosts<'a> {
    fn new(scene: &'a Scene) -> Hosts<'a> {
        let a = &scene.net.a;
        let _done = a.shell("mount -t tmpfs -o mode=755 none /run").expect("a /run of its own");
        let program = scene.file("tier_b.py", include_str!("../programs/tier_b.py"));
        let paths = places(scene).into_iter().map(|(_, path)| path).chain([ELSEWHERE.to_owned()]);
        let serve = |path: String| {
            let directory = Path::new(&path).parent().expect("a directory").display().to_string();
            let _made = a.shell(&format!("mkdir -p {directory} && chmod 755 {directory}")).expect("a directory");
            Helper::serve(scene, &program, &[("stream", &path)])
        };
        let helpers = paths.map(serve).collect();
        open_to_all(scene.home.path()).expect("its mode");
        Hosts { scene, program, _helpers: helpers }
    }

    fn says(&self, daemon: &Daemon<'_>, options: &[&str], path: &str) -> Ran {
        let home = self.scene.home.path();
        let run = daemon.run_as(options, "python3");
        let run = run.env("SSH_AUTH_SOCK", home.join("keys/agent.1")).env("TMUX_TMPDIR", home.join("tmux"));
        run.arg(&self.program).args([&AGENT_UID.to_string(), "unix", "stream", path]).ran()
    }
}

#[test]
fn known_sockets_of_helpers_are_hidden_unless_a_rule_names_them() {
    report::plain("escape", "run: sockets of known helpers, with and without a rule", || {
        let scene = Scene::new(crate::STAND_IN).expect("the scene stands");
        let hosts = Hosts::new(&scene);
        let daemon = Daemon::start(&scene, RULES);
        for (name, path) in places(&scene) {
            let free = scene.agent("python3").arg(&hosts.program);
            let free = free.args([&AGENT_UID.to_string(), "unix", "stream", &path]).ran();
            assert_eq!(free.code, Some(0), "the control of {name} must get through: {}", free.screen());
            let ran = hosts.says(&daemon, &[], &path);
            assert_eq!(ran.code, Some(3), "{name} at {path}: {}", ran.screen());
            let learning = hosts.says(&daemon, &["--learn"], &path);
            assert_eq!(learning.code, Some(0), "{name} while it learns: {}", learning.screen());
            let said = learning.stderr.lines().find(|line| line.contains("left in reach while it learns"));
            let shown = |line: &str| line.split([' ', ',']).any(|word| path.starts_with(word) && word.len() > 4);
            assert!(said.is_some_and(shown), "{path} is not said: {}", learning.screen());
        }
        // Nobody knows it by name: the level says so.
        let ran = hosts.says(&daemon, &[], ELSEWHERE);
        assert_eq!(ran.code, Some(0), "{}", ran.screen());
        assert!(ran.stderr.contains("hidden from the command, unless a [[unix]] rule names it: "), "{}", ran.screen());
        assert!(daemon.command(&["status"]).ran().stdout.contains("`run` hides those at known places"));

        let sockets: Vec<String> = places(&scene).into_iter().map(|(_, path)| path).collect();
        for (at, path) in sockets.iter().enumerate() {
            daemon.configure(&format!("{RULES}\n[[unix]]\nsockets = [\"{path}\"]\n"));
            let ran = hosts.says(&daemon, &[], path);
            assert_eq!(ran.code, Some(0), "a rule names {path}: {}", ran.screen());
            let other = &sockets[(at + 1) % sockets.len()];
            let ran = hosts.says(&daemon, &[], other);
            assert_eq!(ran.code, Some(3), "and not {other}: {}", ran.screen());
        }
        daemon.configure(&format!("{RULES}\n[[unix]]\nagents = [\"another\"]\nsockets = [\"/run/*\"]\n"));
        assert_eq!(hosts.says(&daemon, &[], "/run/docker.sock").code, Some(3), "the rule is another agent's");
        assert_eq!(hosts.says(&daemon, &["--agent", "another"], "/run/docker.sock").code, Some(0), "it is this one's");
    });
}
