//! The list itself: data, one line a mechanism.

use super::{Judge, Privilege, Start, Vector};

const ALL: &[Privilege] = &Privilege::ALL;
const ROOT: &[Privilege] = &[Privilege::Root];
const USER: &[Privilege] = &[Privilege::User];
const USERNS: &[Privilege] = &[Privilege::Userns];
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
    family("alg", ALL, "AF_ALG: the kernel's ciphers"),
    family("smc", ALL, "AF_SMC"),
    family("tipc", ALL, "AF_TIPC"),
    family("rxrpc", ALL, "AF_RXRPC"),
    family("qrtr", ALL, "AF_QIPCRTR"),
    family("ieee802154", ALL, "AF_IEEE802154"),
    family("pppox", ALL, "AF_PPPOX: PPP over a card's frames"),
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
    wire(
        "pair_passed_connected",
        13,
        ALL,
        NONE,
        "a connected socket received over a socket pair that was inherited: no connect to whoever passes it",
    ),
    wire("pair_passed_unconnected", 13, ALL, NONE, "an unconnected one by the same way, used with sendto"),
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
    wire("pair_pass_out", 16, ALL, NONE, "hands a socket of its own to a deputy over a socket pair that was inherited"),
    wire("pair_deputy", 16, ALL, NONE, "a deputy at the other end of a socket pair that was inherited"),
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
    device("vfio", HOST, "/dev/vfio/vfio: a card in the process's own hands"),
    device("ppp", USERNS, "/dev/ppp: links of the kernel's, whose other end is the process"),
    Vector { who: HOST, ..allowed("kvm", 23, "/dev/kvm: what runs in its machine reaches what the process reaches") },
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
}
