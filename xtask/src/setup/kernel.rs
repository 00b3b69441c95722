//! A compiler and a linker for kernel programs.
//!
//! The compiler must be one whose `core` can be built from source (`-Zbuild-std`), and the linker must be built
//! against the same LLVM or a newer one. Two roads: a rustup nightly with `rust-src`, or a distribution's own compiler with
//! its source, which is a matched pair and needs no download beyond the distribution.

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use super::packages::{self, Package, Probe};
use crate::{
    checkout::{Checkout, forget_cargo},
    pins, progress,
};

/// A compiler that a distribution has, with the source of `core`.
#[derive(Debug, Eq, PartialEq)]
struct Packaged {
    /// For people.
    name: &'static str,
    rustc: &'static str,
    cargo: &'static str,
    clippy: &'static str,
    /// What brings the first two, the source, and clippy.
    packages: [&'static str; 4],
    /// Succeeds when the third of them is there: its directory carries the compiler's version.
    has_source: &'static [&'static str],
    /// Packages that installing it would displace.
    displaces: &'static [&'static str],
}

/// Debian's, which is for its own browsers, and Ubuntu's, which stands beside any other.
const PACKAGED: [&Packaged; 2] = [
    &Packaged {
        name: "Debian's rustc-web",
        rustc: "/usr/bin/rustc",
        cargo: "/usr/bin/cargo",
        clippy: "/usr/bin/cargo-clippy",
        packages: ["rustc-web", "cargo-web", "rust-web-src", "rust-web-clippy"],
        has_source: &["dpkg-query", "-W", "rust-web-src"],
        displaces: &["rustc", "cargo", "rustup"],
    },
    &Packaged {
        name: "Ubuntu's rustc-1.97",
        rustc: "/usr/lib/rust-1.97/bin/rustc",
        cargo: "/usr/lib/rust-1.97/bin/cargo",
        clippy: "/usr/lib/rust-1.97/bin/cargo-clippy",
        packages: ["rustc-1.97", "cargo-1.97", "rust-1.97-src", "rust-1.97-clippy"],
        has_source: &["dpkg-query", "-W", "rust-1.97-src"],
        displaces: &[],
    },
];

/// A compiler that can build kernel programs, and the linker for them.
#[derive(Clone, Debug)]
pub(crate) struct Compiler {
    kind: Kind,
    llvm: u32,
    linker: PathBuf,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    /// `cargo +nightly`
    Nightly,
    /// A distribution's, with RUSTC_BOOTSTRAP
    Packaged(&'static Packaged),
}

/// Finds a compiler or installs one, then the linker for it.
///
/// # Errors
/// When neither road is open; the text says what to install by hand.
pub(crate) fn install(checkout: &Checkout) -> Result<Compiler> {
    let (kind, llvm) = match find() {
        Some(found) => found,
        None => fetch(checkout)?,
    };
    let linker = linker(checkout, llvm)?;
    Ok(Compiler { kind, llvm, linker })
}

impl Compiler {
    /// A cargo that builds for the kernel: `core` from source, linked by bpf-linker, with BTF.
    pub(crate) fn cargo(&self) -> Command {
        let mut command = self.kind.program("cargo");
        self.prepare(&mut command);
        command
    }

    /// The environment of a cargo that builds for the kernel.
    fn prepare(&self, command: &mut Command) {
        forget_cargo(command);
        command.env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
        if let Kind::Packaged(packaged) = self.kind {
            // It is a stable one; only this build may use its unstable flags.
            command.env("RUSTC", packaged.rustc).env("RUSTC_BOOTSTRAP", "1");
        }
        let mut flags = OsString::from("-C\u{1f}linker=");
        flags.push(&self.linker);
        flags.push("\u{1f}-C\u{1f}debuginfo=2\u{1f}-C\u{1f}link-arg=--btf");
        command.env("CARGO_ENCODED_RUSTFLAGS", flags).env_remove("RUSTFLAGS");
    }

    /// `clippy` of the same compiler, which reads kernel programs as [`Compiler::cargo`] builds them; installed when missing.
    ///
    /// # Errors
    /// When it cannot be installed; the text says what to install by hand.
    pub(crate) fn clippy(&self, checkout: &Checkout) -> Result<Command> {
        match self.kind {
            Kind::Nightly => {
                if text(self.kind.program("cargo").args(["clippy", "--version"])).is_none() {
                    let mut command = Command::new("rustup");
                    command.args(["component", "add", "clippy", "--toolchain", "nightly"]);
                    progress::quietly("fetching clippy for rustup's nightly", &mut command, &checkout.log("rustup"))?;
                }
                let mut command = self.cargo();
                command.arg("clippy");
                Ok(command)
            }
            Kind::Packaged(Packaged { clippy, cargo, packages: [.., package], .. }) => {
                let wanted = [Package::new(*package, Probe::Path((*clippy).into()))];
                packages::install_all(checkout, "to lint kernel programs", &wanted)?;
                // By its path: `cargo clippy` would take the one that is first on PATH, which is another compiler's.
                let mut command = Command::new(clippy);
                command.arg("clippy");
                self.prepare(&mut command);
                command.env("CARGO", cargo);
                Ok(command)
            }
        }
    }

    /// For people: which compiler it is.
    pub(crate) fn describe(&self) -> String {
        let name = match self.kind {
            Kind::Nightly => "rustup's nightly",
            Kind::Packaged(packaged) => packaged.name,
        };
        format!("{name} (LLVM {}), {}", self.llvm, self.linker.display())
    }
}

impl Kind {
    /// `rustc` or `cargo` of this toolchain.
    fn program(self, name: &str) -> Command {
        let mut command = match self {
            Self::Nightly => {
                let mut command = Command::new("rustup");
                command.args(["run", "nightly", name]);
                command
            }
            Self::Packaged(packaged) => Command::new(if name == "cargo" { packaged.cargo } else { packaged.rustc }),
        };
        forget_cargo(&mut command);
        command.env_remove("RUSTC").env_remove("RUSTUP_TOOLCHAIN");
        command
    }

    /// The major version of the compiler's LLVM, when the compiler is there, has `core`'s source, and is not too new
    /// for the pinned linker.
    fn llvm(self) -> Option<u32> {
        let sysroot = text(self.program("rustc").args(["--print", "sysroot"]))?;
        let core = Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/core/Cargo.toml");
        if !core.exists() {
            return None;
        }
        let version = text(self.program("rustc").arg("-vV"))?;
        let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "))?;
        let major = llvm.split('.').next()?.trim().parse().ok()?;
        pins::LLVM.contains(&major).then_some(major)
    }
}

fn find() -> Option<(Kind, u32)> {
    let nightly = packages::on_path("rustup").then_some(Kind::Nightly);
    let packaged = PACKAGED.into_iter().filter(|packaged| Path::new(packaged.cargo).exists()).map(Kind::Packaged);
    nightly.into_iter().chain(packaged).find_map(|kind| Some((kind, kind.llvm()?)))
}

/// Installs a distribution's compiler where that displaces nothing, else asks rustup.
fn fetch(checkout: &Checkout) -> Result<(Kind, u32)> {
    let packaged = PACKAGED.into_iter().find(|packaged| {
        let [rustc, ..] = packaged.packages;
        !packaged.displaces.iter().any(|name| packages::installed(name)) && packages::available(checkout, rustc)
    });
    if let Some(Packaged { rustc, cargo, packages: [compiler, builder, source, _], has_source, .. }) = packaged {
        let wanted = [
            Package::new(*compiler, Probe::Path((*rustc).into())),
            Package::new(*builder, Probe::Path((*cargo).into())),
            Package::new(*source, Probe::Succeeds(has_source)),
        ];
        packages::install_all(checkout, "to compile kernel programs", &wanted)?;
    } else if packages::on_path("rustup") {
        let mut command = Command::new("rustup");
        command.args(["toolchain", "install", "nightly", "--profile", "minimal", "--component", "rust-src"]);
        progress::quietly("fetching rustup's nightly with rust-src", &mut command, &checkout.log("rustup"))?;
    }
    find().with_context(|| {
        format!(
            "no compiler for kernel programs. Install one of: Debian's rustc-web, cargo-web and rust-web-src; Ubuntu's \
             rustc-1.97, cargo-1.97 and rust-1.97-src; or `rustup toolchain install nightly --component rust-src` with an \
             LLVM of {} to {}",
            pins::LLVM.start(),
            pins::LLVM.end()
        )
    })
}

/// The pinned bpf-linker: the checkout's own, or one on PATH of the same version.
fn linker(checkout: &Checkout, llvm: u32) -> Result<PathBuf> {
    let own = checkout.tools().join("bin/bpf-linker");
    for candidate in [own.clone(), PathBuf::from("bpf-linker")] {
        let version = text(Command::new(&candidate).arg("--version"));
        if version.is_some_and(|version| version.trim() == format!("bpf-linker {}", pins::BPF_LINKER)) {
            return Ok(candidate);
        }
    }
    let prefix = llvm_files(checkout, llvm)?;
    let mut command = crate::checkout::cargo();
    command
        .env("LLVM_PREFIX", prefix)
        // cargo install then builds in a directory that it removes.
        .env_remove("CARGO_TARGET_DIR")
        .args(["install", "bpf-linker", "--locked", "--version", pins::BPF_LINKER])
        .args(["--no-default-features", "--features", &format!("llvm-{llvm}"), "--root"])
        .arg(checkout.tools());
    progress::quietly("building bpf-linker, about a minute", &mut command, &checkout.log("bpf-linker"))?;
    Ok(own)
}

/// LLVM's own libraries in the version of the compiler.
fn llvm_files(checkout: &Checkout, llvm: u32) -> Result<PathBuf> {
    let prefix = PathBuf::from(format!("/usr/lib/llvm-{llvm}"));
    let here = |path: &str| Probe::Path(prefix.join(path).display().to_string().into());
    let wanted = [
        Package::new(format!("llvm-{llvm}-dev"), here("include/llvm-c/Core.h")),
        Package::new(format!("libpolly-{llvm}-dev"), here("lib/libPolly.a")),
        Package::new("libzstd-dev", Probe::Path("/usr/include/zstd.h".into())),
        Package::new("zlib1g-dev", Probe::Path("/usr/include/zlib.h".into())),
    ];
    let missing = wanted.iter().any(|package| !package.probe.finds());
    if missing && !packages::available(checkout, &format!("llvm-{llvm}-dev")) {
        bail!(
            "bpf-linker needs the development files of LLVM {llvm} in {}; no package llvm-{llvm}-dev is known here, as on \
             Ubuntu before it has that LLVM. Either add https://apt.llvm.org, then install llvm-{llvm}-dev and \
             libpolly-{llvm}-dev; or put the static bpf-linker {version} of \
             https://github.com/aya-rs/bpf-linker/releases/tag/v{version} on PATH. Then run this again",
            prefix.display(),
            version = pins::BPF_LINKER
        );
    }
    packages::install_all(checkout, "to link kernel programs", &wanted)?;
    Ok(prefix)
}

/// What a command prints, when it succeeds.
fn text(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
}
