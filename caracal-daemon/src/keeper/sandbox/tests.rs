//! A confined process does a data path's work and is refused everything else. It is this test program, started again.

use super::*;
use std::process::Command;
use std::sync::Arc;

const ROLE: &str = "CARACAL_SANDBOX_TEST";

fn driven(role: &str) -> (Option<i32>, String) {
    let out = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "keeper::sandbox::tests::driver", "--nocapture", "--quiet", "--test-threads=1"])
        .env(ROLE, role)
        .output()
        .unwrap();
    (out.status.code(), String::from_utf8_lossy(&[out.stdout, out.stderr].concat()).into_owned())
}

/// Not a proof by itself: the process that the proofs below start.
#[test]
#[expect(
    clippy::disallowed_methods,
    reason = "a child of the test harness must not return into it; the channel carries nothing"
)]
fn driver() {
    let Some(role) = std::env::var_os(ROLE) else { return };
    if role == "threads" {
        let (hold, held) = std::sync::mpsc::channel::<()>();
        let thread = std::thread::spawn(move || held.recv());
        let refused = confine(Uid::from_raw(65534), Gid::from_raw(65534)).map_err(|e| e.code());
        drop(hold);
        let _ = thread.join();
        std::process::exit(i32::from(refused != Err("sandbox_threads")));
    }
    let dir = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(dir.path(), Some(65534), Some(65534)).unwrap();
    // The test harness has a thread of its own; a forked child has one only, as the data path has when it starts.
    // SAFETY: the child goes on as an ordinary program; the harness's thread waits and holds no lock.
    if let nix::unistd::ForkResult::Parent { child } = unsafe { nix::unistd::fork() }.unwrap() {
        let status = nix::sys::wait::waitpid(child, None).unwrap();
        drop(dir);
        std::process::exit(i32::from(status != nix::sys::wait::WaitStatus::Exited(child, 0)));
    }
    std::panic::set_hook(Box::new(|info| {
        eprintln!("{info}");
        std::process::exit(1);
    }));
    confine(Uid::from_raw(65534), Gid::from_raw(65534)).unwrap();
    if role == "work" {
        work(dir.path())
    } else {
        attempts()
    }
    std::process::exit(0);
}

/// TLS over loopback and SQLite on disk, on tokio's threads.
#[expect(clippy::disallowed_methods, reason = "a test's own socket on loopback")]
fn work(dir: &std::path::Path) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(3).enable_all().build().unwrap();
    runtime.block_on(async {
        let (server, client) = tls_configs();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let served = tokio::spawn(async move {
            use tokio::io::AsyncWriteExt as _;
            let (socket, _) = listener.accept().await.unwrap();
            let mut tls = tokio_rustls::TlsAcceptor::from(server).accept(socket).await.unwrap();
            tls.write_all(b"hello").await.unwrap();
            tls.shutdown().await.unwrap();
        });
        let socket = tokio::net::TcpStream::connect(address).await.unwrap();
        let name = rustls::pki_types::ServerName::try_from("a.test").unwrap();
        let mut tls = tokio_rustls::TlsConnector::from(client).connect(name, socket).await.unwrap();
        let mut text = String::new();
        tokio::io::AsyncReadExt::read_to_string(&mut tls, &mut text).await.unwrap();
        assert_eq!(text, "hello");
        served.await.unwrap();

        let options = sqlx::sqlite::SqliteConnectOptions::new()
            .filename(dir.join("ledger.db"))
            .create_if_missing(true)
            .journal_mode(sqlx::sqlite::SqliteJournalMode::Wal);
        let pool = sqlx::sqlite::SqlitePoolOptions::new().max_connections(2).connect_with(options).await.unwrap();
        sqlx::query("CREATE TABLE leaf (id INTEGER PRIMARY KEY, bytes BLOB)").execute(&pool).await.unwrap();
        sqlx::query("INSERT INTO leaf (bytes) VALUES (x'00')").execute(&pool).await.unwrap();
        let count: i64 = sqlx::query_scalar("SELECT count(*) FROM leaf").fetch_one(&pool).await.unwrap();
        assert_eq!(count, 1);
        pool.close().await;
        let file = tokio::fs::File::create(dir.join("segment")).await.unwrap();
        file.set_len(4096).await.unwrap();
        file.sync_data().await.unwrap();
    });
    // SAFETY: plain numbers; 0 names the calling thread.
    assert_eq!(unsafe { libc::setpriority(libc::PRIO_PROCESS, 0, 19) }, 0, "the ledger's thread comes last");
    // Dropping the runtime joins its threads.
    drop(runtime);
}

fn tls_configs() -> (Arc<rustls::ServerConfig>, Arc<rustls::ClientConfig>) {
    let key = rcgen::KeyPair::generate().unwrap();
    let leaf = rcgen::CertificateParams::new(vec!["a.test".into()]).unwrap().self_signed(&key).unwrap();
    let mut roots = rustls::RootCertStore::empty();
    roots.add(leaf.der().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = rustls::pki_types::PrivateKeyDer::try_from(key.serialize_der()).unwrap();
    let server = rustls::ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    (Arc::new(server), Arc::new(client))
}

/// Every call here must be refused.
fn attempts() {
    let calls: &[(&str, i64, [i64; 3])] = &[
        ("execve", libc::SYS_execve, [0; 3]),
        ("fork", libc::SYS_clone, [libc::SIGCHLD.into(), 0, 0]),
        ("ptrace", libc::SYS_ptrace, [0; 3]),
        ("mount", libc::SYS_mount, [0; 3]),
        ("setns", libc::SYS_setns, [0; 3]),
        ("unshare", libc::SYS_unshare, [libc::CLONE_NEWUSER.into(), 0, 0]),
        ("bpf create", libc::SYS_bpf, [0, 0, 0]),
        ("bpf update", libc::SYS_bpf, [2, 0, 0]),
        ("bpf load", libc::SYS_bpf, [5, 0, 0]),
        ("keyctl", libc::SYS_keyctl, [0; 3]),
        ("io_uring", libc::SYS_io_uring_setup, [8, 0, 0]),
        ("setuid", libc::SYS_setuid, [0; 3]),
        ("memfd", libc::SYS_memfd_create, [0; 3]),
        ("packet", libc::SYS_socket, [17, 3, 0]),
        ("netlink", libc::SYS_socket, [16, 3, 0]),
        ("kill", libc::SYS_kill, [1, 0, 0]),
        ("every thread's priority", libc::SYS_setpriority, [libc::PRIO_USER.into(), 0, 5]),
        ("dumpable", libc::SYS_prctl, [libc::PR_SET_DUMPABLE.into(), 1, 0]),
    ];
    for (name, call, [a, b, c]) in calls {
        // SAFETY: the filter refuses the call before an argument is read; null pointers would be EFAULT at worst.
        let result = unsafe { libc::syscall(*call, *a, *b, *c) };
        assert_eq!((result, nix::Error::last()), (-1, nix::Error::EPERM), "{name}");
    }
    // SAFETY: lookup of a null attribute: the filter lets it pass and the kernel refuses it by itself.
    unsafe { libc::syscall(libc::SYS_bpf, 1, 0, 0) };
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    for line in ["Uid:\t65534\t65534\t65534\t65534", "NoNewPrivs:\t1", "CapBnd:\t0000000000000000", "Seccomp:\t2"] {
        assert!(status.contains(line), "{line}\n{status}");
    }
    assert!(status.lines().any(|line| line.trim_end() == "Groups:"), "{status}");
}

#[track_caller]
fn needs_root() {
    assert!(nix::unistd::geteuid().is_root(), "needs root: run `cargo xtask test unit`");
}

#[test]
fn a_confined_process_does_its_work() {
    needs_root();
    let (code, text) = driven("work");
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn a_confined_process_does_nothing_else() {
    needs_root();
    let (code, text) = driven("attempts");
    assert_eq!(code, Some(0), "{text}");
}

#[test]
fn threads_are_noticed() {
    let (code, text) = driven("threads");
    assert_eq!(code, Some(0), "{text}");
}
