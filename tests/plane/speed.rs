//! How fast the plane is: real services with their syncs on, the binary under test, records of hosts that this test plays.
//! Measured alone, since the other tests of this program wait meanwhile. `cargo xtask test` measures a little and judges
//! nothing; `cargo xtask bench --plane` measures long and holds the figures against their bars.

use crate::host::{Host, Message, hex};
use crate::judge::{each_leaf, root_of};
use crate::plane::{PATIENCE, Plane, Wants, now, text};
use crate::usage::{Group, cpu_of, cpu_of_children, cpu_of_thread, metric};
use crate::worker::Worker;
use crate::{STAND_IN, SUBJECT};
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use rdkafka::producer::FutureProducer;
use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::daemon::Daemon;
use support::netns::until;
use support::report;
use support::scene::Scene;

/// Records of one message, as a busy host's publisher gathers them.
const RUN: usize = 200;
/// Records a second while checkpoints are waited for.
const PACE: u64 = 10_000;

/// The bars of a long measurement: the figure, the least or most that it may be, and whether it is a least.
const BARS: [(&str, u64, bool); 4] = [
    ("appends_per_s_postgres", 10_000, true),
    ("appends_per_s_sqlite", 40_000, true),
    ("checkpoint_ms_p99", 500, false),
    // In hundredths.
    ("audit_share_of_sha256", 60, true),
];

/// `cargo xtask bench --plane` says so.
fn benched() -> bool {
    std::env::var_os("CARACAL_BENCH").is_some()
}

#[test]
fn appends_checkpoints_and_audits_are_measured() {
    let mut figures = Map::new();
    report::case(SUBJECT, "durable appends, checkpoints and audits, measured", || {
        let records = if benched() { 1_000_000 } else { 100_000 };
        let plane = Plane::with(Wants { partitions: 1, alone: true, ..Wants::default() });
        let mut hosts: Vec<Host> = (0..8).map(|at| Host::new(&format!("host-{at}"))).collect();
        let keys: String = hosts.iter().map(Host::public_key).collect();
        plane.caracald(&["hosts", "enrol", text(&plane.file("hosts.pub", &keys))]);
        figures.insert("speed_records".into(), json!(records));
        into_postgres(&plane, &mut hosts, records, &mut figures);
        until_signed(&plane, &mut hosts, if benched() { 30 } else { 5 }, &mut figures);
        proven(&plane, &mut figures);
        audited(&plane, &mut figures);
        into_sqlite(&mut figures);
        for (key, value) in &figures {
            report::figure(SUBJECT, key, value.as_u64().expect("an integer"));
        }
        // How large the logs were that receipts were asked of.
        let sizes = figures.iter().filter(|(key, _)| key.starts_with("proof_leaves"));
        sizes.map(|(key, size)| (key.clone(), size.clone())).collect()
    });
    if benched() {
        for (key, bar, least) in BARS {
            let value = figures[key].as_u64().expect("measured");
            let met = if least { value >= bar } else { value <= bar };
            let fault = (!met).then(|| format!("{value}, and the bar is {bar}"));
            report::verdict(SUBJECT, &format!("bar: {key}"), fault, Map::new());
        }
    }
}

/// Fills the topic first, then lets one worker loose on it: the rate from its first commit to its last.
fn into_postgres(plane: &Plane, hosts: &mut [Host], records: usize, figures: &mut Map<String, Value>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let producer = plane.producer();
    let mut dice = StdRng::seed_from_u64(1);
    let mut bytes = 0;
    for at in 0..records / RUN {
        let host = &mut hosts[at % 8];
        let message = some(host, &mut dice, RUN);
        bytes += message.payload.len() - RUN - 1;
        runtime.block_on(message.send(&producer, &plane.topic));
    }
    let before = stored_bytes(plane);
    let (worker, port) = plane.listening("ledger");
    let services = Group::below(&plane.disk());
    let at = || metric(port, "caracal_ledger_records_total").unwrap_or(0);
    until("the first commit", PATIENCE, || at() > 0).expect("a commit");
    let (first, began, cpu) = (at(), Instant::now(), cpu_of(worker.pid()) + services.cpu());
    until("all of it", PATIENCE, || at() >= records as u64).expect("leaves");
    let (took, cpu) = (began.elapsed(), cpu_of(worker.pid()) + services.cpu() - cpu);
    plane.settled(records as u64);
    let done = records as u64 - first;
    figures.insert("appends_per_s_postgres".into(), json!(per(done, took)));
    figures.insert("appends_per_s_core_postgres".into(), json!(per(done, cpu)));
    figures.insert("commits_postgres".into(), json!(plane.count("SELECT checkpoints FROM logs")));
    figures.insert("record_bytes".into(), json!(bytes / records));
    figures.insert("bytes_per_event".into(), json!((stored_bytes(plane) - before) / records as u64));
    worker.stop();
}

/// Everything that the ledger keeps, with its indexes.
fn stored_bytes(plane: &Plane) -> u64 {
    plane.count(
        "SELECT sum(pg_total_relation_size(oid)) FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace",
    )
}

/// From Kafka's acknowledgment to a checkpoint over it that another connection can read.
fn until_signed(plane: &Plane, hosts: &mut [Host], seconds: u64, figures: &mut Map<String, Value>) {
    let (worker, spend) = (plane.worker("ledger"), plane.worker("spend"));
    let mut dice = StdRng::seed_from_u64(2);
    // It has taken the log over before the clock runs.
    let mut size = plane.count("SELECT size FROM logs");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let producer = plane.producer();
    for host in &mut *hosts {
        size += 10;
        runtime.block_on(some(host, &mut dice, 10).send(&producer, &plane.topic));
    }
    plane.settled(size);
    let size_of_run = RUN as u64 / 2;
    let every = Duration::from_micros(1_000_000 * size_of_run / PACE);
    let count = PACE * seconds / size_of_run;
    let messages: Vec<Message> =
        (0..count).map(|at| some(&mut hosts[at as usize % 8], &mut dice, size_of_run as usize)).collect();
    let done = AtomicBool::new(false);
    let (mut sent, seen) = std::thread::scope(|scope| {
        let seen = scope.spawn(|| watch(plane, &done));
        let sent = runtime.block_on(at_a_pace(messages, every, producer, plane.topic.clone()));
        plane.settled(size + count * size_of_run);
        done.store(true, Ordering::Relaxed);
        (sent, seen.join().expect("the watch"))
    });
    // The log's order is the partition's.
    sent.sort_unstable_by_key(|(offset, _)| *offset);
    let mut waits: Vec<Duration> = Vec::new();
    for (_, acknowledged) in sent {
        size += size_of_run;
        let (covered, _) = seen.iter().find(|(_, signed)| *signed >= size).expect("it was seen");
        waits.push(covered.saturating_duration_since(acknowledged));
    }
    waits.sort_unstable();
    let at = |hundredths: usize| waits[(waits.len() * hundredths / 100).min(waits.len() - 1)].as_millis() as u64;
    figures.insert("checkpoint_ms_p50".into(), json!(at(50)));
    figures.insert("checkpoint_ms_p99".into(), json!(at(99)));
    [worker, spend].into_iter().for_each(Worker::stop);
}

/// Sends each at its time, however long the one before takes; gives where it went and when it was acknowledged.
async fn at_a_pace(
    messages: Vec<Message>,
    every: Duration,
    producer: FutureProducer,
    topic: String,
) -> Vec<(i64, Instant)> {
    let mut tasks = Vec::new();
    let began = tokio::time::Instant::now();
    for (at, message) in (0..).zip(messages) {
        tokio::time::sleep_until(began + every * at).await;
        // In their order, also where several are due at once.
        let delivered = message.hand_over(&producer, &topic);
        tasks.push(tokio::spawn(async move { (delivered.await, Instant::now()) }));
    }
    let mut sent = Vec::new();
    for task in tasks {
        sent.push(task.await.expect("sent"));
    }
    sent
}

/// The largest checkpoint that can be read, and since when, every two milliseconds or so.
fn watch(plane: &Plane, done: &AtomicBool) -> Vec<(Instant, u64)> {
    let mut psql = Command::new("psql")
        .args(["-XAtq", &plane.postgres])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("psql runs");
    let mut ask = psql.stdin.take().expect("a pipe");
    let mut answers = BufReader::new(psql.stdout.take().expect("a pipe")).lines();
    let mut seen: Vec<(Instant, u64)> = Vec::new();
    while !done.load(Ordering::Relaxed) {
        writeln!(ask, "SELECT coalesce(max(size), 0) FROM checkpoints WHERE log = 0;").expect("asked");
        let size = answers.next().expect("an answer").expect("a line").parse().expect("a size");
        if seen.last().is_none_or(|(_, last)| *last < size) {
            seen.push((Instant::now(), size));
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    drop(ask);
    let _ = psql.wait();
    seen
}

/// Receipts out of PostgreSQL, at the size that the measurements before left there.
fn proven(plane: &Plane, figures: &mut Map<String, Value>) {
    let (leaves, _) = root_of(plane, 0);
    let prove = |index: &str| drop(plane.caracald(&["ledger", "prove", "--log", "test-0", index]));
    figures.insert("proof_leaves_postgres".into(), json!(leaves));
    figures.insert("proof_ms_p99_postgres".into(), json!(proof_ms_p99(leaves, &mut StdRng::seed_from_u64(4), prove)));
}

/// The audit of the log's files, as an outsider does it, and that of the database. Beside it what no audit can leave out, SHA-256 over
/// the bytes that make the tree (RFC 6962, 2.1): a zero byte and the record for each leaf, and for each node above them a one byte and two
/// hashes. They lie in memory as they are hashed, and one call of the fastest library at hand hashes each; the hosts' chains name
/// leaf hashes and have no bytes of their own. All times are CPU time of all threads, the audit's with the start of its process.
fn audited(plane: &Plane, figures: &mut Map<String, Value>) {
    let files = plane.file("audit.keys", "").with_file_name("audit");
    plane.caracald(&["ledger", "export", "--fleet", text(&files)]);
    let (log, keys) = (files.join("test-0"), plane.file("audit.keys", &plane.log_keys(0)));
    let (mut leaves, mut ends) = (Vec::new(), Vec::new());
    each_leaf(plane, |_, record| {
        leaves.push(0);
        leaves.extend_from_slice(record);
        ends.push(leaves.len());
    });
    let (_, root) = root_of(plane, 0);
    let hashed = best(3, || {
        let began = cpu_of_thread();
        let mut start = 0;
        let mut level: Vec<[u8; 32]> = Vec::with_capacity(ends.len());
        for end in &ends {
            level.push(hash(&leaves[start..*end]));
            start = *end;
        }
        while level.len() > 1 {
            let above = level.chunks(2).map(|pair| match pair {
                [left, right] => {
                    let mut node = [1; 65];
                    node[1..33].copy_from_slice(left);
                    node[33..].copy_from_slice(right);
                    hash(&node)
                }
                _ => pair[0],
            });
            level = above.collect();
        }
        let took = cpu_of_thread() - began;
        assert_eq!(hex(&level[0]), root, "it is the tree of the log");
        took
    });
    let leaves = ends.len() as u64;
    let audit = |words: &[&str]| {
        let before = cpu_of_children();
        plane.caracald(words);
        cpu_of_children() - before
    };
    let of_files = best(3, || audit(&["ledger", "verify", "--folder", text(&log), "--public-key", text(&keys)]));
    let of_database = best(3, || audit(&["ledger", "verify", "--fleet"]));
    figures.insert("audit_events_per_s_core".into(), json!(per(leaves, of_files)));
    figures.insert("audit_events_per_s_core_postgres".into(), json!(per(leaves, of_database)));
    figures.insert("sha256_events_per_s_core".into(), json!(per(leaves, hashed)));
    let hundredths = hashed.as_secs_f64() / of_files.as_secs_f64() * 100.0;
    figures.insert("audit_share_of_sha256".into(), json!(hundredths as u64));
}

fn hash(bytes: &[u8]) -> [u8; 32] {
    Sha256::digest(bytes).into()
}

fn best(times: u32, measure: impl FnMut() -> Duration) -> Duration {
    std::iter::repeat_with(measure).take(times as usize).min().expect("one")
}

/// One host's records into the embedded store, as `ledger rebuild` has them: the daemon's own sequencer, batches, store and
/// synced commits, and no signature. A daemon then takes that ledger up and signs it, and receipts are asked for.
fn into_sqlite(figures: &mut Map<String, Value>) {
    let scene = Scene::new(STAND_IN).expect("the scene stands");
    let mut daemon = Daemon::configured(&scene, "");
    let (mut host, mut dice) = (Host::new("h"), StdRng::seed_from_u64(3));
    let count = match (benched(), report::long()) {
        (false, _) => 200_000,
        (true, false) => 1_000_000,
        (true, true) => 10_000_000,
    };
    let (state, lines) = (daemon.state(), daemon.state().with_file_name("lines.jsonl"));
    let mut out = std::io::BufWriter::new(std::fs::File::create(&lines).expect("a file"));
    let mut bytes = 0;
    for _ in 0..count {
        let record = host.record(dice.random(), "2026-11-24T10:00:00.000000000Z");
        bytes += record.len() as u64;
        out.write_all(&record).and_then(|()| out.write_all(b"\n")).expect("written");
    }
    drop(out);
    std::fs::create_dir_all(state.join("data")).expect("a directory");
    std::fs::write(state.join("host-id"), "0123456789abcdef0123456789abcdef").expect("an id");
    let ledger = state.join("data/ledger.sqlite");
    let before = (Instant::now(), cpu_of_children());
    let words = ["ledger", "rebuild", "--from", text(&lines), "--into", text(&ledger)];
    let _made = daemon.command(&words).limit(20 * PATIENCE).ran().ok();
    let (took, cpu) = (before.0.elapsed(), cpu_of_children() - before.1);
    let size = std::fs::metadata(&ledger).expect("the ledger").len() + wal(&ledger);
    figures.insert("appends_per_s_sqlite".into(), json!(per(count, took)));
    figures.insert("appends_per_s_core_sqlite".into(), json!(per(count, cpu)));
    figures.insert("bytes_per_event_sqlite".into(), json!(size / count));
    figures.insert("record_bytes_sqlite".into(), json!(bytes / count));

    // The user that the scene makes, where the host has none of that name.
    let users = std::fs::read_to_string("/etc/passwd").expect("the users");
    let owner = users.lines().find_map(|line| line.strip_prefix("caracal:")?.split(':').nth(1)?.parse().ok());
    let owner: u32 = owner.unwrap_or(4_300);
    let data = state.join("data");
    // SQLite's log and its index too, where they are still there.
    let files = std::fs::read_dir(&data).expect("the directory").map(|entry| entry.expect("an entry").path());
    for entry in files.chain([data.clone()]) {
        std::os::unix::fs::chown(entry, Some(owner), Some(owner)).expect("the data path's own");
    }
    daemon.restart();
    let signed = || daemon.json(&["status"])["data_path"]["ledger"]["checkpoint"].as_u64();
    until("a checkpoint over all of it", PATIENCE, || signed() >= Some(count)).expect("signed");
    let prove = |index: &str| drop(daemon.command(&["ledger", "prove", index]).ran().ok());
    figures.insert("proof_leaves".into(), json!(count));
    figures.insert("proof_ms_p99".into(), json!(proof_ms_p99(count, &mut dice, prove)));
    daemon.stop();
}

/// Receipts of records of a log of this many, one after the other. The start of a process is in each.
fn proof_ms_p99(leaves: u64, dice: &mut StdRng, prove: impl Fn(&str)) -> u64 {
    let mut times: Vec<Duration> = (0..200)
        .map(|_| {
            let index = dice.random_range(0..leaves).to_string();
            let began = Instant::now();
            prove(&index);
            began.elapsed()
        })
        .collect();
    times.sort_unstable();
    times[times.len() * 99 / 100].as_millis() as u64
}

fn wal(ledger: &Path) -> u64 {
    let name = format!("{}-wal", ledger.display());
    std::fs::metadata(name).map_or(0, |file| file.len())
}

fn some(host: &mut Host, dice: &mut StdRng, size: usize) -> Message {
    let at = now("now");
    host.ms = at.ms;
    let records: Vec<Vec<u8>> = (0..size).map(|_| host.record(dice.random(), &at.text)).collect();
    host.message(&records)
}

fn per(count: u64, time: Duration) -> u64 {
    (count as f64 / time.as_secs_f64()) as u64
}
