//! `cargo xtask lint`: formatting, clippy, and the dependency rules where cargo-deny is at hand.

use anyhow::Result;

use crate::{build, checkout::Checkout, progress, setup, setup::on_path};

pub(crate) fn run() -> Result<()> {
    let checkout = Checkout::find()?;
    checkout.cargo("checking the formatting", &["fmt", "--all", "--check"])?;
    checkout.cargo(
        "checking the formatting of the kernel programs",
        &["fmt", "--manifest-path", "caracal-ebpf/Cargo.toml", "--check"],
    )?;
    // The daemon carries the kernel programs, so clippy cannot read the one without the other.
    let compiler = setup::for_build(&checkout)?;
    build::kernel_programs(&checkout, &compiler)?;
    checkout.cargo(
        "clippy",
        &["clippy", "--locked", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"],
    )?;
    if on_path("cargo-deny") {
        checkout.cargo("checking licences, sources and doubles", &["deny", "check"])?;
    } else {
        progress::left_out("deny.toml", "cargo-deny is not installed (cargo install cargo-deny)");
    }
    Ok(())
}
