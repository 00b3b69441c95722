//! `cargo xtask lint`: formatting, lock files, clippy on everything that is compiled, and the dependency rules where
//! cargo-deny is at hand.

use anyhow::Result;

use crate::{build, checkout::Checkout, fuzz, progress, setup, setup::on_path};

/// Workspaces of their own, which `--workspace` does not reach.
const APART: [&str; 2] = ["caracal-ebpf", "tests/fuzz"];

pub(crate) fn run() -> Result<()> {
    let checkout = Checkout::find()?;
    checkout.cargo("checking the formatting", &["fmt", "--all", "--check"])?;
    for workspace in APART {
        let manifest = format!("{workspace}/Cargo.toml");
        checkout.cargo(
            &format!("checking the formatting of {workspace}"),
            &["fmt", "--manifest-path", &manifest, "--check"],
        )?;
        // A dependency added to the daemon belongs into these, too.
        checkout.cargo(
            &format!("checking that {workspace}/Cargo.lock is in step; `cargo update --workspace` there if it is not"),
            &["update", "--quiet", "--workspace", "--locked", "--manifest-path", &manifest],
        )?;
    }
    // The daemon carries the kernel programs, so clippy cannot read the one without the other.
    let compiler = setup::for_build(&checkout)?;
    build::kernel_programs(&checkout, &compiler)?;
    build::lint_kernel_programs(&checkout, &compiler)?;
    checkout.cargo(
        "clippy",
        &["clippy", "--locked", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"],
    )?;
    // As it is shipped: with the features that it asks for itself, not those that a test's dependency turns on.
    checkout.cargo("checking caracald alone", &["check", "--locked", "--package", "caracal-daemon"])?;
    fuzz::lint(&checkout)?;
    if on_path("cargo-deny") {
        checkout.cargo("checking licences, sources and doubles", &["deny", "check"])?;
    } else {
        progress::left_out("deny.toml", "cargo-deny is not installed (cargo install cargo-deny)");
    }
    Ok(())
}
