//! Classes 22 and 23: the kernel says it for us, or a device does.

use super::transport::card;
use crate::raw::{Step as _, Tried, check, fail, option, udp, udp_packet};
use crate::runner::{Try, user_namespace};
use nix::sched::CloneFlags;
use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::time::Duration;
use support::catalogue::{PORT, Phase, Privilege};

/// Long enough for the report that the kernel sends for a new membership.
fn linger() -> Tried {
    std::thread::sleep(Duration::from_millis(400));
    Ok(())
}

/// `struct ip_mreqn`.
pub(crate) fn membership(group: Ipv4Addr, card: u32) -> Vec<u8> {
    let mut request = group.octets().to_vec();
    request.extend([0; 4]);
    request.extend(card.to_ne_bytes());
    request
}

pub(super) fn igmp_join(this: &Try) -> Tried {
    let socket = udp(&SocketAddr::from(([0; 4], 0)))?;
    option(&socket, libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, &membership(this.aim.group4(), card()?))?;
    linger()
}

pub(super) fn mld_join(this: &Try) -> Tried {
    let socket = udp(&SocketAddr::from(([0_u16; 8], 0)))?;
    let mut request = this.aim.group6().octets().to_vec();
    request.extend(card()?.to_ne_bytes());
    option(&socket, libc::IPPROTO_IPV6, libc::IPV6_ADD_MEMBERSHIP, &request)?;
    linger()
}

/// `MCAST_JOIN_SOURCE_GROUP` (RFC 3678), by either level.
pub(super) fn source_group_join(this: &Try) -> Tried {
    const MCAST_JOIN_SOURCE_GROUP: i32 = 46;
    let one = |level: i32, group: IpAddr, source: IpAddr| -> Tried {
        let socket = udp(&SocketAddr::new(group, 0))?;
        // struct group_source_req: the card, then two addresses of 128 bytes.
        let mut request = u64::from(card()?).to_ne_bytes().to_vec();
        for ip in [group, source] {
            let name = socket2::SockAddr::from(SocketAddr::new(ip, 0));
            let mut bytes = vec![0; 128];
            let length = usize::try_from(name.len()).unwrap_or(0);
            // SAFETY: the address is as long as it says, which is below 128.
            unsafe { std::ptr::copy_nonoverlapping(name.as_ptr().cast::<u8>(), bytes.as_mut_ptr(), length) };
            request.extend(bytes);
        }
        option(&socket, level, MCAST_JOIN_SOURCE_GROUP, &request)?;
        linger()
    };
    let four = one(libc::IPPROTO_IP, this.aim.group4().into(), this.aim.ip4().into());
    one(libc::IPPROTO_IPV6, this.aim.group6().into(), this.aim.ip6().into()).or(four)
}

/// Takes the tunnel device with this name, or makes it.
fn tunnel(name: &str) -> Tried<File> {
    const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
    const IFF_TUN: u16 = 1;
    const IFF_NO_PI: u16 = 0x1000;
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun").at("open")?;
    let mut request = [0_u8; 40];
    request[..name.len()].copy_from_slice(name.as_bytes());
    request[16..18].copy_from_slice(&(IFF_TUN | IFF_NO_PI).to_ne_bytes());
    // SAFETY: struct ifreq is 40 bytes.
    check(unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF, request.as_mut_ptr()) }.into()).at("open")?;
    Ok(device)
}

/// Root of a namespace with a cable makes the device itself, and lets its namespace forward.
pub(super) fn tun_in_namespace(this: &Try) -> Tried {
    // Root in it by name, too: what it starts keeps its rights then.
    user_namespace(CloneFlags::CLONE_NEWNET)?;
    this.meet("cable")?;
    let mut device = tunnel("tun0")?;
    for (name, value) in [("ip_forward", "1"), ("conf/all/rp_filter", "0")] {
        std::fs::write(format!("/proc/sys/net/ipv4/{name}"), value).at("forward")?;
    }
    let up = "ip addr add 10.78.0.1/24 dev tun0 && ip link set tun0 up";
    let done = std::process::Command::new("sh").args(["-c", up]).status().at("up")?;
    if !done.success() {
        return fail("up", libc::EIO);
    }
    let _older = std::fs::write("/proc/sys/net/ipv4/conf/tun0/rp_filter", "0");
    let to = SocketAddr::from((this.aim.ip4(), PORT));
    device.write_all(&udp_packet(Ipv4Addr::new(10, 78, 0, 2), to, &this.token())).at("send")?;
    std::thread::sleep(Duration::from_millis(100));
    Ok(())
}

/// Opens a node that anybody may open: what is not in this kernel says so.
fn node(this: &Try, name: &str, write: bool) -> Tried {
    let opened = OpenOptions::new().read(true).write(write).open(this.dir.join(name)).map(drop);
    if this.aim.phase == Phase::Control
        && opened.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    {
        // This host's own rules let nobody have it: its container's, or lockdown.
        return fail("socket", libc::ENODEV);
    }
    opened.at("socket")
}

pub(super) fn vhost_net(this: &Try) -> Tried {
    node(this, "vhost-net", true)
}

pub(super) fn vhost_vsock(this: &Try) -> Tried {
    node(this, "vhost-vsock", true)
}

pub(super) fn vfio(this: &Try) -> Tried {
    node(this, "vfio", true)
}

pub(super) fn ppp(this: &Try) -> Tried {
    node(this, "ppp", true)
}

pub(super) fn kvm(this: &Try) -> Tried {
    node(this, "kvm", true)
}

pub(super) fn raw_memory(this: &Try) -> Tried {
    node(this, "mem", false)
}

pub(super) fn raw_disk(this: &Try) -> Tried {
    node(this, "disk", false)
}

/// A tunnel device that somebody made for this user, as for a virtual machine.
pub(super) fn tun_device(this: &Try) -> Tried {
    let name = if this.aim.privilege == Privilege::Root { "tunroot" } else { "tunuser" };
    let mut device = tunnel(name)?;
    let from = if this.aim.privilege == Privilege::Root { [10, 66, 1, 2] } else { [10, 66, 0, 2] };
    let packet = udp_packet(Ipv4Addr::from(from), SocketAddr::from((this.aim.ip4(), PORT)), &this.token());
    device.write_all(&packet).at("send")?;
    std::thread::sleep(Duration::from_millis(50));
    Ok(())
}
