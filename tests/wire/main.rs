//! HTTP as agents speak it, through `caracald run`: nothing is lost, nothing is added, and a refusal can be read.

mod connect;
mod curl;
mod dns;
mod python;
mod refusals;
mod resolvers;
mod streams;
mod upstream;

use support::daemon::Daemon;
use support::netns::Ran;
use support::scene::Scene;

/// The stand-in's binary.
const STAND_IN: &str = env!("CARGO_BIN_EXE_stand-in");

/// What most of these tests allow.
const RULES: &str = r#"
[[allow]]
hosts = ["example.com", "github.com", "proxy.example"]
"#;

/// Runs `work` in a world with a daemon under `rules`, as one case of `wire.json`.
fn case(name: &str, rules: &str, work: impl FnOnce(&Scene, &Daemon<'_>)) {
    support::report::plain("wire", name, || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::start(&scene, rules);
        scene.wire.clear();
        work(&scene, &daemon);
        scene.wire.silent();
        daemon.stop();
    });
}

/// curl, governed.
fn curl(daemon: &Daemon<'_>, args: &[&str]) -> Ran {
    daemon.run("curl").args(["-sS", "--max-time", "60"]).args(args).ran()
}
