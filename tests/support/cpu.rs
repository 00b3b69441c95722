//! CPU time of processes, from /proc.

use std::time::Duration;

/// Ticks of /proc/PID/stat in a second: fixed for user space on every Linux that we build for.
const TICK: Duration = Duration::from_millis(10);

/// User and system time that these have used so far. One that is gone has used nothing.
#[must_use]
pub fn used(pids: &[i32]) -> Duration {
    pids.iter().filter_map(|pid| ticks(&std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)).sum::<u32>() * TICK
}

/// proc_pid_stat(5): the name in brackets may hold anything, so fields are counted from its end.
fn ticks(stat: &str) -> Option<u32> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u32>().ok();
    Some(next()? + next()?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn user_and_system_time_are_added() {
        assert_eq!(super::ticks("7 (a) b) S 3 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 5 6 7"), Some(30));
    }
}
