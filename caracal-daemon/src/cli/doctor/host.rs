//! Checks that only look: takes the files by which a kernel shows itself, gives what is there. What cannot be read is
//! unknown, never there and never absent.

use super::{Check, Need, State, check};
use crate::keeper::cgroup_v1;
use std::path::Path;

/// Where the kernel shows itself. Another root than `/` is for tests.
#[derive(Clone, Debug)]
pub(super) struct Host<'a> {
    pub(super) root: &'a Path,
    pub(super) release: String,
    pub(super) landlock: u32,
}

impl Host<'_> {
    fn read(&self, path: &str) -> Option<String> {
        std::fs::read_to_string(self.root.join(path)).ok()
    }

    fn exists(&self, path: &str) -> bool {
        self.root.join(path).exists()
    }

    pub(super) fn checks(&self) -> Vec<Check> {
        let mounts = self.read("proc/self/mounts").unwrap_or_default();
        vec![
            self.kernel(),
            cgroup2(&mounts),
            self.bpffs(&mounts),
            self.v1_network(),
            self.btf(),
            self.bpf_lsm(&mounts),
            self.unprivileged_bpf(),
            self.seccomp(),
            self.landlock(),
            self.user_namespaces(),
        ]
    }

    fn version(&self) -> Option<(u32, u32)> {
        let mut numbers = self.release.split(|c: char| !c.is_ascii_digit()).map(str::parse);
        Some((numbers.next()?.ok()?, numbers.next()?.ok()?))
    }

    fn kernel(&self) -> Check {
        let new = self.version().map(|version| version >= (5, 10));
        check("kernel", state(new), Need::Required, &self.release, "Linux 5.10 or later: the oldest that is tried")
    }

    fn bpffs(&self, mounts: &str) -> Check {
        let supported = self.read("proc/filesystems").map(|list| list.split_whitespace().any(|word| word == "bpf"));
        let found = match mounts_of(mounts, "bpf").next() {
            Some((at, _)) => return check("bpffs", State::Yes, Need::Required, &format!("mounted at {at}"), ""),
            None if supported == Some(true) => "not mounted; caracald mounts it when it starts",
            None => "not mounted and not offered by the kernel",
        };
        check("bpffs", state(supported), Need::Required, found, "a kernel with CONFIG_BPF_SYSCALL")
    }

    /// Before 5.15 these controllers take a socket out of its v2 cgroup; the keeper asks the same.
    fn v1_network(&self) -> Check {
        let line = |state, found: &str| check("net_cls and net_prio", state, Need::Required, found, cgroup_v1::REMEDY);
        let list = self.read("proc/cgroups");
        let told =
            self.version().is_some() && (list.is_some() || cgroup_v1::keeps_sockets(&self.release) == Some(true));
        match cgroup_v1::unbinding(&self.release, list.as_deref()) {
            Some(why) => line(if told { State::No } else { State::Unknown }, &why),
            None if cgroup_v1::keeps_sockets(&self.release) == Some(true) => {
                line(State::Yes, "harmless from Linux 5.15 on")
            }
            None => line(State::Yes, "not in use"),
        }
    }

    fn btf(&self) -> Check {
        let there = self.exists("sys/kernel/btf/vmlinux");
        let seen = if there { "/sys/kernel/btf/vmlinux" } else { "absent" };
        check("BTF", state(Some(there)), Need::Full, seen, "a kernel built with CONFIG_DEBUG_INFO_BTF")
    }

    fn bpf_lsm(&self, mounts: &str) -> Check {
        let remedy = "boot with lsm=...,bpf: your list with bpf added (and CONFIG_BPF_LSM)";
        let at = mounts_of(mounts, "securityfs").next().map_or("/sys/kernel/security", |(at, _)| at);
        match self.read(&format!("{}/lsm", at.trim_start_matches('/'))) {
            Some(list) => {
                let list = list.trim();
                let active = list.split(',').any(|name| name == "bpf");
                check("BPF LSM", state(Some(active)), Need::Full, &format!("active: {list}"), remedy)
            }
            None => {
                let mount = "mount -t securityfs none /sys/kernel/security, then ask again";
                check("BPF LSM", State::Unknown, Need::Full, "securityfs cannot be read", mount)
            }
        }
    }

    fn unprivileged_bpf(&self) -> Check {
        let value = self.read("proc/sys/kernel/unprivileged_bpf_disabled").map(|text| text.trim().to_owned());
        let off = value.as_deref().map(|value| value != "0");
        let found = value.unwrap_or_else(|| "cannot be read".into());
        let remedy = "sysctl kernel.unprivileged_bpf_disabled=1";
        check("unprivileged BPF off", state(off), Need::Useful, &found, remedy)
    }

    fn seccomp(&self) -> Check {
        let actions = self.read("proc/sys/kernel/seccomp/actions_avail");
        let there = actions.as_deref().map(|list| list.split_whitespace().any(|word| word == "errno"));
        let seen = if there == Some(true) { "filters" } else { "no filters" };
        check("seccomp", state(Some(there == Some(true))), Need::Required, seen, "a kernel with CONFIG_SECCOMP_FILTER")
    }

    fn landlock(&self) -> Check {
        let seen = format!("ABI {}", self.landlock);
        let remedy = "Linux 6.12 with landlock in the lsm list; until then `run` refuses ptrace altogether";
        check("Landlock scopes", state(Some(self.landlock >= 6)), Need::Useful, &seen, remedy)
    }

    /// Ordinary users' `run` needs them for private mounts.
    fn user_namespaces(&self) -> Check {
        let off = [
            ("proc/sys/user/max_user_namespaces", "0"),
            ("proc/sys/kernel/unprivileged_userns_clone", "0"),
            ("proc/sys/kernel/apparmor_restrict_unprivileged_userns", "1"),
        ];
        let remedy = "allow them for caracald (an AppArmor profile, or the sysctl named)";
        if !self.exists("proc/self/ns/user") {
            return check("user namespaces", State::No, Need::Useful, "not in this kernel", remedy);
        }
        let closed = off.iter().find(|(path, value)| self.read(path).is_some_and(|text| text.trim() == *value));
        match closed {
            Some((path, value)) => {
                let name = path.trim_start_matches("proc/sys/").replace('/', ".");
                check("user namespaces", State::No, Need::Useful, &format!("{name} = {value}"), remedy)
            }
            None => check("user namespaces", State::Yes, Need::Useful, "allowed for ordinary users", ""),
        }
    }
}

fn cgroup2(mounts: &str) -> Check {
    let remedy = "mount -t cgroup2 none /sys/fs/cgroup, or boot with systemd.unified_cgroup_hierarchy=1";
    match mounts_of(mounts, "cgroup2").next() {
        Some((at, _)) => {
            let kind = if mounts_of(mounts, "cgroup").next().is_some() { "hybrid" } else { "unified" };
            check("cgroup v2", State::Yes, Need::Required, &format!("{kind}, at {at}"), "")
        }
        None => check("cgroup v2", State::No, Need::Required, "not mounted", remedy),
    }
}

/// Mount point and options of each mount of a kind.
fn mounts_of<'a>(mounts: &'a str, kind: &'a str) -> impl Iterator<Item = (&'a str, &'a str)> {
    mounts.lines().filter_map(move |line| {
        let mut fields = line.split(' ').skip(1);
        let (at, this, options) = (fields.next()?, fields.next()?, fields.next()?);
        (this == kind).then_some((at, options))
    })
}

fn state(found: Option<bool>) -> State {
    match found {
        Some(true) => State::Yes,
        Some(false) => State::No,
        None => State::Unknown,
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::super::level;
    use super::*;

    pub(in crate::cli::doctor) fn host(release: &str, files: &[(&str, &str)], landlock: u32) -> Vec<Check> {
        let dir = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = dir.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        Host { root: dir.path(), release: release.into(), landlock }.checks()
    }

    const GOOD: &[(&str, &str)] = &[
        ("proc/self/mounts", "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\nbpf /sys/fs/bpf bpf rw 0 0\n"),
        ("proc/sys/kernel/seccomp/actions_avail", "kill_process errno allow\n"),
        ("proc/sys/kernel/unprivileged_bpf_disabled", "2\n"),
        ("sys/kernel/btf/vmlinux", ""),
        ("sys/kernel/security/lsm", "capability,landlock,bpf"),
        ("proc/self/ns/user", ""),
    ];

    pub(in crate::cli::doctor) fn with(path: &'static str, text: &'static str) -> Vec<(&'static str, &'static str)> {
        GOOD.iter().copied().filter(|(p, _)| *p != path).chain([(path, text)]).collect()
    }

    #[test]
    fn a_good_host_is_full_and_needs_nothing() {
        let checks = host("6.12.0-generic", GOOD, 6);
        assert_eq!(level(&checks), "full");
        assert!(checks.iter().all(|check| check.remedy.is_empty()), "{checks:?}");
    }

    #[test]
    fn without_the_lsm_the_level_is_network_and_unknown_is_not_yes() {
        let checks = host("6.12.0", &with("sys/kernel/security/lsm", "capability,landlock"), 6);
        assert_eq!((level(&checks), find(&checks, "BPF LSM").state), ("network", State::No));
        let unseen: Vec<_> = GOOD.iter().copied().filter(|(p, _)| *p != "sys/kernel/security/lsm").collect();
        let checks = host("6.12.0", &unseen, 6);
        assert_eq!((level(&checks), find(&checks, "BPF LSM").state), ("network", State::Unknown));
    }

    #[test]
    fn what_is_required_and_missing_means_none() {
        for checks in [
            host("5.9.1", GOOD, 6),
            host("nonsense", GOOD, 6),
            host("6.12.0", &with("proc/self/mounts", "bpf /sys/fs/bpf bpf rw 0 0\n"), 6),
            host("6.12.0", &with("proc/sys/kernel/seccomp/actions_avail", "kill\n"), 6),
            host("6.12.0", &[], 0),
        ] {
            assert_eq!(level(&checks), "none", "{checks:?}");
        }
    }

    #[test]
    fn a_hybrid_host_and_the_old_controllers() {
        let mounts = "cgroup /sys/fs/cgroup/cpu cgroup rw,cpu 0 0\n\
                      cgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\nbpf /b bpf rw 0 0\n";
        let hybrid = with("proc/self/mounts", mounts);
        let of = |release: &str, list: &'static str| {
            let files: Vec<_> = hybrid.iter().copied().chain([("proc/cgroups", list)]).collect();
            host(release, &files, 0)
        };
        let checks = of("5.10.3", "net_cls\t4\t1\t1\n");
        assert_eq!(find(&checks, "cgroup v2").found, "hybrid, at /sys/fs/cgroup/unified");
        assert_eq!((find(&checks, "net_cls and net_prio").state, level(&checks)), (State::No, "none"));
        assert_eq!(find(&of("5.10.3", "net_cls\t0\t1\t1\n"), "net_cls and net_prio").state, State::Yes);
        assert_eq!(find(&of("5.15.0", "net_cls\t4\t1\t1\n"), "net_cls and net_prio").state, State::Yes);
        assert_eq!(find(&host("5.10.3", &hybrid, 0), "net_cls and net_prio").state, State::Unknown);
    }

    pub(in crate::cli::doctor) fn find<'a>(checks: &'a [Check], name: &str) -> &'a Check {
        checks.iter().find(|check| check.name == name).unwrap()
    }
}
