use super::*;
use crate::bus::signed_run::tests::Host;
use crate::dns::resolve::Resolver;
use crate::keeper::ledger_key::LedgerKey;
use crate::ledger::SqliteStore;
use crate::ledger::export::export;
use crate::ledger::fetch::Fetch;
use crate::ledger::fleet::{Arrival, Fleet};
use crate::ledger::memory::MemoryStore;
use crate::ledger::tests::{TestSigner, sample};
use crate::tls::dial::{Dialer, Settings};
use http::{Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// An exported log of 450 records and its keys.
async fn exported() -> (tempfile::TempDir, PathBuf, Vec<Verifier>) {
    let dir = tempfile::tempdir().expect("a directory");
    let (state, keys) = sample(dir.path()).await;
    let out = dir.path().join("export");
    let mut store = SqliteStore::read(&state.ledger()).await.expect("a store");
    assert_eq!(export(&mut store, &out, &mut |_, _| {}).await.expect("exported"), 450);
    (dir, out, keys)
}

async fn check(dir: &Path, keys: &[Verifier], kept: &[Checkpoint]) -> Report {
    verify(&mut Files::Folder(dir.into()), keys, kept, &[], &mut |_, _| {}).await.expect("read")
}

fn codes(report: &Report) -> Vec<&'static str> {
    report.findings.iter().map(|finding| finding.code).collect()
}

const ALL: [&str; 6] =
    ["checkpoint", "tile/0/000", "tile/0/001.p/194", "tile/1/000.p/1", "tile/entries/000", "tile/entries/001.p/194"];

#[tokio::test]
async fn a_sound_folder_passes_and_any_change_of_a_file_is_found() {
    let (_dir, out, keys) = exported().await;
    let sound = check(&out, &keys, &[]).await;
    assert_eq!((codes(&sound), sound.leaves, sound.tiles, sound.checkpoints), (Vec::new(), 450, 1, 1));
    let checkpoint = std::fs::read_to_string(out.join("checkpoint")).expect("a checkpoint");
    assert_eq!(Some(sound.root), Checkpoint::open(&checkpoint, &keys).map(|one| hex::encode(one.root)).ok());
    let wanted: HashMap<&str, &str> = HashMap::from([
        ("checkpoint", "checkpoint"),
        ("tile/0/000", "tile"),
        ("tile/0/001.p/194", "edge"),
        ("tile/1/000.p/1", "edge"),
        ("tile/entries/000", ""),
        ("tile/entries/001.p/194", ""),
    ]);
    for name in ALL {
        let path = out.join(name);
        let kept = std::fs::read(&path).expect("a file");
        let mut forgeries: Vec<Option<Vec<u8>>> = vec![None, Some(Vec::new())];
        forgeries.push(Some(kept[..kept.len() - 1].to_vec()));
        forgeries.push(Some([&kept[..], b"x"].concat()));
        let step = (kept.len() / 29).max(1);
        for at in (0..kept.len()).step_by(step) {
            let mut flipped = kept.clone();
            flipped[at] ^= 1;
            forgeries.push(Some(flipped));
        }
        for (number, forged) in forgeries.iter().enumerate() {
            match forged {
                Some(bytes) => std::fs::write(&path, bytes).expect("written"),
                None => std::fs::remove_file(&path).expect("removed"),
            }
            let found = codes(&check(&out, &keys, &[]).await);
            assert!(!found.is_empty(), "forgery {number} of {name} was not found");
            let code = wanted[name];
            assert!(code.is_empty() || found == [code], "{name}: {found:?}");
            std::fs::write(&path, &kept).expect("put back");
        }
    }
    let swap = |one: &str, other: &str| {
        let (one, other) = (out.join(one), out.join(other));
        let bytes = std::fs::read(&one).expect("a file");
        std::fs::copy(&other, &one).expect("copied");
        std::fs::write(&other, bytes).expect("written");
    };
    for (one, other) in [("tile/0/000", "tile/entries/000"), ("tile/entries/000", "tile/entries/001.p/194")] {
        swap(one, other);
        assert!(!check(&out, &keys, &[]).await.findings.is_empty(), "{one} and {other}");
        swap(one, other);
    }
    assert_eq!(codes(&check(&out, &keys, &[]).await), Vec::<&str>::new());
    let nowhere = tempfile::tempdir().expect("a directory");
    assert_eq!(codes(&check(nowhere.path(), &keys, &[]).await), ["checkpoint"]);
}

#[tokio::test]
async fn both_keys_must_have_signed_and_one_line_twice_is_one() {
    let (_dir, out, keys) = exported().await;
    let path = out.join("checkpoint");
    let note = std::fs::read_to_string(&path).expect("a checkpoint");
    let lines: Vec<&str> = note.lines().collect();
    let text = format!("{}\n\n", lines[..3].join("\n"));
    for signatures in [[lines[4], lines[4]], [lines[5], lines[5]], [lines[4], ""]] {
        std::fs::write(&path, format!("{text}{}\n", signatures.join("\n").trim_end())).expect("written");
        assert_eq!(codes(&check(&out, &keys, &[]).await), ["checkpoint"], "{signatures:?}");
    }
    // A line of a stranger is ignored, as the format asks.
    let stranger = "\u{2014} witness.example/w AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA==\n";
    std::fs::write(&path, format!("{note}{stranger}")).expect("written");
    assert_eq!(codes(&check(&out, &keys, &[]).await), Vec::<&str>::new());
    // Only one of the two keys is known.
    assert_eq!(codes(&check(&out, &keys[..1], &[]).await), ["checkpoint"]);
}

#[tokio::test]
async fn what_was_kept_shows_a_log_that_was_rolled_back_or_told_anew() {
    let (dir, out, keys) = exported().await;
    let mut store = SqliteStore::read(&dir.path().join("data/ledger.sqlite")).await.expect("a store");
    let notes = store.checkpoints().await.expect("checkpoints");
    assert_eq!(notes.len(), 3);
    let kept: Vec<Checkpoint> =
        notes.iter().map(|(_, note)| Checkpoint::open(note, &keys).expect("a checkpoint")).collect();
    assert_eq!(codes(&check(&out, &keys, &kept).await), Vec::<&str>::new());
    let empty = Checkpoint { size: 0, root: empty_root(), ..kept[0].clone() };
    assert_eq!(codes(&check(&out, &keys, &[empty]).await), Vec::<&str>::new(), "every log begins with the empty one");
    let told_anew = Checkpoint { root: [7; 32], ..kept[0].clone() };
    assert_eq!(codes(&check(&out, &keys, &[told_anew]).await), ["kept"]);
    let other = Checkpoint { origin: "caracal/other/ledger".into(), ..kept[0].clone() };
    assert_eq!(codes(&check(&out, &keys, &[other]).await), ["kept"]);
    // A whole and sound log, of yesterday: nothing in it says so.
    let older = dir.path().join("older");
    for name in ["tile/0/000", "tile/entries/000"] {
        std::fs::create_dir_all(older.join(name).parent().expect("a parent")).expect("made");
        std::fs::copy(out.join(name), older.join(name)).expect("copied");
    }
    std::fs::write(older.join("checkpoint"), &notes[1].1).expect("written");
    for (name, length) in [("tile/0/001", 44 * 32), ("tile/1/000", 32)] {
        let width = if length == 32 { 1 } else { 44 };
        let from = if length == 32 { "tile/1/000.p/1" } else { "tile/0/001.p/194" };
        let bytes = std::fs::read(out.join(from)).expect("a tile");
        let path = older.join(format!("{name}.p/{width}"));
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
        std::fs::write(path, &bytes[..length]).expect("written");
    }
    let bundle = std::fs::read(out.join("tile/entries/001.p/194")).expect("a bundle");
    let length: usize = Records(&bundle).take(44).map(|record| record.len() + 2).sum();
    std::fs::create_dir_all(older.join("tile/entries/001.p")).expect("made");
    std::fs::write(older.join("tile/entries/001.p/44"), &bundle[..length]).expect("written");
    let report = check(&older, &keys, &kept[..2]).await;
    assert_eq!((codes(&report), report.leaves), (Vec::new(), 300));
    assert_eq!(codes(&check(&older, &keys, &kept).await), ["truncated"]);
}

#[tokio::test]
async fn files_that_were_filled_since_the_checkpoint_are_taken_for_their_beginning() {
    let (dir, out, keys) = exported().await;
    let mut store = SqliteStore::read(&dir.path().join("data/ledger.sqlite")).await.expect("a store");
    let (size, note) = store.checkpoints().await.expect("checkpoints").remove(0);
    assert_eq!(size, 150);
    // The checkpoint was read, then the log grew and the partial files went.
    std::fs::write(out.join("checkpoint"), note).expect("written");
    let report = check(&out, &keys, &[]).await;
    assert_eq!((codes(&report), report.leaves), (Vec::new(), 150));
    let path = out.join("tile/0/000");
    let mut tile = std::fs::read(&path).expect("a tile");
    tile[32 * 149] ^= 1;
    std::fs::write(&path, tile).expect("written");
    assert_eq!(codes(&check(&out, &keys, &[]).await), ["edge"]);
}

/// Serves `dir`; each third answer ends its connection.
async fn serve(dir: PathBuf) -> (String, Arc<AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let address = listener.local_addr().expect("an address");
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (dir, counter) = (dir.clone(), Arc::clone(&counter));
            let service = service_fn(move |request: Request<Incoming>| {
                let number = counter.fetch_add(1, Ordering::Relaxed);
                let path = request.uri().path().strip_prefix("/logs/h/").map(|path| dir.join(path));
                let found = path.and_then(|path| std::fs::read(path).ok());
                let mut answer = Response::builder();
                if number % 3 == 2 {
                    answer = answer.header(header::CONNECTION, "close");
                }
                if found.is_none() {
                    answer = answer.status(StatusCode::NOT_FOUND);
                }
                let answer = answer.body(Full::new(Bytes::from(found.unwrap_or_else(|| b"no such file".to_vec()))));
                async move { answer }
            });
            tokio::spawn(http1::Builder::new().serve_connection(TokioIo::new(stream), service));
        }
    });
    (format!("http://{address}/logs/h"), asked)
}

pub(crate) fn dialer() -> Dialer {
    let root = rcgen::generate_simple_self_signed(["root.test".to_owned()]).expect("a certificate");
    let settings = Settings { roots: vec![root.cert.der().clone()], ..Settings::default() };
    Dialer::new(settings, Arc::new(Resolver::fixed(HashMap::new()))).expect("a dialer")
}

#[tokio::test]
async fn an_address_is_audited_like_a_folder() {
    let (_dir, out, keys) = exported().await;
    let (url, asked) = serve(out.clone()).await;
    let ask = async || {
        let fetch = Fetch::new(dialer(), &url).expect("an address");
        verify(&mut Files::Http(Box::new(fetch)), &keys, &[], &[], &mut |_, _| {}).await.expect("read")
    };
    assert_eq!(ask().await, check(&out, &keys, &[]).await);
    assert_eq!(asked.load(Ordering::Relaxed), 6, "each file once");
    for name in ALL {
        let path = out.join(name);
        let kept = std::fs::read(&path).expect("a file");
        let mut flipped = kept.clone();
        flipped[kept.len() / 2] ^= 1;
        for forged in [flipped, vec![b'x'; MAX_CHECKPOINT_BYTES + 1], Vec::new()] {
            std::fs::write(&path, forged).expect("written");
            let (here, there) = (check(&out, &keys, &[]).await, ask().await);
            assert!(!there.findings.is_empty(), "{name}");
            assert_eq!(here, there);
        }
        std::fs::write(&path, kept).expect("put back");
    }
    for bad in ["ftp://log.example", "log.example", "https://user@log.example", "http://log.example/?a", "http://"] {
        assert!(matches!(Fetch::new(dialer(), bad), Err(FilesError::Address(_))), "{bad}");
    }
    // Nobody listens: an error, and no verdict.
    let gone = Fetch::new(dialer(), "http://127.0.0.77:9").expect("an address");
    let error = verify(&mut Files::Http(Box::new(gone)), &keys, &[], &[], &mut |_, _| {}).await.expect_err("nobody");
    assert!(error.to_string().contains("http://127.0.0.77:9/checkpoint"), "{error}");
}

#[tokio::test]
async fn a_log_of_several_hosts_with_gaps_and_forks_is_audited_too() {
    let dir = tempfile::tempdir().expect("a directory");
    let signer = TestSigner(LedgerKey::open(dir.path(), "fleet-0").expect("keys"));
    let (mut a, mut b) = (Host::new("a"), Host::new("b"));
    let (first, lost, later) = (a.run(3), a.run(2), a.run(300));
    let forked = b.run(4);
    (b.next, b.prev) = (1, forked.records[0].leaf);
    let other = b.record("another");
    let other = b.sign(vec![other]);
    let runs = [first, forked, later, lost, other];
    let arrivals: Vec<Arrival> = (0..).zip(runs).map(|(offset, run)| Arrival { offset, run: Ok((run, 1)) }).collect();
    let mut fleet = Fleet::open(MemoryStore::default(), "fleet-0").await.expect("a log");
    let plan = fleet.plan(&arrivals).await.expect("a plan");
    fleet.commit(plan, Some(&signer)).await.expect("a commit");
    let out = dir.path().join("export");
    let size = export(fleet.ledger().store(), &out, &mut |_, _| {}).await.expect("exported");
    let keys = Verifier::parse_all(&signer.0.public_keys()).expect("keys");
    let report = check(&out, &keys, &[]).await;
    assert_eq!((codes(&report), report.leaves, report.anomalies), (Vec::new(), size, 2));
    assert_eq!(size, 3 + 4 + 1 + 300 + 2 + 1);
    // A worker that left a record out, and signed that.
    let dir = tempfile::tempdir().expect("a directory");
    let signer = TestSigner(LedgerKey::open(dir.path(), "fleet-0").expect("keys"));
    let mut host = Host::new("a");
    let mut run = host.run(5);
    run.records.remove(2);
    let mut ledger = crate::ledger::Ledger::open(MemoryStore::default(), "fleet-0").await.expect("a ledger");
    let mut tree = Tree::default();
    let mut chunk = crate::ledger::store::Chunk { first: 0, count: 4, min_ms: 0, max_ms: 0, data: Vec::new() };
    for entry in &run.records {
        chunk.data.extend_from_slice(&u16::try_from(entry.bytes.len()).expect("short").to_be_bytes());
        chunk.data.extend_from_slice(&entry.bytes);
        tree.append(entry.leaf, &mut Vec::new());
    }
    let note = signer.0.sign_checkpoint(4, tree.root(), &[]).expect("signed");
    let store = ledger.store();
    store.chunks.push(chunk);
    store.state.edges = tree.edges().to_vec();
    let position = crate::ledger::store::Position {
        origin: String::new(),
        size: 4,
        root: tree.root(),
        cursor: Default::default(),
    };
    store.state.position = Some(position);
    store.state.checkpoint = Some((4, note));
    export(store, &dir.path().join("export"), &mut |_, _| {}).await.expect("exported");
    let keys = Verifier::parse_all(&signer.0.public_keys()).expect("keys");
    assert_eq!(codes(&check(&dir.path().join("export"), &keys, &[]).await), ["chain"]);
}
