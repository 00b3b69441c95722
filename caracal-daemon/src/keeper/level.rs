//! Takes what the kernel took of the LSM programs; gives the level that is in force and what it leaves uncovered, in the
//! words of `status` and of the ledger. Never says `full` on the strength of a pin: [`super::lsm::Lsm::prove`] asks.

use std::path::PathBuf;

use caracal_common::house::{READ_ONLY, SHUT};
use serde_json::{Value, json};

use super::cgroup_v1;
use super::kernel::Kernel;
use super::lsm::Lsm;
use super::serve::Places;
use crate::config::Config;

/// What is enforced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Level {
    /// Why it is not `full`; nothing when it is.
    pub lacks: Option<String>,
    /// What is left uncovered: a stable code, and what it means.
    pub uncovered: Vec<(&'static str, &'static str)>,
    /// It is not even `network`: this kernel refuses programs of that level, or sockets may leave their cgroup on it.
    pub degraded: bool,
}

/// What each group of hooks closes.
const CLOSES: [(&[&str], &str, &str); 6] = [
    (&["socket_create"], "socket_families", "socket families beside TCP/IP, such as AF_VSOCK, and AF_PACKET for root"),
    (
        &[
            "socket_accept",
            "socket_connect",
            "socket_listen",
            "socket_recvmsg",
            "socket_sendmsg",
            "file_receive",
            "file_permission",
        ],
        "foreign_sockets",
        "sockets made outside of the agent: inherited, passed, or taken",
    ),
    (
        &["unix_stream_connect", "unix_may_send"],
        "unix_sockets",
        "unix sockets of helpers outside: docker, systemd, D-Bus, ssh and gpg agents (`run` hides those at known places)",
    ),
    (&["inode_permission"], "cgroup_moves", "moves out of the cgroup, by root"),
    (
        &["capable", "file_open", "ptrace_access_check", "task_kill"],
        "other_processes",
        "ptrace and signals to processes outside, of the same user; on newer kernels what procfs shows root of any",
    ),
    (
        &[
            "bpf",
            "file_open",
            "inode_getxattr",
            "inode_link",
            "inode_rename",
            "inode_setattr",
            "inode_unlink",
            "sb_umount",
        ],
        "daemon_property",
        "pins, keys, journal and configuration of the daemon, by root",
    ),
];

/// What each program of the level `network` closes that a kernel may be without.
const PARTS: [(&[&str], &str, &str); 6] = [
    (
        &["sendmsg4", "sendmsg6"],
        "dns_answers",
        "names looked up without a connect (musl): refused, since only connected queries reach our resolver",
    ),
    (
        &["recvmsg4", "recvmsg6", "getpeername4", "getpeername6"],
        "peers_shown",
        "the peer that was asked for is not shown",
    ),
    (&["device"], "devices", "devices by which bytes leave without a socket: tunnels, vhost, raw memory, disks"),
    (&["setsockopt"], "multicast_joins", "multicast joins, whose report the kernel itself sends"),
    (&["bind4", "bind6"], "daemon_ports", "an agent may take a port of the daemon's while the daemon is not there"),
    (
        &["ingress"],
        "inbound",
        "what comes in from outside reaches a governed socket; its answers are refused at egress",
    ),
];

/// What a controller of cgroup v1 opens, before Linux 5.15.
const OLDER: (&str, &str) = (
    "cgroup_v1_sockets",
    "every socket of the host, once somebody sets a class or priority: it leaves its cgroup, and our programs",
);

/// What no level covers: codes, and what they mean.
pub const NEVER: [(&str, &str); 5] = [
    ("store_and_forward", "what an agent writes into files or logs that a service outside sends on"),
    (
        "key_upcalls",
        "names that a helper of the host's looks up for a key (request_key, dns_resolver), where /sbin/request-key is \
         installed; `run` refuses the call",
    ),
    ("connected_unix_sockets", "unix sockets that were connected before the cgroup was attached"),
    (
        "namespace_root",
        "whoever has CAP_NET_ADMIN over a network namespace that has another way out than loopback: what was sent to the \
         daemon's listener there can be sent that way instead (tc)",
    ),
    (
        "host_root",
        "a root process in the host's own namespaces: routes, kernel settings, modules, block devices, units and cron files",
    ),
];

impl Level {
    /// What is in force now.
    #[must_use]
    pub fn of(kernel: &Kernel) -> Level {
        Level::from(kernel.lsm(), kernel.refused(), cgroup_v1::unbinds())
    }

    fn from(lsm: &Lsm, refused: &[(&'static str, String)], older: Option<String>) -> Level {
        let proven = lsm.prove();
        let none = lsm.missing().is_empty() && proven.is_err();
        let misses = |hooks: &[&str]| none || lsm.missing().iter().any(|missing| hooks.contains(&missing.hook));
        let open = CLOSES.iter().filter(|(hooks, ..)| misses(hooks)).map(|(_, code, words)| (*code, *words));
        let open_to_all = older.as_ref().map(|_| OLDER);
        let absent: Vec<String> = older
            .into_iter()
            .chain(refused.iter().map(|(name, why)| format!("the kernel refuses the program {name}: {why}")))
            .collect();
        let below = PARTS.iter().filter(|(programs, ..)| refused.iter().any(|(name, _)| programs.contains(name)));
        let below = below.map(|(_, code, words)| (*code, *words));
        let lacks = if absent.is_empty() { proven.err() } else { Some(absent.join("; ")) };
        Level {
            lacks,
            uncovered: open_to_all.into_iter().chain(below).chain(open).chain(NEVER).collect(),
            degraded: !absent.is_empty(),
        }
    }

    /// `full`, `network` or, below that, `degraded`.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match (self.degraded, &self.lacks) {
            (true, _) => "degraded",
            (false, None) => "full",
            (false, Some(_)) => "network",
        }
    }

    /// For the ledger: one line.
    #[must_use]
    pub fn sentence(&self) -> String {
        let codes: Vec<&str> = self.uncovered.iter().map(|(code, _)| *code).collect();
        let lacks = self.lacks.as_ref().map(|why| format!(" ({why})")).unwrap_or_default();
        format!("level {}{lacks}; not covered: {}", self.name(), codes.join(", "))
    }

    /// For `status`.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let uncovered: Vec<Value> =
            self.uncovered.iter().map(|(code, words)| json!({ "code": code, "means": words })).collect();
        json!({ "name": self.name(), "lacks": self.lacks, "uncovered": uncovered })
    }
}

/// The daemon's own files: what agents may not open, and what they may not change.
#[must_use]
pub fn property(config: &Config, places: &Places) -> Vec<(PathBuf, u32)> {
    let mut property = vec![(config.file.clone(), READ_ONLY), (places.runtime.clone(), READ_ONLY)];
    property.extend(std::env::current_exe().ok().map(|path| (path, READ_ONLY)));
    property.extend(places.keeper.parent().map(|state| (state.to_owned(), READ_ONLY)));
    let read = config.policy.cedar.iter().chain(&config.prices.file).chain(&config.upstream.roots);
    property.extend(read.map(|path| (path.clone(), READ_ONLY)));
    property.push((Kernel::pin_directory(config.instance.as_str()), SHUT));
    // The journal last: it may have many files.
    let keys = std::iter::once(places.keeper.as_path()).chain(config.secrets());
    for shut in keys.chain([&places.data].into_iter().chain(&places.shared).map(PathBuf::as_path)) {
        walk(shut, &mut property);
    }
    property
}

/// A file; or a directory and all directories below it, and of its files those for which there is room.
fn walk(directory: &std::path::Path, property: &mut Vec<(PathBuf, u32)>) {
    property.push((directory.to_owned(), SHUT));
    for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
        match entry.file_type() {
            Ok(kind) if kind.is_dir() => walk(&entry.path(), property),
            Ok(kind) if kind.is_file() && property.len() < 1_024 => property.push((entry.path(), SHUT)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_without_a_program_of_network_is_degraded_and_says_what_is_open() {
        let pins = tempfile::tempdir().expect("a directory");
        let lsm = Lsm::not_required(pins.path()).expect("nothing to take off");
        assert_eq!(Level::from(&lsm, &[], None).name(), "network");
        let level = Level::from(&lsm, &[("setsockopt", "no such hook".to_owned())], None);
        assert_eq!(level.name(), "degraded");
        let sentence = level.sentence();
        assert!(sentence.contains("setsockopt: no such hook") && sentence.contains("multicast_joins"), "{sentence}");
        let named = |name: &&str| PARTS.iter().any(|(programs, ..)| programs.contains(name));
        let rest: Vec<_> = caracal_common::name::PROGRAMS.iter().filter(|name| !named(name)).collect();
        assert_eq!(rest, [&"connect4", &"connect6", &"sock_create", &"egress", &"sock_ops"], "each has a word");
    }

    #[test]
    fn a_controller_that_takes_sockets_away_is_degraded_whatever_else_holds() {
        let pins = tempfile::tempdir().expect("a directory");
        let lsm = Lsm::not_required(pins.path()).expect("nothing to take off");
        let level = Level::from(&lsm, &[], cgroup_v1::unbinding("5.10.0", Some("net_cls 3 1 1")));
        let sentence = level.sentence();
        assert!(level.name() == "degraded" && sentence.starts_with("level degraded (net_cls is in use"), "{sentence}");
        assert!(sentence.contains("cgroup_v1_sockets"), "{sentence}");
    }

    /// By its name, a key of the configuration whose value is a secret's place.
    fn is_secret(key: &str) -> bool {
        ["key", "keys"].contains(&key) || key.ends_with("_file")
    }

    #[test]
    fn every_file_that_the_configuration_names_as_a_secret_is_shut() {
        let text = "[upstream]\nproxy_file = \"s/proxy\"\n[[upstream.client_certificate]]\nhost = \"h\"\n\
                    certificate = \"c.pem\"\nkey = \"s/client\"\n[kafka]\nservers = \"k:1\"\n[kafka.tls]\n\
                    certificate = \"c.pem\"\nkey = \"s/host\"\n[kafka.sasl]\nmechanism = \"SCRAM-SHA-512\"\n\
                    user = \"u\"\npassword_file = \"s/kafka\"\n[postgres]\nurl_file = \"s/postgres\"\n[redis]\n\
                    url_file = \"s/redis\"\n[worker]\nkeys = \"s/worker\"\n";
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("caracal.toml");
        std::fs::write(&file, text).expect("written");
        std::fs::create_dir_all(directory.path().join("s/worker/fleet-0")).expect("a directory");
        std::fs::write(directory.path().join("s/worker/fleet-0/ledger.key"), "").expect("written");
        let config = Config::load(&file).expect("a configuration");
        let property = property(&config, &Places::of(&config));
        let shut = |path: &str| property.contains(&(directory.path().join(path), SHUT));
        let mut named: Vec<(&str, &str)> = text.lines().filter_map(|line| line.split_once(" = ")).collect();
        named.retain(|(key, _)| is_secret(key));
        assert_eq!(named.len(), 7);
        for (key, path) in &named {
            assert!(shut(path.trim_matches('"')), "{key} = {path}");
        }
        assert!(shut("s/worker/fleet-0/ledger.key"));
        // A secret that the example knows and this test does not.
        let example = include_str!("../../../caracal.example.toml");
        let keys = example.lines().filter_map(|line| line.trim_start_matches('#').split_once(" = "));
        for (key, _) in keys.filter(|(key, _)| is_secret(key) && *key != "public_key") {
            assert!(named.iter().any(|(known, _)| *known == key), "{key}");
        }
    }
}
