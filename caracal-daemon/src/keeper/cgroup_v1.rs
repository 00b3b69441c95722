//! Takes the kernel's release and its list of controllers; says whether one is in use that takes sockets out of their
//! cgroup, and every program of ours away from them. Where that cannot be told it is taken to be so.

/// They keep a class or a priority in the very field of a socket that holds its v2 cgroup, before Linux 5.15: once either
/// is set anywhere on the host, new sockets belong to no cgroup until the next boot.
const UNBINDING: [&str; 2] = ["net_cls", "net_prio"];

/// What an operator does about it.
pub const REMEDY: &str = "unmount it, or boot with cgroup_no_v1=net_cls,net_prio, or use Linux 5.15 or later";

/// Of this kernel, now: why sockets may leave their cgroup, if they may.
#[must_use]
pub fn unbinds() -> Option<String> {
    let read = |path| std::fs::read_to_string(path).ok();
    let release = read("/proc/sys/kernel/osrelease").unwrap_or_default();
    // Newer kernels are not asked on: this is looked at several times a second.
    if keeps_sockets(&release) == Some(true) { None } else { unbinding(&release, read("/proc/cgroups").as_deref()) }
}

/// Whether this kernel has one of them at all, in use or not.
#[must_use]
pub fn is_there() -> bool {
    let controllers = std::fs::read_to_string("/proc/cgroups").unwrap_or_default();
    controllers.lines().any(|line| UNBINDING.iter().any(|name| line.split_ascii_whitespace().next() == Some(name)))
}

/// Whether a kernel of this release leaves sockets in their cgroup whatever is mounted; nothing where it does not say.
#[must_use]
pub fn keeps_sockets(release: &str) -> Option<bool> {
    let mut numbers = release.trim().split(|c: char| !c.is_ascii_digit()).map(str::parse::<u32>);
    Some((numbers.next()?.ok()?, numbers.next()?.ok()?) >= (5, 15))
}

/// The same of a release and of the text of `/proc/cgroups` (cgroups(7)). That list is the kernel's, whatever is mounted in
/// this mount namespace; a hierarchy with the number 0 is not in use.
#[must_use]
pub fn unbinding(release: &str, controllers: Option<&str>) -> Option<String> {
    if keeps_sockets(release) == Some(true) {
        return None;
    }
    let Some(controllers) = controllers else {
        return Some("/proc/cgroups cannot be read, which says whether net_cls or net_prio is in use".to_owned());
    };
    let used = |line: &str| -> Option<String> {
        let mut words = line.split_ascii_whitespace();
        let name = words.next().filter(|name| UNBINDING.contains(name))?;
        (words.next() != Some("0")).then(|| name.to_owned())
    };
    let used: Vec<String> = controllers.lines().filter_map(used).collect();
    (!used.is_empty()).then(|| {
        format!(
            "{} in use, a controller of cgroup v1 that takes sockets out of their v2 cgroup before Linux 5.15: {REMEDY}",
            if let [one] = used.as_slice() { format!("{one} is") } else { format!("{} are", used.join(" and ")) }
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t7\t1\t1\n";

    fn controllers(net_cls: u32, net_prio: u32) -> String {
        format!("{HEAD}net_cls\t{net_cls}\t1\t1\nperf_event\t3\t1\t1\nnet_prio\t{net_prio}\t1\t1\n")
    }

    #[test]
    fn a_hierarchy_counts_before_5_15_only() {
        let of = |release: &str, text: &str| unbinding(release, Some(text));
        let both = of("5.10.0-46-cloud-amd64", &controllers(5, 5)).expect("both are in use");
        assert!(
            both.contains("net_cls and net_prio are in use") && both.contains("cgroup_no_v1=net_cls,net_prio"),
            "{both}"
        );
        assert!(of("5.14.21", &controllers(0, 12)).expect("one is").contains("net_prio is in use"));
        assert_eq!(of("5.10.0", &controllers(0, 0)), None);
        assert_eq!(of("5.10.0", HEAD), None, "a kernel that was built without");
        for release in ["5.15.0", "5.15", "6.1.0-rc1", "10.0"] {
            assert_eq!(of(release, &controllers(5, 5)), None, "{release}");
        }
    }

    #[test]
    fn what_cannot_be_told_is_taken_to_be_so() {
        assert!(unbinding("5.10.0", None).is_some());
        assert!(unbinding("nonsense", Some(&controllers(1, 0))).is_some());
        assert!(unbinding("5.10.0", Some("net_cls\n")).is_some(), "a line without a number");
        assert_eq!(unbinding("6.1.0", None), None, "nothing of it matters there");
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(release: String, text: String) {
            let _ = unbinding(&release, Some(&text));
        }
    }
}
