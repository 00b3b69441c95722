//! Runs the probe and does what its attempts ask for meanwhile: moves and governs them, lays a cable, calls them from
//! outside. Gives what was tried; refuses a run that tried nothing.

use super::Stage;
use crate::vectors::judge::Attempted;
use serde_json::Value;
use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Stdio;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use support::catalogue::{Phase, Privilege};
use support::netns::Run;

impl Stage<'_> {
    pub(super) fn carry_out(&mut self, privilege: Privilege, phase: Phase, runs: Vec<Run>) {
        let lines: Vec<Attempted> = std::thread::scope(|scope| {
            let this = &*self;
            let readers: Vec<_> =
                runs.into_iter().map(|run| scope.spawn(move || this.read(run, privilege, phase))).collect();
            readers.into_iter().flat_map(|reader| reader.join().expect("a reader")).collect()
        });
        self.attempted.extend(lines);
    }

    /// Runs it and does what it asks for.
    fn read(&self, run: Run, privilege: Privilege, phase: Phase) -> Vec<Attempted> {
        let mut child = run.spawn(Stdio::piped(), Stdio::piped()).expect("the probe starts");
        let out = child.stdout.take().expect("a pipe");
        let mut err = child.stderr.take().expect("a pipe");
        let complaints = std::thread::spawn(move || {
            let mut text = String::new();
            let _read = err.read_to_string(&mut text);
            text
        });
        let mut attempted = Vec::new();
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let words: Vec<&str> = line.split(' ').collect();
            match words.as_slice() {
                ["meet", what, pid, file] => self.meet(what, pid, privilege, phase, file),
                ["dial", kind, port] => self.dial(kind, port.parse().unwrap_or(0)),
                _ => match serde_json::from_str::<Value>(&line) {
                    Ok(value) => attempted.extend(Attempted::read(&value, privilege, phase)),
                    Err(_) => eprintln!("{}: {line}", phase.name()),
                },
            }
        }
        let status = child.wait().expect("its end");
        let complaints = complaints.join().unwrap_or_default();
        assert!(
            !attempted.is_empty(),
            "nothing was tried as {} under {}: {status} {complaints}",
            privilege.name(),
            phase.name()
        );
        attempted
    }

    fn meet(&self, what: &str, pid: &str, privilege: Privilege, phase: Phase, file: &str) {
        match what {
            "join" => fs::write(self.home(phase).join("cgroup.procs"), pid).expect("it is moved"),
            "attach" if phase != Phase::Control => self.attach(&self.before(privilege, phase)),
            "cable" => self.cable(pid),
            _ => {}
        }
        fs::write(self.dir.join(file), "").expect("a file");
    }

    /// Governs a cgroup in which processes run; once.
    fn attach(&self, cgroup: &Path) {
        let mut attached = self.attached.lock().unwrap_or_else(PoisonError::into_inner);
        if attached.insert(cgroup.to_owned()) {
            let run = self.daemon().command(&["attach", "--allow-degraded", "--cgroup"]).arg(cgroup);
            let _ran = run.ran().ok();
        }
    }

    /// Connects a network namespace with the host, as rootless container runtimes do, and lets the host forward.
    fn cable(&self, pid: &str) {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let outer = format!("cage{number}");
        let host = &self.scene.net.a;
        let lines = [
            format!("ip link add {outer} type veth peer name eth0 netns {pid}"),
            format!("ip addr add 10.77.{number}.1/24 dev {outer}"),
            format!("ip link set {outer} up"),
            format!("echo 0 > /proc/sys/net/ipv4/conf/{outer}/rp_filter"),
        ];
        host.shell(&lines.join(" && ")).expect("a cable");
        let inner = fs::File::open(format!("/proc/{pid}/ns/net")).expect("its namespace");
        let inner = std::os::fd::OwnedFd::from(inner);
        let lines = [
            "ip link set lo up".to_owned(),
            "ip link set eth0 up".to_owned(),
            format!("ip addr add 10.77.{number}.2/24 dev eth0"),
            format!("ip route add default via 10.77.{number}.1"),
        ];
        std::thread::spawn(move || {
            nix::sched::setns(&inner, nix::sched::CloneFlags::CLONE_NEWNET).expect("its namespace");
            let done = std::process::Command::new("sh").args(["-c", &lines.join(" && ")]).status().expect("sh");
            assert!(done.success(), "the cable's inner end");
        })
        .join()
        .expect("the cable's inner end");
    }

    /// Calls the attempt from the other host, and gives up before it does.
    #[expect(clippy::disallowed_methods, reason = "the test is the stranger who knocks")]
    fn dial(&self, kind: &str, port: u16) {
        let at = SocketAddr::from(([198, 51, 100, 1], port));
        let work = |work: &(dyn Fn() -> anyhow::Result<()> + Send + Sync)| self.scene.net.b.inside(work);
        let _refused = match kind {
            "tcp" => work(&|| {
                std::thread::spawn(move || {
                    let stream = TcpStream::connect_timeout(&at, Duration::from_secs(3));
                    let read = stream.and_then(|mut stream| {
                        stream.set_read_timeout(Some(Duration::from_secs(3)))?;
                        stream.read(&mut [0; 64])
                    });
                    drop(read);
                });
                Ok(())
            }),
            _ => work(&|| Ok(UdpSocket::bind("198.51.100.2:0")?.send_to(b"hello", at).map(drop)?)),
        };
    }
}
