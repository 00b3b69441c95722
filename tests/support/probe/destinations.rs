//! Connections by the thousand to an address and port that each chooses anew, over IPv4, IPv6 and IPv4-mapped, some from
//! source ports that are used again at once. The server at the other end says at which address it was called; a wrong one
//! is counted. `probe destinations SEED COUNT OPEN`: OPEN of them stay open beside those in the making.

use crate::raw;
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use socket2::Socket;
use std::collections::{BTreeMap, VecDeque};
use std::io::Read as _;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use support::catalogue::ECHO_PORTS;

const THREADS: u64 = 8;
/// Source ports that a thread uses again and again; below those that the kernel hands out.
const REUSED: u16 = 32;

#[derive(Default)]
struct Tally {
    right: AtomicU64,
    wrong: AtomicU64,
    /// Of those that failed, how many at which step for which reason.
    failed: Mutex<BTreeMap<String, u64>>,
    open: AtomicUsize,
    most_open: AtomicUsize,
}

impl Tally {
    fn failed(&self) -> MutexGuard<'_, BTreeMap<String, u64>> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What `probe destinations` does: prints `right N wrong N failed N open N`, the last being the most that were open at
/// once, and before it a line for each wrong one and one `failed N REASON` for each reason.
pub(crate) fn run(seed: u64, count: u64, open: usize) -> ExitCode {
    let tally = Tally::default();
    let each = open / usize::try_from(THREADS).unwrap_or(1);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let tally = &tally;
            scope.spawn(move || worker(seed, thread, count / THREADS, each, tally));
        }
    });
    let [right, wrong] = [&tally.right, &tally.wrong].map(|count| count.load(Ordering::SeqCst));
    let failed: u64 = tally.failed().values().sum();
    for (reason, count) in &*tally.failed() {
        println!("failed {count} {reason}");
    }
    let open = tally.most_open.load(Ordering::SeqCst);
    println!("right {right} wrong {wrong} failed {failed} open {open}");
    ExitCode::SUCCESS
}

fn worker(seed: u64, thread: u64, count: u64, open: usize, tally: &Tally) {
    let mut random = StdRng::seed_from_u64(seed ^ (thread << 32));
    let mut kept: VecDeque<Socket> = VecDeque::new();
    for number in 0..count {
        let to = destination(&mut random);
        let from = 20_000 + u16::try_from(thread).unwrap_or(0) * REUSED + u16::try_from(number).unwrap_or(0) % REUSED;
        let reused = number % 3 == 0;
        match connection(&to, reused.then_some(from)) {
            Ok((socket, said)) => {
                let right = said == SocketAddr::new(to.ip().to_canonical(), to.port()).to_string();
                if right {
                    tally.right.fetch_add(1, Ordering::SeqCst);
                } else {
                    println!("wrong {to} {said}");
                    tally.wrong.fetch_add(1, Ordering::SeqCst);
                }
                if reused {
                    // A reset: the port can be taken again at once.
                    let _set = socket.set_linger(Some(Duration::ZERO));
                } else {
                    kept.push_back(socket);
                    tally.most_open.fetch_max(tally.open.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                }
            }
            Err(error) => {
                *tally.failed().entry(format!("{}: {}", error.step, error.error)).or_default() += 1;
                // Refused while a lease is being renewed: thousands more would be refused in that time.
                std::thread::sleep(Duration::from_millis(20));
            }
        }
        while kept.len() > open {
            drop(kept.pop_front());
            tally.open.fetch_sub(1, Ordering::SeqCst);
        }
    }
    tally.open.fetch_sub(kept.len(), Ordering::SeqCst);
}

/// One of a million addresses, in one of three forms, at one of some ports.
fn destination(random: &mut StdRng) -> SocketAddr {
    let number: u32 = random.random_range(1..1 << 20);
    let four = Ipv4Addr::from(0x0c00_0000 | number);
    let halves = [number >> 16, number & 0xffff].map(|half| u16::try_from(half).unwrap_or(0));
    let ip = match random.random_range(0..3) {
        0 => IpAddr::V4(four),
        1 => IpAddr::V6(four.to_ipv6_mapped()),
        _ => IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 12, 0, 0, 0, halves[0], halves[1])),
    };
    SocketAddr::new(ip, random.random_range(ECHO_PORTS))
}

/// Connects and reads what the server says.
fn connection(to: &SocketAddr, from: Option<u16>) -> raw::Tried<(Socket, String)> {
    use raw::Step as _;
    let socket = raw::tcp(to)?;
    if let Some(port) = from {
        socket.set_reuse_address(true).at("setsockopt")?;
        let any: IpAddr = if to.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        socket.bind(&SocketAddr::new(any, port).into()).at("bind")?;
    }
    socket.set_read_timeout(Some(Duration::from_secs(30))).at("setsockopt")?;
    socket.connect(&(*to).into()).at("connect")?;
    let mut said = Vec::new();
    let mut buffer = [0; 64];
    while !said.ends_with(b"\n") {
        match (&socket).read(&mut buffer).at("read")? {
            0 => return raw::fail("read", libc::ECONNRESET),
            length => said.extend_from_slice(buffer.get(..length).unwrap_or_default()),
        }
    }
    Ok((socket, String::from_utf8_lossy(&said).trim().to_owned()))
}
