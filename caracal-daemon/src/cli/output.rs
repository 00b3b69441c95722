//! What a command prints. A reader that has had enough (`head`, a pager that was left) ends the command as SIGPIPE ends
//! any other (signal(7)): quietly, with 141 in a shell, and only after it has cleaned up. What is printed meanwhile goes
//! nowhere. A daemon goes on without its reader.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SigHandler, SigSet, SigmaskHow, Signal, raise, signal, sigprocmask};

/// Whether nobody reads standard output any more.
static GONE: AtomicBool = AtomicBool::new(false);

/// 128 and the signal's number, as shells count.
const ENDED_BY_SIGPIPE: u8 = 141;

/// In place of the standard library's, which panics where nobody reads.
macro_rules! print {
    ($($word:tt)*) => { $crate::cli::output::say(format_args!($($word)*)) };
}

/// Likewise.
macro_rules! println {
    () => { println!("") };
    ($($word:tt)*) => { $crate::cli::output::say(format_args!("{}\n", format_args!($($word)*))) };
}

/// Likewise. Nobody can be told that standard error is closed.
macro_rules! eprintln {
    ($($word:tt)*) => { $crate::cli::output::complain(format_args!("{}\n", format_args!($($word)*))) };
}

/// Standard output: notes when its reader is gone.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output;

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        noted(io::stdout().write(bytes))
    }

    fn flush(&mut self) -> io::Result<()> {
        noted(io::stdout().flush())
    }
}

fn noted<T>(done: io::Result<T>) -> io::Result<T> {
    if done.as_ref().is_err_and(|error| error.kind() == ErrorKind::BrokenPipe) {
        GONE.store(true, Ordering::Relaxed);
    }
    done
}

/// `print!`.
pub(crate) fn say(words: Arguments<'_>) {
    if !GONE.load(Ordering::Relaxed)
        && let Err(error) = Output.write_fmt(words)
        && error.kind() != ErrorKind::BrokenPipe
    {
        complain(format_args!("caracald: standard output: {error}\n"));
    }
}

/// `eprint!`.
pub(crate) fn complain(words: Arguments<'_>) {
    let _ = io::stderr().write_fmt(words);
}

/// Whether nobody reads standard output any more.
pub(super) fn is_gone() -> bool {
    GONE.load(Ordering::Relaxed)
}

/// How a command ends that would end with `code`: so, or by SIGPIPE when its reader left.
pub(super) fn ended(code: ExitCode) -> ExitCode {
    let _ = Output.flush();
    if !GONE.load(Ordering::Relaxed) {
        return code;
    }
    // SAFETY: the default action is no function of ours.
    let _ = unsafe { signal(Signal::SIGPIPE, SigHandler::SigDfl) };
    let _ = sigprocmask(SigmaskHow::SIG_UNBLOCK, Some(&SigSet::from(Signal::SIGPIPE)), None);
    let _ = raise(Signal::SIGPIPE);
    ExitCode::from(ENDED_BY_SIGPIPE)
}
