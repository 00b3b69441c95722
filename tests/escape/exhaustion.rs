//! The map by which the daemon knows whose connection it accepts, filled to its last entry: nobody's connection is taken for
//! another's or goes anywhere, each is counted, what is open goes on, and the daemon's own proof of life does too.

use crate::{RULES, World, case};
use std::io::Read as _;
use std::process::{Child, Stdio};
use std::time::Duration;
use support::ledger::Record;
use support::netns::until;
use support::wire::CANARY_PORT;

/// `caracal_common::settings::MAX_FLOWS`, and the bytes of a `Source` and of a `Flow`.
const MOST: u64 = 65_536;
const KEY: &str = "32";
const VALUE: &str = "88";
/// Connections that come while there is no room.
const TIMES: u64 = 17;
const PATIENCE: Duration = Duration::from_secs(60);

/// Fills the map, or takes out what filled it; gives how many entries that were.
#[track_caller]
fn filled(world: &World<'_>, what: &str) -> u64 {
    let program = world.scene.file("full_map.py", include_str!("../programs/full_map.py"));
    let pin = format!("/sys/fs/bpf/caracal/{}-v1/maps/SOURCES", world.daemon.instance());
    let run = world.scene.net.a.run("python3").arg(program).arg(pin).args([KEY, VALUE, what]);
    run.ran().ok().stdout.trim().parse().expect("a number")
}

fn refused(records: &[Record]) -> u64 {
    let full = |record: &&Record| record.is_denial("map_full") && record.text("caracal.stage") == "connect";
    records.iter().filter(full).map(Record::count).sum()
}

/// A connection of the agent's that stays open: more than anybody reads here comes over it.
struct Open(Child);

impl Open {
    fn start(world: &World<'_>) -> Open {
        let ca = world.scene.net.files().join(format!("{}-ca.pem", world.daemon.instance()));
        let run = world.scene.agent("curl").cgroup(&world.cgroup.path()).args(["-sN", "--max-time", "600", "--cacert"]);
        let run = run.arg(ca).arg("https://example.com/bytes/1000000000");
        Open(run.spawn(Stdio::piped(), Stdio::inherit()).expect("curl starts"))
    }

    /// Waits until so many bytes more have come.
    #[track_caller]
    fn reads(&mut self, bytes: usize) {
        let out = self.0.stdout.as_mut().expect("its output");
        out.read_exact(&mut vec![0; bytes]).expect("the stream goes on");
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _gone = self.0.wait();
    }
}

#[test]
fn a_connection_that_nobody_can_write_down_is_refused_and_counted() {
    let attempt = ["tcp", &format!("203.0.113.10:{CANARY_PORT}")];
    case(
        "the map of sources is full",
        &format!("{RULES}\n[[allow]]\nhosts = [\"203.0.113.0/24\"]\nports = [{CANARY_PORT}]\nmode = \"tcp\"\n"),
        |scene, cgroup| {
            scene.wire.clear();
            let ran = crate::attempt(scene, cgroup, &attempt);
            assert!(!scene.wire.packets().is_empty(), "the control does not leak: {}", ran.screen());
        },
        |world| {
            assert_eq!(world.allowed(), "200");
            let allowed = world.attempt(&attempt);
            assert_ne!(allowed.code, Some(3), "a rule allows it while there is room: {}", allowed.screen());
            let mut open = Open::start(world);
            open.reads(1);
            let entries = filled(world, "fill");
            assert!(entries > MOST / 2 && entries <= MOST, "{entries} entries fill it");
            for _ in 0..TIMES {
                let ran = world.attempt(&attempt);
                assert_ne!(ran.code, Some(0), "nobody can know whose it is: {}", ran.screen());
            }
            // More than all buffers on the way hold.
            open.reads(32 << 20);
            assert_eq!(world.allowed(), "000", "an allowed host is refused as well");
            // Counted by the kernel, one for each, and one or more of the last request's (its name has two addresses).
            let records = world.daemon.records_when(|records| refused(records) > TIMES);
            assert!(refused(&records) <= TIMES + 4, "{} for {TIMES} attempts and a request", refused(&records));
            assert_eq!(filled(world, "empty"), entries, "its entries are as they were");
            let again = until("there is room again", PATIENCE, || world.allowed() == "200");
            assert!(again.is_ok(), "{}", world.daemon.logs());
            let status = world.daemon.json(&["status"]);
            assert!(status.to_string().contains("map_full"), "status says so: {status:#}");
            assert!(!world.daemon.logs().contains("is not renewed"), "the door stayed open: {}", world.daemon.logs());
        },
    );
}
