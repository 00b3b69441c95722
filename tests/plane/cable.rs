//! A cable between the workers and a service that can be cut, slowed down, and cut at the very moment of a commit: PostgreSQL's
//! COMMIT, or the script that Redis does at once.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

/// How often a cable that is silent looks whether it was mended.
const GLANCE: Duration = Duration::from_millis(20);

/// What the cable does with bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Mode {
    /// It passes them on.
    Whole,
    /// It swallows them, and says nothing to either end: a firewall's state is gone, a switch is dead.
    Silent,
    /// It closes every connection, and each new one at once.
    Cut,
    /// It passes on 16 KiB at a time, each 50 ms late.
    Slow,
}

/// What a client sends to commit to PostgreSQL.
pub(crate) const COMMIT: &[u8] = b"COMMIT\0";
/// What a client sends to have Redis do a script that it knows.
pub(crate) const SCRIPT: &[u8] = b"EVALSHA\r\n";

/// The cables that the workers reach the services by, where a test wants to hurt them.
pub(crate) struct Cables {
    pub(crate) kafka: Cable,
    pub(crate) postgres: Cable,
    pub(crate) redis: Cable,
}

impl Cables {
    /// They lead nowhere yet.
    pub(crate) fn new() -> Cables {
        // Nothing in Kafka's protocol is a commit of the workers'.
        Cables { kafka: Cable::new(COMMIT), postgres: Cable::new(COMMIT), redis: Cable::new(SCRIPT) }
    }

    /// Kafka's, PostgreSQL's, Redis's.
    pub(crate) fn all(&self) -> [&Cable; 3] {
        [&self.kafka, &self.postgres, &self.redis]
    }
}

/// Where the connection that carries the next commit is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum AtCommit {
    /// Nowhere.
    Pass,
    /// The server never hears it.
    Before,
    /// The server has done it; its answer is lost.
    After,
    /// It is on its way to the server when both ends lose each other.
    Between,
}

#[derive(Debug)]
struct State {
    port: AtomicU16,
    commit: &'static [u8],
    mode: AtomicU8,
    /// Counts cuts: a connection that was silent once stays so.
    silences: AtomicU64,
    at_commit: AtomicU8,
    commits_cut: AtomicU64,
}

/// One cable, from a port of ours to a port of a service. Its threads end with their connections and with the test.
#[derive(Clone, Debug)]
pub(crate) struct Cable {
    pub(crate) port: u16,
    state: Arc<State>,
}

impl Cable {
    /// A cable that leads nowhere yet. `commit` is what its service is told to commit.
    pub(crate) fn new(commit: &'static [u8]) -> Cable {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let port = listener.local_addr().expect("its address").port();
        let state = Arc::new(State {
            port: AtomicU16::new(0),
            commit,
            mode: AtomicU8::new(Mode::Whole as u8),
            silences: AtomicU64::new(0),
            at_commit: AtomicU8::new(AtCommit::Pass as u8),
            commits_cut: AtomicU64::new(0),
        });
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(&client, &state));
            }
        });
        Cable { port, state }
    }

    /// Leads to where `place` says, a URL or `host:port`, which then says where the cable begins.
    pub(crate) fn stand_before(&self, place: &mut String) {
        let after = place.rsplit(':').next().expect("a port");
        let port: u16 = after.split('/').next().and_then(|port| port.parse().ok()).expect("a port");
        self.state.port.store(port, Ordering::SeqCst);
        *place = place.replace(&port.to_string(), &self.port.to_string());
    }

    pub(crate) fn set(&self, mode: Mode) {
        if mode == Mode::Silent {
            self.state.silences.fetch_add(1, Ordering::SeqCst);
        }
        self.state.mode.store(mode as u8, Ordering::SeqCst);
    }

    /// Cuts at the next commit.
    pub(crate) fn cut_at_commit(&self, how: AtCommit) {
        self.state.at_commit.store(how as u8, Ordering::SeqCst);
    }

    /// How many commits were cut.
    pub(crate) fn commits_cut(&self) -> u64 {
        self.state.commits_cut.load(Ordering::SeqCst)
    }
}

#[expect(clippy::disallowed_methods, reason = "a service of the tests, on loopback")]
fn serve(client: &TcpStream, state: &Arc<State>) {
    let Ok(server) = TcpStream::connect((Ipv4Addr::LOCALHOST, state.port.load(Ordering::SeqCst))) else { return };
    for stream in [client, &server] {
        let _ = stream.set_nodelay(true);
        let _ = stream.set_read_timeout(Some(GLANCE));
    }
    let born = state.silences.load(Ordering::SeqCst);
    // Bytes of the server's that are lost, since they would answer a commit.
    let deaf = AtomicU8::new(0);
    std::thread::scope(|scope| {
        scope.spawn(|| pass(client, &server, state, born, |bytes| to_server(bytes, &server, state, &deaf)));
        scope.spawn(|| {
            pass(&server, client, state, born, |_| if deaf.load(Ordering::SeqCst) == 0 { Go::On } else { Go::End })
        });
    });
}

/// Whether bytes go on.
enum Go {
    On,
    /// Both ends lose each other.
    End,
}

fn to_server(bytes: &[u8], server: &TcpStream, state: &State, deaf: &AtomicU8) -> Go {
    if !bytes.windows(state.commit.len()).any(|window| window == state.commit) {
        return Go::On;
    }
    let how = state.at_commit.swap(AtCommit::Pass as u8, Ordering::SeqCst);
    if how == AtCommit::Pass as u8 {
        return Go::On;
    }
    state.commits_cut.fetch_add(1, Ordering::SeqCst);
    let mut server = server;
    if how == AtCommit::After as u8 {
        // The answer ends the connection, in the other direction's hands.
        deaf.store(1, Ordering::SeqCst);
        return Go::On;
    }
    if how == AtCommit::Between as u8 {
        let _ = server.write_all(bytes);
    }
    Go::End
}

/// Passes bytes on in one direction until one end is closed or `look` ends it.
fn pass(from: &TcpStream, to: &TcpStream, state: &State, born: u64, look: impl Fn(&[u8]) -> Go) {
    let (mut from, mut to) = (from, to);
    let mut bytes = [0_u8; 16 << 10];
    loop {
        let mode = state.mode.load(Ordering::SeqCst);
        if mode == Mode::Cut as u8 {
            break;
        }
        let count = match from.read(&mut bytes) {
            Ok(0) => break,
            Ok(count) => count,
            Err(error) if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) => {
                continue;
            }
            Err(_) => break,
        };
        if mode == Mode::Silent as u8 || state.silences.load(Ordering::SeqCst) != born {
            continue;
        }
        if mode == Mode::Slow as u8 {
            std::thread::sleep(Duration::from_millis(50));
        }
        if matches!(look(&bytes[..count]), Go::End) || to.write_all(&bytes[..count]).is_err() {
            break;
        }
    }
    let _ = from.shutdown(Shutdown::Both);
    let _ = to.shutdown(Shutdown::Both);
}
