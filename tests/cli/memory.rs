//! Who goes when memory runs out.

use crate::{RULES, case};
use std::fs::read_to_string;

/// The unit has the keeper spared; what agents fill is the data path's.
#[test]
fn the_data_path_is_not_spared_when_memory_runs_out() {
    case("the data path is not spared when memory runs out", RULES, |_, daemon| {
        let score = |pid: Option<i32>| -> i32 {
            let said = read_to_string(format!("/proc/{}/oom_score_adj", pid.expect("it runs")));
            said.expect("a score").trim().parse().expect("a number")
        };
        // Root without CAP_SYS_RESOURCE spares nobody.
        let mut lowered = std::process::Command::new("choom");
        let spares = lowered.args(["-n", "-900", "--", "true"]).output().is_ok_and(|ran| ran.status.success());
        if !spares {
            let why = "this root may not lower oom_score_adj (CAP_SYS_RESOURCE)";
            support::report::omitted("wire", "command line: a spared keeper, and a data path that is not", why, 1);
        }
        for (given, data_path) in [("-900", 0), ("300", 300)].into_iter().skip(usize::from(!spares)) {
            daemon.start_by(&["choom", "-n", given, "--"]);
            daemon.restart();
            assert_eq!(score(daemon.keeper()).to_string(), given);
            assert_eq!(score(daemon.data_path()), data_path);
            daemon.stop();
        }
    });
}
