use super::*;
use crate::event::write::tests::paid;
use crate::event::{Draft, Kind};
use crate::ledger::fetch::Fetch;
use crate::ledger::files::Files;
use crate::ledger::files_verify::{self, tests::dialer};
use crate::ledger::tests::{entries, sample, signer};
use crate::ledger::{Ledger, SqliteStore};
use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

async fn started(path: &Path) -> std::net::SocketAddr {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a listener");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(serve(listener, Arc::new(Logs::host(path.to_owned())), Arc::default()));
    address
}

struct Answer {
    status: u16,
    headers: HashMap<String, String>,
    body: Vec<u8>,
}

/// What a client that sends exactly these lines is told.
#[expect(clippy::disallowed_methods, reason = "the test is a client that nobody governs")]
async fn ask(address: std::net::SocketAddr, lines: &str) -> Answer {
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connected");
    let request = format!("{lines}\r\nHost: log.test\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("sent");
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.expect("an answer");
    let end = all.windows(4).position(|window| window == b"\r\n\r\n").expect("a head");
    let head = String::from_utf8(all[..end].to_vec()).expect("text");
    let mut lines = head.split("\r\n");
    let status = lines.next().and_then(|line| line.split(' ').nth(1)?.parse().ok()).expect("a status");
    let headers =
        lines.filter_map(|line| line.split_once(": ")).map(|(name, value)| (name.to_owned(), value.to_owned()));
    Answer { status, headers: headers.collect(), body: all[end + 4..].to_vec() }
}

#[test]
fn each_file_has_one_spelling() {
    let tile = |level, n, width| Some(File::Tile { level, n, width });
    assert_eq!(File::parse("checkpoint"), Some(File::Checkpoint));
    assert_eq!(File::parse("tile/0/000"), tile(0, 0, 256));
    assert_eq!(File::parse("tile/7/x001/x234/067.p/9"), tile(7, 1_234_067, 9));
    assert_eq!(File::parse("tile/entries/x001/000"), Some(File::Bundle { n: 1_000, width: 256 }));
    for wrong in [
        "",
        "/checkpoint",
        "checkpoint/",
        "tile/0",
        "tile/0/0",
        "tile/0/0000",
        "tile/0/x000/001",
        "tile/0/x001",
        "tile/0/001/002",
        "tile/00/000",
        "tile/8/000",
        "tile/-1/000",
        "tile/+1/000",
        "tile/0/000.p/0",
        "tile/0/000.p/256",
        "tile/0/000.p/01",
        "tile/0/000.p/",
        "tile/0/000.p/1/2",
        "tile/0/+01",
        "tile/entries",
        "tile/entries/x001",
        "tile/data/000",
        "tile/0/../000",
        "tile/0/x999/x999/x999/x999/x999/x999/x999/999",
    ] {
        assert_eq!(File::parse(wrong), None, "{wrong}");
    }
    assert_eq!(File::parse(&format!("tile/0/{}000", "x001/".repeat(100))), None);
    // 2^64 - 1 as a tile: no arithmetic overflows.
    let last = File::parse("tile/0/x018/x446/x744/x073/x709/x551/615").expect("a number");
    assert!(!last.is_within(u64::MAX));
    assert!(
        File::parse("tile/0/000.p/7").expect("a tile").is_within(7)
            && !File::parse("tile/0/000.p/7").expect("a tile").is_within(6)
    );
}

#[tokio::test]
async fn what_is_served_is_what_would_be_exported_and_is_audited_like_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let (state, keys) = sample(dir.path()).await;
    let address = started(&state.ledger()).await;
    let out = dir.path().join("export");
    let mut store = SqliteStore::read(&state.ledger()).await.expect("a store");
    crate::ledger::export::export(&mut store, &out, &mut |_, _| {}).await.expect("exported");
    let names = [
        "checkpoint",
        "tile/0/000",
        "tile/0/001.p/194",
        "tile/1/000.p/1",
        "tile/entries/000",
        "tile/entries/001.p/194",
    ];
    for name in names {
        let answer = ask(address, &format!("GET /{name} HTTP/1.1")).await;
        assert_eq!(answer.status, 200, "{name}");
        assert!(answer.body == std::fs::read(out.join(name)).expect("a file"), "{name}");
        let caching = if name == "checkpoint" { "no-cache" } else { "public, max-age=31536000, immutable" };
        assert_eq!(answer.headers["cache-control"], caching, "{name}");
        let head = ask(address, &format!("HEAD /{name} HTTP/1.1")).await;
        assert_eq!((head.status, head.body.len()), (200, 0));
        assert_eq!(head.headers["content-length"], answer.body.len().to_string());
        let again = ask(address, &format!("GET /{name} HTTP/1.1\r\nIf-None-Match: {}", answer.headers["etag"])).await;
        assert_eq!((again.status, again.body.len()), (304, 0), "{name}");
    }
    // The beginning of a tile, for a reader with an older checkpoint.
    let part = ask(address, "GET /tile/0/000.p/3 HTTP/1.1").await;
    assert_eq!(part.body, std::fs::read(out.join("tile/0/000")).expect("a tile")[..96]);
    let fetch = Fetch::new(dialer(), &format!("http://{address}")).expect("an address");
    let mut files = Files::Http(Box::new(fetch));
    let report = files_verify::verify(&mut files, &keys, &[], &[], &mut |_, _| {}).await.expect("read");
    assert_eq!((report.findings, report.leaves), (Vec::new(), 450));
    for (line, status) in [
        ("GET /healthz HTTP/1.1", 200),
        ("GET /readyz HTTP/1.1", 200),
        ("GET /tile/0/001 HTTP/1.1", 404),
        ("GET /tile/0/001.p/195 HTTP/1.1", 404),
        ("GET /tile/entries/001.p/195 HTTP/1.1", 404),
        ("GET /tile/2/000.p/1 HTTP/1.1", 404),
        ("GET /../../etc/passwd HTTP/1.1", 404),
        ("GET /tile/0/000%2ep/3 HTTP/1.1", 404),
        ("POST /checkpoint HTTP/1.1\r\nContent-Length: 0", 405),
        ("POST /healthz HTTP/1.1\r\nContent-Length: 0", 405),
        ("DELETE /tile/0/000 HTTP/1.1", 405),
        ("GET HTTP/1.1", 400),
    ] {
        assert_eq!(ask(address, line).await.status, status, "{line}");
    }
    let long = format!("GET /checkpoint HTTP/1.1\r\nX-Long: {}", "x".repeat(64 << 10));
    assert_eq!(ask(address, &long).await.status, 431);
}

#[tokio::test]
async fn nothing_is_served_before_a_checkpoint_covers_it() {
    let dir = tempfile::tempdir().expect("a directory");
    let signer = signer(dir.path());
    let path = dir.path().join("ledger.sqlite");
    let drafts: Vec<Draft> = (0..40).map(|number| paid(Kind::Intent, uuid::Uuid::from_u128(number))).collect();
    let entries = entries(&drafts);
    let mut ledger = Ledger::open(SqliteStore::open(&path).await.expect("a store"), "h").await.expect("a ledger");
    ledger.ingest(&entries[..10], None, None).await.expect("ingested");
    let address = started(&path).await;
    let status = async |path: &str| ask(address, &format!("GET /{path} HTTP/1.1")).await.status;
    assert_eq!((status("checkpoint").await, status("tile/entries/000.p/10").await), (404, 404));
    ledger.ingest(&entries[10..20], None, Some(&*signer)).await.expect("signed");
    ledger.ingest(&entries[20..], None, None).await.expect("ingested");
    assert_eq!((status("checkpoint").await, status("tile/entries/000.p/20").await), (200, 200));
    for unsigned in ["tile/entries/000.p/21", "tile/0/000.p/21", "tile/entries/000.p/40", "tile/0/000.p/40"] {
        assert_eq!(status(unsigned).await, 404, "{unsigned}");
    }
    ledger.ingest(&[], None, Some(&*signer)).await.expect("signed");
    assert_eq!((status("tile/entries/000.p/40").await, status("tile/0/000.p/40").await), (200, 200));
    // A database that is away is nobody's fault, and comes back.
    drop(ledger);
    let gone = started(&dir.path().join("nothing.sqlite")).await;
    let answer = ask(gone, "GET /checkpoint HTTP/1.1").await;
    assert_eq!((answer.status, answer.headers["retry-after"].as_str()), (503, "1"));
    assert_eq!(
        (ask(gone, "GET /readyz HTTP/1.1").await.status, ask(gone, "GET /healthz HTTP/1.1").await.status),
        (503, 200)
    );
}
