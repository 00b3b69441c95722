//! Shows what is being waited for: a spinner on a terminal, plain lines elsewhere.

use std::{
    cell::Cell,
    fs::{self, File},
    io::{IsTerminal, stderr},
    path::Path,
    process::{Command, ExitStatus, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use indicatif::{ProgressBar, ProgressStyle};

/// Without a terminal, a step that takes longer says so this often.
const REMINDER: Duration = Duration::from_secs(30);
/// How often a running step is looked at.
const GLANCE: Duration = Duration::from_millis(100);
/// Lines of a failed step's output that are shown.
const TAIL: usize = 40;

thread_local! {
    /// Whether something else is what the person waits for.
    static IN_THE_BACKGROUND: Cell<bool> = const { Cell::new(false) };
}

/// Runs `work`, which shows only what it has ended: the lines in between are those of another thread.
pub(crate) fn in_the_background<T>(work: impl FnOnce() -> T) -> T {
    IN_THE_BACKGROUND.set(true);
    let done = work();
    IN_THE_BACKGROUND.set(false);
    done
}

/// Something that is being waited for. Dropped without [`Wait::done`], it leaves no line on a terminal.
#[derive(Debug)]
pub(crate) struct Wait {
    what: String,
    started: Instant,
    reminded: Instant,
    spinner: Option<ProgressBar>,
    /// Says nothing before it ends.
    silent: bool,
}

impl Wait {
    pub(crate) fn start(what: impl Into<String>) -> Self {
        let what = what.into();
        let silent = IN_THE_BACKGROUND.get();
        let spinner = (!silent && stderr().is_terminal()).then(|| {
            let style = ProgressStyle::with_template("{spinner} {msg} ({elapsed})");
            let bar = ProgressBar::new_spinner().with_message(what.clone());
            if let Ok(style) = style {
                bar.set_style(style);
            }
            bar.enable_steady_tick(GLANCE);
            bar
        });
        if spinner.is_none() && !silent {
            eprintln!("... {what}");
        }
        Self { what, started: Instant::now(), reminded: Instant::now(), spinner, silent }
    }

    /// Sleeps for a moment; without a terminal, says now and then that it still waits.
    pub(crate) fn glance(&mut self) {
        thread::sleep(GLANCE);
        if self.spinner.is_none() && !self.silent && self.reminded.elapsed() >= REMINDER {
            self.reminded = Instant::now();
            eprintln!("... still {} ({} s)", self.what, self.started.elapsed().as_secs());
        }
    }

    /// A line that stays, while the wait goes on.
    pub(crate) fn say(&self, line: &str) {
        match &self.spinner {
            Some(spinner) => spinner.println(line),
            None => eprintln!("{line}"),
        }
    }

    pub(crate) fn waited(&self) -> Duration {
        self.started.elapsed()
    }

    /// Ends with one line that stays.
    pub(crate) fn done(self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
        eprintln!("ok  {} ({:.1} s)", self.what, self.started.elapsed().as_secs_f64());
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        if let Some(spinner) = &self.spinner {
            spinner.finish_and_clear();
        }
    }
}

/// Runs a command with its output in `log`; shows the end of it only when the command fails.
///
/// # Errors
/// When it does not start or ends with anything but success.
pub(crate) fn quietly(what: &str, command: &mut Command, log: &Path) -> Result<()> {
    if let Some(directory) = log.parent() {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let out = File::create(log).with_context(|| log.display().to_string())?;
    let mut wait = Wait::start(what);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .spawn()
        .with_context(|| format!("{what}: {} does not start", command.get_program().display()))?;
    let status = loop {
        match child.try_wait()? {
            Some(status) => break status,
            None => wait.glance(),
        }
    };
    if status.success() {
        wait.done();
        return Ok(());
    }
    drop(wait);
    if IN_THE_BACKGROUND.get() {
        left_out(what, "it is tried again when it is needed");
        bail!("{what}: ended with {status}");
    }
    let text = String::from_utf8_lossy(&fs::read(log)?).into_owned();
    let lines: Vec<&str> = text.lines().collect();
    for line in lines.iter().skip(lines.len().saturating_sub(TAIL)) {
        eprintln!("  | {line}");
    }
    bail!("{what}: ended with {status}; all of it is in {}", log.display())
}

/// Runs a command that shows its own progress.
///
/// # Errors
/// When it does not start or ends with anything but success.
pub(crate) fn aloud(what: &str, command: &mut Command) -> Result<()> {
    let status = status(what, command)?;
    if !status.success() {
        bail!("{what}: ended with {status}");
    }
    Ok(())
}

/// Like [`aloud`], but leaves the verdict to the caller.
pub(crate) fn status(what: &str, command: &mut Command) -> Result<ExitStatus> {
    eprintln!("==> {what}");
    command
        .stdin(Stdio::null())
        .status()
        .with_context(|| format!("{what}: {} does not start", command.get_program().display()))
}

/// Says aloud that something was not done.
pub(crate) fn left_out(what: &str, why: &str) {
    eprintln!("--  {what} left out: {why}");
}
