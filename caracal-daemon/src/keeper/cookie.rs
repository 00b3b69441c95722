//! The cookie of a network namespace: the number that the kernel programs know it by. Asked with `SO_NETNS_COOKIE` where
//! the kernel has that (5.14). Before, a program of ours tells it: attached for a moment to a cgroup that a child is
//! put into, which enters the namespace and asks for a socket.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use super::KeeperError;
use super::bpf_link::{Link, attach_type};
use super::cgroup::Hierarchy;
use super::kernel::Kernel;
use super::listeners::netns_cookie;
use super::namespaces::inside;

/// The cookie of the keeper's own namespace.
///
/// # Errors
/// When the kernel tells it on neither road.
pub fn of_own(kernel: &mut Kernel, hierarchy: &Hierarchy, instance: &str) -> Result<u64, KeeperError> {
    netns_cookie().or_else(|_| learn(kernel, hierarchy, instance, None))
}

/// The cookie of another.
///
/// # Errors
/// When it cannot be entered, or the kernel tells it on neither road.
pub fn of(kernel: &mut Kernel, hierarchy: &Hierarchy, instance: &str, door: &File) -> Result<u64, KeeperError> {
    inside(door, netns_cookie)?.or_else(|_| learn(kernel, hierarchy, instance, Some(door)))
}

/// The road of older kernels.
fn learn(kernel: &mut Kernel, hierarchy: &Hierarchy, instance: &str, door: Option<&File>) -> Result<u64, KeeperError> {
    let failed = |error: io::Error| KeeperError::Kernel(format!("the kernel tells no namespace cookie: {error}"));
    // Not below the slice, whose programs would refuse the socket first.
    let cgroup = hierarchy.make(&format!("{instance}-cookie"))?;
    let learnt = (|| {
        let kind = attach_type("sock_create").map_err(failed)?;
        let _attached = Link::create(kernel.cookie_program()?, cgroup.directory.as_fd(), kind).map_err(failed)?;
        let procs = File::options().write(true).open(cgroup.absolute.join("cgroup.procs")).map_err(failed)?;
        let door = door.map(AsRawFd::as_raw_fd);
        let mut command = Command::new("/proc/self/exe");
        let ask = move || -> io::Result<()> {
            (&procs).write_all(b"0")?;
            // SAFETY: system calls on integers.
            unsafe {
                if door.is_some_and(|door| libc::setns(door, libc::CLONE_NEWNET) != 0) {
                    return Err(io::Error::last_os_error());
                }
                libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0);
            }
            // Asked; the child ends before it becomes a program.
            Err(io::Error::from_raw_os_error(libc::ECANCELED))
        };
        // SAFETY: between fork and end only write, setns and socket are called, on descriptors made before.
        unsafe { command.pre_exec(ask) };
        match command.spawn().map(|mut child| child.wait()) {
            Err(error) if error.raw_os_error() == Some(libc::ECANCELED) => {}
            Err(error) => return Err(failed(error)),
            Ok(_) => return Err(failed(io::Error::other("the child did not end"))),
        }
        match kernel.take_cookie()? {
            0 => Err(failed(io::Error::other("its program did not run"))),
            cookie => Ok(cookie),
        }
    })();
    cgroup.remove();
    learnt
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::Require;
    use caracal_common::ABI_VERSION;
    use caracal_common::settings::Settings;
    use std::os::unix::fs::MetadataExt;

    /// Needs root, bpffs and cgroup v2: it fails without them. Both roads are tried on this kernel.
    #[test]
    fn the_older_road_tells_the_same_cookie() {
        let pins = Kernel::pin_directory("unit-cookie");
        crate::keeper::serve::mount_bpffs().expect("bpffs");
        let _ = std::fs::remove_dir_all(&pins);
        let settings = Settings { abi: ABI_VERSION, tcp_port: 1, dns_port: 2 };
        let mut kernel = Kernel::load(&pins, settings, Require::Network).expect("the programs load; is this root?");
        let hierarchy = Hierarchy::find().expect("a cgroup v2 mount");
        let other = std::thread::spawn(|| {
            nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).expect("a namespace");
            File::open("/proc/thread-self/ns/net").expect("its door")
        });
        let other = other.join().expect("a door");
        let own = learn(&mut kernel, &hierarchy, "unit-cookie", None).expect("our own");
        assert_eq!(own, netns_cookie().expect("Linux 5.14"));
        let learnt = learn(&mut kernel, &hierarchy, "unit-cookie", Some(&other)).expect("another's");
        assert_eq!(learnt, inside(&other, netns_cookie).expect("entered").expect("Linux 5.14"));
        assert_ne!(own, learnt);
        assert_ne!(other.metadata().expect("facts").ino(), 0);
        drop(kernel);
        std::fs::remove_dir_all(&pins).expect("the pins go");
    }
}
