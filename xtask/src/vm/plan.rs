//! Which machines a run boots, and what each of them tries.
//!
//! An emulated machine is some thirty times slower than this host, so a short run takes from each kernel what a kernel could
//! change and tries it as one of the users, another one on each; the rest is said, counted, and tried by `--long`.

use clap::ValueEnum;

use super::suite::{Kernel, SUITES};
use crate::report::Case;

/// Tests of `escape` for a run that has to be short: every way out, what the level `full` says on this kernel, and what a
/// controller of cgroup v1 does to it.
const SHORT: &[&str] = &["vectors::", "tier_b::what_is_required", "older_cgroups::"];
/// The kernel on which a short run tries all that needs the BPF LSM, and what that is beside [`SHORT`].
pub(super) const AT_FULL: (&str, &[&str]) = (
    "newest",
    &[
        "tier_b::unix_sockets",
        "tier_b::the_daemons_property",
        "tier_b::whoever",
        "tier_b::a_root",
        "tier_b::a_taken",
        "tier_b::descriptors",
        "sequences::",
    ],
);
/// As whom a short run tries the ways out, by the kernel's place among [`SUITES`]. On 6.1, which has PPP's modules, as who may
/// use them.
const TURNS: [&str; 4] = ["root", "userns", "user", "root"];
/// The kernel that a short run boots with systemd as PID 1.
const BOOTED_BY_SYSTEMD: &str = "6.12";
/// Why something is left out.
const SHORTENED: &str = "too long for CI in an emulated machine; `cargo xtask test --long vm` runs it here";

/// How a host mounts cgroups.
#[derive(Clone, Copy, Debug, Eq, PartialEq, ValueEnum)]
pub(crate) enum Cgroups {
    /// Version 2 and nothing else.
    Pure,
    /// Version 1 controllers, and version 2 beside them.
    Hybrid,
}

impl Cgroups {
    /// As the guest's command line has it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Pure => "pure",
            Self::Hybrid => "hybrid",
        }
    }
}

/// One boot: which kernel, on which kind of host, and what it is to try.
#[derive(Clone, Debug)]
pub(crate) struct Boot {
    pub(crate) kernel: Kernel,
    pub(crate) cgroups: Cgroups,
    /// Whether `bpf` is among the security modules.
    pub(crate) bpf_lsm: bool,
    pub(super) work: Work,
}

/// How much is tried on each kernel.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Depth {
    /// What the table in the docs is made of.
    Coverage,
    /// What fits into CI.
    Short,
    Long,
}

#[derive(Clone, Debug)]
pub(super) enum Work {
    /// `doctor`, then tests of the contract.
    Proofs(Selection),
    /// `doctor` alone.
    Doctor,
    /// systemd as PID 1, with the units that ship.
    Systemd,
    Command(Vec<String>),
    Shell,
}

impl Boot {
    /// In reports: `Linux 6.1.0-56-amd64, pure cgroup v2, BPF LSM`.
    pub(crate) fn describe(&self) -> String {
        let cgroups = match self.cgroups {
            Cgroups::Pure => "pure cgroup v2",
            Cgroups::Hybrid => "hybrid cgroups",
        };
        let lsm = if self.bpf_lsm { "BPF LSM" } else { "no BPF LSM" };
        let systemd = if matches!(self.work, Work::Systemd) { ", systemd" } else { "" };
        format!("Linux {}, {cgroups}, {lsm}{systemd}", self.kernel.release)
    }

    /// In file names.
    pub(super) fn name(&self) -> String {
        let lsm = if self.bpf_lsm { "lsm" } else { "nolsm" };
        let systemd = if matches!(self.work, Work::Systemd) { "-systemd" } else { "" };
        format!("{}-{}-{lsm}{systemd}", self.kernel.series, self.cgroups.word())
    }

    /// The guest kernel's command line.
    pub(crate) fn words(&self) -> String {
        let bpf = if self.bpf_lsm { ",bpf" } else { "" };
        // What doctor tells such hosts to do: before 5.15 these controllers take a socket out of its v2 cgroup.
        let old = self.cgroups == Cgroups::Hybrid && self.kernel.release.starts_with("5.10.");
        let controllers = if old { " cgroup_no_v1=net_cls,net_prio" } else { "" };
        format!("caracal.cgroup={} lsm=landlock,lockdown,yama{bpf}{controllers}", self.cgroups.word())
    }
}

/// Tests of the contract.
#[derive(Clone, Debug, Default)]
pub(super) struct Selection {
    /// Words of the test program; none selects all.
    pub(super) words: Vec<String>,
    /// As whom ways out are tried; everybody where this is nothing.
    pub(super) tries: Option<&'static str>,
}

impl Selection {
    /// Whether tests of this name are among them.
    pub(super) fn chooses(&self, name: &str) -> bool {
        self.words.is_empty() || self.words.iter().any(|word| word.contains(name) || name.contains(word.as_str()))
    }
}

impl Boot {
    /// The tests of the contract that are not run in this machine, as one case.
    pub(super) fn left_out(&self, tests: &[String], depth: Depth) -> Option<Case> {
        let why = match depth {
            Depth::Coverage => return None,
            // Not a machine for this contract.
            _ if matches!(self.work, Work::Systemd) => return None,
            Depth::Short => SHORTENED,
            Depth::Long => "tried on this kernel with the other list of security modules",
        };
        let chosen = |test: &String| match &self.work {
            Work::Proofs(selection) => {
                selection.words.is_empty() || selection.words.iter().any(|word| test.contains(word.as_str()))
            }
            _ => false,
        };
        let left: Vec<&str> = tests.iter().filter(|test| !chosen(test)).map(String::as_str).collect();
        let name = format!("other tests of this contract, on {}", self.describe());
        (!left.is_empty()).then(|| Case::omitted(name, left.len(), format!("{why}: {}", left.join(", "))))
    }
}

/// The machines for one kernel: both kinds of host.
pub(super) fn boots(kernel: &Kernel, depth: Depth, filter: &[String]) -> Vec<Boot> {
    let boot = |cgroups, bpf_lsm, work| Boot { kernel: kernel.clone(), cgroups, bpf_lsm, work };
    let whole = || Work::Proofs(Selection { words: filter.to_vec(), tries: None });
    let place = SUITES.iter().position(|suite| suite.series == kernel.series).unwrap_or_default();
    let short = || {
        let more = if kernel.series == AT_FULL.0 { AT_FULL.1 } else { &[] };
        let words = SHORT.iter().chain(more).map(ToString::to_string).collect();
        let words = if filter.is_empty() { words } else { filter.to_vec() };
        let tries = TURNS.get(place).copied().filter(|_| filter.is_empty());
        Work::Proofs(Selection { words, tries })
    };
    // systemd itself is this host's on each of them: one is enough for a short run.
    let systemd = || (filter.is_empty()).then(|| boot(Cgroups::Pure, false, Work::Systemd));
    let mut boots = match depth {
        Depth::Coverage => vec![boot(Cgroups::Pure, true, Work::Doctor), boot(Cgroups::Hybrid, false, Work::Doctor)],
        Depth::Short => vec![boot(Cgroups::Pure, true, short()), boot(Cgroups::Hybrid, false, Work::Doctor)],
        Depth::Long => vec![
            boot(Cgroups::Pure, true, whole()),
            boot(Cgroups::Hybrid, false, whole()),
            boot(Cgroups::Hybrid, true, Work::Doctor),
            boot(Cgroups::Pure, false, Work::Doctor),
        ],
    };
    if depth == Depth::Long || (depth == Depth::Short && kernel.series == BOOTED_BY_SYSTEMD) {
        boots.extend(systemd());
    }
    boots
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_is_run_or_said_to_be_left_out() {
        let kernel = Kernel {
            series: "6.1".into(),
            suite: "bookworm".into(),
            release: "6.1.0".into(),
            packages: Vec::new(),
            tree: std::path::PathBuf::new(),
            kept: false,
        };
        let tests = ["vectors::all", "live::one", "live::two"].map(ToOwned::to_owned);
        let count = |depth, filter: &[String]| -> Vec<Option<u64>> {
            boots(&kernel, depth, filter)
                .iter()
                .map(|boot| boot.left_out(&tests, depth)?.more.get("omitted")?.as_u64())
                .collect()
        };
        assert_eq!(count(Depth::Short, &[]), [Some(2), Some(3)]);
        assert_eq!(count(Depth::Long, &[]), [None, None, Some(3), Some(3), None]);
        assert_eq!(count(Depth::Short, &["live::two".into()]), [Some(2), Some(3)]);
        let chosen = |words: &[&str]| {
            let words = words.iter().map(ToString::to_string).collect();
            Selection { words, tries: None }.chooses("older_cgroups::")
        };
        assert!(chosen(&[]) && chosen(SHORT) && chosen(&["older"]) && !chosen(&["live::two"]));
        let newest = Kernel { series: AT_FULL.0.into(), ..kernel.clone() };
        let all = boots(&newest, Depth::Short, &[]);
        let tier_b = ["tier_b::the_daemons_property", "tier_b::what_is_required", "live::one"].map(ToOwned::to_owned);
        let left = all.iter().map(|boot| boot.left_out(&tier_b, Depth::Short)?.more.get("omitted")?.as_u64());
        assert_eq!(left.collect::<Vec<_>>(), [Some(1), Some(3)]);
        assert!(
            boots(&kernel, Depth::Short, &[])
                .iter()
                .any(|boot| { matches!(&boot.work, Work::Proofs(selection) if selection.tries == Some("userns")) })
        );
    }
}
