//! `attach --learn`: what runs already learns as `run --learn` does, and `detach` says which policy would have sufficed.

use crate::{RULES, case};
use support::daemon::{Cgroup, Daemon};
use support::scene::Scene;

fn fetch(scene: &Scene, daemon: &Daemon<'_>, cgroup: &Cgroup) -> String {
    let run = scene.agent("curl").cgroup(&cgroup.path()).args(["-sS", "-o", "/dev/null", "-w", "%{http_code}"]);
    run.arg("--cacert").arg(daemon.ca()).arg("https://other.example/hello").ran().stdout
}

#[test]
fn an_attached_cgroup_learns_until_it_is_detached() {
    case("attach --learn", RULES, |scene, daemon| {
        daemon.restart();
        let (plain, scholar) = (Cgroup::new(), Cgroup::new());
        let attach = |cgroup: &Cgroup, options: &[&str]| {
            daemon.command(&["attach"]).args(options).arg("--cgroup").arg(cgroup.path()).ran().ok().stdout
        };
        assert!(!attach(&plain, &["--agent", "plain"]).contains("learns"));
        assert!(attach(&scholar, &["--learn", "--agent", "scholar"]).contains("it learns until it is detached"));
        assert_eq!(fetch(scene, daemon, &plain), "403");
        assert_eq!(fetch(scene, daemon, &scholar), "200", "the host list is lifted for it alone");
        let status = daemon.command(&["status"]).ran().ok().stdout;
        assert!(status.contains("agent scholar learns") && !status.contains("agent plain learns"), "{status}");
        let detach = |cgroup: &Cgroup| daemon.command(&["detach", "--cgroup"]).arg(cgroup.path()).ran().ok();
        assert!(!detach(&plain).screen().contains("would have sufficed"));
        let told = detach(&scholar);
        let (_, policy) = told.stderr.split_once("would have sufficed:").expect("the policy");
        let message =
            |record: &support::ledger::Record| record.text("caracal.message").contains("scholar, which learns");
        let _records = daemon.records_when(|records| records.iter().any(message));
        // And it does suffice.
        daemon.configure(policy);
        let _ran = daemon.command(&["policy", "reload"]).ran().ok();
        let _attached = attach(&scholar, &["--agent", "scholar"]);
        assert_eq!(fetch(scene, daemon, &scholar), "200", "{policy}");
        daemon.stop();
    });
}
