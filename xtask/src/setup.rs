//! Installs what is missing, and only that. Everything but Debian packages stays below the target directory.
//!
//! Each step first looks whether its result is there, so that a second call costs a few milliseconds.

mod clients;
mod go;
mod kernel;
mod packages;
mod resolved;

use anyhow::Result;

pub(crate) use self::{
    clients::{AGENTS, Clients},
    kernel::Compiler,
    packages::on_path,
};
use crate::{bench::PeerName, checkout::Checkout, pins};

/// What building takes: a C compiler, and a compiler and linker for kernel programs.
///
/// # Errors
/// When something is missing and cannot be installed; the text says what to install by hand.
pub(crate) fn for_build(checkout: &Checkout) -> Result<Compiler> {
    packages::install(checkout, "to build", packages::BUILD)?;
    kernel::install(checkout)
}

/// What the demo plays with.
///
/// # Errors
/// Like [`for_build`].
pub(crate) fn for_demo(checkout: &Checkout) -> Result<()> {
    packages::install(checkout, "for the demo", packages::DEMO)
}

/// What the benchmark compares with.
///
/// # Errors
/// Like [`for_build`].
pub(crate) fn for_bench(checkout: &Checkout, peers: &[PeerName]) -> Result<()> {
    packages::install(checkout, "to measure", packages::BENCH)?;
    for peer in peers {
        match peer {
            PeerName::Squid => packages::install(checkout, "to compare with squid", packages::SQUID)?,
            PeerName::Mitmproxy => clients::proxy(checkout, "mitmproxy", pins::MITMPROXY)?,
            PeerName::Litellm => clients::proxy(checkout, "litellm", pins::LITELLM)?,
            PeerName::Direct | PeerName::Floor | PeerName::Caracal => {}
        }
    }
    Ok(())
}

/// What the contracts call: ordinary programs, SDKs and agents that nobody here wrote.
///
/// # Errors
/// Like [`for_build`].
pub(crate) fn for_test(checkout: &Checkout) -> Result<Clients> {
    packages::install(checkout, "to test", packages::TEST)?;
    packages::install_cargo(checkout)?;
    clients::install(checkout)
}

/// What a whole run of the tests takes from Debian, at once: each call of apt reads its lists again.
///
/// # Errors
/// Like [`for_build`].
pub(crate) fn for_everything(checkout: &Checkout) -> Result<()> {
    let wanted = [packages::BUILD, packages::UNIT, packages::TEST, packages::SERVICES, packages::DEMO].concat();
    packages::install(checkout, "to build and test", &wanted)?;
    packages::install_cargo(checkout)?;
    if cfg!(target_arch = "x86_64") {
        // What fails here is tried again where machines are booted, and is a case there.
        let _later = for_vm(checkout);
    }
    Ok(())
}

/// What the unit tests start.
///
/// # Errors
/// Like [`for_build`].
pub(crate) fn for_unit(checkout: &Checkout) -> Result<()> {
    packages::install(checkout, "to run the unit tests", packages::UNIT)
}

/// The agents as npm has them today, for `--long`.
///
/// # Errors
/// When npm fails.
pub(crate) fn newest_agents(checkout: &Checkout, pinned: &Clients) -> Result<Clients> {
    clients::newest(checkout, pinned)
}

/// What the shared plane runs on, for its contracts.
///
/// # Errors
/// Like [`for_build`].
pub(crate) fn for_services(checkout: &Checkout) -> Result<()> {
    packages::install(checkout, "to run Kafka, PostgreSQL and Redis", packages::SERVICES)
}

/// What boots other kernels.
///
/// # Errors
/// Like [`for_build`].
pub(crate) fn for_vm(checkout: &Checkout) -> Result<()> {
    packages::install(checkout, "to boot other kernels", packages::VM)
}

/// What reads vagrant/Vagrantfile.
///
/// # Errors
/// Like [`for_build`].
pub(crate) fn for_vagrant(checkout: &Checkout) -> Result<()> {
    packages::install(checkout, "to check vagrant/Vagrantfile", packages::VAGRANT)
}
