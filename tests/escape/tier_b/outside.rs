//! Who and what is outside of the cgroup, and the attempts to reach it.

use crate::STAND_IN;
use std::io::Read as _;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;
use support::daemon::Cgroup;
use support::netns::{AGENT_UID, Ran};
use support::scene::Scene;

/// The attempts: Python, because a descriptor that is passed, taken or inherited is a few lines there.
const PROGRAM: &str = include_str!("../../programs/tier_b.py");
const PORT: u16 = 7_001;

/// A scene with helpers outside: somebody who repeats what he hears over TCP and over unix sockets.
pub(super) struct Outside {
    pub(super) scene: Scene,
    pub(super) program: PathBuf,
    _helpers: Vec<Helper>,
    sockets: String,
    free: Cgroup,
}

impl Outside {
    pub(super) fn new() -> Outside {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let program = scene.file("tier_b.py", PROGRAM);
        let listener = scene.net.a.inside(|| Ok(TcpListener::bind(("127.0.0.1", PORT))?)).expect("a deputy");
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        let sockets = scene.home.path().join("helper").to_string_lossy().into_owned();
        let mut outside = Outside { scene, program, _helpers: Vec::new(), sockets, free: Cgroup::new() };
        let serve = |(kind, name): (&str, String)| Helper::serve(&outside.scene, &outside.program, kind, &name);
        outside._helpers = outside.unix().into_iter().map(serve).collect();
        outside
    }

    /// Kind and name of the unix sockets of helpers: as docker, D-Bus and the system's log have them.
    pub(super) fn unix(&self) -> Vec<(&'static str, String)> {
        let abstract_one = |name: &str| format!("@{}-{name}", self.sockets.replace('/', "-"));
        vec![
            ("stream", format!("{}-docker.sock", self.sockets)),
            ("stream", abstract_one("bus")),
            ("dgram", format!("{}-log", self.sockets)),
            ("dgram", abstract_one("log")),
        ]
    }

    /// One attempt from within the cgroup, or joining it in its midst.
    pub(super) fn attempt(&self, cgroup: &Cgroup, uid: u32, vector: &Vector) -> Ran {
        let run = self.scene.agent("python3").user(0).limit(Duration::from_secs(30));
        let run = if vector.joins { run } else { run.cgroup(&cgroup.path()) };
        let args = vector
            .args
            .iter()
            .map(|arg| if arg == "CGROUP" { cgroup.path().display().to_string() } else { arg.clone() });
        run.arg(&self.program).arg(uid.to_string()).arg(vector.name).args(args).ran()
    }
}

/// Somebody outside who repeats what he hears at a unix socket, as root.
pub(crate) struct Helper(Child);

impl Helper {
    /// Gives it once it listens. `program` is `tier_b.py`.
    pub(crate) fn serve(scene: &Scene, program: &Path, kind: &str, name: &str) -> Helper {
        let run = scene.agent("python3").user(0).limit(Duration::from_secs(600)).arg(program);
        let mut child = run.args(["0", "serve", kind, name]).spawn(Stdio::piped(), Stdio::inherit()).expect("a helper");
        let mut line = [0; 6];
        let out = child.stdout.as_mut().expect("its output");
        out.read_exact(&mut line).expect("a helper that serves");
        Helper(child)
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

#[derive(Clone, Debug)]
pub(super) struct Vector {
    name: &'static str,
    pub(super) args: Vec<String>,
    /// Prepares something outside and moves itself in.
    joins: bool,
    /// Only root could do it at all.
    root: bool,
}

pub(super) fn vector(name: &'static str, args: &[&str]) -> Vector {
    let joins = args.contains(&"CGROUP");
    Vector { name, args: args.iter().map(|arg| (*arg).to_owned()).collect(), joins, root: false }
}

fn by_root(name: &'static str, args: &[&str]) -> Vector {
    Vector { root: true, ..vector(name, args) }
}

pub(super) fn vectors(outside: &Outside) -> Vec<Vector> {
    let port = PORT.to_string();
    let free = outside.free.path().display().to_string();
    let mut all = vec![
        vector("family", &["40", "1", "0"]),
        by_root("family", &["17", "3", "0"]),
        vector("family", &["16", "3", "16"]),
        vector("listen_unbound", &[]),
        vector("passed", &["CGROUP", &port]),
        vector("getfd", &["CGROUP", &port]),
        by_root("move", &[&free]),
        by_root("clone_into", &[&free]),
        vector("trace", &["CGROUP"]),
        vector("memory", &["CGROUP"]),
        vector("environment", &["CGROUP"]),
        vector("signal_outside", &["CGROUP"]),
        by_root("bpf", &[]),
    ];
    let inherited = ["send", "write", "sendfile", "splice", "unconnected", "accept"];
    all.extend(inherited.map(|how| vector("inherited", &[how, "CGROUP", &port])));
    all.extend(outside.unix().iter().map(|(kind, name)| vector("unix", &[kind, name])));
    let (_, log) = outside.unix().pop().expect("the last of them");
    all.push(vector("unix", &["dgram-connected", &log]));
    all
}

/// What must pass, governed or not.
pub(super) fn own() -> Vec<Vector> {
    vec![
        vector("unix_own", &["CGROUP"]),
        by_root("move_below", &["CGROUP"]),
        vector("own_process", &["CGROUP"]),
        vector("many", &[]),
    ]
}

/// Who tries it. `CARACAL_TRIES` has each tried by one of them, as in [`crate::vectors`].
pub(super) fn users(vector: &Vector) -> &'static [u32] {
    match std::env::var("CARACAL_TRIES").as_deref() {
        _ if vector.root => &[0],
        Ok("root") => &[0],
        Ok("user" | "userns") => &[AGENT_UID],
        _ => &[0, AGENT_UID],
    }
}
