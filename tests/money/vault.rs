//! A PostgreSQL for shared budgets, and a road to it from each host that can be cut.

use std::ffi::OsStr;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;
use support::netns::until;
use support::scene::Scene;

/// Where hosts find it.
pub(crate) const ADDRESS: &str = "203.0.113.70:5432";
const PATIENCE: Duration = Duration::from_secs(120);

/// The newest server that is installed: Debian keeps its programs away from PATH.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin").join(name)).filter(|path| path.is_file()).max();
    found.unwrap_or_else(|| panic!("PostgreSQL's {name} is missing: `cargo xtask test` installs it"))
}

/// A server with a cluster of its own, on a unix socket. It syncs as a real one does.
pub(crate) struct Vault {
    dir: tempfile::TempDir,
    uid: u32,
    server: Option<Child>,
}

impl Vault {
    pub(crate) fn start() -> Vault {
        let dir = tempfile::Builder::new().prefix("caracal-vault-").tempdir_in("/var/tmp").expect("a directory");
        let users = std::fs::read_to_string("/etc/passwd").expect("the users");
        let line = users.lines().find(|line| line.starts_with("postgres:")).expect("Debian's package makes this user");
        // It refuses to run as root.
        let uid = line.split(':').nth(2).and_then(|uid| uid.parse().ok()).expect("a uid");
        chown(dir.path(), Some(uid), Some(uid)).expect("its owner");
        let mut vault = Vault { dir, uid, server: None };
        let mut made = vault.run("initdb");
        made.args(["-U", "postgres", "-A", "trust", "--locale=C", "-N", "-D"]).arg(vault.data());
        let made = made.output().expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        vault.go_on();
        vault
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn run(&self, name: &str) -> Command {
        let mut command = Command::new("setpriv");
        let uid = self.uid.to_string();
        command
            .args(["--reuid", &uid, "--regid", &uid, "--clear-groups"])
            .arg(program(name))
            .current_dir(self.dir.path());
        command
    }

    /// Starts it (again) and waits until it answers.
    pub(crate) fn go_on(&mut self) {
        let mut server = self.spawn();
        let ready = || {
            // Children of one that was killed may be there still, and it starts beside none.
            if server.try_wait().is_ok_and(|ended| ended.is_some()) {
                server = self.spawn();
            }
            let asked = Command::new(program("pg_isready")).arg("-q").arg("-h").arg(self.dir.path()).status();
            asked.is_ok_and(|status| status.success())
        };
        until("PostgreSQL answers", PATIENCE, ready).expect("PostgreSQL");
        self.server = Some(server);
    }

    fn spawn(&self) -> Child {
        let log =
            std::fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("log")).expect("a log");
        let mut command = self.run("postgres");
        command.arg("-D").arg(self.data()).args(["-c", "listen_addresses=", "-k"]).arg(self.dir.path());
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("it starts")
    }

    /// SIGKILL.
    pub(crate) fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            let _ = server.kill();
            let _ = server.wait();
        }
    }

    /// Its URL for whoever is on this machine and not in a namespace.
    pub(crate) fn url(&self) -> String {
        format!("postgres:///postgres?user=postgres&host={}", self.dir.path().display())
    }

    /// The rows of a query, columns with `|` between them.
    pub(crate) fn query(&self, sql: &str) -> Vec<String> {
        let mut command = Command::new(program("psql"));
        command.args(["-XAtq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-h"]).arg(self.dir.path());
        let output = command.args(["-c", sql, "postgres"]).output().expect("psql runs");
        assert!(output.status.success(), "{sql}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).lines().map(str::to_owned).collect()
    }

    /// A dump of all tables, as `pg_dump` makes it.
    pub(crate) fn dump(&self) -> PathBuf {
        let to = self.dir.path().join("dump.sql");
        let mut command = Command::new(program("pg_dump"));
        command.args(["-U", "postgres", "-h"]).arg(self.dir.path());
        let output = command.arg("-f").arg(&to).arg("postgres").output().expect("pg_dump runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        to
    }

    /// Makes the database anew and fills it from a dump, while the server runs.
    pub(crate) fn fill(&self, dump: &Path) {
        let psql = |database: &str, more: &[&OsStr]| {
            let mut command = Command::new(program("psql"));
            command.args(["-Xq", "-v", "ON_ERROR_STOP=1", "-U", "postgres", "-d", database, "-h"]).arg(self.dir.path());
            let output = command.args(more).output().expect("psql runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let anew = ["-c", "DROP DATABASE postgres WITH (FORCE)", "-c", "CREATE DATABASE postgres TEMPLATE template0"];
        psql("template1", &anew.map(OsStr::new));
        psql("postgres", &[OsStr::new("-1"), OsStr::new("-f"), dump.as_os_str()]);
    }

    fn socket(&self) -> PathBuf {
        self.dir.path().join(".s.PGSQL.5432")
    }
}

impl Drop for Vault {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A road from one host to the vault.
pub(crate) struct Road {
    cut: Arc<AtomicBool>,
    /// Connections since the beginning.
    opened: Arc<AtomicU64>,
}

impl Road {
    pub(crate) fn open(scene: &Scene, vault: &Vault) -> Road {
        let listener = scene.net.b.inside(|| Ok(TcpListener::bind(ADDRESS)?)).expect("a listener in the scene");
        let (cut, opened, socket) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)), vault.socket());
        let road = Road { cut: Arc::clone(&cut), opened: Arc::clone(&opened) };
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                opened.fetch_add(1, Ordering::Relaxed);
                carry(&stream, &socket, &cut);
            }
        });
        road
    }

    /// Nothing passes any more: what is open is silent, and what is opened gets no answer.
    pub(crate) fn cut(&self) {
        self.cut.store(true, Ordering::Relaxed);
    }

    pub(crate) fn mend(&self) {
        self.cut.store(false, Ordering::Relaxed);
    }

    pub(crate) fn opened(&self) -> u64 {
        self.opened.load(Ordering::Relaxed)
    }
}

fn carry(client: &std::net::TcpStream, socket: &Path, cut: &Arc<AtomicBool>) {
    let Ok(server) = UnixStream::connect(socket) else { return };
    let (Ok(from_client), Ok(to_client)) = (client.try_clone(), client.try_clone()) else { return };
    let (Ok(from_server), Ok(to_server)) = (server.try_clone(), server.try_clone()) else { return };
    let (one, other) = (Arc::clone(cut), Arc::clone(cut));
    std::thread::spawn(move || {
        copy(from_client, to_server, &one);
        let _ = server.shutdown(std::net::Shutdown::Both);
    });
    let client = client.try_clone();
    std::thread::spawn(move || {
        copy(from_server, to_client, &other);
        let _ = client.map(|client| client.shutdown(std::net::Shutdown::Both));
    });
}

fn copy(mut from: impl std::io::Read, mut to: impl std::io::Write, cut: &AtomicBool) {
    let mut buffer = [0; 16 << 10];
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        // What came while the road is cut is lost, and the connection with it.
        if cut.load(Ordering::Relaxed) || to.write_all(&buffer[..count]).is_err() {
            return;
        }
    }
}
