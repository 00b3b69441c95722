//! `cargo xtask build`: the kernel programs, then the daemon that carries them.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};
use clap::Args;

use crate::{
    checkout::Checkout,
    progress,
    setup::{self, Compiler},
};

/// Install what is missing and build the kernel programs and caracald.
///
/// The kernel programs land in target/bpf/caracal.o, the daemon (which carries them) in target/release/caracald.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct Arguments {
    /// Build what is shipped: with link-time optimisation, into target/dist/caracald. It takes several times as long.
    #[arg(long)]
    dist: bool,
    /// Build kernel programs that say what they decide, for engineers; `RUST_LOG=info,caracal_ebpf=debug` shows it.
    #[arg(long, conflicts_with = "dist")]
    log: bool,
}

/// What cargo selects wherever the release profile is built, whatever of it is wanted. It takes the features of what all share
/// from the packages that are selected: with another selection it would compile much of it again, caracald included.
pub(crate) const PACKAGES: [&str; 4] =
    ["--package=caracal-common", "--package=caracal-daemon", "--package=caracal-tests", "--package=xtask"];

/// The feature of the kernel programs with which they say what they decide.
const LINES: &[&str] = &["--features", "log"];

pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let checkout = Checkout::find()?;
    let built = if arguments.dist {
        shipped(&checkout)?;
        checkout.shipped()
    } else if arguments.log {
        programs_with_lines(&checkout)?;
        checkout.cargo_with("building caracald with them", &release("caracald"), &checkout.bpf_log_object())?;
        checkout.caracald()
    } else {
        all(&checkout)?;
        checkout.caracald()
    };
    eprintln!("ok  {}", built.display());
    Ok(())
}

/// Sets up, then builds everything that runs in production.
///
/// # Errors
/// When set-up or a compiler fails.
pub(crate) fn all(checkout: &Checkout) -> Result<()> {
    kernel_programs(checkout, &setup::for_build(checkout)?)?;
    checkout.cargo("building caracald", &release("caracald"))
}

/// What tells cargo to build a program in the release profile.
pub(crate) fn release(program: &str) -> Vec<&str> {
    [&["build", "--locked", "--release", "--bin", program], PACKAGES.as_slice()].concat()
}

/// The same as it is shipped, with link-time optimisation and nothing that only tests ask for.
///
/// # Errors
/// When set-up or a compiler fails.
pub(crate) fn shipped(checkout: &Checkout) -> Result<()> {
    kernel_programs(checkout, &setup::for_build(checkout)?)?;
    checkout.cargo(
        "building caracald with link-time optimisation",
        &["build", "--locked", "--profile", "dist", "--package", "caracal-daemon"],
    )
}

/// Builds the kernel programs into `target/bpf/caracal.o`.
///
/// # Errors
/// When the compiler or the linker fails.
pub(crate) fn kernel_programs(checkout: &Checkout, compiler: &Compiler) -> Result<()> {
    compile(checkout, compiler, &[], &checkout.bpf_object())
}

/// Sets up and builds the kernel programs that say what they decide, into `target/bpf/caracal-log.o`. They are for engineers
/// and for one unit test.
///
/// # Errors
/// When set-up, the compiler or the linker fails.
pub(crate) fn programs_with_lines(checkout: &Checkout) -> Result<()> {
    compile(checkout, &setup::for_build(checkout)?, LINES, &checkout.bpf_log_object())
}

fn compile(checkout: &Checkout, compiler: &Compiler, features: &[&str], object: &Path) -> Result<()> {
    let home = checkout.target.join("ebpf");
    let mut cargo = compiler.cargo();
    cargo.arg("build");
    for_kernel(checkout, &mut cargo);
    cargo.args(features);
    progress::aloud(&format!("building the kernel programs with {}", compiler.describe()), &mut cargo)?;
    let built = home.join("bpfel-unknown-none/release/caracal");
    let bytes = fs::read(&built).with_context(|| built.display().to_string())?;
    // Written only when it differs: a new time stamp would build the daemon again.
    if fs::read(object).ok().as_deref() != Some(&bytes) {
        if let Some(directory) = object.parent() {
            fs::create_dir_all(directory)?;
        }
        fs::write(object, bytes).with_context(|| object.display().to_string())?;
    }
    Ok(())
}

/// Lets no clippy warning pass in the kernel programs, with and without lines.
///
/// # Errors
/// When there is one, or no clippy of their compiler.
pub(crate) fn lint_kernel_programs(checkout: &Checkout, compiler: &Compiler) -> Result<()> {
    for features in [&[] as &[&str], LINES] {
        let mut clippy = compiler.clippy(checkout)?;
        for_kernel(checkout, &mut clippy);
        clippy.args(features).args(["--", "-D", "warnings"]);
        progress::aloud(&format!("clippy on the kernel programs with {}", compiler.describe()), &mut clippy)?;
    }
    Ok(())
}

fn for_kernel(checkout: &Checkout, cargo: &mut Command) {
    cargo
        .current_dir(checkout.root.join("caracal-ebpf"))
        .args(["--locked", "--release", "-Zbuild-std=core", "--target", "bpfel-unknown-none", "--target-dir"])
        .arg(checkout.target.join("ebpf"));
}
