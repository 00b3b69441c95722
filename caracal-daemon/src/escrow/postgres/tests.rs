//! Against a PostgreSQL of the test's own: it answers as the vault in memory does, adds up under concurrency and `kill -9`,
//! and one from a backup halts everybody.

mod server;

use super::*;
use crate::budget::escrow::{Book, Claim, Given, Holder, Slice, Use};
use crate::escrow::{accept, set_limits};
use crate::ledger::postgres::MIGRATIONS;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use server::Server;
use std::time::{Duration, Instant};

const LIMIT: NanoUsd = NanoUsd(1_000_000);
/// A day: nothing here depends on how long it takes.
const LEASE: u64 = 86_400_000;
const PATIENCE: Duration = Duration::from_secs(120);

async fn set_up(server: &Server) {
    let mut database = Database::new(&server.url(), None).expect("a URL");
    let connection = database.up().await.expect("PostgreSQL");
    MIGRATIONS.run(connection).await.expect("tables");
    let limits = [("top", LIMIT), ("low", NanoUsd(LIMIT.0 / 2))];
    let connection = database.up().await.expect("PostgreSQL");
    assert_eq!(set_limits(connection, &limits).await.expect("limits"), ["top", "low"]);
    assert!(set_limits(connection, &limits).await.expect("limits").is_empty(), "run again, it changes nothing");
}

fn key(budget: &str) -> WindowKey {
    WindowKey { budget: budget.into(), scope: "builder".into(), window: "hour/2026-11-24T12Z".into() }
}

fn holder(at: u64, place: &str, known: Known) -> Holder {
    Holder::new(&format!("holder-{at}"), "host", place, LEASE, at, known)
}

fn claim(budget: &str, granted: u64, settled: u64, first: u64, want: u64) -> Claim {
    Claim {
        key: key(budget),
        ends: Some(UnixNanos(u64::MAX / 4)),
        limit: LIMIT,
        granted: NanoUsd(granted),
        settled: NanoUsd(settled),
        first: NanoUsd(first),
        need: NanoUsd(first),
        want: NanoUsd(want),
    }
}

async fn take_up(vault: &mut PostgresVault, holder: &mut Holder) -> Opened {
    let opening = holder.opening();
    let answer = vault.open(&opening).await.expect("an answer");
    holder.opened(&answer, 0);
    answer
}

async fn say(vault: &mut PostgresVault, holder: &mut Holder, claims: Vec<Claim>) -> Stepped {
    let step = holder.step(claims, false);
    let answer = Vault::step(vault, &step).await.expect("an answer");
    holder.stepped(step.step, &answer, 0);
    answer
}

fn only(answer: Stepped) -> Given {
    let Stepped::Served { mut given, halted: None } = answer else { panic!("{answer:?}") };
    given.pop().expect("one")
}

/// Asks until something is given: it has just started.
async fn calm(vault: &mut PostgresVault, holder: &mut Holder) -> u64 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let given = only(say(vault, holder, vec![claim("top", 0, 0, 1, 10)]).await);
        if given.granted > NanoUsd::ZERO {
            return given.granted.0;
        }
        assert!(Instant::now() < deadline, "it never gives anything");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_is_a_vault() {
    let server = Server::start();
    set_up(&server).await;
    let mut vault = PostgresVault::new(&server.url()).expect("a URL");
    let mut first = holder(0, "here", Known::default());
    assert!(matches!(take_up(&mut vault, &mut first).await, Opened::Yes { halted: None, .. }));
    let given = only(say(&mut vault, &mut first, vec![claim("top", 0, 0, 1, 10)]).await);
    assert_eq!(given.granted, NanoUsd::ZERO, "it has just started");
    assert_eq!(calm(&mut vault, &mut first).await, 10);
    let unknown = only(say(&mut vault, &mut first, vec![claim("none", 0, 0, 1, 10)]).await);
    assert_eq!((unknown.granted, unknown.limit), (NanoUsd::ZERO, None), "no such budget");

    // Another process with the same state.
    let mut second = holder(0, "there", first.known());
    assert!(matches!(take_up(&mut vault, &mut second).await, Opened::Busy(ms) if ms > LEASE / 2));
    let mut again = holder(0, "here", first.known());
    assert!(matches!(take_up(&mut vault, &mut again).await, Opened::Yes { .. }));
    assert_eq!(say(&mut vault, &mut first, Vec::new()).await, Stepped::Fenced);
    let late = again.step(vec![claim("top", 10, 4, 0, 0)], false);
    only(say(&mut vault, &mut again, vec![claim("top", 20, 5, 0, 0)]).await.unhalted());
    assert_eq!(Vault::step(&mut vault, &late).await, Ok(Stepped::Stale));

    same_as_memory(&server).await;
    adds_up(&server).await;
    hosts_raise_no_limit(&server).await;
    together(&server).await;
    comes_from_a_backup(server).await;
}

trait Unhalted {
    fn unhalted(self) -> Stepped;
}

impl Unhalted for Stepped {
    /// What a claim beyond the vault's knowledge would make of it is tried elsewhere.
    fn unhalted(self) -> Stepped {
        match self {
            Stepped::Served { given, .. } => Stepped::Served { given, halted: None },
            other => other,
        }
    }
}

/// The same messages, the same answers.
async fn same_as_memory(server: &Server) {
    accept_all(server).await;
    let mut book = Book::new(HashMap::from([("top".into(), LIMIT), ("low".into(), NanoUsd(LIMIT.0 / 2))]));
    let mut dice = StdRng::seed_from_u64(11);
    let mut vault = PostgresVault::new(&server.url()).expect("a URL");
    let mut holders: Vec<Holder> = (10..13).map(|at| holder(at, "here", Known::default())).collect();
    let mut slices = [[(0_u64, 0_u64); 2]; 3];
    // What others took before is not this test's: its windows are its own.
    let of = |budget: &str, claim: Claim| Claim { key: WindowKey { scope: "same".into(), ..key(budget) }, ..claim };
    let everybody =
        count(server, "SELECT count(*) FROM escrow_holders WHERE until_ms > extract(epoch FROM now()) * 1000").await;
    for extra in 0..everybody {
        let opening = holder(1_000 + u64::try_from(extra).expect("few"), "x", Known::default()).opening();
        book.open(&opening).await.expect("memory answers");
    }
    for round in 0..400 {
        let at = dice.random_range(0..3);
        if round < 3 || dice.random_range(0..40) == 0 {
            let at = if round < 3 { round } else { at };
            holders[at] = holder(10 + at as u64, "here", holders[at].known());
            let opening = holders[at].opening();
            let (one, other) = (vault.open(&opening).await.expect("PostgreSQL answers"), book.open(&opening).await);
            assert_eq!(Ok(&one), other.as_ref(), "round {round}");
            holders[at].opened(&one, 0);
            continue;
        }
        let mut claims = Vec::new();
        for (budget, (granted, settled)) in ["top", "low"].iter().zip(&mut slices[at]) {
            *settled += dice.random_range(0..=(*granted - *settled));
            *granted -= dice.random_range(0..=(*granted - *settled) / 4);
            // Now and then records are lost.
            if dice.random_range(0..60) == 0 {
                (*granted, *settled) = (*settled / 2, *settled / 2);
            }
            let first = if dice.random() { dice.random_range(0..60_000) } else { 0 };
            claims.push(of(budget, claim(budget, *granted, *settled, first, dice.random_range(0..200_000))));
        }
        let step = holders[at].step(claims, false);
        let one = Vault::step(&mut vault, &step).await.expect("PostgreSQL answers");
        let other = Vault::step(&mut book, &step).await.expect("memory answers");
        assert_eq!(one, other, "round {round}");
        holders[at].stepped(step.step, &one, 0);
        let Stepped::Served { given, .. } = one else { panic!("{one:?}") };
        for (given, (granted, _)) in given.iter().zip(&mut slices[at]) {
            *granted = given.granted.0;
        }
    }
    assert!(book.adds_up() && !book.incidents().is_empty(), "records were lost: {:?}", book.incidents());
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

/// Eight hosts take all that there is, while the server is killed: nothing above the limit, and nothing left over.
async fn together(server: &Server) {
    let window = WindowKey { scope: "together".into(), ..key("top") };
    let hosts: Vec<_> = (20..28_u64).map(|at| tokio::spawn(spend(server.url(), at, window.clone()))).collect();
    tokio::time::sleep(Duration::from_millis(300)).await;
    server.kill();
    server.run();
    let mut spent = 0;
    for host in hosts {
        spent += host.await.expect("a host that came to its end");
    }
    assert_eq!(spent, LIMIT.0);
    adds_up(server).await;
    assert_eq!(count(server, "SELECT allotted FROM escrow_windows WHERE scope = 'together'").await, 1_000_000);
}

/// A host that spends 1,000 a call for as long as there is any.
async fn spend(url: String, at: u64, window: WindowKey) -> u64 {
    const CALL: NanoUsd = NanoUsd(1_000);
    let mut vault = PostgresVault::new(&url).expect("a URL");
    let mut holder = holder(at, "here", Known::default());
    let (mut slice, mut settled) = (Slice::default(), NanoUsd::ZERO);
    let deadline = Instant::now() + PATIENCE;
    loop {
        assert!(Instant::now() < deadline, "{slice:?}");
        if holder.must_open() {
            let opening = holder.opening();
            match vault.open(&opening).await {
                Ok(answer) => holder.opened(&answer, 0),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
            continue;
        }
        slice.ask(CALL);
        let used = Use { settled, held: NanoUsd::ZERO, first: CALL, all: CALL };
        let said = slice.claim(&window, Some(LIMIT), &used, crate::clock::boottime_ms());
        let step = holder.step(vec![said.clone()], false);
        match Vault::step(&mut vault, &step).await {
            Ok(Stepped::Served { given, halted: None }) => {
                holder.stepped(step.step, &Stepped::Served { given: given.clone(), halted: None }, 0);
                slice.hear(&said, &given[0]);
            }
            Ok(other) => panic!("{other:?}"),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
        while slice.granted >= settled.saturating_add(CALL) {
            settled = settled.saturating_add(CALL);
        }
        if slice.heard && settled.saturating_add(slice.elsewhere) >= LIMIT {
            return settled.0;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn comes_from_a_backup(server: Server) {
    let mut vault = PostgresVault::new(&server.url()).expect("a URL");
    let mut host = holder(40, "here", Known::default());
    take_up(&mut vault, &mut host).await;
    let mut other = holder(41, "here", Known::default());
    take_up(&mut vault, &mut other).await;
    let backup = server.backup();
    let mut vault = PostgresVault::new(&server.url()).expect("a URL");
    let granted = {
        let claim = || Claim { key: WindowKey { scope: "backup".into(), ..key("top") }, ..claim("top", 0, 0, 1, 500) };
        let deadline = Instant::now() + PATIENCE;
        loop {
            let given = only(say(&mut vault, &mut host, vec![claim()]).await);
            if given.granted > NanoUsd::ZERO {
                break given.granted.0;
            }
            assert!(Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    server.restore(&backup);
    let mut vault = PostgresVault::new(&server.url()).expect("a URL");
    let held = Claim { key: WindowKey { scope: "backup".into(), ..key("top") }, ..claim("top", granted, 0, 0, 0) };
    let answer = say(&mut vault, &mut host, vec![held.clone()]).await;
    assert!(matches!(&answer, Stepped::Served { halted: Some(_), .. }), "{answer:?}");
    let allotted = count(&server, "SELECT allotted FROM escrow_windows WHERE scope = 'backup'").await;
    assert_eq!(u64::try_from(allotted), Ok(granted), "what the host has counts");
    // The other one hears of it, too.
    let answer = say(&mut vault, &mut other, Vec::new()).await;
    assert!(matches!(&answer, Stepped::Served { halted: Some(_), .. }), "{answer:?}");
    accept_all(&server).await;
    assert_eq!(only(say(&mut vault, &mut host, vec![held]).await).granted, NanoUsd(granted));
}
