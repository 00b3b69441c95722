//! Every known way out, and the attempts that show on this kernel whether it is closed. Data only: what is covered is
//! found out by [`super::coverage`], never written down here. `tests/escape` tries each way by the same name, with
//! programs of its own, and fails when the two disagree.

/// How much of the promise a way belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Scope {
    /// What a process sends by sockets of its own: the level `network`.
    Network,
    /// Deputies, descriptors, other families, the programs themselves: the level `full`.
    Full,
    /// Closed by no level: bytes that another program picks up later, or by a unix socket that was connected before.
    Residual,
}

/// A way out.
#[derive(Clone, Copy, Debug)]
pub struct Vector {
    /// Stable name.
    pub name: &'static str,
    /// Class of the catalogue, 1 to 28.
    pub class: u8,
    /// Where it belongs.
    pub scope: Scope,
    /// The attempts that must all be refused.
    pub attempts: &'static [&'static str],
    /// What closes it, for kernels on which it is open.
    pub closer: &'static str,
}

const fn network(name: &'static str, class: u8, attempts: &'static [&'static str], closer: &'static str) -> Vector {
    Vector { name, class, scope: Scope::Network, attempts, closer }
}

const fn full(name: &'static str, class: u8, attempts: &'static [&'static str], closer: &'static str) -> Vector {
    Vector { name, class, scope: Scope::Full, attempts, closer }
}

const fn residual(name: &'static str, class: u8, attempts: &'static [&'static str], closer: &'static str) -> Vector {
    Vector { name, class, scope: Scope::Residual, attempts, closer }
}

const CONNECT: &str = "connect4 and connect6";
const SENDMSG: &str = "sendmsg4 and sendmsg6";
const EGRESS: &str = "egress";
const CREATE: &str = "sock_create";
const DEVICE: &str = "device";
const FAMILY: &str = "BPF LSM: socket_create";
const FOREIGN: &str = "BPF LSM: socket_sendmsg";
const UNIX: &str = "BPF LSM: unix_stream_connect, unix_may_send";
const CGROUP: &str = "BPF LSM: inode_permission";
const BEFORE: &str = "nothing: close such sockets before the attach, or start the command by `caracald run`";
const LATER: &str = "nothing: keep such programs from acting for agents";

/// All of them.
pub const VECTORS: &[Vector] = &[
    network("tcp_connect", 1, &["tcp"], CONNECT),
    network("ipv6_addrform", 1, &["udp", "udp_connected"], SENDMSG),
    network("neighbour_solicitation", 1, &["udp"], SENDMSG),
    network("arp_request", 1, &["udp"], SENDMSG),
    network("fast_open_sendto", 2, &["fast_open"], CONNECT),
    network("fast_open_connect", 2, &["fast_open"], CONNECT),
    network("mptcp_connect", 3, &["socket:2:1:262"], CREATE),
    network("mptcp_fast_open", 3, &["mptcp_fast_open"], CREATE),
    network("udp_sendto", 4, &["udp"], SENDMSG),
    network("udp_connected", 4, &["udp_connected"], EGRESS),
    network("udp_connected_sendto", 4, &["udp"], SENDMSG),
    network("udp_sendmmsg", 4, &["udp"], SENDMSG),
    network("udp_corked", 4, &["udp"], SENDMSG),
    network("udp_segmented", 4, &["udp"], SENDMSG),
    network("udp_disconnected", 4, &["udp"], SENDMSG),
    network("udp_splice", 4, &["udp_connected"], EGRESS),
    network("udp_zerocopy", 4, &["udp"], SENDMSG),
    network("quic_initial", 5, &["udp", "udp_connected"], SENDMSG),
    network("dns_refused_name", 6, &["udp", "udp_connected"], SENDMSG),
    network("dns_tcp_refused_name", 6, &["tcp"], CONNECT),
    network("dns_txt_tunnel", 6, &["udp", "udp_connected"], SENDMSG),
    network("dns_port_no_query", 6, &["udp", "udp_connected"], SENDMSG),
    network("dns_over_tls", 6, &["tcp"], CONNECT),
    full("nscd_socket", 7, &["unix_stream"], UNIX),
    full("resolved_varlink", 7, &["unix_stream"], UNIX),
    network("stub_resolver", 7, &["loopback_udp", "tcp"], EGRESS),
    network("multicast_dns", 7, &["udp"], SENDMSG),
    network("loopback_tcp_relay", 8, &["tcp"], CONNECT),
    network("loopback_udp_relay", 8, &["loopback_udp"], EGRESS),
    network("own_address_relay", 8, &["tcp", "udp"], CONNECT),
    network("unspecified_address_relay", 8, &["tcp"], CONNECT),
    network("ping_sendto", 9, &["socket:2:2:1"], CREATE),
    network("ping_connected", 9, &["socket:2:2:1"], CREATE),
    network("raw_icmp", 9, &["socket:2:3:1"], CREATE),
    network("raw_connected", 9, &["socket:2:3:1"], CREATE),
    network("raw_header_included", 9, &["socket:2:3:255"], CREATE),
    network("raw_unassigned", 9, &["socket:2:3:253"], CREATE),
    network("udplite_sendto", 9, &["socket:2:2:136", "socket:10:2:136"], CREATE),
    network("udplite_connected", 9, &["socket:2:2:136", "socket:10:2:136"], CREATE),
    network("sctp_connect", 9, &["socket:2:1:132"], CREATE),
    network("sctp_sendto", 9, &["socket:2:5:132"], CREATE),
    network("dccp_connect", 9, &["socket:2:6:33"], CREATE),
    network("l2tp_ip", 9, &["socket:2:2:115"], CREATE),
    full("packet_datagram", 10, &["socket:17:2:8"], FAMILY),
    full("packet_raw", 10, &["socket:17:3:8"], FAMILY),
    full("packet_ring", 10, &["socket:17:3:8"], FAMILY),
    full("xdp_socket", 10, &["socket:44:3:0"], FAMILY),
    full("vsock", 11, &["socket:40:1:0"], FAMILY),
    full("bluetooth", 11, &["socket:31:5:0"], FAMILY),
    full("can", 11, &["socket:29:2:2"], FAMILY),
    full("rds", 11, &["socket:21:5:0"], FAMILY),
    full("alg", 11, &["socket:38:5:0"], FAMILY),
    full("smc", 11, &["socket:43:1:0"], FAMILY),
    full("tipc", 11, &["socket:30:4:0"], FAMILY),
    full("rxrpc", 11, &["socket:33:2:2"], FAMILY),
    full("qrtr", 11, &["socket:42:2:0"], FAMILY),
    full("ieee802154", 11, &["socket:36:2:0"], FAMILY),
    full("pppox", 11, &["socket:24:1:0"], FAMILY),
    network("smc_inet", 11, &["socket:2:1:256"], CREATE),
    network("listen_autobind", 12, &["inbound"], "ingress and egress"),
    network("listen_bound", 12, &["inbound"], "ingress and egress"),
    network("udp_answer", 12, &["inbound", "udp"], "ingress and egress"),
    full("activated_listener", 12, &["inherited_listener"], FOREIGN),
    full("inherited_udp", 13, &["inherited_socket"], FOREIGN),
    full("inherited_tcp", 13, &["inherited_socket"], FOREIGN),
    full("inherited_sendfile", 13, &["inherited_socket"], FOREIGN),
    full("passed_connected", 13, &["passed_socket"], "BPF LSM: file_receive"),
    full("passed_unconnected", 13, &["passed_socket"], "BPF LSM: file_receive"),
    full("passed_then_connect", 13, &["passed_socket"], "BPF LSM: file_receive"),
    full("pair_passed_connected", 13, &["pair_passed_socket"], "BPF LSM: file_receive"),
    full("pair_passed_unconnected", 13, &["pair_passed_socket"], "BPF LSM: file_receive"),
    full("pidfd_getfd", 13, &["pidfd_getfd"], "BPF LSM: ptrace_access_check"),
    full("process_memory", 13, &["process_memory"], "BPF LSM: ptrace_access_check"),
    full("created_before_joining", 13, &["created_before"], "BPF LSM: socket_connect"),
    full("connected_before_joining", 13, &["connected_before"], FOREIGN),
    network("tcp_before_attach", 13, &["udp_connected"], EGRESS),
    network("udp_before_attach", 13, &["udp_connected"], EGRESS),
    network("uring_connect", 14, &["tcp", "udp_connected"], CONNECT),
    network("uring_sendmsg", 14, &["udp"], SENDMSG),
    network("uring_socket", 14, &["uring_socket"], SENDMSG),
    network("uring_polled", 14, &["udp", "tcp"], SENDMSG),
    network("uring_join", 14, &["uring_join"], "setsockopt"),
    full("cgroup_procs", 15, &["cgroup_procs"], CGROUP),
    full("cgroup_made", 15, &["cgroup_procs"], CGROUP),
    full("clone_into_cgroup", 15, &["clone_into_cgroup"], CGROUP),
    full("unix_stream", 16, &["unix_stream"], UNIX),
    full("unix_datagram", 16, &["unix_datagram"], UNIX),
    full("unix_seqpacket", 16, &["unix_seqpacket"], UNIX),
    full("unix_abstract", 16, &["unix_abstract"], UNIX),
    network("unix_pass_out", 16, &["udp_connected"], EGRESS),
    network("pair_pass_out", 16, &["udp_connected"], EGRESS),
    residual("pair_deputy", 16, &["pair_deputy"], BEFORE),
    network("setuid_program", 17, &["socket:2:3:1"], CREATE),
    residual("spooled_job", 17, &["file"], LATER),
    network("socket_before_unshare", 18, &["tcp", "udp"], CONNECT),
    network("namespace_with_cable", 18, &["tcp", "udp", "udp_connected"], CONNECT),
    network("cgroup_v1_net_cls", 19, &["older_cgroup"], crate::keeper::cgroup_v1::REMEDY),
    network("bpf_child_program", 20, &["udp", "udp_connected"], SENDMSG),
    network("bpf_prog_detach", 21, &["prog_detach"], "links, which PROG_DETACH does not reach"),
    network("igmp_join", 22, &["join"], "setsockopt"),
    network("mld_join", 22, &["join"], "setsockopt"),
    network("source_group_join", 22, &["join"], "setsockopt"),
    network("tun_device", 23, &["tun"], DEVICE),
    network("tun_in_namespace", 23, &["tun"], DEVICE),
    network("vhost_net", 23, &["device:10:238"], DEVICE),
    network("vhost_vsock", 23, &["device:10:241"], DEVICE),
    network("vfio", 23, &["device:10:196"], DEVICE),
    network("ppp", 23, &["device:108:0"], DEVICE),
    network("raw_memory", 23, &["device:1:1"], DEVICE),
    network("raw_disk", 23, &["disk"], DEVICE),
    residual("fifo", 24, &["fifo"], LATER),
    residual("shared_file", 24, &["file"], LATER),
    residual("message_queue", 24, &["queue"], LATER),
    network("many_connections", 25, &["tcp", "udp", "udp_connected"], CONNECT),
    network("port_reuse", 25, &["tcp"], CONNECT),
    network("device_bound_tcp", 26, &["tcp"], EGRESS),
    network("device_bound_dns", 26, &["udp_connected"], EGRESS),
    network("source_address", 26, &["tcp", "udp"], CONNECT),
    network("source_reset", 26, &["tcp"], CONNECT),
    network("source_freely_chosen", 26, &["tcp", "udp", "udp_connected"], CONNECT),
    network("packet_information", 26, &["udp"], SENDMSG),
    network("unicast_interface", 26, &["udp", "udp_connected"], SENDMSG),
    network("source_route", 26, &["udp", "udp_connected"], EGRESS),
    network("routing_header", 26, &["udp", "udp_connected"], EGRESS),
    network("marked", 26, &["marked"], SENDMSG),
    network("transparent", 26, &["udp", "udp_connected"], SENDMSG),
    network("dont_route", 26, &["udp", "udp_connected"], SENDMSG),
    network("host_header", 27, &["tcp"], CONNECT),
    network("two_hosts", 27, &["tcp"], CONNECT),
    network("absolute_form", 27, &["tcp"], CONNECT),
    network("connect_tunnel", 27, &["tcp"], CONNECT),
    network("tls_other_name", 27, &["tcp"], CONNECT),
    network("http2_prior_knowledge", 27, &["tcp"], CONNECT),
    network("daemon_uid", 28, &["tcp", "udp", "udp_connected"], CONNECT),
    network("daemon_port_outside", 28, &["tcp"], CONNECT),
    network("daemon_killed", 21, &["tcp", "udp", "udp_connected"], CONNECT),
    network("pins_unlinked", 21, &["pins_unlinked"], "links held by the keeper"),
    full("link_detached", 21, &["pin_opened"], "BPF LSM: bpf, inode_permission"),
];

/// Every attempt that some way needs, once; what may break the programs comes last.
#[must_use]
pub fn attempts() -> Vec<&'static str> {
    let mut all: Vec<&'static str> = Vec::new();
    for name in VECTORS.iter().flat_map(|vector| vector.attempts) {
        if !all.contains(name) {
            all.push(name);
        }
    }
    all.sort_by_key(|name| *name == "pins_unlinked");
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_unique_and_all_classes_are_there() {
        let names: std::collections::BTreeSet<_> = VECTORS.iter().map(|vector| vector.name).collect();
        assert_eq!(names.len(), VECTORS.len());
        assert_eq!((1..=28).filter(|class| !VECTORS.iter().any(|vector| vector.class == *class)).count(), 0);
        assert_eq!(attempts().last(), Some(&"pins_unlinked"));
        assert!(attempts().iter().all(|name| super::super::attempts::is_known(name)));
    }
}
