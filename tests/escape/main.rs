//! Ways out of a governed cgroup. Each attempt is first made without a daemon and must be seen by the judge then:
//! otherwise its silence later would prove nothing.

mod boot;
mod closed;
mod deputies;
mod destinations;
mod exhaustion;
mod facts;
mod foreign_program;
mod hang;
mod hung;
mod identity;
mod known_deputies;
mod live;
mod loopback;
mod older_cgroups;
mod sequences;
mod sockets;
mod tier_b;
mod truth;
mod upgrade;
mod vectors;

use serde_json::{Value, json};
use support::daemon::{Cgroup, Daemon};
use support::netns::Ran;
use support::report;
use support::scene::Scene;

/// The stand-in's binary.
const STAND_IN: &str = env!("CARGO_BIN_EXE_stand-in");
/// The attempts.
const PROBE: &str = env!("CARGO_BIN_EXE_probe");

/// One host is allowed; none of the attempts goes there.
const RULES: &str = "[[allow]]\nhosts = [\"example.com\"]\n";

/// A world with an attached cgroup, for one case of `escape.json`.
struct World<'a> {
    scene: &'a Scene,
    cgroup: &'a Cgroup,
    daemon: Daemon<'a>,
}

impl World<'_> {
    /// One attempt from within the cgroup. Root may do more than an agent's user, so root tries.
    fn attempt(&self, args: &[&str]) -> Ran {
        attempt(self.scene, self.cgroup, args)
    }

    /// An allowed request from within the cgroup: its status, `000` when there was none.
    fn allowed(&self) -> String {
        let ca = self.scene.net.files().join(format!("{}-ca.pem", self.daemon.instance()));
        let run = self.scene.agent("curl").cgroup(&self.cgroup.path()).args([
            "-sS",
            "-o",
            "/dev/null",
            "-w",
            "%{http_code}",
            "--max-time",
            "20",
        ]);
        run.arg("--cacert").arg(ca).arg("https://example.com/hello").ran().stdout
    }
}

fn attempt(scene: &Scene, cgroup: &Cgroup, args: &[&str]) -> Ran {
    scene.agent(PROBE).user(0).cgroup(&cgroup.path()).args(args).ran()
}

/// Makes the world; `control` runs before the daemon, `work` with it.
fn case(name: &str, rules: &str, control: impl FnOnce(&Scene, &Cgroup), work: impl FnOnce(&mut World<'_>)) {
    case_with(
        name,
        rules,
        control,
        |_| (),
        |world| {
            work(world);
            json!({})
        },
    );
}

/// The same; `prepare` changes the daemon before it starts, and what `work` gives is written beside the verdict.
fn case_with(
    name: &str,
    rules: &str,
    control: impl FnOnce(&Scene, &Cgroup),
    prepare: impl FnOnce(&mut Daemon<'_>),
    work: impl FnOnce(&mut World<'_>) -> Value,
) {
    report::case("escape", name, || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        control(&scene, &cgroup);
        let mut daemon = Daemon::configured(&scene, rules);
        daemon.attach(&cgroup.path());
        prepare(&mut daemon);
        daemon.restart();
        let _ca = daemon.ca();
        scene.wire.clear();
        let mut world = World { scene: &scene, cgroup: &cgroup, daemon };
        let found = work(&mut world);
        scene.wire.silent();
        let mut more = found.as_object().cloned().unwrap_or_default();
        more.insert("control".into(), json!("leaked without a daemon"));
        more
    });
}
