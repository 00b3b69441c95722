//! Whether a daemon that is started here gets the descriptors that the configured limits on connections need.

use super::{Check, Need, State, check};
use crate::keeper::child::{connections_within, descriptors_for, kernel_descriptors};
use nix::sys::resource::{Resource, getrlimit};

/// Bit of `CAP_SYS_RESOURCE` (linux/capability.h): root without it raises no hard limit.
const CAP_SYS_RESOURCE: u32 = 24;

/// What this process sees of it.
#[derive(Clone, Copy, Debug)]
struct Seen {
    root: bool,
    may_raise: bool,
    hard: u64,
    kernel: u64,
}

/// The check for so many `connections`.
pub(super) fn look(connections: usize) -> Check {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let effective = effective.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0);
    let seen = Seen {
        root: nix::unistd::geteuid().is_root(),
        may_raise: effective & 1 << CAP_SYS_RESOURCE != 0,
        hard: getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard),
        kernel: kernel_descriptors().unwrap_or(u64::MAX),
    };
    judge(seen, connections)
}

fn judge(seen: Seen, connections: usize) -> Check {
    let wanted = descriptors_for(connections);
    let most = if seen.may_raise { seen.kernel } else { seen.hard.min(seen.kernel) };
    let state = match (most >= wanted, seen.root) {
        (true, _) => State::Yes,
        // The daemon's limits are root's.
        (false, false) if seen.kernel >= wanted => State::Unknown,
        (false, _) => State::No,
    };
    let found = match state {
        State::Yes => format!("{wanted} for {connections} connections"),
        _ => format!(
            "{most} where {wanted} are needed, enough for {} of {connections} connections",
            connections_within(most)
        ),
    };
    let remedy =
        "LimitNOFILE= of the unit, or the container's ulimit, and sysctl fs.nr_open; or a lower [limits] connections";
    check("descriptors", state, Need::Useful, &found, remedy)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn too_few_descriptors_are_told_with_what_they_are_enough_for() {
        let seen = Seen { root: true, may_raise: false, hard: 20_000, kernel: 1 << 20 };
        let low = judge(seen, 40_000);
        assert_eq!(low.state, State::No);
        assert!(low.found.contains("12500 of 40000") && low.remedy.contains("LimitNOFILE"), "{low:?}");
        assert_eq!(judge(Seen { may_raise: true, ..seen }, 40_000).state, State::Yes);
        assert_eq!(judge(Seen { may_raise: true, kernel: 20_000, ..seen }, 40_000).state, State::No);
        assert_eq!(judge(Seen { root: false, ..seen }, 40_000).state, State::Unknown);
        assert_eq!(judge(seen, 100).state, State::Yes);
    }
}
