//! A file of the test's own: it answers as the vault in memory does, adds up while messages are broken off, and a copy that is put
//! in its place halts everybody.

use super::*;
use crate::escrow::conformance::{self, LIMIT, claim, holder, say};
use crate::money::NanoUsd;

async fn rows(path: &Path, sql: &'static str) -> i64 {
    let mut connection = connect(path).await.expect("the file");
    sqlx::query(sql).fetch_one(&mut connection).await.expect("a row").try_get(0).expect("a number")
}

/// The sums of each window are those of its shares.
async fn adds_up(path: &Path) {
    let wrong = r#"SELECT count(*) FROM escrow_windows w WHERE
        allotted <> (SELECT coalesce(sum(granted + lost), 0) FROM escrow_shares s WHERE (s.budget, s.scope, s."window") = (w.budget, w.scope, w."window"))
        OR spent <> (SELECT coalesce(sum(settled + lost), 0) FROM escrow_shares s WHERE (s.budget, s.scope, s."window") = (w.budget, w.scope, w."window"))"#;
    assert_eq!(rows(path, wrong).await, 0);
}

/// A vault whose every third message is broken off somewhere in its middle, as by the end of a process.
struct Broken(SqliteVault, u64);

impl Vault for Broken {
    fn name(&self) -> &'static str {
        "a broken one"
    }

    async fn open(&mut self, opening: &Opening) -> Result<Opened, VaultError> {
        self.0.open(opening).await
    }

    async fn step(&mut self, step: &Step) -> Result<Stepped, VaultError> {
        self.1 += 1;
        if !self.1.is_multiple_of(3) {
            return self.0.step(step).await;
        }
        let after = Duration::from_micros(self.1 * 97 % 3_000);
        let broken = |_| VaultError::Unreachable("broken off".to_owned());
        tokio::time::timeout(after, self.0.step(step)).await.map_err(broken)?
    }

    async fn holders(&mut self) -> Result<Vec<Held>, VaultError> {
        self.0.holders().await
    }

    async fn write_off(&mut self, order: &WriteOff) -> Result<WrittenOff, VaultError> {
        self.0.write_off(order).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_file_is_a_vault() {
    let dir = tempfile::tempdir().expect("a directory");
    let path = dir.path().join("budgets.sqlite");
    let vault = || SqliteVault::new(&path);
    conformance::one_process_at_a_time(&mut vault()).await;
    accept_file(&path).await.expect("accepted");
    let others = u64::try_from(rows(&path, "SELECT count(*) FROM escrow_holders").await).expect("few");
    conformance::same_as_memory(&mut vault(), others).await;
    adds_up(&path).await;
    let spent = conformance::together(|| Broken(vault(), 0), async || {});
    assert_eq!(spent.await, LIMIT.0);
    adds_up(&path).await;
    assert_eq!(rows(&path, "SELECT allotted FROM escrow_windows WHERE scope = 'together'").await, 1_000_000);
    conformance::a_lost_host_is_written_off(&mut vault()).await;
    adds_up(&path).await;
    let told =
        "SELECT count(*) FROM escrow_incidents WHERE NOT halts AND what LIKE 'written off (uid 0: its disk is gone)%'";
    assert_eq!(rows(&path, told).await, 3, "on record");
    let copy = dir.path().join("copy");
    conformance::comes_from_a_backup(
        &mut vault(),
        async || {
            rows(&path, "PRAGMA wal_checkpoint(TRUNCATE)").await;
            std::fs::copy(&path, &copy).expect("a copy");
        },
        async || {
            put_in_place(&copy, &path);
            vault()
        },
        async || drop(accept_file(&path).await.expect("accepted")),
    )
    .await;
    let mode = std::fs::metadata(&path).expect("the file").mode() & 0o777;
    assert_eq!(mode, 0o600, "nobody else reads it");
}

fn put_in_place(copy: &Path, path: &Path) {
    for log in ["-wal", "-shm"] {
        let mut name = path.as_os_str().to_owned();
        name.push(log);
        let _none = std::fs::remove_file(name);
    }
    let fresh = path.with_extension("fresh");
    std::fs::copy(copy, &fresh).expect("a copy");
    std::fs::rename(fresh, path).expect("in place");
}

#[tokio::test]
async fn an_older_copy_is_found_by_a_process_that_saw_more_though_its_host_lost_nothing() {
    let dir = tempfile::tempdir().expect("a directory");
    let (path, copy) = (dir.path().join("budgets.sqlite"), dir.path().join("copy"));
    let mut vault = SqliteVault::new(&path);
    let mut witness = holder(1, "here", Known::default());
    conformance::take_up(&mut vault, &mut witness).await;
    assert_eq!(conformance::calm(&mut vault, &mut witness).await, 10);
    rows(&path, "PRAGMA wal_checkpoint(TRUNCATE)").await;
    std::fs::copy(&path, &copy).expect("a copy");
    // Somebody else takes all that is left and is gone; this process sees that the file went on.
    let mut gone = holder(2, "here", Known::default());
    conformance::take_up(&mut vault, &mut gone).await;
    let all = LIMIT.0 - 10;
    let taken = say(&mut vault, &mut gone, vec![claim("top", 0, 0, all, all)]).await;
    assert!(matches!(&taken, Stepped::Served { given, .. } if given[0].granted == NanoUsd(all)), "{taken:?}");
    put_in_place(&copy, &path);
    // The witness has said nothing since the copy: only the number of messages shows it.
    let answer = say(&mut vault, &mut witness, vec![claim("top", 10, 0, 5, 5)]).await;
    let Stepped::Served { given, halted: Some(why) } = &answer else { panic!("{answer:?}") };
    assert!(why.contains("older copy") && given[0].granted == NanoUsd(10), "{answer:?}");
}

#[tokio::test]
async fn a_file_of_each_version_is_taken_up() {
    let newest = MIGRATIONS.iter().count();
    assert!(newest >= 1);
    for version in 1..=newest {
        let dir = tempfile::tempdir().expect("a directory");
        let (donor, path) = (dir.path().join("donor.sqlite"), dir.path().join("budgets.sqlite"));
        let mut host = holder(1, "here", Known::default());
        let mut vault = SqliteVault::new(&donor);
        conformance::take_up(&mut vault, &mut host).await;
        assert_eq!(conformance::calm(&mut vault, &mut host).await, 10);
        drop(vault);
        crate::ledger::sqlite::tests::as_of(&MIGRATIONS, version, &path, &donor).await;
        let mut vault = SqliteVault::new(&path);
        // These rows came from another file: that is seen, and somebody has looked.
        let answer = conformance::take_up(&mut vault, &mut host).await;
        assert!(matches!(&answer, Opened::Yes { halted: Some(why), .. } if why.contains("a copy")), "{answer:?}");
        drop(accept_file(&path).await.expect("accepted"));
        let answer = conformance::take_up(&mut vault, &mut host).await;
        let Opened::Yes { shares, halted: None, .. } = &answer else { panic!("version {version}: {answer:?}") };
        assert_eq!(shares.iter().map(|(.., share)| share.granted).collect::<Vec<_>>(), [NanoUsd(10)]);
        let held = conformance::only(say(&mut vault, &mut host, vec![claim("top", 10, 4, 0, 0)]).await);
        assert_eq!(held.granted, NanoUsd(10), "version {version}");
        adds_up(&path).await;
        assert_eq!(rows(&path, "SELECT spent FROM escrow_windows").await, 4);
    }
}
