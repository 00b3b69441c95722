//! Streams: events arrive when they are sent, not when the answer ends.

use crate::{RULES, case, curl};
use std::fs::read_to_string;
use std::time::Duration;
use support::daemon::Daemon;
use support::netns::until;
use support::scene::Scene;

/// Bytes each way.
const LARGE: u64 = 512 << 20;
/// How much more memory the data path may have for it, KiB: windows, buffers, and what an allocator keeps.
const MORE_KIB: u64 = 48 << 10;

#[test]
fn a_thousand_events_arrive_in_order() {
    case("a thousand server-sent events", RULES, |_, daemon| {
        for version in ["--http1.1", "--http2"] {
            let ran = curl(daemon, &[version, "-N", "https://example.com/sse/1000"]).ok();
            let expected: String = (0..1_000).map(|n| format!("event: tick\nid: {n}\ndata: tick {n}\n\n")).collect();
            assert_eq!(ran.stdout, expected, "{version}");
        }
    });
}

/// The stand-in sends the second event only after the client, having read the first, has said so in another request.
/// A proxy that waits for more bytes never lets the first one through, and curl's time limit ends the test.
#[test]
fn an_event_is_passed_on_before_the_next_exists() {
    case("no event waits for the next", RULES, |_, daemon| {
        for version in ["--http1.1", "--http2"] {
            let script = format!(
                "curl -sSN --max-time 60 {version} https://example.com/wait/gate{version} > out & \
                 n=0; until grep -q first out; do n=$((n+1)); [ $n -lt 1000 ] || exit 9; sleep 0.05; done; \
                 curl -sS --max-time 60 https://example.com/go/gate{version} > gone; wait; cat out"
            );
            let ran = daemon.run("sh").args(["-c", &script]).ran().ok();
            assert!(ran.stdout.contains("first") && ran.stdout.contains("second"), "{}", ran.screen());
        }
    });
}

/// A value of a process's memory, KiB.
fn memory(pid: i32, key: &str) -> u64 {
    let status = read_to_string(format!("/proc/{pid}/status")).expect("its status");
    let line = status.lines().find_map(|line| line.strip_prefix(key)).expect("such a line");
    line.split_whitespace().next().and_then(|kib| kib.parse().ok()).expect("a number")
}

/// Whether the data path takes no more from the side that sends: bytes have come, and look after look it is as many.
fn stalled(scene: &Scene, filter: &str) -> bool {
    let received = || {
        let said = scene.net.a.shell(&format!("ss -tinH state established '( {filter} )'")).unwrap_or_default();
        let counts =
            said.split_whitespace().filter_map(|word| word.strip_prefix("bytes_received:")?.parse::<u64>().ok());
        counts.max().unwrap_or(0)
    };
    let first = received();
    first >= 64 << 10 && (0..20).all(|_| received() == first)
}

/// Runs a governed shell line that pauses until there is a file `go`; gives what it prints, and the most memory that the data path
/// had meanwhile, KiB.
fn paused(scene: &Scene, daemon: &Daemon<'_>, line: &str, filter: &str) -> (String, u64) {
    let data_path = daemon.data_path().expect("a data path");
    // The peak begins anew (proc(5), clear_refs).
    std::fs::write(format!("/proc/{data_path}/clear_refs"), "5").expect("its peak");
    let before = memory(data_path, "VmHWM:");
    let go = scene.home.path().join("go");
    let (ran, stopped) = std::thread::scope(|scope| {
        let run = daemon.run("sh").args(["-c", line]).limit(Duration::from_secs(240));
        let client = scope.spawn(move || run.ran());
        let stopped =
            until("the stream stops", Duration::from_secs(120), || stalled(scene, filter) || client.is_finished());
        let stopped = stopped.is_ok() && !client.is_finished();
        // In any case, so that the client ends.
        std::fs::write(&go, "").expect("the sign");
        (client.join().expect("the client"), stopped)
    });
    std::fs::remove_file(&go).expect("the sign");
    let most = memory(data_path, "VmHWM:");
    let ran = ran.ok();
    assert!(stopped, "the data path read on while nobody took it: {} KiB", most);
    assert!(most <= before + MORE_KIB, "{before} KiB became {most} KiB: a body was kept");
    assert_eq!(daemon.data_path(), Some(data_path), "it is another one");
    (ran.stdout, most)
}

/// Whatever one side sends and the other does not take yet stays where it is: in the sender.
#[test]
fn large_bodies_wait_in_their_sender() {
    const WAIT: &str = "until [ -e go ]; do sleep 0.05; done";
    case("512 MiB each way past a reader that pauses", RULES, |scene, daemon| {
        let mut most = 0;
        for version in ["--http1.1", "--http2"] {
            let down = format!(
                "curl -sS {version} https://example.com/bytes/{LARGE} | {{ head -c 1000000; {WAIT}; cat; }} | wc -c"
            );
            let (said, peak) = paused(scene, daemon, &down, "dport = :443");
            assert_eq!(said.trim(), LARGE.to_string(), "{version}: bytes were lost");
            most = most.max(peak);
            let up = format!(
                "{{ {WAIT}; curl -sS https://example.com/go/up{version}; }} > gone & \
                 head -c {LARGE} /dev/zero | curl -sS {version} -T - https://example.com/held/up{version}; wait"
            );
            let (said, peak) = paused(scene, daemon, &up, "sport = :15001");
            assert!(said.contains(&format!("\"length\":{LARGE}")), "{version}: {said}");
            most = most.max(peak);
        }
        support::report::figure("wire", "large_bodies_peak_kib", most);
    });
}
