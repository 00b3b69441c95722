//! The ways out that are tried: one entry a mechanism, whatever address families it has. The `probe` program carries
//! them out, `tests/escape/vectors.rs` judges them, and `caracald doctor` must know each of them by the same name.
//!
//! Classes are those of the catalogue that the contract names: 1 IPv6 and mapped addresses, 2 TCP fast open, 3 MPTCP,
//! 4 UDP, 5 QUIC, 6 DNS by socket, 7 DNS by a deputy, 8 loopback relays, 9 other IP protocols, 10 link-layer sockets,
//! 11 other families, 12 inbound, 13 foreign sockets, 14 io_uring, 15 leaving the cgroup, 16 unix-socket deputies,
//! 17 helpers that start processes, 18 network namespaces, 19 cgroup v1, 20 other BPF programs, 21 detaching,
//! 22 the kernel on behalf, 23 devices, 24 store and forward, 25 exhaustion, 26 routing options, 27 what the daemon
//! reads, 28 posing as the daemon.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Who tries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Privilege {
    /// An ordinary user.
    User,
    /// Root without `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`.
    Root,
    /// Root of a user namespace.
    Userns,
}

impl Privilege {
    /// All of them.
    pub const ALL: [Privilege; 3] = [Privilege::User, Privilege::Root, Privilege::Userns];

    /// Its name on the command line and in reports.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Privilege::User => "user",
            Privilege::Root => "root",
            Privilege::Userns => "userns",
        }
    }

    /// The privilege with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Privilege> {
        Privilege::ALL.into_iter().find(|one| one.name() == name)
    }
}

/// Under which circumstances it is tried. The number is in every address, so that a late packet is not another phase's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// In a cgroup that nobody governs: it must leak.
    Control = 1,
    /// In a cgroup that `attach` governs.
    Attach = 2,
    /// Under `caracald run`.
    Run = 3,
    /// Ungoverned again, but judged as if it were governed: the judge must see it.
    Planted = 4,
}

impl Phase {
    /// All of them.
    pub const ALL: [Phase; 4] = [Phase::Control, Phase::Attach, Phase::Run, Phase::Planted];

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Phase::Control => "control",
            Phase::Attach => "attach",
            Phase::Run => "run",
            Phase::Planted => "planted",
        }
    }

    /// The phase with this name.
    #[must_use]
    pub fn named(name: &str) -> Option<Phase> {
        Phase::ALL.into_iter().find(|one| one.name() == name)
    }
}

/// Where the attempt begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Start {
    /// In the cgroup.
    Inside,
    /// Outside; the process is moved in half-way. Has no counterpart under `run`.
    Outside,
    /// In the cgroup before anybody governs it. Has no counterpart under `run`.
    Before,
    /// In the cgroup, last of all: it tries to break the governing itself.
    Last,
}

/// What counts as getting out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judge {
    /// A packet with its address or its token on a cable.
    Wire,
    /// A descriptor that can carry bytes to other hosts or to the hypervisor: nothing is sent by it.
    Descriptor,
    /// It must work: it leads nowhere outside.
    Allowed,
}

/// One mechanism.
#[derive(Clone, Copy, Debug)]
pub struct Vector {
    /// Stable name, shared with `caracald doctor`.
    pub name: &'static str,
    /// Class of the catalogue, 1 to 28.
    pub class: u8,
    /// What it does.
    pub what: &'static str,
    /// Who the kernel itself lets do it.
    pub who: &'static [Privilege],
    /// Where it begins.
    pub start: Start,
    /// What is a leak.
    pub judge: Judge,
    /// The reason codes by which the kernel programs may refuse it; empty where the daemon or something else does.
    pub reasons: &'static [&'static str],
}

const ALL: &[Privilege] = &Privilege::ALL;
const ROOT: &[Privilege] = &[Privilege::Root];
const USER: &[Privilege] = &[Privilege::User];
const HOST: &[Privilege] = &[Privilege::User, Privilege::Root];

const fn wire(
    name: &'static str,
    class: u8,
    who: &'static [Privilege],
    reasons: &'static [&'static str],
    what: &'static str,
) -> Vector {
    Vector { name, class, what, who, start: Start::Inside, judge: Judge::Wire, reasons }
}

const fn from(start: Start, vector: Vector) -> Vector {
    Vector { start, ..vector }
}

const fn family(name: &'static str, who: &'static [Privilege], what: &'static str) -> Vector {
    Vector { name, class: 11, what, who, start: Start::Inside, judge: Judge::Descriptor, reasons: &[] }
}

const fn device(name: &'static str, who: &'static [Privilege], what: &'static str) -> Vector {
    Vector { name, class: 23, what, who, start: Start::Inside, judge: Judge::Descriptor, reasons: DEVICE }
}

const fn allowed(name: &'static str, class: u8, what: &'static str) -> Vector {
    Vector { name, class, what, who: ALL, start: Start::Inside, judge: Judge::Allowed, reasons: &[] }
}

const DATAGRAM: &[&str] = &["datagram_refused"];
const KIND: &[&str] = &["socket_kind_refused"];
const PACKET: &[&str] = &["packet_refused"];
const INBOUND: &[&str] = &["inbound_refused"];
const MULTICAST: &[&str] = &["multicast_refused"];
const DEVICE: &[&str] = &["device_refused"];
const NONE: &[&str] = &[];

/// Every mechanism. The place in the list is part of the address that it aims at: at most 250.
pub const VECTORS: &[Vector] = &[
    wire("tcp_connect", 1, ALL, NONE, "connects and writes"),
    wire("ipv6_addrform", 1, ALL, DATAGRAM, "turns a mapped IPv6 datagram socket into an IPv4 one, then sends"),
    wire(
        "neighbour_solicitation",
        1,
        ALL,
        DATAGRAM,
        "a datagram to a link-local address: the kernel asks the link for it",
    ),
    wire(
        "arp_request",
        1,
        ALL,
        DATAGRAM,
        "a datagram to a neighbour that is not there: the kernel asks the link for it",
    ),
    wire("fast_open_sendto", 2, ALL, NONE, "sendto with MSG_FASTOPEN: data in the SYN"),
    wire("fast_open_connect", 2, ALL, NONE, "TCP_FASTOPEN_CONNECT, then write"),
    wire("mptcp_connect", 3, ALL, KIND, "connects an MPTCP socket"),
    wire("mptcp_fast_open", 3, ALL, KIND, "sendto with MSG_FASTOPEN on an MPTCP socket"),
    wire("udp_sendto", 4, ALL, DATAGRAM, "an unconnected datagram"),
    wire("udp_connected", 4, ALL, DATAGRAM, "connect, then send"),
    wire("udp_connected_sendto", 4, ALL, DATAGRAM, "connected to one place, sends to another"),
    wire("udp_sendmmsg", 4, ALL, DATAGRAM, "many datagrams in one call"),
    wire("udp_corked", 4, ALL, DATAGRAM, "MSG_MORE, then the rest"),
    wire("udp_segmented", 4, ALL, DATAGRAM, "one long datagram that the kernel cuts (UDP_SEGMENT)"),
    wire("udp_disconnected", 4, ALL, DATAGRAM, "connects, disconnects with AF_UNSPEC, sends"),
    wire("udp_splice", 4, ALL, DATAGRAM, "splices a pipe into a connected datagram socket"),
    wire("udp_zerocopy", 4, ALL, DATAGRAM, "MSG_ZEROCOPY"),
    wire("quic_initial", 5, ALL, DATAGRAM, "a QUIC Initial to port 443, connected and not"),
    wire("dns_refused_name", 6, ALL, NONE, "asks a resolver for a name that policy refuses, UDP"),
    wire("dns_tcp_refused_name", 6, ALL, NONE, "the same over TCP"),
    wire("dns_txt_tunnel", 6, ALL, NONE, "a TXT query whose name carries bytes"),
    wire("dns_port_no_query", 6, ALL, NONE, "bytes that are no query to port 53"),
    wire("dns_over_tls", 6, ALL, NONE, "a ClientHello to port 853"),
    wire("nscd_socket", 7, ALL, NONE, "asks a name service cache by its socket"),
    wire("resolved_varlink", 7, ALL, NONE, "asks systemd-resolved by its socket"),
    wire("stub_resolver", 7, ALL, NONE, "asks a stub on 127.0.0.53"),
    wire("multicast_dns", 7, ALL, NONE, "an mDNS query to its group"),
    wire("loopback_tcp_relay", 8, ALL, NONE, "a relay on 127.0.0.1, ::1 and another 127 address"),
    wire("loopback_udp_relay", 8, ALL, NONE, "the same by datagrams"),
    wire("own_address_relay", 8, ALL, NONE, "a relay at an address of this host that is not a loopback one"),
    wire("unspecified_address_relay", 8, ALL, NONE, "a relay by 0.0.0.0 and ::"),
    allowed("loopback_own", 8, "two sockets of one agent"),
    wire("ping_sendto", 9, HOST, KIND, "an ICMP echo by a datagram socket"),
    wire("ping_connected", 9, HOST, KIND, "the same, connected"),
    wire("raw_icmp", 9, ROOT, KIND, "a raw ICMP socket"),
    wire("raw_connected", 9, ROOT, KIND, "the same, connected"),
    wire("raw_header_included", 9, ROOT, KIND, "a packet with a header of its own making"),
    wire("raw_unassigned", 9, ROOT, KIND, "a raw socket of a protocol that nobody has"),
    wire("udplite_sendto", 9, ALL, KIND, "an unconnected UDP-Lite datagram"),
    wire("udplite_connected", 9, ALL, KIND, "a connected UDP-Lite socket"),
    wire("sctp_connect", 9, ALL, KIND, "connects an SCTP socket"),
    wire("sctp_sendto", 9, ALL, KIND, "SCTP, one to many"),
    wire("dccp_connect", 9, ALL, KIND, "connects a DCCP socket"),
    wire("l2tp_ip", 9, ROOT, KIND, "an L2TP datagram over IP"),
    wire("packet_datagram", 10, ROOT, NONE, "a packet socket below IP"),
    wire("packet_raw", 10, ROOT, NONE, "a packet socket with the link header"),
    wire("packet_ring", 10, ROOT, NONE, "a packet socket with a transmit ring"),
    wire("xdp_socket", 10, ROOT, NONE, "an AF_XDP socket in copy mode"),
    family("vsock", ALL, "AF_VSOCK: to the hypervisor"),
    family("bluetooth", ALL, "AF_BLUETOOTH"),
    family("can", ALL, "AF_CAN"),
    family("rds", ALL, "AF_RDS"),
    family("smc", ALL, "AF_SMC"),
    family("tipc", ALL, "AF_TIPC"),
    family("rxrpc", ALL, "AF_RXRPC"),
    family("qrtr", ALL, "AF_QIPCRTR"),
    family("ieee802154", ALL, "AF_IEEE802154"),
    wire("smc_inet", 11, ALL, KIND, "IPPROTO_SMC of AF_INET"),
    wire("listen_autobind", 12, ALL, INBOUND, "listens without bind and answers a connection from outside"),
    wire("listen_bound", 12, ALL, INBOUND, "the same, bound"),
    wire("udp_answer", 12, ALL, INBOUND, "answers a datagram from outside"),
    wire("activated_listener", 12, ALL, NONE, "a listener that was opened outside and inherited"),
    wire("inherited_udp", 13, ALL, NONE, "a connected datagram socket opened outside and inherited"),
    wire("inherited_tcp", 13, ALL, NONE, "the same, TCP"),
    wire("inherited_sendfile", 13, ALL, NONE, "sendfile into an inherited TCP socket"),
    wire("passed_connected", 13, ALL, NONE, "a connected socket received by SCM_RIGHTS"),
    wire("passed_unconnected", 13, ALL, NONE, "an unconnected one, used with sendto"),
    wire("passed_then_connect", 13, ALL, NONE, "an unconnected TCP socket, connected inside"),
    wire("pidfd_getfd", 13, HOST, NONE, "takes a socket out of another process"),
    wire("process_memory", 13, HOST, NONE, "writes into another process what it will send"),
    from(
        Start::Outside,
        wire("created_before_joining", 13, ALL, NONE, "a socket made outside, connected after joining"),
    ),
    from(
        Start::Outside,
        wire("connected_before_joining", 13, ALL, NONE, "connected outside, written to after joining"),
    ),
    from(Start::Before, wire("tcp_before_attach", 13, ALL, PACKET, "connected before the cgroup was governed, TCP")),
    from(Start::Before, wire("udp_before_attach", 13, ALL, DATAGRAM, "connected before the cgroup was governed, UDP")),
    wire("uring_connect", 14, ALL, NONE, "connects and sends by io_uring"),
    wire("uring_sendmsg", 14, ALL, DATAGRAM, "a datagram by io_uring"),
    wire("uring_socket", 14, ALL, DATAGRAM, "makes its socket by io_uring, too"),
    wire("uring_polled", 14, ALL, DATAGRAM, "the kernel's own thread submits (SQPOLL)"),
    wire("uring_join", 14, ALL, MULTICAST, "joins a group by io_uring: the kernel announces it"),
    wire("cgroup_procs", 15, ALL, NONE, "moves itself by cgroup.procs to a cgroup beside"),
    wire("cgroup_made", 15, ALL, NONE, "makes a cgroup beside and moves itself there"),
    wire("clone_into_cgroup", 15, ALL, NONE, "starts a child in a cgroup beside (clone3)"),
    wire("unix_stream", 16, ALL, NONE, "a deputy on a stream socket with a path"),
    wire("unix_datagram", 16, ALL, NONE, "a deputy on a datagram socket with a path"),
    wire("unix_seqpacket", 16, ALL, NONE, "a deputy on a packet socket with a path"),
    wire("unix_abstract", 16, ALL, NONE, "a deputy on an abstract socket"),
    wire("unix_pass_out", 16, ALL, NONE, "hands a socket of its own to a deputy, which sends by it"),
    allowed("unix_own", 16, "two unix sockets of one agent"),
    wire("setuid_program", 17, USER, KIND, "a set-uid program with a raw socket"),
    wire("spooled_job", 17, ALL, NONE, "a job file that a service outside carries out, as cron and at do"),
    wire("socket_before_unshare", 18, ALL, NONE, "a socket made before the process entered a namespace of its own"),
    // Until its listener is there it is an unknown namespace, then the policy's: which of the two is a matter of speed.
    wire("namespace_with_cable", 18, ALL, NONE, "a network namespace of its own, with a cable to the host"),
    wire("cgroup_v1_net_cls", 19, ALL, NONE, "a cgroup v1 that marks sockets"),
    wire(
        "bpf_child_program",
        20,
        ALL,
        DATAGRAM,
        "attaches a program that allows everything to a cgroup below, then sends",
    ),
    wire("bpf_prog_detach", 21, ALL, DATAGRAM, "BPF_PROG_DETACH on its own cgroup, then sends"),
    wire("igmp_join", 22, ALL, MULTICAST, "joins an IPv4 group: the kernel announces it"),
    wire("mld_join", 22, ALL, MULTICAST, "joins an IPv6 group: the kernel announces it"),
    wire("source_group_join", 22, ALL, MULTICAST, "joins a group for one source, by the newer option"),
    wire("tun_device", 23, HOST, DEVICE, "writes packets into a tunnel device that is its user's"),
    wire(
        "tun_in_namespace",
        23,
        ALL,
        DEVICE,
        "makes a tunnel device in a namespace of its own, which forwards to its cable",
    ),
    device("vhost_net", HOST, "/dev/vhost-net: packets for a tunnel or a card"),
    device("vhost_vsock", HOST, "/dev/vhost-vsock: to other virtual machines' hosts"),
    device("raw_memory", ROOT, "/dev/mem: the daemon's keys, and every card"),
    device("raw_disk", HOST, "a disk as a block device: the daemon's files"),
    wire("fifo", 24, ALL, NONE, "a named pipe that a process outside reads"),
    wire("shared_file", 24, ALL, NONE, "a file that a process outside reads"),
    wire("message_queue", 24, ALL, NONE, "a System V message queue"),
    wire("many_connections", 25, ALL, NONE, "after 2,000 open connections, one more and a datagram"),
    wire("port_reuse", 25, ALL, NONE, "one source port for many destinations"),
    wire("device_bound_tcp", 26, ALL, PACKET, "a socket bound to a network card"),
    wire("device_bound_dns", 26, ALL, PACKET, "the same, by datagrams to the resolver's port"),
    wire("source_address", 26, ALL, PACKET, "a socket bound to the card's address"),
    wire("source_reset", 26, ALL, PACKET, "the same, closed before the answer: the kernel sends a reset by the card"),
    wire(
        "source_freely_chosen",
        26,
        ALL,
        NONE,
        "a source that is not this host's (IP_FREEBIND): the answer is sent there",
    ),
    wire("packet_information", 26, ALL, DATAGRAM, "IP_PKTINFO names the card"),
    wire("unicast_interface", 26, ALL, DATAGRAM, "IP_UNICAST_IF names the card"),
    wire("source_route", 26, ROOT, &["packet_refused", "datagram_refused"], "IP_OPTIONS with a source route"),
    wire("routing_header", 26, ALL, &["packet_refused", "datagram_refused"], "an IPv6 routing header"),
    wire("marked", 26, ROOT, DATAGRAM, "SO_MARK"),
    wire("transparent", 26, ROOT, DATAGRAM, "IP_TRANSPARENT with another's address"),
    wire("dont_route", 26, ALL, DATAGRAM, "MSG_DONTROUTE to a neighbour"),
    wire("host_header", 27, ALL, NONE, "an HTTP request for a host that policy refuses"),
    wire("two_hosts", 27, ALL, NONE, "a request with two Host headers"),
    wire("absolute_form", 27, ALL, NONE, "a request whose target names another host than Host does"),
    wire("connect_tunnel", 27, ALL, NONE, "CONNECT, then bytes"),
    wire("tls_other_name", 27, ALL, NONE, "a ClientHello for a name that policy refuses"),
    wire("http2_prior_knowledge", 27, ALL, NONE, "an HTTP/2 preface and bytes"),
    wire("daemon_uid", 28, ROOT, DATAGRAM, "becomes the user of the data path"),
    wire("daemon_port_outside", 28, ALL, NONE, "the daemon's port at an address outside"),
    from(Start::Last, wire("pins_unlinked", 21, ROOT, NONE, "removes every pin that it finds, then sends")),
    from(Start::Last, wire("daemon_killed", 21, ROOT, NONE, "kills the daemon, then sends")),
    from(Start::Last, wire("link_detached", 21, ROOT, NONE, "opens the pinned links and detaches them, then sends")),
];

/// The vector with this name and its place in the list.
#[must_use]
pub fn named(name: &str) -> Option<(usize, &'static Vector)> {
    VECTORS.iter().enumerate().find(|(_, vector)| vector.name == name)
}

/// The port of everything that is aimed at: an echo listens there.
pub const PORT: u16 = crate::wire::CANARY_PORT;
/// Where a server says at which address it was called.
pub const ECHO_PORTS: std::ops::RangeInclusive<u16> = 5_001..=5_004;
/// Where the accomplice relays TCP and UDP.
pub const RELAY_PORT: u16 = 7_801;
/// What every token begins with.
pub const TOKEN: &str = "caracal-canary";
/// How long a token is.
pub const TOKEN_LENGTH: usize = TOKEN.len() + 10;

/// Whose attempt, under which circumstances: what is aimed at says it, so that a packet seen anywhere has an owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Aim {
    /// Place in [`VECTORS`].
    pub vector: usize,
    /// Who tries.
    pub privilege: Privilege,
    /// Under which circumstances.
    pub phase: Phase,
}

impl Aim {
    fn numbers(self) -> [u8; 3] {
        [self.privilege as u8 + 1, self.phase as u8, u8::try_from(self.vector + 1).unwrap_or(0)]
    }

    /// `9.PRIVILEGE.PHASE.VECTOR`: in the world of a test every address is the other host's.
    #[must_use]
    pub fn ip4(self) -> Ipv4Addr {
        let [privilege, phase, vector] = self.numbers();
        Ipv4Addr::new(9, privilege, phase, vector)
    }

    /// `2001:db8:9:PRIVILEGE:PHASE::VECTOR`.
    #[must_use]
    pub fn ip6(self) -> Ipv6Addr {
        let [privilege, phase, vector] = self.numbers().map(u16::from);
        Ipv6Addr::new(0x2001, 0xdb8, 9, privilege, phase, 0, 0, vector)
    }

    /// A link-local address that nobody has.
    #[must_use]
    pub fn link_local(self) -> Ipv6Addr {
        let [privilege, phase, vector] = self.numbers().map(u16::from);
        Ipv6Addr::new(0xfe80, 0, 0, 0, 9, privilege, phase, vector)
    }

    /// A neighbour on the cable that nobody is, for the two that aim at one; the cable's own are .1 and .2.
    #[must_use]
    pub fn neighbour(self) -> Option<Ipv4Addr> {
        let [privilege, phase, _] = self.numbers();
        let base = match VECTORS.get(self.vector)?.name {
            "arp_request" => 100,
            "dont_route" => 150,
            _ => return None,
        };
        Some(Ipv4Addr::new(198, 51, 100, base + 10 * privilege + phase))
    }

    /// IPv4, IPv6, and IPv4 as IPv6 sees it.
    #[must_use]
    pub fn all(self, port: u16) -> [SocketAddr; 3] {
        let (four, six) = (self.ip4(), self.ip6());
        [IpAddr::V4(four), IpAddr::V6(six), IpAddr::V6(four.to_ipv6_mapped())].map(|ip| SocketAddr::new(ip, port))
    }

    /// `239.PRIVILEGE.PHASE.VECTOR`.
    #[must_use]
    pub fn group4(self) -> Ipv4Addr {
        let [privilege, phase, vector] = self.numbers();
        Ipv4Addr::new(239, privilege, phase, vector)
    }

    /// `ff05::9:PRIVILEGE:PHASE:VECTOR`.
    #[must_use]
    pub fn group6(self) -> Ipv6Addr {
        let [privilege, phase, vector] = self.numbers().map(u16::from);
        Ipv6Addr::new(0xff05, 0, 0, 0, 9, privilege, phase, vector)
    }

    /// Bytes that are this attempt's and nobody else's; a good DNS label.
    #[must_use]
    pub fn token(self) -> String {
        let [privilege, phase, vector] = self.numbers();
        format!("{TOKEN}-{privilege}-{phase}-{vector:03}-x")
    }

    fn of_numbers([privilege, phase, vector]: [u16; 3]) -> Option<Aim> {
        let privilege = Privilege::ALL.into_iter().find(|one| *one as u16 + 1 == privilege)?;
        let phase = Phase::ALL.into_iter().find(|one| *one as u16 == phase)?;
        let vector = usize::from(vector).checked_sub(1).filter(|place| *place < VECTORS.len())?;
        Some(Aim { vector, privilege, phase })
    }

    /// The attempt whose token this is.
    #[must_use]
    pub fn of_token(token: &[u8]) -> Option<Aim> {
        let text = std::str::from_utf8(token).ok()?.strip_prefix(TOKEN)?.strip_suffix("-x")?;
        let mut numbers = text.split('-').skip(1).map(|word| word.parse().ok());
        Aim::of_numbers([numbers.next()??, numbers.next()??, numbers.next()??])
    }

    /// The attempt that aims at this address.
    #[must_use]
    pub fn of_address(ip: IpAddr) -> Option<Aim> {
        match ip.to_canonical() {
            IpAddr::V4(four) => match four.octets() {
                [9, privilege, phase, vector] => Aim::of_numbers([privilege, phase, vector].map(u16::from)),
                [198, 51, 100, last] if last >= 100 => aims().find(|aim| aim.neighbour() == Some(four)),
                _ => None,
            },
            IpAddr::V6(six) => match six.segments() {
                [0x2001, 0xdb8, 9, privilege, phase, 0, 0, vector] | [0xfe80, 0, 0, 0, 9, privilege, phase, vector] => {
                    Aim::of_numbers([privilege, phase, vector])
                }
                _ => None,
            },
        }
    }

    /// The attempt that joins this group.
    #[must_use]
    pub fn of_group(ip: IpAddr) -> Option<Aim> {
        match ip {
            IpAddr::V4(four) => match four.octets() {
                [239, privilege, phase, vector] => Aim::of_numbers([privilege, phase, vector].map(u16::from)),
                _ => None,
            },
            IpAddr::V6(six) => match six.segments() {
                [0xff05, 0, 0, 0, 9, privilege, phase, vector] => Aim::of_numbers([privilege, phase, vector]),
                _ => None,
            },
        }
    }

    /// The attempt that lets itself be called at this port.
    #[must_use]
    pub fn of_inbound_port(port: u16) -> Option<Aim> {
        let rest = port.checked_sub(20_000)?;
        Aim::of_numbers([rest / 4_000 + 1, (rest % 4_000) / 1_000 + 1, rest % 1_000])
    }

    /// A port of this host at which it lets itself be called.
    #[must_use]
    pub fn inbound_port(self) -> u16 {
        let [privilege, phase, vector] = self.numbers().map(u16::from);
        20_000 + 4_000 * (privilege - 1) + 1_000 * (phase - 1) + vector
    }
}

/// Every possible attempt.
pub fn aims() -> impl Iterator<Item = Aim> {
    let one = |vector| {
        Privilege::ALL.into_iter().flat_map(move |privilege| Phase::ALL.map(|phase| Aim { vector, privilege, phase }))
    };
    (0..VECTORS.len()).flat_map(one)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn every_class_has_a_mechanism_and_every_name_is_one() {
        let classes: BTreeSet<u8> = VECTORS.iter().map(|vector| vector.class).collect();
        assert_eq!(classes, (1..=28).collect());
        let names: BTreeSet<&str> = VECTORS.iter().map(|vector| vector.name).collect();
        assert_eq!(names.len(), VECTORS.len());
        assert!((60..=250).contains(&names.len()));
        assert!(
            names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'))
        );
    }

    #[test]
    fn no_two_attempts_aim_at_the_same_place() {
        let addresses: BTreeSet<_> =
            aims().map(|aim| (aim.ip4(), aim.ip6(), aim.group6(), aim.inbound_port())).collect();
        assert_eq!(addresses.len(), aims().count());
        let ports: BTreeSet<_> = aims().map(Aim::inbound_port).collect();
        assert_eq!(ports.len(), aims().count());
        assert_eq!(aims().map(Aim::token).collect::<BTreeSet<_>>().len(), aims().count());
        for aim in aims() {
            assert_eq!(Aim::of_token(aim.token().as_bytes()), Some(aim));
            assert_eq!(Aim::of_address(aim.ip4().into()), Some(aim));
            assert_eq!(Aim::of_address(aim.ip6().into()), Some(aim));
            assert_eq!(Aim::of_address(aim.link_local().into()), Some(aim));
            assert_eq!(Aim::of_group(aim.group4().into()), Some(aim));
            assert_eq!(Aim::of_group(aim.group6().into()), Some(aim));
            assert_eq!(Aim::of_inbound_port(aim.inbound_port()), Some(aim));
            assert!(aim.neighbour().is_none_or(|ip| Aim::of_address(ip.into()) == Some(aim)));
            assert_eq!(aim.token().len(), TOKEN_LENGTH);
        }
    }
}
