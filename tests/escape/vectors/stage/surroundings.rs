//! What stands about: the user's cgroups, devices and an older hierarchy that attempts may try, and the accomplice outside
//! that would carry their bytes.

use crate::PROBE;
use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;
use std::process::{Child, Stdio};
use std::time::Duration;
use support::netns::{AGENT_UID, until};
use support::scene::Scene;

/// The accomplice; its System V queue outlives it unless it is removed.
pub(super) struct Accomplice {
    child: Child,
    queue: i32,
}

impl Drop for Accomplice {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
        // SAFETY: integers, and no structure for this command.
        unsafe { libc::msgctl(self.queue, libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

pub(super) fn own(path: &Path) {
    chown(path, Some(AGENT_UID), Some(AGENT_UID)).expect("its owner");
}

/// Makes a cgroup that is the user's.
pub(super) fn cgroup(path: &Path) {
    fs::create_dir(path).expect("a cgroup");
    own(path);
    own(&path.join("cgroup.procs"));
}

/// Tunnel devices that somebody made for the user and for root, and a host that forwards, as for virtual machines. Resolvers
/// listen at port 53 here without privilege.
pub(super) fn devices(scene: &Scene, dir: &Path) {
    let node = dir.join("tun");
    let node = node.display();
    let lines = [
        format!("mknod {node} c 10 200 && chmod 666 {node} && mount --bind {node} /dev/net/tun"),
        format!("ip tuntap add dev tunuser mode tun user {AGENT_UID} && ip addr add 10.66.0.1/24 dev tunuser"),
        "ip tuntap add dev tunroot mode tun user 0 && ip addr add 10.66.1.1/24 dev tunroot".to_owned(),
        "ip link set tunuser up && ip link set tunroot up".to_owned(),
        "for i in default tunuser tunroot; do echo 0 > /proc/sys/net/ipv4/conf/$i/rp_filter; done".to_owned(),
    ];
    let disk = format!(
        "for i in /sys/class/block/*; do case $i in */loop*|*/ram*) continue;; esac; d=$(cat $i/dev); rm -f {0}/disk; \
         mknod {0}/disk b ${{d%:*}} ${{d#*:}} && dd if={0}/disk of=/dev/null count=0 2>/dev/null && break; done; \
         mknod {0}/mem c 1 1; mknod {0}/vhost-net c 10 238; mknod {0}/vhost-vsock c 10 241; \
         mknod {0}/vfio c 10 196; mknod {0}/ppp c 108 0; mknod {0}/kvm c 10 232; \
         for i in disk mem vhost-net vhost-vsock vfio ppp kvm; do test -e {0}/$i && chmod 666 {0}/$i; done; true",
        dir.display()
    );
    scene.net.a.shell(&disk).expect("device nodes");
    // A kernel without tunnel devices: the attempt finds none, and is absent.
    if let Err(why) = scene.net.a.shell(&lines.join(" && ")) {
        eprintln!("no tunnel devices: {why}");
    }
    let settings = "echo 1 > /proc/sys/net/ipv4/ip_forward; echo 0 > /proc/sys/net/ipv4/ip_unprivileged_port_start";
    scene.net.a.shell(settings).expect("settings of a namespace");
}

/// A cgroup v1 with net_cls that is the user's, where the kernel has it and it is harmless (from 5.15 on). Before, no daemon
/// starts beside it, which `older_cgroups` tries.
pub(super) fn older_hierarchy(scene: &Scene, dir: &Path) {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|word| word.parse::<u32>().ok());
    if (numbers.next(), numbers.next()) < (Some(5), Some(15)) {
        return;
    }
    let mount = dir.join("net_cls.d");
    let agent = mount.join("agent");
    let (mount, agent) = (mount.display(), agent.display());
    let line = format!(
        "mkdir {mount} && mount -t cgroup -o net_cls none {mount} && mkdir -p {agent} && \
         chown -R {AGENT_UID} {agent} && echo 0x100001 > {agent}/net_cls.classid && echo {agent} > {}/net_cls",
        dir.display()
    );
    if let Err(why) = scene.net.a.shell(&line) {
        eprintln!("no net_cls: {why}");
    }
}

/// Starts it, and waits until it listens.
pub(super) fn accomplice(scene: &Scene, dir: &Path) -> Accomplice {
    let out = scene.file("outside.out", "");
    let file = fs::OpenOptions::new().write(true).open(&out).expect("a file");
    let run = scene.agent(PROBE).arg("outside").arg(dir);
    let child = run.spawn(Stdio::from(file), Stdio::inherit()).expect("an accomplice");
    until("the accomplice listens", Duration::from_secs(10), || {
        fs::read_to_string(&out).is_ok_and(|text| text.contains("ready"))
    })
    .expect("an accomplice");
    let queue = fs::read_to_string(dir.join("queue")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(-1);
    Accomplice { child, queue }
}
