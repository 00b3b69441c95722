//! What a process and all its descendants use: CPU time and memory, from /proc.

use std::{collections::HashMap, fs};

/// Ticks of /proc/PID/stat per second: fixed for user space on every Linux architecture that we build for.
const TICKS: f64 = 100.0;

/// What a tree of processes has used so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Usage {
    /// User and system time.
    pub(super) cpu_seconds: f64,
    /// Resident memory of all processes: a page that several of them share is counted once.
    pub(super) rss_kb: u64,
}

/// Adds up `roots` and everything below them, reaped children included.
pub(super) fn usage(roots: &[u32]) -> Usage {
    let all = processes();
    let mut usage = Usage::default();
    for (pid, process) in below(roots, &all) {
        usage.cpu_seconds += process.ticks as f64 / TICKS;
        usage.rss_kb += rss_kb(pid);
    }
    usage
}

/// `roots` and everything below them.
pub(super) fn tree(roots: &[u32]) -> Vec<u32> {
    below(roots, &processes()).into_iter().map(|(pid, _)| pid).collect()
}

fn below<'all>(roots: &[u32], all: &'all HashMap<u32, Process>) -> Vec<(u32, &'all Process)> {
    let mut children: HashMap<u32, Vec<u32>> = HashMap::new();
    for (pid, process) in all {
        children.entry(process.parent).or_default().push(*pid);
    }
    let mut found = Vec::new();
    let mut open: Vec<u32> = roots.to_vec();
    while let Some(pid) = open.pop() {
        found.extend(all.get(&pid).map(|process| (pid, process)));
        open.extend(children.remove(&pid).unwrap_or_default());
    }
    found
}

struct Process {
    parent: u32,
    ticks: u64,
}

fn processes() -> HashMap<u32, Process> {
    let Ok(entries) = fs::read_dir("/proc") else {
        return HashMap::new();
    };
    entries
        .filter_map(|entry| {
            let pid = entry.ok()?.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
            Some((pid, parse(&stat)?))
        })
        .collect()
}

/// proc_pid_stat(5): the name in brackets may hold anything, so fields are counted from its end.
fn parse(stat: &str) -> Option<Process> {
    let (_, rest) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    // utime, stime, and those of children that have been waited for.
    let ticks = [11, 12, 13, 14].into_iter().map(number).sum::<Option<u64>>()?;
    Some(Process { parent: u32::try_from(number(1)?).ok()?, ticks })
}

/// The proportional set size (proc_pid_smaps(5)), so that the sum over processes of one program has its code once.
fn rss_kb(pid: u32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:"));
    line.and_then(|line| line.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_brackets_does_not_shift_the_fields() {
        let stat = "7 (a) b) S 3 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 5 6 7";
        let process = parse(stat).unwrap();
        assert_eq!((process.parent, process.ticks), (3, 100));
    }

    #[test]
    fn we_use_memory() {
        assert!(usage(&[std::process::id()]).rss_kb > 0);
    }
}
