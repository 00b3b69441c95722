//! The view against a Redis of its own.

mod tls;

use super::*;
use std::net::{Ipv4Addr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::time::Instant;

/// A Redis of its own on loopback, gone with the test.
struct Server {
    process: Child,
    redis: Redis,
    dir: tempfile::TempDir,
}

impl Server {
    async fn start() -> Server {
        let dir = tempfile::tempdir().expect("a directory");
        let port = free_port();
        let redis = Redis { url: Some(format!("redis://127.0.0.1:{port}")), url_file: None, tls: None };
        Server::with(dir, &["--port", &port.to_string()], redis).await
    }

    /// Waits until it answers who asks it as `redis` says.
    async fn with(dir: tempfile::TempDir, words: &[&str], redis: Redis) -> Server {
        let process = Command::new("redis-server")
            .args(["--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir"])
            .arg(dir.path())
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("redis-server runs: `cargo xtask test unit` installs it");
        let server = Server { process, redis, dir };
        let (mut view, deadline) = (server.view(), Instant::now() + Duration::from_secs(60));
        while let Err(error) = view.ping().await {
            view.down();
            assert!(Instant::now() < deadline, "Redis does not answer: {error}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        server
    }

    fn view(&self) -> FleetView {
        FleetView::new(&self.redis, "test").expect("a view")
    }
}

fn free_port() -> u16 {
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|socket| socket.local_addr());
    port.expect("a port").port()
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A charge of `nano` of this model.
fn charged(model: &str, nano: u64) -> Charge {
    let key = FleetKey { host: "h".into(), agent: "a".into(), provider: "p".into(), model: model.into() };
    let mut spend = Spend::default();
    set(&mut spend, "nano", nano).expect("a name");
    Charge { upto: 7, key, minute: "2126-11-24T10:05".into(), spend }
}

/// What a script wrote stays when it fails: one that fails half-way would add the first half again at each retry.
#[tokio::test]
async fn a_step_that_cannot_be_done_whole_does_nothing() {
    let server = Server::start().await;
    let (mut view, day) = (server.view(), "{caracal:test}:spend:day:2126-11-24");
    let mut connection = view.up().await.expect("a connection");
    let rows = [charged("a", 5), charged("z", 6)];
    let last = field(&rows[1].key, "nano");
    let most = i64::MAX.to_string();
    // The last bucket is no hash; the last number is none, or has no room.
    for planted in [vec!["SET", day, "x"], vec!["HSET", day, &last, "x"], vec!["HSET", day, &last, &most]] {
        let () = redis::cmd("FLUSHALL").query_async(&mut connection).await.expect("empty");
        let mut command = redis::cmd(planted[0]);
        let () = command.arg(&planted[1..]).query_async(&mut connection).await.expect("planted");
        for _ in 0..3 {
            let refused = view.add(1, 0, 7, &rows).await.expect_err("it was done");
            assert!(matches!(&refused, FleetError::Foreign(key) if key == day), "{planted:?}: {refused}");
        }
        let keys: Vec<String> = redis::cmd("KEYS").arg("*").query_async(&mut connection).await.expect("keys");
        assert_eq!(keys, [day], "{planted:?}: nothing but what was there");
        let () = redis::cmd("DEL").arg(day).query_async(&mut connection).await.expect("gone");
        view.add(1, 0, 7, &rows).await.expect("done");
        view.add(1, 0, 7, &rows).await.expect("done already");
        let sums = view.sums(Width::Day, "").await.expect("sums");
        let nano: Vec<u64> = sums.values().map(|row| row.net().0).collect();
        assert_eq!(nano, [5, 6]);
    }
}

#[tokio::test]
async fn sums_do_not_wrap() {
    let server = Server::start().await;
    let mut view = server.view();
    view.add(1, 0, 7, &[charged("a", u64::MAX), charged("a", u64::MAX)]).await.expect("done");
    let sums = view.sums(Width::Day, "").await.expect("sums");
    assert_eq!(sums.values().map(|row| row.net().0).collect::<Vec<_>>(), [MOST]);
}
