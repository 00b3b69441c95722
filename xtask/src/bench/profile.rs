//! Where the time goes: CPU per request of each kind of thread, counted in the measured runs, and where `perf` is
//! installed a sampled run of its own, summed up by what the code is for.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Child, Command, Stdio},
};

use anyhow::{Context, Result};

/// CPU time of the threads of one name.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Spent {
    pub(super) user_us: f64,
    pub(super) system_us: f64,
}

/// CPU time by the name of the thread.
pub(super) type Threads = BTreeMap<String, Spent>;

/// Microseconds in a tick of /proc/PID/stat.
const TICK_US: f64 = 10_000.0;

/// What the living threads of `pids` have used.
pub(super) fn threads(pids: impl IntoIterator<Item = u32>) -> Threads {
    let mut threads = Threads::new();
    for pid in pids {
        for task in fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten() {
            let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
            if let Some((name, spent)) = thread(&stat) {
                let sum = threads.entry(name).or_default();
                sum.user_us += spent.user_us;
                sum.system_us += spent.system_us;
            }
        }
    }
    threads
}

/// proc_pid_stat(5): the name in brackets may hold anything, so fields are counted from its end.
fn thread(stat: &str) -> Option<(String, Spent)> {
    let (before, rest) = stat.rsplit_once(") ")?;
    let name = before.split_once('(')?.1;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<f64>().ok();
    // Numbered threads of one pool are one kind.
    let name = name.trim_end_matches(|character: char| character.is_ascii_digit() || character == '-');
    Some((name.to_owned(), Spent { user_us: next()? * TICK_US, system_us: next()? * TICK_US }))
}

/// What was used between two readings, for each of `requests`.
pub(super) fn per_request(before: &Threads, after: &Threads, requests: u64) -> Threads {
    let requests = requests.max(1) as f64;
    let spent = |(name, spent): (&String, &Spent)| {
        let from = before.get(name).copied().unwrap_or_default();
        let user_us = (spent.user_us - from.user_us).max(0.0) / requests;
        (name.clone(), Spent { user_us, system_us: (spent.system_us - from.system_us).max(0.0) / requests })
    };
    after.iter().map(spent).collect()
}

/// The mean of the rounds: a tick is long beside a thread that does little in one of them.
pub(super) fn mean<'t>(rounds: impl Iterator<Item = &'t Threads>) -> Threads {
    let mut mean = Threads::new();
    let mut count = 0.0;
    for round in rounds {
        count += 1.0;
        for (name, spent) in round {
            let sum = mean.entry(name.clone()).or_default();
            sum.user_us += spent.user_us;
            sum.system_us += spent.system_us;
        }
    }
    for spent in mean.values_mut() {
        spent.user_us /= count;
        spent.system_us /= count;
    }
    mean
}

/// Starts sampling `pids`; it ends when `stop` is called. `None` where there is no perf.
pub(super) fn sample(pids: &[u32], file: &Path) -> Option<Child> {
    let pids: Vec<String> = pids.iter().map(u32::to_string).collect();
    let mut perf = Command::new("perf");
    perf.args(["record", "-q", "-F", "1997", "-e", "cpu-clock", "-p", &pids.join(","), "-o"]).arg(file);
    perf.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
}

/// Ends the sampling and gives the share of each purpose, and the dearest functions, in percent.
pub(super) fn stop(mut perf: Child, file: &Path) -> Result<(Shares, Shares)> {
    // SIGINT: perf writes its file on it.
    let _ = Command::new("kill").args(["-INT", &perf.id().to_string()]).status();
    perf.wait().context("perf")?;
    let report = Command::new("perf")
        .args(["report", "--stdio", "-q", "--no-children", "--percent-limit", "0", "--sort", "sym", "-i"])
        .arg(file)
        .stderr(Stdio::null())
        .output()
        .context("perf report")?;
    Ok(summed(&String::from_utf8_lossy(&report.stdout)))
}

/// Names and percentages, the largest first.
pub(super) type Shares = Vec<(String, f64)>;

fn summed(report: &str) -> (Shares, Shares) {
    let mut purposes: BTreeMap<&str, f64> = BTreeMap::new();
    let mut functions = Vec::new();
    for line in report.lines() {
        let Some((share, symbol)) = line.trim().split_once('%') else { continue };
        let Ok(share) = share.trim().parse::<f64>() else { continue };
        *purposes.entry(purpose(symbol.trim())).or_default() += share;
        functions.push((symbol.trim().to_owned(), share));
    }
    let mut purposes: Shares = purposes.into_iter().map(|(name, share)| (name.to_owned(), share)).collect();
    purposes.sort_by(|one, other| other.1.total_cmp(&one.1));
    functions.sort_by(|one, other| other.1.total_cmp(&one.1));
    functions.truncate(15);
    (purposes, functions)
}

/// What a function is for, by the words in its name. The first that fits counts.
fn purpose(symbol: &str) -> &'static str {
    const KERNEL: &[(&str, &[&str])] = &[
        (
            "kernel: waking and switching",
            &["futex", "sched", "wake", "switch", "epoll", "ep_", "eventfd", "hrtimer", "ttwu"],
        ),
        (
            "kernel: journal's disk",
            &[
                "ext4",
                "jbd2",
                "blk",
                "fsync",
                "iomap",
                "virtblk",
                "virtio",
                "nvme",
                "bio",
                "folio",
                "writeback",
                "submit",
            ],
        ),
        ("kernel: our programs", &["bpf", "cgroup_skb"]),
        (
            "kernel: network",
            &[
                "tcp", "ip_", "skb", "sock", "veth", "net", "dev_", "napi", "inet", "recv", "send", "csum", "fib",
                "nf_", "copy",
            ],
        ),
    ];
    const USER: &[(&str, &[&str])] = &[
        ("TLS", &["aws_lc", "rustls", "aes", "gcm", "p256", "x25519", "ecp_", "bignum", "chacha"]),
        ("hashes", &["sha256", "sha2"]),
        ("policy", &["cedar", "policy", "smol_str"]),
        ("ledger", &["sqlite", "ledger", "sqlx", "balance", "pcache"]),
        ("journal", &["journal"]),
        ("records", &["event::", "base64", "jiff", "uuid", "tally", "hex::"]),
        ("pricing and usage", &["meter", "serde_json", "serde"]),
        ("budgets", &["budget"]),
        ("HTTP", &["hyper", "httparse", "http", "intercept", "framing"]),
        ("runtime", &["tokio", "mio", "futures"]),
        ("memory", &["alloc", "free", "mem", "realloc", "calloc"]),
    ];
    let (table, other) = if symbol.starts_with("[k]") { (KERNEL, "kernel: other") } else { (USER, "other") };
    let lower = symbol.to_ascii_lowercase();
    table.iter().find(|(_, words)| words.iter().any(|word| lower.contains(word))).map_or(other, |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn threads_of_one_pool_are_one_kind() {
        let stat = "7 (tokio-rt-worker) S 3 7 7 0 -1 4194560 1 2 3 4 10 20 30 40 20 0 1 0 5 6 7";
        let (name, spent) = thread(stat).unwrap();
        assert_eq!((name.as_str(), spent), ("tokio-rt-worker", Spent { user_us: 100_000.0, system_us: 200_000.0 }));
        let before = Threads::from([("a".to_owned(), Spent { user_us: 10.0, system_us: 0.0 })]);
        let after = Threads::from([("a".to_owned(), Spent { user_us: 30.0, system_us: 4.0 })]);
        let each = per_request(&before, &after, 2);
        assert_eq!(each.get("a"), Some(&Spent { user_us: 10.0, system_us: 2.0 }));
        let idle = Threads::new();
        assert_eq!(mean([&each, &idle].into_iter()).get("a"), Some(&Spent { user_us: 5.0, system_us: 1.0 }));
    }

    #[test]
    fn functions_are_summed_by_purpose() {
        let report =
            "    40.00%  [k] tcp_sendmsg\n     5.50%  [.] cedar_policy::is_authorized\n     2.00%  [k] tcp_ack\n";
        let (purposes, functions) = summed(report);
        assert_eq!(purposes, [("kernel: network".to_owned(), 42.0), ("policy".to_owned(), 5.5)]);
        assert_eq!(functions.len(), 3);
    }
}
