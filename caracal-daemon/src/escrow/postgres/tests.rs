//! Against a PostgreSQL of the test's own: it answers as the vault in memory does, adds up under concurrency and `kill -9`,
//! and one from a backup halts everybody.

mod server;

use super::*;
use crate::escrow::conformance::{self, LIMIT, claim, holder, limits, only, say, take_up};
use crate::escrow::{accept, set_limits};
use crate::ledger::postgres::MIGRATIONS;
use crate::money::NanoUsd;
use server::Server;

async fn set_up(server: &Server) {
    let mut database = Database::new(&server.url(), None).expect("a URL");
    let connection = database.up().await.expect("PostgreSQL");
    MIGRATIONS.run(connection).await.expect("tables");
    let connection = database.up().await.expect("PostgreSQL");
    assert_eq!(set_limits(connection, &limits()).await.expect("limits"), ["top", "low"]);
    assert!(set_limits(connection, &limits()).await.expect("limits").is_empty(), "run again, it changes nothing");
}

fn vault(server: &Server) -> PostgresVault {
    PostgresVault::new(&server.url()).expect("a URL")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_is_a_vault() {
    let server = Server::start();
    set_up(&server).await;
    let mut first = vault(&server);
    conformance::one_process_at_a_time(&mut first).await;
    let mut stranger = holder(1, "here", Known::default());
    take_up(&mut first, &mut stranger).await;
    accept_all(&server).await;
    let unknown = only(say(&mut first, &mut stranger, vec![claim("none", 0, 0, 1, 10)]).await);
    assert_eq!((unknown.granted, unknown.limit), (NanoUsd::ZERO, None), "no such budget");

    let live = "SELECT count(*) FROM escrow_holders WHERE until_ms > extract(epoch FROM now()) * 1000";
    let others = u64::try_from(count(&server, live).await).expect("few");
    conformance::same_as_memory(&mut vault(&server), others).await;
    adds_up(&server).await;
    hosts_raise_no_limit(&server).await;
    let spent = conformance::together(
        || vault(&server),
        async || {
            server.kill();
            server.run();
        },
    );
    assert_eq!(spent.await, LIMIT.0);
    adds_up(&server).await;
    assert_eq!(count(&server, "SELECT allotted FROM escrow_windows WHERE scope = 'together'").await, 1_000_000);
    conformance::a_lost_host_is_written_off(&mut PostgresVault::as_owner(&server.url()).expect("a URL")).await;
    adds_up(&server).await;
    let told =
        "SELECT count(*) FROM escrow_incidents WHERE NOT halts AND what LIKE 'written off (uid 0: its disk is gone)%'";
    assert_eq!(count(&server, told).await, 3, "on record");
    let backup = std::cell::RefCell::new(None);
    conformance::comes_from_a_backup(
        &mut vault(&server),
        async || drop(backup.replace(Some(server.backup()))),
        async || {
            server.restore(backup.borrow().as_ref().expect("a backup"));
            vault(&server)
        },
        async || accept_all(&server).await,
    )
    .await;
}

async fn count(server: &Server, sql: &'static str) -> i64 {
    let mut database = Database::new(&server.url(), None).expect("a URL");
    let row = sqlx::query(sql).fetch_one(database.up().await.expect("PostgreSQL")).await.expect("a row");
    row.try_get(0).expect("a number")
}

async fn accept_all(server: &Server) {
    let mut database = Database::new(&server.url(), None).expect("a URL");
    accept(database.up().await.expect("PostgreSQL")).await.expect("accepted");
}

/// The sums of each window are those of its shares.
async fn adds_up(server: &Server) {
    let wrong = count(
        server,
        r#"SELECT count(*) FROM escrow_windows w CROSS JOIN LATERAL (SELECT coalesce(sum(granted + lost), 0)::bigint AS a,
           coalesce(sum(settled + lost), 0)::bigint AS b FROM escrow_shares s WHERE s.budget = w.budget AND s.scope = w.scope
           AND s."window" = w."window") s WHERE (w.allotted, w.spent) IS DISTINCT FROM (s.a, s.b)"#,
    );
    assert_eq!(wrong.await, 0);
}

async fn hosts_raise_no_limit(server: &Server) {
    let mut database = Database::new(&server.url(), Some(HOST)).expect("a URL");
    for sql in [
        "INSERT INTO escrow_limits VALUES ('top', 9, 9)",
        "INSERT INTO escrow_accepted (upto, system, timeline) VALUES (9, '', '')",
        "UPDATE escrow_incidents SET halts = false",
    ] {
        let done = sqlx::query(sql).execute(database.up().await.expect("PostgreSQL")).await;
        let code =
            done.expect_err(sql).as_database_error().and_then(|error| error.code().map(|code| code.into_owned()));
        assert_eq!(code.as_deref(), Some("42501"), "{sql}: insufficient_privilege");
    }
}
