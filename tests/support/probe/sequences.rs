//! Random sequences of system calls, each aimed at an address of its own and carrying its own token, so that a packet
//! says which sequence sent it. `probe sequences SEED FIRST COUNT [CGROUP]`: sequence N depends on SEED and N alone. With
//! CGROUP it starts outside as root, leaves a process there that passes sockets in, and goes into the cgroup as a user.

use crate::raw::{self, Step as _, Tried, pass, receive};
use crate::vectors::kernel::membership;
use crate::vectors::uring::{Ring, connect_entry, send_entry, sendmsg_entry};
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{ForkResult, fork};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use socket2::{SockAddr, Socket};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::process::ExitCode;
use std::time::Duration;
use support::catalogue::{self, Aim, Phase, Privilege};
use support::netns::AGENT_UID;

/// What a process of a sequence has open.
struct Actor {
    random: StdRng,
    number: u32,
    open: Vec<Socket>,
    helper: Socket,
    /// To somebody outside who passes sockets in.
    giver: Option<Socket>,
    child: bool,
    /// Has no threads beside it: only then may it fork.
    alone: bool,
}

/// What `probe sequences` does.
pub(crate) fn run(seed: u64, first: u32, count: u32, cgroup: Option<&str>) -> ExitCode {
    let giver = match cgroup.map(enter).transpose() {
        Ok(giver) => giver,
        Err(fail) => {
            eprintln!("sequences: {}: {}", fail.step, fail.error);
            return ExitCode::from(1);
        }
    };
    let Ok((near, far)) = Socket::pair(socket2::Domain::UNIX, socket2::Type::DGRAM, None) else {
        return ExitCode::from(1);
    };
    // SAFETY: this process has one thread.
    match unsafe { fork() } {
        Ok(ForkResult::Child) => {
            // SAFETY: integers only.
            unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) };
            drop(near);
            helper(&far)
        }
        Ok(ForkResult::Parent { .. }) => {}
        Err(_) => return ExitCode::from(1),
    }
    drop(far);
    let _set = near.set_nonblocking(true);
    for number in first..first + count {
        let Ok(helper) = near.try_clone() else { return ExitCode::from(1) };
        let random = StdRng::seed_from_u64(seed ^ u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let giver = giver.as_ref().and_then(|giver| giver.try_clone().ok());
        let mut actor = Actor { random, number, open: Vec::new(), helper, giver, child: false, alone: true };
        for _ in 0..actor.random.random_range(4..14) {
            let _refused = actor.act();
        }
        if actor.child {
            // SAFETY: ends a child that shares nothing which a destructor would clean up.
            unsafe { libc::_exit(0) }
        }
        while nix::sys::wait::waitpid(None, Some(nix::sys::wait::WaitPidFlag::WNOHANG))
            .is_ok_and(|status| status != nix::sys::wait::WaitStatus::StillAlive)
        {}
    }
    println!("made {count}");
    ExitCode::SUCCESS
}

/// The port of the sockets that come from outside connected: nothing else is aimed there.
const GIVEN: u16 = support::wire::CANARY_PORT + 1;

/// Leaves the giver behind, moves into the cgroup and becomes an ordinary user.
fn enter(cgroup: &str) -> Tried<Socket> {
    let (near, far) = Socket::pair(socket2::Domain::UNIX, socket2::Type::SEQPACKET, None).at("pair")?;
    // SAFETY: this process has one thread.
    if let ForkResult::Child = unsafe { fork() }.at("fork")? {
        // SAFETY: integers only. Whoever counts sequences reads that output to its end.
        unsafe {
            libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
            libc::close(1);
        }
        drop(near);
        give(&far)
    }
    std::fs::write(std::path::Path::new(cgroup).join("cgroup.procs"), "0").at("join")?;
    nix::unistd::setgroups(&[]).at("setgroups")?;
    nix::unistd::setgid(AGENT_UID.into()).at("setgid")?;
    nix::unistd::setuid(AGENT_UID.into()).at("setuid")?;
    near.set_read_timeout(Some(Duration::from_millis(200))).at("pair")?;
    Ok(near)
}

/// Somebody outside: passes a socket of its own to whoever says a sequence's number. It sends nothing itself.
fn give(to: &Socket) -> ! {
    let mut bytes = [0; 64];
    while let Ok((length @ 1.., _)) = receive(to, &mut bytes) {
        let token = bytes.get(..length).unwrap_or_default();
        let number = number_of(token).unwrap_or(0);
        let kind = [libc::SOCK_DGRAM, libc::SOCK_DGRAM, libc::SOCK_STREAM][usize::try_from(number % 3).unwrap_or(0)];
        let Ok(socket) = raw::socket(libc::AF_INET, kind, 0) else { continue };
        let _set = socket.set_nonblocking(true);
        // A datagram socket is connected without a packet.
        if number.is_multiple_of(3) {
            let _connected = socket.connect(&SocketAddr::from((ip4(number), GIVEN)).into());
        }
        let _gone = pass(to, token, socket.as_raw_fd());
    }
    // SAFETY: ends this process.
    unsafe { libc::_exit(0) }
}

/// A second process in the same cgroup: sends by every socket that it is handed.
fn helper(from: &Socket) -> ! {
    let mut bytes = [0; 64];
    while let Ok((length, fd)) = receive(from, &mut bytes) {
        let Some(socket) = fd.map(Socket::from) else { continue };
        let token = bytes.get(..length).unwrap_or_default();
        let number = number_of(token).unwrap_or(0);
        let _set = socket.set_nonblocking(true);
        let _sent = raw::send(&socket, token);
        let _sent = raw::send_to(&socket, token, &SocketAddr::from((ip4(number), 7_777)));
    }
    // SAFETY: ends this process.
    unsafe { libc::_exit(0) }
}

/// `11.x.y.z`: the sequence's number.
fn ip4(number: u32) -> Ipv4Addr {
    Ipv4Addr::from(0x0b00_0000 | (number & 0x00ff_ffff))
}

fn ip6(number: u32) -> Ipv6Addr {
    let halves = [number >> 16, number & 0xffff].map(|half| u16::try_from(half).unwrap_or(0));
    Ipv6Addr::new(0x2001, 0xdb8, 11, 0, 0, 0, halves[0], halves[1])
}

fn token(number: u32) -> String {
    format!("caracal-sequence-{number:010}")
}

fn number_of(token: &[u8]) -> Option<u32> {
    std::str::from_utf8(token).ok()?.strip_prefix("caracal-sequence-")?.parse().ok()
}

impl Actor {
    fn one_of<T: Copy>(&mut self, from: &[T]) -> Option<T> {
        let place = self.random.random_range(0..from.len().max(1));
        from.get(place).copied()
    }

    fn target(&mut self) -> SocketAddr {
        let port = self.one_of(&[7_777, 7_777, 53, 443, 15_001, 15_053]).unwrap_or(7_777);
        let (four, six) = (ip4(self.number), ip6(self.number));
        let ips = [four.into(), six.into(), four.to_ipv6_mapped().into(), IpAddr::from([127, 0, 0, 1])];
        SocketAddr::new(self.one_of(&ips).unwrap_or(four.into()), port)
    }

    /// A descriptor to work with, if one is open.
    fn socket(&mut self) -> Option<Socket> {
        let place = self.random.random_range(0..self.open.len().max(1));
        self.open.get(place)?.try_clone().ok()
    }

    fn act(&mut self) -> Tried {
        let token = token(self.number).into_bytes();
        let to = self.target();
        let what = if self.open.is_empty() { 0 } else { self.random.random_range(0..34) };
        if what < 5 {
            return self.opens();
        }
        let Some(socket) = self.socket() else { return Ok(()) };
        match what {
            5 => {
                let port = self.one_of(&[0, 0, 4_000, 15_001]).unwrap_or(0);
                let ips: [IpAddr; 3] = [[0, 0, 0, 0].into(), [127, 0, 0, 1].into(), [198, 51, 100, 1].into()];
                let at = SocketAddr::new(self.one_of(&ips).unwrap_or([0, 0, 0, 0].into()), port);
                let _bound = socket.bind(&at.into());
            }
            6..=9 => drop(socket.connect(&to.into())),
            10..=13 => drop(raw::send_to(&socket, &token, &to)),
            14..=16 => drop(raw::send(&socket, &token)),
            17 => {
                let flags = [libc::MSG_MORE, libc::MSG_FASTOPEN, libc::MSG_DONTROUTE, 0x400_0000];
                let flags = self.one_of(&flags).unwrap_or(0) | libc::MSG_NOSIGNAL;
                let _sent = socket.send_to_with_flags(&token, &SockAddr::from(to), flags);
            }
            18..=20 => self.sets(&socket)?,
            21 => self.open.push(socket),
            22 => drop(pass(&self.helper, &token, socket.as_raw_fd())),
            23 => self.forks()?,
            24 => self.by_ring(&socket, &token, &to)?,
            25 => {
                drop(socket.shutdown(
                    self.one_of(&[Shutdown::Read, Shutdown::Write, Shutdown::Both]).unwrap_or(Shutdown::Both),
                ))
            }
            26 => {
                let _listens = socket.listen(1);
                if let Ok((caller, _)) = socket.accept() {
                    let _sent = raw::send(&caller, &token);
                }
            }
            27 => {
                let (from, into) =
                    nix::unistd::pipe().map_err(|error| raw::Fail { step: "pipe", error: error.into() })?;
                let _filled = nix::unistd::write(&into, &token);
                let flags = nix::fcntl::SpliceFFlags::SPLICE_F_NONBLOCK;
                let _sent = nix::fcntl::splice(&from, None, &socket, None, 256, flags);
            }
            28 => {
                // SAFETY: all zero is an address: AF_UNSPEC.
                unsafe {
                    let nobody: libc::sockaddr = std::mem::zeroed();
                    libc::connect(socket.as_raw_fd(), &raw const nobody, 16);
                }
            }
            29 => self.in_threads(),
            30..=32 => self.asks(&token)?,
            _ => {
                let place = self.random.random_range(0..self.open.len());
                drop(self.open.swap_remove(place));
            }
        }
        Ok(())
    }

    /// Has a socket passed in from outside.
    fn asks(&mut self, token: &[u8]) -> Tried {
        let Some(giver) = &self.giver else { return Ok(()) };
        raw::send(giver, token)?;
        if let (_, Some(fd)) = receive(giver, &mut [0; 64])? {
            self.open.push(Socket::from(fd));
        }
        Ok(())
    }

    /// Goes on in two threads at once, by the same sockets, and then in one again.
    fn in_threads(&mut self) {
        if !self.alone {
            return;
        }
        let Ok(helper) = self.helper.try_clone() else { return };
        let mut other = Actor {
            random: StdRng::seed_from_u64(self.random.random()),
            number: self.number,
            open: self.open.iter().filter_map(|socket| socket.try_clone().ok()).collect(),
            helper,
            giver: self.giver.as_ref().and_then(|giver| giver.try_clone().ok()),
            child: self.child,
            alone: false,
        };
        self.alone = false;
        let _ended = std::thread::scope(|scope| {
            let thread = scope.spawn(|| {
                for _ in 0..3 {
                    let _refused = other.act();
                }
            });
            for _ in 0..3 {
                let _refused = self.act();
            }
            // The scope's end waits for what it does only: a fork beside its last steps would leave the child locks
            // that nobody opens.
            thread.join()
        });
        self.alone = true;
        self.open.append(&mut other.open);
    }

    fn opens(&mut self) -> Tried {
        let kinds = [
            (libc::AF_INET, libc::SOCK_STREAM, 0),
            (libc::AF_INET6, libc::SOCK_STREAM, 0),
            (libc::AF_INET, libc::SOCK_DGRAM, 0),
            (libc::AF_INET, libc::SOCK_DGRAM, 0),
            (libc::AF_INET6, libc::SOCK_DGRAM, 0),
            (libc::AF_INET6, libc::SOCK_DGRAM, 0),
            (libc::AF_INET, libc::SOCK_STREAM, 262),
            (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE),
            (libc::AF_INET6, libc::SOCK_DGRAM, libc::IPPROTO_UDPLITE),
            (libc::AF_INET, libc::SOCK_DGRAM, libc::IPPROTO_ICMP),
            (libc::AF_INET, libc::SOCK_RAW, libc::IPPROTO_ICMP),
        ];
        let Some((family, kind, protocol)) = self.one_of(&kinds) else { return Ok(()) };
        let socket = raw::socket(family, kind, protocol)?;
        let _set = socket.set_nonblocking(true);
        self.open.push(socket);
        Ok(())
    }

    fn sets(&mut self, socket: &Socket) -> Tried {
        let card = crate::vectors::transport::card()?;
        let mut route = vec![131, 7, 4];
        route.extend(ip4(self.number).octets());
        route.push(0);
        let group = catalogue::named("igmp_join")
            .map(|(vector, _)| Aim { vector, privilege: Privilege::User, phase: Phase::Attach }.group4())
            .unwrap_or(Ipv4Addr::new(239, 1, 2, 3));
        let one = 1_i32.to_ne_bytes().to_vec();
        let options: [(i32, i32, Vec<u8>); 15] = [
            (libc::SOL_SOCKET, libc::SO_BINDTODEVICE, b"leak".to_vec()),
            (libc::SOL_SOCKET, libc::SO_REUSEADDR, one.clone()),
            (libc::SOL_SOCKET, libc::SO_REUSEPORT, one.clone()),
            (libc::SOL_SOCKET, 60, one.clone()),
            (libc::SOL_SOCKET, libc::SO_MARK, one.clone()),
            (libc::IPPROTO_IP, 50, card.to_be_bytes().to_vec()),
            (libc::IPPROTO_IP, 4, route),
            (libc::IPPROTO_IP, 15, one.clone()),
            (libc::IPPROTO_IP, libc::IP_ADD_MEMBERSHIP, membership(group, card)),
            (libc::IPPROTO_IP, libc::IP_MULTICAST_IF, card.to_be_bytes().to_vec()),
            (libc::IPPROTO_IPV6, 1, libc::AF_INET.to_ne_bytes().to_vec()),
            (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, one.clone()),
            (libc::IPPROTO_TCP, 30, one.clone()),
            (libc::IPPROTO_TCP, 34, one.clone()),
            (libc::IPPROTO_UDP, 103, 16_i32.to_ne_bytes().to_vec()),
        ];
        let place = self.random.random_range(0..options.len());
        let Some((level, name, value)) = options.get(place) else { return Ok(()) };
        raw::option(socket, *level, *name, value)
    }

    /// Goes on as a child, sometimes in a network namespace of its own; the parent goes on as well.
    fn forks(&mut self) -> Tried {
        if self.child || !self.alone {
            return Ok(());
        }
        let apart = self.random.random_bool(0.3);
        // SAFETY: this process has one thread.
        match unsafe { fork() } {
            Ok(ForkResult::Child) => {
                self.child = true;
                if apart {
                    let _stays = unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET);
                }
            }
            Ok(ForkResult::Parent { .. }) | Err(_) => {}
        }
        Ok(())
    }

    fn by_ring(&mut self, socket: &Socket, token: &[u8], to: &SocketAddr) -> Tried {
        let ring = Ring::new(0)?;
        let name = SockAddr::from(*to);
        match self.random.random_range(0..3) {
            0 => drop(ring.submit(&connect_entry(socket, &name))),
            1 => drop(ring.submit(&send_entry(socket, token))),
            _ => drop(sendmsg_entry(&ring, socket, token, &name)),
        }
        Ok(())
    }
}
