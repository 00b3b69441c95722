//! PostgreSQL by a `tcp` rule that names the host, plain and with TLS up to the server's own certificate.

use crate::{Server, case, recorded, refused};
use std::path::{Path, PathBuf};
use support::netns::Run;
use support::programs;
use support::scene::Scene;

const RULES: &str = "[[allow]]\nhosts = [\"db.example\"]\nports = [5432]\nmode = \"tcp\"\n";

/// The newest server that is installed: Debian keeps its programs away from PATH.
fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let found = versions.map(|version| version.path().join("bin").join(name)).filter(|path| path.is_file()).max();
    found.unwrap_or_else(|| panic!("PostgreSQL's {name} is missing: `cargo xtask test` installs it"))
}

/// It refuses to run as root, and wants a user that has a name.
fn somebody() -> u32 {
    let users = std::fs::read_to_string("/etc/passwd").expect("the users");
    let line =
        users.lines().find(|line| line.starts_with("postgres:")).expect("Debian's package makes the user postgres");
    line.split(':').nth(2).and_then(|uid| uid.parse().ok()).expect("a uid")
}

fn server(scene: &Scene) -> Server {
    let (dir, uid) = (scene.net.files().join("postgres"), somebody());
    std::fs::create_dir(&dir).expect("a directory");
    for (name, copy) in [("db.example.pem", "server.crt"), ("db.example.key", "server.key")] {
        std::fs::copy(scene.net.files().join(name), dir.join(copy)).expect("a key");
        theirs(&dir.join(copy), uid, 0o600);
    }
    theirs(&dir, uid, 0o700);
    let data = dir.join("data");
    let run = |name: &str| scene.net.b.run(program(name)).user(uid).dir(&dir);
    let password = scene.file("password", "correct horse");
    let made = run("initdb").args(["--auth=scram-sha-256", "--username=agent", "--no-sync", "--encoding=UTF8", "-D"]);
    let _ran = made.arg(&data).arg(format!("--pwfile={}", password.display())).ran().ok();
    let all = "host all all 0.0.0.0/0 scram-sha-256\nhost all all ::/0 scram-sha-256\n";
    std::fs::write(data.join("pg_hba.conf"), all).expect("its configuration");
    let mut run = run("postgres").arg("-D").arg(&data);
    let socket = format!("unix_socket_directories={}", dir.display());
    let certificate = format!("ssl_cert_file={}/server.crt", dir.display());
    let key = format!("ssl_key_file={}/server.key", dir.display());
    let small = ["listen_addresses=*", "ssl=on", "fsync=off", "shared_buffers=16MB", "dynamic_shared_memory_type=mmap"];
    for setting in small.into_iter().chain([socket.as_str(), certificate.as_str(), key.as_str()]) {
        run = run.args(["-c", setting]);
    }
    Server::start(scene, "postgres", run, &[5_432])
}

fn theirs(path: &Path, uid: u32, mode: u32) {
    use std::os::unix::fs::PermissionsExt as _;
    std::os::unix::fs::chown(path, Some(uid), Some(uid)).expect("its owner");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).expect("its mode");
}

fn psql(run: Run, place: &str) -> Run {
    let place = format!("{place} user=agent dbname=postgres connect_timeout=20");
    run.env("PGPASSWORD", "correct horse").args(["-X", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-d", place.as_str()])
}

#[test]
fn psql_works_plain_and_with_tls() {
    case("PostgreSQL by a tcp rule, plain and with TLS", RULES, server, |scene, daemon, _| {
        let root = scene.root();
        let modes = ["sslmode=disable".to_owned(), format!("sslmode=verify-full sslrootcert={}", root.display())];
        let statements = "create temp table t as select n, repeat(md5(n::text), 20) as x from generate_series(1, 5000) n; \
                          copy t to stdout; select ssl from pg_stat_ssl where pid = pg_backend_pid()";
        for (mode, ssl) in modes.iter().zip(["f", "t"]) {
            let place = format!("host=db.example {mode}");
            let run = |run: Run| psql(run, &place).args(["-c", statements]).ran().ok().stdout;
            let direct = run(scene.agent(programs::host("psql")));
            // The control is governed by nobody: what it sent is no leak.
            scene.wire.clear();
            let through = run(daemon.run(programs::host("psql")));
            assert!(through.lines().count() > 5_000 && through.trim_end().ends_with(&format!("\n{ssl}")), "{mode}");
            assert!(through == direct, "{mode}: the rows differ");
        }
        recorded(daemon, "connect", "db.example", 5_432);
        // The same server by a name that no rule names.
        let ran = psql(daemon.run(programs::host("psql")), "host=other.example hostaddr=198.18.0.1")
            .args(["-c", "select 1"])
            .ran();
        assert_eq!(ran.code, Some(2), "{}", ran.screen());
        refused(daemon, "protocol_unknown", "198.18.0.1");
    });
}
