//! Processes in network namespaces of their own: governed there as anywhere, by listeners that come and go with them.
//! The namespaces are made by the tests themselves, and by podman.

mod loopback;
mod many;
mod own;
mod podman;

use serde_json::{Map, json};
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::time::Duration;
use support::daemon::{Cgroup, Daemon};
use support::netns::{Ran, Run, until};
use support::report;
use support::scene::Scene;

/// The stand-in's binary.
const STAND_IN: &str = env!("CARGO_BIN_EXE_stand-in");
/// The attempts.
const PROBE: &str = env!("CARGO_BIN_EXE_probe");

/// One host is allowed.
const RULES: &str = "[[allow]]\nhosts = [\"example.com\"]\n";

/// A world with an attached cgroup, for one case of `namespaces.json`.
struct World<'a> {
    scene: &'a Scene,
    cgroup: &'a Cgroup,
    daemon: Daemon<'a>,
}

/// A namespace that a governed process keeps.
struct Namespace {
    holder: Child,
}

impl Namespace {
    /// Made by a root process in the cgroup, with its loopback up; in a mount namespace of its own too, as containers are.
    fn new(scene: &Scene, cgroup: &Cgroup) -> Namespace {
        let run = scene.agent("unshare").user(0).cgroup(&cgroup.path());
        let run = run.args(["-nm", "sh", "-c", "ip link set lo up && exec sleep 600"]);
        let namespace = Namespace { holder: run.spawn(Stdio::null(), Stdio::null()).expect("unshare runs") };
        let link = format!("/proc/{}/ns/net", namespace.pid());
        until("the namespace", Duration::from_secs(60), || {
            std::fs::read_link(&link).is_ok_and(|own| Some(own) != std::fs::read_link("/proc/self/ns/net").ok())
                && std::fs::read_to_string(format!("/proc/{}/comm", namespace.pid()))
                    .is_ok_and(|comm| comm == "sleep\n")
        })
        .expect("a namespace with its loopback up");
        namespace
    }

    fn pid(&self) -> u32 {
        self.holder.id()
    }

    /// A program that will run in it, as root; in no agent's cgroup unless it is put there.
    fn run(&self, scene: &Scene, program: &str) -> Run {
        scene.agent("nsenter").user(0).args(["-t", &self.pid().to_string(), "-n", "--", program])
    }
}

impl Drop for Namespace {
    fn drop(&mut self) {
        let _gone = self.holder.kill();
        let _gone = self.holder.wait();
    }
}

impl World<'_> {
    fn ca(&self) -> PathBuf {
        self.scene.net.files().join(format!("{}-ca.pem", self.daemon.instance()))
    }

    /// A shell line that prints the status and the body of a URL, asked for again while nobody answers: a new namespace
    /// is refused until its listener is there.
    fn fetch(&self, url: &str) -> String {
        format!(
            "for i in $(seq 300); do curl -sS --max-time 5 --cacert {} -w ' %{{http_code}}' {url} && exit 0; sleep 0.1; done; exit 1",
            self.ca().display()
        )
    }

    /// Runs a shell line governed, in `namespace`, as root.
    fn within(&self, namespace: &Namespace, line: &str) -> Ran {
        namespace.run(self.scene, "sh").cgroup(&self.cgroup.path()).args(["-c", line]).ran()
    }

    /// How many namespaces are served: by the keeper's word, the data path's, and the kernel's map.
    fn served(&self) -> (u64, u64, u64) {
        let status = self.daemon.json(&["status"]);
        let number = |value: &serde_json::Value| value.as_u64().unwrap_or(u64::MAX);
        let entries = self.entries("NAMESPACES", 8);
        (number(&status["namespaces"]["served"]), number(&status["data_path"]["namespaces"]), entries)
    }

    /// How many entries a pinned map of the kernel programs has, whose keys are so many bytes long.
    fn entries(&self, map: &str, key: usize) -> u64 {
        let pin = format!("/sys/fs/bpf/caracal/{}-v{ABI}/maps/{map}", self.daemon.instance());
        let run = self.scene.net.a.run("python3").args(["-c", COUNT, &pin, &key.to_string()]);
        run.ran().ok().stdout.trim().parse().expect("a number")
    }
}

/// `caracal_common::ABI_VERSION`, which names the pin directory.
const ABI: u32 = 1;

/// Prints how many keys a pinned map has: `BPF_OBJ_GET` and `BPF_MAP_GET_NEXT_KEY` of `linux/bpf.h`.
const COUNT: &str = "
import ctypes, os, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
NUMBER = {'x86_64': 321, 'aarch64': 280}[os.uname().machine]
path = ctypes.create_string_buffer(sys.argv[1].encode())
get = ctypes.create_string_buffer(struct.pack('QIIQQ', ctypes.addressof(path), 0, 0, 0, 0))
fd = libc.syscall(NUMBER, 7, get, 16)
assert fd >= 0, os.strerror(ctypes.get_errno())
size = int(sys.argv[2])
key, following, count = None, ctypes.create_string_buffer(size), 0
while True:
    attr = ctypes.create_string_buffer(struct.pack('IIQQQ', fd, 0, ctypes.addressof(key) if key else 0, ctypes.addressof(following), 0))
    if libc.syscall(NUMBER, 4, attr, 32) != 0:
        break
    count += 1
    key = ctypes.create_string_buffer(following.raw, size)
print(count)
";

/// Makes the world; `work` runs with the daemon.
fn case(name: &str, rules: &str, work: impl FnOnce(&mut World<'_>)) {
    controlled(name, rules, |_, _| (), |world, ()| work(world));
}

/// The same with a `control` that runs before the daemon and hands on what it made.
fn controlled<T>(
    name: &str,
    rules: &str,
    control: impl FnOnce(&Scene, &Cgroup) -> T,
    work: impl FnOnce(&mut World<'_>, T),
) {
    report::case("namespaces", name, || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        let made = control(&scene, &cgroup);
        let mut daemon = Daemon::configured(&scene, rules);
        daemon.attach(&cgroup.path());
        daemon.restart();
        let _ca = daemon.ca();
        scene.wire.clear();
        let mut world = World { scene: &scene, cgroup: &cgroup, daemon };
        work(&mut world, made);
        scene.wire.silent();
        let mut more = Map::new();
        more.insert("wire".into(), json!("silent"));
        more
    });
}
