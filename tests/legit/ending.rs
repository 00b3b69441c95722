//! A program that writes and ends: what the kernel took from it arrives, also when its agent is gone by then.

use crate::{case, recorded};
use std::io::{Read as _, Write as _};
use std::net::{Ipv6Addr, TcpListener};
use std::sync::mpsc;
use std::time::Duration;
use support::programs;

const RULES: &str = "[[allow]]\nhosts = [\"db.example\"]\nports = [7100]\nmode = \"tcp\"\n";

/// Fills every buffer on the way, says how many bytes were taken, and ends without waiting.
const WRITES: &str = r#"
import os, socket, time
peer = socket.create_connection(("db.example", 7100))
peer.recv(1)
peer.setblocking(False)
sent, full = 0, 0
while full < 20:
    try:
        sent += peer.send(bytes((sent + n) % 251 for n in range(4096)))
        full = 0
    except BlockingIOError:
        full += 1
        time.sleep(0.05)
print(sent, flush=True)
os._exit(0)
"#;

#[test]
fn the_last_bytes_of_a_program_that_has_ended_arrive() {
    let before = |scene: &support::scene::Scene| {
        let bound = scene.net.b.inside(|| Ok(TcpListener::bind((Ipv6Addr::UNSPECIFIED, 7_100))?));
        let listener = bound.expect("a listener");
        let (go, wait) = mpsc::sync_channel::<()>(1);
        let (tell, told) = mpsc::sync_channel(1);
        std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            stream.write_all(b"!").expect("a byte");
            // Reads nothing until the program has ended.
            let _gone = wait.recv();
            stream.set_read_timeout(Some(Duration::from_secs(30))).expect("a limit");
            let mut all = Vec::new();
            let ended = stream.read_to_end(&mut all).is_ok();
            let whole = all.iter().enumerate().all(|(at, byte)| usize::from(*byte) == at % 251);
            let _gone = tell.send((ended, whole, all.len()));
        });
        (go, told)
    };
    case("a program that writes and ends", RULES, before, |_, daemon, (go, told)| {
        let ran = daemon.run(programs::host("python3")).args(["-c", WRITES]).ran().ok();
        let sent: usize = ran.stdout.trim().parse().expect("a count");
        go.send(()).expect("the server waits");
        let (ended, whole, arrived) = told.recv_timeout(Duration::from_secs(60)).expect("the server tells");
        assert!(sent > 1_000_000, "the buffers took only {sent} bytes");
        assert!(ended && whole && arrived == sent, "{arrived} of {sent} bytes arrived, ended: {ended}, whole: {whole}");
        recorded(daemon, "connect", "db.example", 7_100);
    });
}
