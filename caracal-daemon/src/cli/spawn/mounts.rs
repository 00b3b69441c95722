//! What a spawned command sees of the file system. Takes the plan and `/proc/self/mountinfo`; gives mount operations
//! for a private mount namespace. Never changes the host: nothing propagates out of the namespace, and what is mounted
//! in it goes with its last process. Refuses nothing: what does not exist, or what this user cannot reach, is left out.

use super::{Cover, SpawnPlan};
use std::collections::{BTreeSet, HashSet};
use std::ffi::{CString, OsString};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

/// Parts of a proc file system through which uid 0 commands the kernel without any capability (`core_pattern`,
/// `modprobe`, sysrq). Container runtimes close the same ones.
const PROC_CONTROLS: [&str; 5] = ["sys", "sysrq-trigger", "bus", "fs", "irq"];

/// One step, with everything allocated: it is carried out between fork and exec.
#[derive(Debug)]
pub enum Step {
    /// What is mounted at `target` goes, from this namespace.
    Unmount {
        /// Where.
        target: CString,
    },
    /// `source` appears at `target`.
    Bind {
        /// From.
        source: CString,
        /// To.
        target: CString,
    },
    /// The mount at `target` becomes read-only.
    ReadOnly {
        /// Where.
        target: CString,
        /// The mount's other flags, which a user namespace may not clear.
        keep: libc::c_ulong,
    },
    /// An empty read-only directory appears at `target`, if there is still one.
    Empty {
        /// Where.
        target: CString,
    },
    /// `/dev/null` appears at `target`, if there is still something.
    Nothing {
        /// Where.
        target: CString,
    },
}

/// A private mount namespace, and for an ordinary user the user namespace that it needs.
#[derive(Debug)]
pub struct Namespace {
    /// In order.
    pub steps: Vec<Step>,
    /// `uid_map` and `gid_map` for an ordinary user; none for root.
    pub maps: Option<(Vec<u8>, Vec<u8>)>,
}

impl Namespace {
    /// What `plan` needs on this host.
    ///
    /// # Errors
    /// When `/proc/self/mountinfo` cannot be read.
    pub fn plan(plan: &SpawnPlan, root: bool) -> io::Result<Namespace> {
        let table = std::fs::read("/proc/self/mountinfo")?;
        let all: Vec<Mount> = table.split(|b| *b == b'\n').filter_map(Mount::parse).collect();
        let mut steps = Vec::new();
        cover(&mut steps, plan, &all);
        let mounts: Vec<Mount> = all.into_iter().filter(Mount::visible).collect();
        for mount in &mounts {
            match mount.kind.as_slice() {
                b"cgroup" | b"cgroup2" => read_only(&mut steps, &mount.point, mount.keep),
                b"proc" if root => {
                    for part in PROC_CONTROLS.map(|part| mount.point.join(part)) {
                        if let (true, Some(path)) = (part.exists(), c_path(&part)) {
                            steps.push(Step::Bind { source: path.clone(), target: path });
                            read_only(&mut steps, &part, mount.keep);
                        }
                    }
                }
                _ if root && mount.controls_the_kernel() => read_only(&mut steps, &mount.point, mount.keep),
                _ => {}
            }
        }
        let bpf = mounts.iter().filter(|mount| mount.kind == b"bpf").map(|mount| &mount.point);
        hide(&mut steps, plan.hide.iter().chain(bpf));
        let (uid, gid) = (nix::unistd::geteuid(), nix::unistd::getegid());
        let maps = (!root).then(|| (format!("{uid} {uid} 1").into_bytes(), format!("{gid} {gid} 1").into_bytes()));
        Ok(Namespace { steps, maps })
    }
}

/// Each covered file once, whatever links lead to it. What is mounted there from a file that was deleted goes first: the kernel
/// mounts nothing over it.
fn cover(steps: &mut Vec<Step>, plan: &SpawnPlan, all: &[Mount]) {
    for (cover, target) in covered(plan) {
        let stale = stale(all, &target);
        steps.extend(std::iter::repeat_n(c_path(&target), stale).flatten().map(|target| Step::Unmount { target }));
        bind(steps, &cover.source, &target);
    }
}

/// The covers whose targets are there, and where they are.
fn covered(plan: &SpawnPlan) -> impl Iterator<Item = (&Cover, PathBuf)> {
    let mut done = HashSet::new();
    let targets = plan.covers.iter().filter_map(|cover| Some((cover, std::fs::canonicalize(&cover.target).ok()?)));
    targets.filter(move |(_, target)| target.is_file() && done.insert(target.clone()))
}

/// How many mounts of deleted files lie over each other at `target`, the topmost being one. Later lines of the table lie
/// above earlier ones.
fn stale(all: &[Mount], target: &Path) -> usize {
    all.iter().rev().filter(|mount| mount.point == target).take_while(|mount| mount.deleted).count()
}

/// The first covered file over which a deleted one is mounted: an ordinary user can mount nothing there, nor take it away.
///
/// # Errors
/// When `/proc/self/mountinfo` cannot be read.
pub fn stale_cover(plan: &SpawnPlan) -> io::Result<Option<PathBuf>> {
    let table = std::fs::read("/proc/self/mountinfo")?;
    let all: Vec<Mount> = table.split(|b| *b == b'\n').filter_map(Mount::parse).collect();
    Ok(covered(plan).map(|(_, target)| target).find(|target| stale(&all, target) > 0))
}

/// Each once: in a directory that is hidden there is nothing left to hide.
fn hide<'a>(steps: &mut Vec<Step>, paths: impl Iterator<Item = &'a PathBuf>) {
    // A directory comes before what is in it.
    let paths: BTreeSet<PathBuf> = paths.filter_map(|path| std::fs::canonicalize(path).ok()).collect();
    let mut gone: Option<&Path> = None;
    for path in &paths {
        if gone.is_some_and(|gone| path.starts_with(gone)) {
            continue;
        }
        let directory = path.is_dir();
        steps.extend(
            c_path(path).map(|target| if directory { Step::Empty { target } } else { Step::Nothing { target } }),
        );
        gone = directory.then_some(path).map(PathBuf::as_path).or(gone);
    }
}

fn bind(steps: &mut Vec<Step>, source: &Path, target: &Path) {
    if let (Some(source), Some(target)) = (c_path(source), c_path(target)) {
        steps.push(Step::Bind { source, target });
    }
}

fn read_only(steps: &mut Vec<Step>, path: &Path, keep: libc::c_ulong) {
    steps.extend(c_path(path).map(|target| Step::ReadOnly { target, keep }));
}

/// A path that comes from the kernel or exists in the file system holds no zero byte.
fn c_path(path: &Path) -> Option<CString> {
    CString::new(path.as_os_str().as_bytes()).ok()
}

/// One line of mountinfo (proc_pid_mountinfo(5)).
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    id: u64,
    point: PathBuf,
    kind: Vec<u8>,
    keep: libc::c_ulong,
    /// What is mounted has no name any more.
    deleted: bool,
}

impl Mount {
    fn parse(line: &[u8]) -> Option<Mount> {
        let mut fields = line.split(|b| *b == b' ');
        let id = std::str::from_utf8(fields.next()?).ok()?.parse().ok()?;
        let deleted = fields.nth(2)?.ends_with(b"//deleted");
        let point = unescape(fields.next()?);
        let options = fields.next()?;
        let keep = options.split(|b| *b == b',').fold(0, |all, option| {
            all | match option {
                b"nosuid" => libc::MS_NOSUID,
                b"nodev" => libc::MS_NODEV,
                b"noexec" => libc::MS_NOEXEC,
                _ => 0, // a remount that names no atime flag keeps the one there is
            }
        });
        let kind = fields.skip_while(|field| *field != b"-").nth(1)?.to_vec();
        Some(Mount { id, point: PathBuf::from(OsString::from_vec(point)), kind, keep, deleted })
    }

    /// Whether the path leads to this mount: another may be mounted over it, or this user may not get there.
    fn visible(&self) -> bool {
        let Ok(file) = std::fs::OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(&self.point) else {
            return false;
        };
        let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{}", file.as_raw_fd())).unwrap_or_default();
        let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:"));
        id.is_some_and(|id| id.trim().parse() == Ok(self.id))
    }

    fn controls_the_kernel(&self) -> bool {
        let kinds: [&[u8]; 7] = [b"sysfs", b"debugfs", b"tracefs", b"securityfs", b"configfs", b"efivarfs", b"pstore"];
        kinds.contains(&self.kind.as_slice())
    }
}

/// mountinfo writes blank, tab, newline and backslash as three octal digits.
pub(crate) fn unescape(field: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, tail)) = rest.split_first() {
        let octal = match tail {
            [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', ..] if byte == b'\\' => {
                Some((a - b'0') * 64 + (b - b'0') * 8 + (c - b'0'))
            }
            _ => None,
        };
        out.push(octal.unwrap_or(byte));
        rest = if octal.is_some() { tail.get(3..).unwrap_or_default() } else { tail };
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_mountinfo() {
        let line = b"36 35 98:0 /mnt1 /mnt\\0402 rw,nosuid,noatime master:1 - cgroup2 none rw";
        let mount = Mount::parse(line).unwrap();
        let (kind, keep) = (b"cgroup2".to_vec(), libc::MS_NOSUID);
        assert_eq!(mount, Mount { id: 36, point: "/mnt 2".into(), kind, keep, deleted: false });
        assert_eq!(Mount::parse(b"36 35 98:0"), None);
        assert_eq!(Mount::parse(b""), None);
    }

    #[test]
    fn mounts_of_deleted_files_are_counted_from_the_top() {
        let line = |root: &str| format!("36 35 98:0 {root} /etc/ca.crt ro - ext4 /dev/vda rw").into_bytes();
        let table =
            |roots: &[&str]| -> Vec<Mount> { roots.iter().map(|root| Mount::parse(&line(root)).unwrap()).collect() };
        let count = |roots: &[&str]| stale(&table(roots), Path::new("/etc/ca.crt"));
        assert_eq!(count(&["/a"]), 0);
        assert_eq!(count(&["/a//deleted", "/b", "/c//deleted", "/d//deleted"]), 2);
        assert_eq!(count(&["/a//deleted", "/b"]), 0);
        assert_eq!(stale(&table(&["/a//deleted"]), Path::new("/etc/other.crt")), 0);
    }

    #[test]
    fn the_real_table_is_read() {
        let table = std::fs::read("/proc/self/mountinfo").unwrap();
        let mounts: Vec<_> = table.split(|b| *b == b'\n').filter_map(Mount::parse).collect();
        assert_eq!(mounts.len(), table.split(|b| *b == b'\n').filter(|line| !line.is_empty()).count());
        assert!(mounts.iter().any(|m| m.point == Path::new("/proc") && m.kind == b"proc" && m.visible()));
    }

    proptest::proptest! {
        #[test]
        fn no_line_panics(line: Vec<u8>) {
            let _ = Mount::parse(&line);
            proptest::prop_assert!(unescape(&line).len() <= line.len());
        }
    }
}
