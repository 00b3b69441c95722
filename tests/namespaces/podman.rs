//! Real containers, made by podman with runc: governed in their own namespaces, whether their cgroup was attached before
//! they started or while they ran.

use crate::{PROBE, RULES, STAND_IN};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::daemon::{Cgroup, Daemon, cgroup_mount};
use support::netns::{Ran, Run};
use support::report;
use support::scene::Scene;
use support::wire::CANARY_PORT;

/// podman with everything that it keeps in the scene's scratch directory, and a root directory for containers.
struct Podman<'a> {
    scene: &'a Scene,
    cgroup: &'a Cgroup,
    dir: PathBuf,
}

impl<'a> Podman<'a> {
    fn new(scene: &'a Scene, cgroup: &'a Cgroup) -> Podman<'a> {
        let dir = scene.net.files().join("podman");
        let rootfs = dir.join("rootfs");
        for name in ["bin", "etc", "proc", "sys", "dev", "tmp", "run"] {
            std::fs::create_dir_all(rootfs.join(name)).expect("a directory");
        }
        std::fs::copy("/bin/busybox", rootfs.join("bin/busybox")).expect("busybox-static");
        for name in ["sh", "sleep", "seq"] {
            std::os::unix::fs::symlink("busybox", rootfs.join("bin").join(name)).expect("a link");
        }
        for program in [Path::new("/usr/bin/curl"), Path::new(PROBE)] {
            install(program, &rootfs);
        }
        // What podman shares between all of a host: its addresses, its locks, its state.
        let own = "mkdir -p /var/lib/cni /run/containers && for at in /var/lib/cni /run/containers /dev/shm; do mount -t tmpfs none $at || exit 1; done";
        scene.net.a.shell(own).expect("places of its own");
        Podman { scene, cgroup, dir }
    }

    fn command(&self) -> Run {
        let run = self.scene.net.a.run("podman").clean_env().env("HOME", &self.dir).dir("/");
        let run = run.arg("--root").arg(self.dir.join("root")).arg("--runroot").arg(self.dir.join("run"));
        let run = run.arg("--tmpdir").arg(self.dir.join("tmp"));
        run.args(["--cgroup-manager=cgroupfs", "--runtime", "runc", "--events-backend", "none"])
    }

    /// Starts a container that runs `line`; it stays until the test ends.
    fn start(&self, name: &str, line: &str) -> Ran {
        let parent = format!("/{}/pods", self.cgroup.path().file_name().expect("a name").to_string_lossy());
        let run = self.command().args(["run", "-d", "--name", name, "--cgroup-parent", &parent]);
        let run = run.args(["--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1000:1000", "--rootfs"]);
        run.arg(self.dir.join("rootfs")).args(["/bin/sh", "-c", line]).ran().ok()
    }

    fn exec(&self, name: &str, line: &str) -> Ran {
        self.command().args(["exec", name, "/bin/sh", "-c", line]).limit(Duration::from_secs(60)).ran()
    }

    /// The container's cgroup.
    fn place(&self, name: &str) -> PathBuf {
        let id = self.command().args(["inspect", "-f", "{{.Id}}", name]).ran().ok().stdout;
        self.cgroup.path().join("pods").join(format!("libpod-{}", id.trim()))
    }
}

impl Drop for Podman<'_> {
    fn drop(&mut self) {
        let _gone = self.command().args(["rm", "-f", "-t", "0", "-a"]).ran();
        // On a hybrid host runc makes directories in every hierarchy of version 1 as well.
        let name = self.cgroup.path().file_name().expect("a name").to_owned();
        let others =
            std::fs::read_dir(cgroup_mount().parent().unwrap_or(Path::new("/"))).into_iter().flatten().flatten();
        for other in others.map(|other| other.path().join(&name)).filter(|path| path.is_dir()) {
            let _gone =
                Command::new("find").arg(other).args(["-depth", "-type", "d", "-exec", "rmdir", "{}", ";"]).output();
        }
    }
}

/// A program with the libraries that it names.
fn install(program: &Path, rootfs: &Path) {
    let name = program.file_name().expect("a name");
    std::fs::copy(program, rootfs.join("bin").join(name)).expect("a copy");
    let listed = Command::new("ldd").arg(program).output().expect("ldd");
    for library in String::from_utf8_lossy(&listed.stdout).split_whitespace().filter(|word| word.starts_with('/')) {
        let place = rootfs.join(library.trim_start_matches('/'));
        if !place.exists() {
            std::fs::create_dir_all(place.parent().expect("a parent")).expect("a directory");
            std::fs::copy(library, &place).expect("a copy");
        }
    }
}

/// What a container tries, and must not manage.
fn probe(kind: &str) -> String {
    let name = Path::new(PROBE).file_name().expect("a name").to_string_lossy().into_owned();
    format!("/bin/{name} {kind} 203.0.113.10:{CANARY_PORT}")
}

const KINDS: &[&str] = &["tcp", "udp", "udp-connected"];

/// Without a daemon the container's packets are on the wire.
fn control(scene: &Scene, podman: &Podman<'_>, name: &str) {
    for kind in KINDS {
        scene.wire.clear();
        let _ran = podman.exec(name, &probe(kind));
        assert!(!scene.wire.packets().is_empty(), "the control does not leak: {kind}");
    }
}

#[track_caller]
fn governed(scene: &Scene, daemon: &Daemon<'_>, podman: &Podman<'_>, name: &str) {
    let ca = daemon.ca();
    std::fs::copy(&ca, podman.dir.join("rootfs/etc/ca.pem")).expect("a copy");
    scene.wire.clear();
    let fetch = |url: &str| {
        format!(
            "for i in $(seq 50); do curl -sS --max-time 5 --cacert /etc/ca.pem -w ' %{{http_code}}' {url} && exit 0; sleep 0.1; done; exit 1"
        )
    };
    let ran = podman.exec(name, &fetch("https://example.com/hello"));
    assert!(ran.stdout.ends_with(" 200"), "{}\n{}", ran.screen(), daemon.logs());
    let ran = podman.exec(name, &fetch("https://other.example/"));
    assert!(ran.stdout.ends_with(" 403") && ran.stdout.contains("other.example"), "{}", ran.screen());
    for kind in KINDS {
        let ran = podman.exec(name, &probe(kind));
        assert_ne!(ran.code, Some(0), "{kind}: {}", ran.screen());
    }
    scene.wire.silent();
}

#[test]
fn a_container_that_starts_below_an_attached_cgroup_is_governed() {
    report::plain("namespaces", "podman: attached before it starts", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        let podman = Podman::new(&scene, &cgroup);
        let _ran = podman.start("control", "sleep 600");
        control(&scene, &podman, "control");
        let mut daemon = Daemon::configured(&scene, RULES);
        daemon.attach(&cgroup.path());
        daemon.restart();
        let ca = daemon.ca();
        std::fs::copy(&ca, podman.dir.join("rootfs/etc/ca.pem")).expect("a copy");
        // Its very first request: the namespace is open before runc hands over to the program.
        let first = "curl -sS --max-time 5 --cacert /etc/ca.pem -o /dev/null -w '%{http_code}' https://example.com/hello \
                     > /tmp/first 2>&1; sleep 600";
        let _ran = podman.start("fresh", first);
        governed(&scene, &daemon, &podman, "fresh");
        governed(&scene, &daemon, &podman, "control");
        let told = podman.exec("fresh", "busybox cat /tmp/first").stdout;
        println!("the first request of a container: {told}");
        report::figure("namespaces", "podman_first_request_served", u64::from(told.trim() == "200"));
        drop(podman);
    });
}

#[test]
fn a_container_that_runs_already_is_governed_from_its_attach_on() {
    report::plain("namespaces", "podman: attached while it runs", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let cgroup = Cgroup::new();
        let podman = Podman::new(&scene, &cgroup);
        let daemon = Daemon::start(&scene, RULES);
        let _ran = podman.start("running", "sleep 600");
        control(&scene, &podman, "running");
        let place = podman.place("running");
        let _ran = daemon.command(&["attach", "--agent", "box", "--cgroup"]).arg(&place).ran().ok();
        governed(&scene, &daemon, &podman, "running");
        let records = daemon.records_when(|records| records.iter().any(|record| record.text("caracal.agent") == "box"));
        assert!(!records.is_empty());
        // Released, it is on its own again: the judge sees it.
        let _ran = daemon.command(&["detach", "--cgroup"]).arg(&place).ran().ok();
        control(&scene, &podman, "running");
        scene.wire.clear();
        drop(podman);
    });
}
