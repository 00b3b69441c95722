//! Data paths from before an upgrade, which end what they had begun while another one serves what is new. Each has a road to
//! its successor; the keeper holds the successor's end of it too, so that the next successor can have it.
//!
//! None outlives the data path that writes its records: without that one it could record nothing.

use std::collections::VecDeque;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd, RawFd};

use nix::sys::signal::{Signal, kill};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use super::KeeperError;

/// So many at once; the oldest is ended when there is one more.
pub const MOST: usize = 4;
/// The variable that names them, for the program that the keeper becomes: `PID:DESCRIPTOR`, oldest first.
pub const VARIABLE: &str = "CARACAL_PREDECESSORS";
/// What one message may have, bytes, with room for the kernel's own accounting.
const BUFFER: usize = 2 << 20;

/// One of them.
#[derive(Debug)]
struct Predecessor {
    pid: Pid,
    road: OwnedFd,
}

/// Those that are left, oldest first.
#[derive(Debug, Default)]
pub struct Predecessors(VecDeque<Predecessor>);

/// The two ends of a road: the predecessor's and its successor's.
///
/// # Errors
/// When the kernel has no socket.
pub fn road() -> Result<(OwnedFd, OwnedFd), KeeperError> {
    let made = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC);
    let (ours, theirs) = made.map_err(|error| KeeperError::Gone(error.to_string()))?;
    for end in [&ours, &theirs] {
        // Where it is refused, only what is longest does not pass.
        let _ = setsockopt(end, sockopt::SndBufForce, &BUFFER);
    }
    Ok((ours, theirs))
}

impl Predecessors {
    /// Takes what the keeper before an upgrade left, and ends its other children, of which nobody knows any more: its canary.
    /// To be called before this keeper has a child.
    ///
    /// # Errors
    /// When the variable is there and what it names is not.
    pub fn take() -> Result<Predecessors, KeeperError> {
        let left = Predecessors::named_to_us()?;
        let children = std::fs::read_to_string("/proc/thread-self/children").unwrap_or_default();
        for pid in children.split_whitespace().filter_map(|pid| pid.parse().ok()) {
            if !left.has(pid) && std::env::var_os(VARIABLE).is_some() {
                end(Pid::from_raw(pid.cast_signed()));
            }
        }
        Ok(left)
    }

    fn named_to_us() -> Result<Predecessors, KeeperError> {
        let Some(text) = std::env::var_os(VARIABLE) else { return Ok(Predecessors::default()) };
        let wrong = || KeeperError::Refused(format!("{VARIABLE} is not for people: start caracald without it"));
        let mut all = VecDeque::new();
        for pair in text.to_str().ok_or_else(wrong)?.split(',').filter(|pair| !pair.is_empty()) {
            let (pid, fd) = pair.split_once(':').ok_or_else(wrong)?;
            let (pid, fd): (i32, RawFd) = (pid.parse().map_err(|_| wrong())?, fd.parse().map_err(|_| wrong())?);
            // SAFETY: only asks whether the descriptor is open, and closes it on the next exec.
            if pid < 2 || fd < 3 || unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) } < 0 {
                return Err(wrong());
            }
            // SAFETY: open, inherited from the keeper before us, and nobody else's.
            all.push_back(Predecessor { pid: Pid::from_raw(pid), road: unsafe { OwnedFd::from_raw_fd(fd) } });
        }
        Ok(Predecessors(all))
    }

    /// One more, whose successor has the other end of its road.
    pub fn add(&mut self, pid: u32, road: OwnedFd) {
        if let Ok(pid) = i32::try_from(pid) {
            self.0.push_back(Predecessor { pid: Pid::from_raw(pid), road });
        }
        while self.0.len() > MOST {
            if let Some(oldest) = self.0.pop_front() {
                tracing::warn!(pid = oldest.pid.as_raw(), "Too many upgrades in a row: the oldest data path is ended.");
                oldest.end();
            }
        }
    }

    /// Whether this process is one of them.
    #[must_use]
    pub fn has(&self, pid: u32) -> bool {
        self.0.iter().any(|one| u32::try_from(one.pid.as_raw()) == Ok(pid))
    }

    /// The ends of their roads, for a successor.
    #[must_use]
    pub fn roads(&self) -> Vec<BorrowedFd<'_>> {
        self.0.iter().map(|one| one.road.as_fd()).collect()
    }

    /// What [`VARIABLE`] says of them.
    #[must_use]
    pub fn named(&self) -> String {
        let named: Vec<String> = self.0.iter().map(|one| format!("{}:{}", one.pid, one.road.as_raw_fd())).collect();
        named.join(",")
    }

    /// Lets go of those that have ended.
    pub fn reap(&mut self) {
        self.0.retain(|one| matches!(waitpid(one.pid, Some(WaitPidFlag::WNOHANG)), Ok(WaitStatus::StillAlive)));
    }

    /// Ends them all: nobody writes their records any more.
    pub fn end(&mut self) {
        self.0.drain(..).for_each(Predecessor::end);
    }
}

impl Predecessor {
    fn end(self) {
        end(self.pid);
    }
}

/// Ends our own child, which nobody has waited for: the number is its.
fn end(child: Pid) {
    let _ = kill(child, Signal::SIGKILL);
    let _ = waitpid(child, None);
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    #[expect(clippy::zombie_processes, reason = "what is tested waits for it by its number")]
    fn sleeper(all: &mut Predecessors) -> u32 {
        let child = Command::new("sleep").arg("60").stdin(Stdio::null()).spawn().expect("sleep");
        let (_, road) = road().expect("a road");
        all.add(child.id(), road);
        child.id()
    }

    fn is_there(pid: u32) -> bool {
        std::path::Path::new(&format!("/proc/{pid}")).exists()
    }

    #[test]
    fn the_oldest_goes_when_there_are_too_many_and_all_go_at_the_end() {
        let mut all = Predecessors::default();
        let pids: Vec<u32> = (0..=MOST).map(|_| sleeper(&mut all)).collect();
        assert_eq!(all.roads().len(), MOST);
        let there: Vec<bool> = pids.iter().map(|pid| is_there(*pid)).collect();
        assert_eq!(there, [false, true, true, true, true]);
        all.reap();
        assert_eq!(all.named().split(',').count(), MOST, "those that run stay");
        all.end();
        assert!(!pids.iter().any(|pid| is_there(*pid)));
        assert_eq!(all.named(), "");
    }
}
