//! What processes have used, and what they say of themselves.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// User and system time of a process, all its threads.
pub(crate) fn cpu_of(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Behind the name, which may hold anything: fields 14 and 15 (proc(5)) are then 11 and 12 from 0.
    let mut fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_whitespace().skip(11);
    let mut ticks = || fields.next().and_then(|field| field.parse::<u64>().ok()).unwrap_or(0);
    // SAFETY: a number in, a number out.
    let hertz = u64::try_from(unsafe { libc::sysconf(libc::_SC_CLK_TCK) }).expect("ticks a second");
    Duration::from_micros((ticks() + ticks()) * 1_000_000 / hertz)
}

/// The same of the calling thread, to the nanosecond.
pub(crate) fn cpu_of_thread() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: a valid pointer to a timespec.
    assert_eq!(unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) }, 0, "clock_gettime");
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// The same of all children that have ended and were waited for.
pub(crate) fn cpu_of_children() -> Duration {
    // SAFETY: plain numbers, of which zero is one.
    let mut usage: libc::rusage = unsafe { std::mem::zeroed() };
    // SAFETY: a valid pointer to a rusage.
    assert_eq!(unsafe { libc::getrusage(libc::RUSAGE_CHILDREN, &raw mut usage) }, 0, "getrusage");
    let time = |value: libc::timeval| Duration::new(value.tv_sec as u64, value.tv_usec as u32 * 1_000);
    time(usage.ru_utime) + time(usage.ru_stime)
}

/// The processes that work below a directory.
pub(crate) struct Group(PathBuf);

impl Group {
    pub(crate) fn below(dir: &Path) -> Group {
        Group(dir.to_owned())
    }

    /// What they have used; those that ended since are not counted.
    pub(crate) fn cpu(&self) -> Duration {
        let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
        let pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        pids.filter(|pid| std::fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd.starts_with(&self.0)))
            .map(cpu_of)
            .sum()
    }
}

/// The answer of a plain HTTP server on this port of loopback: its status and its body.
pub(crate) fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let (status, body) = answer(port, path)?;
    Some((status, String::from_utf8(body).ok()?))
}

/// The bytes that it serves at this path.
#[track_caller]
pub(crate) fn fetched(port: u16, path: &str) -> Vec<u8> {
    let (status, body) = answer(port, path).expect("an answer");
    assert_eq!(status, 200, "{path}");
    body
}

#[expect(clippy::disallowed_methods, reason = "a worker under test, on loopback")]
fn answer(port: u16, path: &str) -> Option<(u16, Vec<u8>)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(60))).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n").ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let head = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let body = answer.split_off(head + 4);
    let head = String::from_utf8(answer).ok()?;
    Some((head.split(' ').nth(1)?.parse().ok()?, body))
}

/// A metric's value, out of `/metrics`.
pub(crate) fn metric(port: u16, name: &str) -> Option<u64> {
    let (_, body) = get(port, "/metrics")?;
    body.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}
