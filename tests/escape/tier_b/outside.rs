//! Who and what is outside of the cgroup, and the attempts to reach it.

use crate::STAND_IN;
use serde_json::Value;
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
    _helpers: Option<Helper>,
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
        let mut outside = Outside { scene, program, _helpers: None, sockets, free: Cgroup::new() };
        let sockets = outside.unix();
        let sockets: Vec<(&str, &str)> = sockets.iter().map(|(kind, name)| (*kind, name.as_str())).collect();
        outside._helpers = Some(Helper::serve(&outside.scene, &outside.program, &sockets));
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
    pub(super) fn attempt(&self, cgroup: &Cgroup, uid: u32, vector: &Vector) -> Tried {
        self.attempts(cgroup, &[(uid, vector)]).swap_remove(0)
    }

    /// These attempts, one after the other: each a process of its own that is forked within the cgroup, or joins it in its
    /// midst. Python starts twice at most, which is what takes most of the time in an emulated machine.
    pub(super) fn attempts(&self, cgroup: &Cgroup, tries: &[(u32, &Vector)]) -> Vec<Tried> {
        let mut all: Vec<Option<Tried>> = vec![None; tries.len()];
        for joins in [false, true] {
            let places: Vec<usize> = (0..tries.len()).filter(|place| tries[*place].1.joins == joins).collect();
            let of = |place: &usize| tries[*place].1.words(tries[*place].0, cgroup);
            for (place, tried) in places.iter().zip(self.each(cgroup, joins, places.iter().map(of).collect())) {
                all[*place] = Some(tried);
            }
        }
        all.into_iter().map(|tried| tried.expect("each was tried")).collect()
    }

    fn each(&self, cgroup: &Cgroup, joins: bool, tries: Vec<Value>) -> Vec<Tried> {
        let count = tries.len();
        if count == 0 {
            return Vec::new();
        }
        let run = self.scene.agent("python3").user(0).limit(Duration::from_secs(600));
        let run = if joins { run } else { run.cgroup(&cgroup.path()) };
        let ran = run.arg(&self.program).args(["0", "each"]).arg(Value::from(tries).to_string()).ran();
        let read = |line: &str| -> Option<Tried> {
            let (code, said) = serde_json::from_str(line).ok()?;
            // A signal's number, negative: the attempt did not come to its end.
            Some(Tried { code: Some(code).filter(|code| *code >= 0), said })
        };
        let all: Vec<Tried> = ran.stdout.lines().filter_map(read).collect();
        assert_eq!((ran.code, all.len()), (Some(0), count), "each was tried: {}", ran.screen());
        all
    }
}

/// How one attempt ended.
#[derive(Clone, Debug)]
pub(super) struct Tried {
    /// The exit code that `tier_b.py` tells of; `None` when a signal or the time limit ended it.
    pub(super) code: Option<i32>,
    said: String,
}

impl From<Ran> for Tried {
    fn from(ran: Ran) -> Tried {
        Tried { code: ran.code, said: ran.screen() }
    }
}

impl Tried {
    /// What it printed.
    pub(super) fn screen(&self) -> &str {
        &self.said
    }
}

/// Somebody outside who repeats what he hears at a unix socket, as root.
pub(crate) struct Helper(Child);

impl Helper {
    /// Gives it once it listens at each of these, by kind and name. `program` is `tier_b.py`.
    pub(crate) fn serve(scene: &Scene, program: &Path, sockets: &[(&str, &str)]) -> Helper {
        let run = scene.agent("python3").user(0).limit(Duration::from_secs(600)).arg(program).args(["0", "serve"]);
        let run = run.args(sockets.iter().flat_map(|(kind, name)| [*kind, *name]));
        let mut child = run.spawn(Stdio::piped(), Stdio::inherit()).expect("a helper");
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

impl Vector {
    /// As `tier_b.py` takes it.
    fn words(&self, uid: u32, cgroup: &Cgroup) -> Value {
        let arg = |arg: &String| if arg == "CGROUP" { cgroup.path().display().to_string() } else { arg.clone() };
        let mut words = vec![Value::from(uid), Value::from(self.name)];
        words.extend(self.args.iter().map(arg).map(Value::from));
        words.into()
    }
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
        vector("signal_outside", &["CGROUP"]),
        by_root("bpf", &[]),
    ];
    let memory = ["environ", "auxv", "maps", "smaps", "smaps_rollup", "pagemap", "task/PID/maps"];
    // Not every kernel knows of memory's nodes.
    let nodes = Path::new("/proc/self/numa_maps").exists().then_some("numa_maps");
    all.extend(memory.into_iter().chain(nodes).map(|file| vector("shown", &[file, "CGROUP"])));
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
        // What `ps` reads, and the agent's own.
        vector("shown", &["stat", "CGROUP"]),
        vector("shown", &["cmdline", "CGROUP"]),
        vector("shown", &["../self/environ", "CGROUP"]),
        vector("shown", &["../self/maps", "CGROUP"]),
        vector("many", &[]),
    ]
}

/// Each of these by each who tries it.
pub(super) fn by_users(vectors: &[Vector]) -> Vec<(u32, &Vector)> {
    vectors.iter().flat_map(|vector| users(vector).iter().map(move |uid| (*uid, vector))).collect()
}

/// Who tries it. `CARACAL_TRIES` has each tried by one of them, as in [`crate::vectors`].
fn users(vector: &Vector) -> &'static [u32] {
    match std::env::var("CARACAL_TRIES").as_deref() {
        _ if vector.root => &[0],
        Ok("root") => &[0],
        Ok("user" | "userns") => &[AGENT_UID],
        _ => &[0, AGENT_UID],
    }
}
