//! One file mounted over another in a mount namespace that is not ours: open_tree(2), mount_setattr(2) (Linux 5.12) and
//! move_mount(2). The mount is read-only and private: it reaches no other namespace and goes with its own.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use nix::sched::{CloneFlags, setns, unshare};

/// `RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS` of linux/openat2.h: links lead to where the process would follow them.
const RESOLVE: u64 = 0x10 | 0x02;
/// `OPEN_TREE_CLONE`, `MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH` of linux/mount.h.
const CLONE: libc::c_uint = 1;
const BY_DESCRIPTORS: libc::c_uint = 0x04 | 0x40;
/// `MOUNT_ATTR_RDONLY | NOSUID | NODEV | NOEXEC`.
const ATTRIBUTES: u64 = 0x01 | 0x02 | 0x04 | 0x08;

/// The files as a process sees them.
#[derive(Debug)]
pub struct Place {
    pid: u32,
    root: File,
    namespace: File,
}

#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

#[repr(C)]
struct MountAttr {
    set: u64,
    clear: u64,
    propagation: u64,
    userns: u64,
}

impl Place {
    /// Of a process.
    ///
    /// # Errors
    /// When it is gone.
    pub fn open(pid: u32) -> io::Result<Place> {
        let root = OpenOptions::new().read(true).custom_flags(libc::O_PATH).open(format!("/proc/{pid}/root"))?;
        Ok(Place { pid, root, namespace: File::open(format!("/proc/{pid}/ns/mnt"))? })
    }

    /// The file at an absolute path, named and not opened. `None`: there is none.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn find(&self, path: &str) -> io::Result<Option<File>> {
        let name = CString::new(path.trim_start_matches('/'))?;
        let flags = u64::try_from(libc::O_PATH | libc::O_CLOEXEC).unwrap_or(0);
        let how = OpenHow { flags, mode: 0, resolve: RESOLVE };
        // SAFETY: the name is a C string and the structure as long as said.
        let fd = unsafe {
            libc::syscall(libc::SYS_openat2, self.root.as_raw_fd(), name.as_ptr(), &raw const how, size_of::<OpenHow>())
        };
        match descriptor(fd) {
            Ok(fd) => Ok(Some(fd.into())),
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR | libc::ELOOP)) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Whether a mount on the file would appear in our own namespace too: the mount it lies on is shared with ours
    /// (mount_namespaces(7), peer groups).
    ///
    /// # Errors
    /// When the kernel does not say.
    pub fn is_the_hosts(&self, target: &File) -> io::Result<bool> {
        let info = fs::read_to_string(format!("/proc/self/fdinfo/{}", target.as_raw_fd()))?;
        let id = info.lines().find_map(|line| line.strip_prefix("mnt_id:")).map(str::trim).unwrap_or_default();
        let theirs = fs::read_to_string(format!("/proc/{}/mountinfo", self.pid))?;
        let line = theirs.lines().find(|line| line.split(' ').next() == Some(id));
        // A mount that their table does not show is one that we cannot judge.
        let Some(line) = line else { return Ok(true) };
        let Some(group) = peer_group(line) else { return Ok(false) };
        let ours = fs::read_to_string("/proc/self/mountinfo")?;
        Ok(ours.lines().any(|line| peer_group(line) == Some(group)))
    }

    /// Mounts `source`, a file of ours, over `target`, a file of theirs.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn mount(&self, source: &Path, target: &File) -> io::Result<()> {
        let source = CString::new(source.as_os_str().as_bytes())?;
        let cloexec = libc::c_uint::try_from(libc::O_CLOEXEC).unwrap_or(0);
        // SAFETY: the path is a C string.
        let tree = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, source.as_ptr(), CLONE | cloexec) };
        let tree = descriptor(tree)?;
        let wanted = MountAttr { set: ATTRIBUTES, clear: 0, propagation: libc::MS_PRIVATE, userns: 0 };
        // SAFETY: the empty path is a C string and the structure as long as said.
        let set = done(unsafe {
            libc::syscall(
                libc::SYS_mount_setattr,
                tree.as_raw_fd(),
                c"".as_ptr(),
                libc::AT_EMPTY_PATH,
                &raw const wanted,
                size_of::<MountAttr>(),
            )
        });
        // Older kernels: who is root there may write to its own copy of the bundle, as it may to what lies beneath.
        set.or_else(|error| if error.raw_os_error() == Some(libc::ENOSYS) { Ok(()) } else { Err(error) })?;
        inside(&self.namespace, || {
            // SAFETY: both paths are C strings, and the descriptors are open.
            done(unsafe {
                libc::syscall(
                    libc::SYS_move_mount,
                    tree.as_raw_fd(),
                    c"".as_ptr(),
                    target.as_raw_fd(),
                    c"".as_ptr(),
                    BY_DESCRIPTORS,
                )
            })
        })
    }
}

/// Takes the files with these names off wherever they are mounted. A namespace without a process is gone, and its
/// mounts with it.
///
/// # Errors
/// What the kernel says about one that is there.
pub fn take_off(names: &BTreeSet<String>) -> io::Result<()> {
    let ours = fs::metadata("/proc/self/ns/mnt")?.ino();
    for entry in fs::read_dir("/proc")?.flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        // Each process of a namespace is looked at, not one of each: with another root it sees other mounts.
        if fs::metadata(format!("/proc/{pid}/ns/mnt")).map_or(true, |facts| facts.ino() == ours) {
            continue;
        }
        let Ok(table) = fs::read_to_string(format!("/proc/{pid}/mountinfo")) else { continue };
        let points: Vec<CString> = table.lines().filter_map(|line| point(line, names)).collect();
        if points.is_empty() {
            continue;
        }
        // Ended meanwhile. Where it was the last of its namespace, the mounts went with it.
        let Ok(place) = Place::open(pid) else { continue };
        inside(&place.namespace, || {
            nix::unistd::fchdir(place.root.as_fd())?;
            nix::unistd::chroot(".")?;
            for point in &points {
                // SAFETY: the path is a C string.
                let code = unsafe { libc::umount2(point.as_ptr(), libc::MNT_DETACH | libc::UMOUNT_NOFOLLOW) };
                done(libc::c_long::from(code))?;
            }
            Ok(())
        })?;
    }
    Ok(())
}

/// Where one of the files is mounted, by a line of mountinfo: its fourth field is the path within the file system, its
/// fifth the place (proc_pid_mountinfo(5)).
fn point(line: &str, names: &BTreeSet<String>) -> Option<CString> {
    let mut fields = line.split(' ').skip(3);
    let (root, point) = (fields.next()?, fields.next()?);
    let name = root.trim_end_matches("//deleted").rsplit('/').next()?;
    if !names.contains(name) {
        return None;
    }
    CString::new(crate::cli::spawn::mounts::unescape(point.as_bytes())).ok()
}

/// The peer group of a mount, by its line of mountinfo.
fn peer_group(line: &str) -> Option<&str> {
    line.split(' ').skip(6).take_while(|field| *field != "-").find_map(|field| field.strip_prefix("shared:"))
}

/// Does `work` in a mount namespace, on a thread of its own: only a thread that shares its root and directory with no
/// other may enter one.
fn inside<T: Send>(namespace: &File, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let done = scope.spawn(|| {
            unshare(CloneFlags::CLONE_FS)?;
            setns(namespace, CloneFlags::CLONE_NEWNS)?;
            work()
        });
        done.join().unwrap_or_else(|_| Err(io::Error::other("the thread in the namespace panicked")))
    })
}

fn descriptor(fd: libc::c_long) -> io::Result<OwnedFd> {
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the callers' system calls give a new descriptor, opened close-on-exec.
    Ok(unsafe { OwnedFd::from_raw_fd(i32::try_from(fd).map_err(io::Error::other)?) })
}

fn done(code: libc::c_long) -> io::Result<()> {
    if code == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo() {
        let line = "36 35 0:33 /caracal/trust/a.pem /etc/ssl/a\\040b.crt ro,nosuid shared:7 master:3 - tmpfs tmpfs rw";
        let names = BTreeSet::from(["a.pem".to_owned()]);
        assert_eq!(point(line, &names).unwrap(), c"/etc/ssl/a b.crt".to_owned());
        assert!(point(&line.replace("a.pem", "a.pem//deleted"), &names).is_some());
        assert!(point(&line.replace("a.pem", "b.pem"), &names).is_none());
        assert_eq!(peer_group(line), Some("7"));
        assert_eq!(peer_group(&line.replace("shared:7 ", "")), None);
    }
}
