//! Kernels as Debian ships them: finds the newest of each suite through the machine's own apt, fetches and unpacks it.
//!
//! apt works on a directory of ours below `target/vm/apt`, with the mirror that the machine uses and Debian's archive
//! keys; the machine's own lists and packages are left alone, and nothing here needs root. What was fetched once is kept:
//! a run without a mirror uses it and says so.

mod apt;
mod kernel;
mod sources;

pub(crate) use apt::Apt;
pub(crate) use kernel::Kernel;

use kernel::Package;

/// A suite of Debian and the kernel series that it is taken for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Suite {
    /// What people call it: `6.1`, or `newest`.
    pub(crate) series: &'static str,
    /// Debian's name.
    pub(crate) name: &'static str,
    /// Whether it has a suite of security updates beside it.
    security: bool,
    /// Which of its kernels.
    flavour: Flavour,
}

/// A kernel of Debian's, by what it was built for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Flavour {
    /// Virtual machines: a fifth of the size.
    Cloud,
    /// Any hardware. It has modules that the other has not (PPP, CAN, RxRPC and more): what is a way out by them is seen
    /// to be refused on this one.
    Any,
}

impl Flavour {
    /// The package whose dependencies name the suite's newest kernel.
    fn package(self) -> &'static str {
        match self {
            Self::Cloud => "linux-image-cloud-amd64",
            Self::Any => "linux-image-amd64",
        }
    }

    /// Whether a kernel of this release is of it.
    fn has(self, release: &str) -> bool {
        release.ends_with("-cloud-amd64") == (self == Self::Cloud)
    }
}

/// Oldest supported first.
pub(crate) const SUITES: &[Suite] = &[
    Suite { series: "5.10", name: "bullseye", security: true, flavour: Flavour::Cloud },
    Suite { series: "6.1", name: "bookworm", security: true, flavour: Flavour::Any },
    Suite { series: "6.12", name: "trixie", security: true, flavour: Flavour::Cloud },
    Suite { series: "newest", name: "sid", security: false, flavour: Flavour::Cloud },
];

impl Suite {
    /// Whether a person may mean this suite by `word`.
    pub(crate) fn is_called(&self, word: &str) -> bool {
        word == self.series || word == self.name
    }

    /// The file name of a note about it.
    fn noted(&self) -> String {
        format!("{}{}", self.name, if self.flavour == Flavour::Any { "-any" } else { "" })
    }

    fn parts(&self) -> Vec<String> {
        let main = self.name.to_owned();
        if self.security { vec![main, format!("{}-security", self.name)] } else { vec![main] }
    }
}
