//! What kernel programs say of each decision, for engineers: `cargo xtask build --log` builds programs that do. What ships
//! has neither the lines nor their ring.
//!
//! The ring is not pinned: programs that this keeper loads write to its own, also in links that it adopted, and a keeper
//! before it reads nothing more. Where nobody reads, the ring fills up, and what does not fit is lost.

use std::os::fd::AsFd;

use aya::Ebpf;
use aya_log::{EbpfLogger, Level};
use caracal_common::denial::{Hook, Why};
use nix::poll::{PollFd, PollFlags, PollTimeout};

use super::super::KeeperError;
use super::{chain, kernel};

/// What `RUST_LOG` calls the lines.
const TARGET: &str = "caracal_ebpf";

/// Reads the ring of lines.
pub(crate) type Reader = EbpfLogger<Lines>;

/// Hands each line to `tracing`.
#[derive(Debug)]
pub(crate) struct Lines;

impl log::Log for Lines {
    fn enabled(&self, _: &log::Metadata<'_>) -> bool {
        true
    }

    fn log(&self, line: &log::Record<'_>) {
        tracing::debug!(target: TARGET, "{}", named(&line.args().to_string()));
    }

    fn flush(&self) {}
}

/// The constant that opens or closes the lines of programs which have some. Set before they are verified: a closed line costs
/// a look at the constant.
pub(super) fn level() -> u8 {
    if tracing::enabled!(target: TARGET, tracing::Level::DEBUG) { Level::Debug as u8 } else { 0 }
}

/// The reader, where the programs have lines. Can be taken once.
///
/// # Errors
/// When the ring cannot be mapped.
pub(super) fn take(ebpf: &mut Ebpf) -> Result<Option<Reader>, KeeperError> {
    match EbpfLogger::init_with_logger(ebpf, Lines) {
        Ok(reader) => Ok(Some(reader)),
        Err(aya_log::Error::MapNotFound) => Ok(None),
        Err(error) => Err(kernel(format!("the ring of the programs' lines: {}", chain(&error)))),
    }
}

/// Hands over each line as it comes, for ever.
pub(crate) fn follow(mut reader: Reader) {
    loop {
        reader.flush();
        let mut one = [PollFd::new(reader.as_fd(), PollFlags::POLLIN)];
        if let Err(error) = nix::poll::poll(&mut one, PollTimeout::NONE)
            && error != nix::errno::Errno::EINTR
        {
            tracing::warn!(%error, "The kernel programs' lines are not read any more.");
            return;
        }
    }
}

/// The line with the codes of hook and reason, of which programs know the numbers.
fn named(line: &str) -> String {
    let mut before = "";
    let words = line.split(' ').map(|word| {
        let digits = word.trim_end_matches([',', ':']);
        let code = digits.parse().ok().and_then(|number| match before {
            "hook" => Hook::from_number(number).map(Hook::code),
            "why" => Why::from_number(number).map(Why::code),
            _ => None,
        });
        before = word;
        code.map_or_else(|| word.to_owned(), |code| word.replacen(digits, code, 1))
    });
    words.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_get_their_codes() {
        let line = "hook 1 refuses, why 5: ::ffff:192.0.2.1 port 5, pid 1";
        assert_eq!(named(line), "hook connect refuses, why datagram_refused: ::ffff:192.0.2.1 port 5, pid 1");
        assert_eq!(named("hook 99 refuses, why 0: :: port 1, pid 2"), "hook 99 refuses, why 0: :: port 1, pid 2");
    }
}
