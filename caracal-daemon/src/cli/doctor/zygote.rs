//! The process that makes attempts by forking: started once, it has a child for each. A start of the whole program for each
//! attempt would be most of what `doctor` costs. Takes names on standard input, one after another, and says on standard
//! output which child waits to be moved and with which exit code it ended; or takes all at once and writes their exit codes
//! into a file. Never has a thread: it forks.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::{ForkResult, Pid, alarm, fork};

use super::attempts;

/// How long one attempt may take.
const LIMIT: Duration = Duration::from_secs(SECONDS as u64);
const SECONDS: u32 = 10;
/// The child that waits to be moved, and its process number.
const READY: &str = "ready";
/// A child is gone, and its exit code.
const ENDED: &str = "ended";
/// The file, below the place, into which [`all`] writes: a name and an exit code each line.
const CODES: &str = "codes";

/// The process, seen from `doctor`.
#[derive(Debug)]
pub struct Zygote {
    place: PathBuf,
    /// None where it is gone: the next attempt starts another.
    running: Option<Running>,
}

#[derive(Debug)]
struct Running {
    child: Child,
    names: ChildStdin,
    answers: BufReader<ChildStdout>,
}

impl Zygote {
    /// Nothing runs before the first attempt. `place`: where attempts find what they try to reach.
    #[must_use]
    pub fn new(place: &Path) -> Zygote {
        Zygote { place: place.to_owned(), running: None }
    }

    /// An attempt in a process of its own. `moved` gets its number, puts it where it belongs and says whether it is there.
    /// Gives its exit code; none where it could not be made, or took longer than [`LIMIT`].
    pub fn attempt(&mut self, name: &str, moved: impl FnOnce(u32) -> bool) -> Option<i32> {
        let mut running = self.running.take().map_or_else(|| Running::start(&self.place), Ok).ok()?;
        let code = running.attempt(name, moved)?;
        self.running = Some(running);
        Some(code)
    }
}

impl Running {
    fn start(place: &Path) -> io::Result<Running> {
        let mut command = Command::new(std::env::current_exe()?);
        command.args(["doctor", "--attempts", "--place"]).arg(place);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn()?;
        let (Some(names), Some(answers)) = (child.stdin.take(), child.stdout.take()) else {
            return Err(io::ErrorKind::BrokenPipe.into());
        };
        Ok(Running { child, names, answers: BufReader::new(answers) })
    }

    fn attempt(&mut self, name: &str, moved: impl FnOnce(u32) -> bool) -> Option<i32> {
        let end = Instant::now() + LIMIT;
        writeln!(self.names, "{name}").ok()?;
        // One that ended before it was moved was not made.
        let number: u32 = self.answer(end)?.strip_prefix(READY)?.trim().parse().ok()?;
        let told = moved(number) && self.names.write_all(b"g").is_ok();
        let answer = if told { self.answer(end) } else { None };
        if answer.is_none() {
            let _gone = i32::try_from(number).map(|number| kill(Pid::from_raw(number), Signal::SIGKILL));
        }
        ended(&answer?)
    }

    fn answer(&mut self, end: Instant) -> Option<String> {
        while self.answers.buffer().is_empty() {
            let left = PollTimeout::try_from(end.checked_duration_since(Instant::now())?).ok()?;
            let mut waited = [PollFd::new(self.answers.get_ref().as_fd(), PollFlags::POLLIN)];
            match poll(&mut waited, left) {
                Ok(0) => return None,
                Ok(_) => break,
                Err(nix::errno::Errno::EINTR) => {}
                Err(_) => return None,
            }
        }
        let mut line = String::new();
        // Lines are written whole, and are shorter than a pipe takes at once.
        (self.answers.read_line(&mut line).ok()? > 0).then(|| line.trim_end().to_owned())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

fn ended(answer: &str) -> Option<i32> {
    answer.strip_prefix(ENDED)?.trim().parse().ok()
}

/// The process itself: `caracald doctor --attempts --place DIR`. Ends when nobody names another attempt.
///
/// # Errors
/// When whoever asks is gone, or nothing can be forked.
pub fn run(place: &Path) -> io::Result<()> {
    loop {
        let mut name = String::new();
        // No lock on it is held over the fork: the child reads from it, too.
        if io::stdin().read_line(&mut name)? == 0 {
            return Ok(());
        }
        let name = name.trim_end();
        say(&format!("{ENDED} {}", forked(name, place, wait_to_be_moved)?))?;
    }
}

/// All at once, where this process stands: `caracald doctor --attempt NAME... --place DIR`, which [`codes`] reads.
///
/// # Errors
/// When nothing can be forked or written.
pub fn all(names: &[String], place: &Path) -> io::Result<()> {
    let mut codes = File::create(place.join(CODES))?;
    names.iter().try_for_each(|name| writeln!(codes, "{name} {}", forked(name, place, || Ok(()))?))
}

/// The exit codes that [`all`] left; what could not be made is not among them.
#[must_use]
pub fn codes(place: &Path) -> BTreeMap<String, i32> {
    let told = fs::read_to_string(place.join(CODES)).unwrap_or_default();
    told.lines()
        .filter_map(|line| line.split_once(' '))
        .filter_map(|(name, code)| Some((name.to_owned(), code.parse().ok()?)))
        .collect()
}

/// Makes an attempt in a child. Gives its exit code, or what is no number where it ended in another way.
#[expect(clippy::disallowed_methods, reason = "a forked child leaves what its parent opened to the parent")]
fn forked(name: &str, place: &Path, moved: fn() -> io::Result<()>) -> io::Result<String> {
    // SAFETY: this process has one thread, so the child may do whatever the parent may.
    match unsafe { fork() }? {
        ForkResult::Child => {
            // Ends it, if nothing else does.
            alarm::set(SECONDS);
            std::process::exit(attempts::run(name, place, moved))
        }
        ForkResult::Parent { child } => Ok(match waitpid(child, None)? {
            WaitStatus::Exited(_, code) => code.to_string(),
            other => format!("{other:?}"),
        }),
    }
}

/// Says that this process may be moved now, and waits until it is.
fn wait_to_be_moved() -> io::Result<()> {
    say(&format!("{READY} {}", std::process::id()))?;
    io::stdin().read_exact(&mut [0])
}

fn say(line: &str) -> io::Result<()> {
    let mut out = io::stdout();
    out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush())
}
