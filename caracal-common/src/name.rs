//! Map and program names, so that a slip does not compile.

/// Map: the one [`crate::settings::Settings`].
pub const SETTINGS: &str = "SETTINGS";
/// Map: the one [`crate::settings::Lease`].
pub const LEASE: &str = "LEASE";
/// Map: cgroup id to [`crate::settings::AgentEntry`].
pub const AGENTS: &str = "AGENTS";
/// Map: network namespace cookie to nothing; the namespaces with a listener.
pub const NAMESPACES: &str = "NAMESPACES";
/// Map: socket storage, the [`crate::flow::Flow`] of each governed socket.
pub const SOCKETS: &str = "SOCKETS";
/// Map: socket storage, a [`crate::settings::Foreign`] on each socket that is fenced in.
pub const FOREIGN: &str = "FOREIGN";
/// Map: [`crate::flow::Source`] to [`crate::flow::Flow`].
pub const SOURCES: &str = "SOURCES";
/// Map: [`crate::flow::Source`] of a DNS query over UDP to [`crate::flow::Flow`].
pub const RESOLVING: &str = "RESOLVING";
/// Map: ring of [`crate::denial::Denial`].
pub const DENIALS: &str = "DENIALS";
/// Map: [`crate::counter::CounterKey`] to a count.
pub const COUNTERS: &str = "COUNTERS";
/// Map: cgroup id of each governed directory, agent or not, to its depth.
pub const GOVERNED: &str = "GOVERNED";
/// Map: one word, a bit for each depth at which a governed directory is.
pub const LEVELS: &str = "LEVELS";
/// Map: [`crate::house::Inode`] to its kind; the daemon's own property.
pub const HOUSE: &str = "HOUSE";
/// Map: prefixes of [`crate::unix::UnixName`]; unix sockets outside that an agent may reach.
pub const UNIX_ALLOWED: &str = "UNIX_ALLOWED";

/// The programs of the BPF LSM (`security/lsm_hook_defs.h` of the kernel), each named `lsm_` and its hook. Their links
/// are one set an instance: they decide by the task, and let whoever is not governed pass.
pub const LSM: [&str; 22] = [
    "bpf",
    "capable",
    "file_open",
    "file_receive",
    "inode_getxattr",
    "inode_link",
    "inode_permission",
    "inode_rename",
    "inode_setattr",
    "inode_unlink",
    "ptrace_access_check",
    "sb_umount",
    "socket_accept",
    "socket_connect",
    "socket_create",
    "socket_listen",
    "socket_recvmsg",
    "socket_sendmsg",
    "task_kill",
    "unix_may_send",
    "unix_stream_connect",
    // Before 6.5 sendfile and splice go past `socket_sendmsg`.
    "file_permission",
];

/// Map: [`crate::inbound::Inbound`] to nothing; the ports of agents that others on the host may connect to.
pub const INBOUND: &str = "INBOUND";
/// Map: what [`NETNS_COOKIE`] saw last.
pub const COOKIE: &str = "COOKIE";

/// Program: tells the cookie of the namespace that a socket is made in, where the kernel has no other way (before 5.14).
/// Attached to a cgroup of the keeper's own, for a moment; not one of [`PROGRAMS`].
pub const NETNS_COOKIE: &str = "netns_cookie";

/// Every program, by its function's name.
pub const PROGRAMS: [&str; 16] = [
    "connect4",
    "connect6",
    "sendmsg4",
    "sendmsg6",
    "recvmsg4",
    "recvmsg6",
    "getpeername4",
    "getpeername6",
    "sock_create",
    "setsockopt",
    "device",
    "bind4",
    "bind6",
    "egress",
    "ingress",
    "sock_ops",
];

/// The programs at the root of the hierarchy, which fence in sockets that were made elsewhere.
pub const FENCE: [&str; 2] = ["foreign_egress", "foreign_ingress"];
