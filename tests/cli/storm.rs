//! A storm of equal refusals and `kill -9`: each that was answered is counted, and none twice.

use crate::{RULES, case};
use rand::Rng as _;
use serde_json::Value;
use std::process::Stdio;
use std::time::Duration;
use support::daemon::Cgroup;
use support::ledger::Record;
use support::netns::until;
use support::report;

const HOSTS: [&str; 3] = ["one.refused.test", "two.refused.test", "three.refused.test"];

fn refused(records: &[Record], host: &str) -> u64 {
    let ours = |record: &&Record| record.is_denial("host_not_allowed") && record.detail["host"] == host;
    records.iter().filter(ours).map(Record::count).sum()
}

#[test]
fn refusals_survive_kill_nine_and_are_counted_once() {
    case("a storm of refusals and kill -9", RULES, |scene, daemon| {
        let cgroup = Cgroup::new();
        daemon.attach(&cgroup.path());
        daemon.restart();
        let stop = scene.net.files().join("stop");
        let storm = scene.agent(support::programs::python()).cgroup(&cgroup.path());
        let storm = storm.args(["-c", include_str!("../programs/storm.py")]).arg(&stop).args(HOSTS);
        let out = scene.net.files().join("storm.out");
        let file = std::fs::File::create(&out).expect("a file");
        let mut storm = storm.spawn(Stdio::from(file), Stdio::inherit()).expect("the storm starts");
        let kills = if report::long() { 40 } else { 6 };
        for _ in 0..kills {
            std::thread::sleep(Duration::from_millis(rand::rng().random_range(50..1_500)));
            daemon.kill();
            daemon.restart();
        }
        std::thread::sleep(Duration::from_millis(300));
        std::fs::write(&stop, "").expect("the stop file");
        until("the storm ends", Duration::from_secs(120), || storm.try_wait().is_ok_and(|status| status.is_some()))
            .expect("an end");
        let said: Value = serde_json::from_str(&std::fs::read_to_string(&out).expect("its counts")).expect("JSON");
        let number = |key: &str, host: &str| said[key][host].as_u64().expect("a count");
        let records =
            daemon.records_when(|records| HOSTS.iter().all(|host| refused(records, host) >= number("answered", host)));
        for host in HOSTS {
            let (answered, cut, recorded) = (number("answered", host), number("cut", host), refused(&records, host));
            assert!(answered > 100, "no storm: {said}");
            assert!(
                (answered..=answered + cut).contains(&recorded),
                "{host}: {answered} were answered, {cut} cut off, {recorded} recorded"
            );
        }
        let _ran = daemon.verify();
        daemon.stop();
    });
}
