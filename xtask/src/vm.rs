//! `cargo xtask vm`: Debian's kernels, old and new, in virtual machines: the same caracald, the same proofs.
//!
//! A machine is a kernel and a root file system in memory: this host's programs, caracald as it was built, the contracts'
//! `escape`. It has no disk and no network; what it found comes back over a serial port.

mod coverage;
mod guest;
mod image;
mod machine;
mod modules;
mod outcome;
mod plan;
mod suite;
mod systemd;
mod vagrant;

use std::{
    collections::VecDeque,
    fs,
    path::Path,
    sync::{Mutex, PoisonError, mpsc},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::{
    guest::Root,
    image::Image,
    machine::{Accelerator, Console, MEMORY_MIB, Machine, Size},
    outcome::Outcome,
    plan::{Boot, Cgroups, Depth, Work},
    suite::{Apt, Kernel, SUITES, Suite},
};
use crate::{
    build,
    checkout::Checkout,
    progress::Wait,
    report::{self, Case, Report, Verdict},
    setup,
};

/// How long one machine may be on: two minutes are usual, on a busy host ten. This only ends what would never end.
const LIMIT: Duration = Duration::from_secs(1200);
/// Likewise, where everything is tried as everybody: emulated, the whole contract takes hours.
const LONG_LIMIT: Duration = Duration::from_secs(8 * 60 * 60);
/// Why there is nothing to boot on another kind of processor.
const ELSEWHERE: &str = "the machines are x86-64 and run this host's programs: they need an x86-64 host";
/// Machines at the same time, one processor each.
const AT_ONCE: usize = 2;

/// Boot Debian's kernels and try caracald on them.
///
/// Without a command: what `cargo xtask test vm` does, on the kernels that are named (all of them when none is).
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  cargo xtask vm --list\n  cargo xtask vm 5.10\n  cargo xtask vm 6.1 --shell\n  \
                        cargo xtask vm newest --cgroup hybrid -- caracald doctor\n  cargo xtask vm --coverage")]
pub(crate) struct Arguments {
    /// A series (`5.10`, `newest`) or a suite of Debian (`bullseye`, `sid`).
    #[arg(value_name = "KERNEL")]
    kernels: Vec<String>,
    /// Say which kernels there are, with versions and checksums, and boot none.
    #[arg(long)]
    list: bool,
    /// A shell in the machine, on this terminal.
    #[arg(long, conflicts_with = "command")]
    shell: bool,
    /// How the machine mounts cgroups.
    #[arg(long, value_enum, default_value_t = Cgroups::Pure)]
    cgroup: Cgroups,
    /// Memory of the machine that runs the shell or the command, MiB.
    #[arg(long, value_name = "MIB", default_value_t = MEMORY_MIB, value_parser = clap::value_parser!(u32).range(512..))]
    memory: u32,
    /// Leave `bpf` out of the list of security modules.
    #[arg(long)]
    no_bpf_lsm: bool,
    /// Ask `doctor` alone on every kernel, and write docs/COVERAGE.md from what it says.
    #[arg(long, conflicts_with_all = ["shell", "command", "list"])]
    coverage: bool,
    /// Write docs/COVERAGE.md from the last run's report, and boot nothing.
    #[arg(long, conflicts_with_all = ["shell", "command", "list", "coverage"])]
    coverage_from_report: bool,
    /// Runs in the machine, as root, with caracald on PATH.
    #[arg(last = true, value_name = "CMD")]
    command: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        bail!("{ELSEWHERE}");
    }
    let checkout = Checkout::find()?;
    let suites = chosen(&arguments.kernels)?;
    if arguments.coverage_from_report {
        return coverage::write(&checkout, &[Report::read(&checkout.report().join("kernels.json"))?]);
    }
    setup::for_vm(&checkout)?;
    if arguments.list {
        return list(&checkout, &suites);
    }
    build::all(&checkout)?;
    if arguments.shell || !arguments.command.is_empty() {
        return by_hand(&checkout, arguments, &suites);
    }
    let depth = if arguments.coverage { Depth::Coverage } else { Depth::Short };
    let reports = try_out(&checkout, &suites, depth, &[])?;
    for report in &reports {
        report.write(&checkout.report())?;
    }
    let well = report::summary(&reports);
    if arguments.coverage {
        coverage::write(&checkout, &reports)?;
    }
    if !well {
        bail!("not everything passed; the reports are in {}", checkout.report().display());
    }
    Ok(())
}

/// The part of `cargo xtask test` that boots machines: every kernel, and what each found.
///
/// # Errors
/// When the machines' root file system cannot be made. What fails in a machine, or for one kernel alone, is a case, and so
/// is a program that cannot be installed.
pub(crate) fn test(checkout: &Checkout, long: bool, filter: &[String]) -> Result<Vec<Report>> {
    if !cfg!(target_arch = "x86_64") {
        let mut kernels = Report::start("kernels", &checkout.root);
        kernels.cases.push(Case::new("other kernels", Verdict::Skipped).because(ELSEWHERE));
        return Ok(vec![kernels]);
    }
    if let Err(error) = setup::for_vm(checkout) {
        let mut kernels = Report::start("kernels", &checkout.root);
        kernels.cases.push(Case::new("what boots other kernels", Verdict::Failed).because(format!("{error:#}")));
        return Ok(vec![kernels]);
    }
    let suites: Vec<&Suite> = SUITES.iter().collect();
    let mut reports = try_out(checkout, &suites, if long { Depth::Long } else { Depth::Short }, filter)?;
    coverage::compare(checkout, &mut reports);
    if let Some(kernels) = reports.iter_mut().find(|report| report.name == "kernels") {
        kernels.cases.push(vagrant::validate(checkout));
    }
    Ok(reports)
}

/// Fetches the kernels that [`test`] boots.
///
/// # Errors
/// When the directory for them cannot be made, or a suite has no kernel to give.
pub(crate) fn fetch(checkout: &Checkout) -> Result<()> {
    if !cfg!(target_arch = "x86_64") {
        return Ok(());
    }
    let apt = Apt::open(checkout)?;
    SUITES.iter().try_for_each(|suite| apt.kernel(checkout, suite).map(drop))
}

fn chosen(words: &[String]) -> Result<Vec<&'static Suite>> {
    if let Some(unknown) = words.iter().find(|word| !SUITES.iter().any(|suite| suite.is_called(word))) {
        let known: Vec<_> = SUITES.iter().map(|suite| format!("{} ({})", suite.series, suite.name)).collect();
        bail!("there is no kernel `{unknown}`; there are: {}", known.join(", "));
    }
    Ok(SUITES.iter().filter(|suite| words.is_empty() || words.iter().any(|word| suite.is_called(word))).collect())
}

fn list(checkout: &Checkout, suites: &[&Suite]) -> Result<()> {
    let apt = Apt::open(checkout)?;
    for suite in suites {
        match apt.kernel(checkout, suite) {
            Ok(kernel) => {
                let kept = if kernel.kept { " (kept from an earlier run)" } else { "" };
                println!("{:7} {:9} {}{kept}", suite.series, suite.name, kernel.release);
                for package in &kernel.packages {
                    println!("        {} {} sha256 {}", package.name, package.version, package.sha256);
                }
            }
            Err(error) => println!("{:7} {:9} not available: {error:#}", suite.series, suite.name),
        }
    }
    Ok(())
}

fn by_hand(checkout: &Checkout, arguments: &Arguments, suites: &[&Suite]) -> Result<()> {
    let apt = Apt::open(checkout)?;
    let scratch = checkout.target.join("vm");
    let mut failed = Vec::new();
    let suites = if arguments.shell { suites.get(..1).unwrap_or_default() } else { suites };
    let root = guest::root(checkout, &scratch)?;
    for suite in suites {
        let kernel = apt.kernel(checkout, suite)?;
        let work = if arguments.shell { Work::Shell } else { Work::Command(arguments.command.clone()) };
        let boot = Boot { kernel, cgroups: arguments.cgroup, bpf_lsm: !arguments.no_bpf_lsm, work };
        let accelerator = accelerator(&scratch, &boot.kernel)?;
        eprintln!("==> {} ({})", boot.describe(), accelerator.name());
        // QEMU's translation of two processors hangs now and then, at an instruction that the kernel changes as it takes programs of
        // the LSM on and off.
        let processors = if accelerator == Accelerator::Tcg { 1 } else { 2 };
        let size = Size { processors, memory_mib: arguments.memory };
        let outcome = start(checkout, &scratch, &root, &boot, accelerator, size)?;
        print!("{}", outcome.log);
        if outcome.code != Some(0) {
            failed.push(suite.series);
        }
    }
    if !arguments.shell && !failed.is_empty() {
        bail!("the command failed on: {}", failed.join(", "));
    }
    Ok(())
}

/// Boots every kernel and gives the reports `kernels` and `escape`.
fn try_out(checkout: &Checkout, suites: &[&Suite], depth: Depth, filter: &[String]) -> Result<Vec<Report>> {
    let started = Instant::now();
    let mut kernels = Report::start("kernels", &checkout.root);
    let mut escape = Report::start("escape", &checkout.root);
    let scratch = checkout.target.join("vm");
    let mut boots = match Apt::open(checkout) {
        Ok(apt) => {
            let mut boots = Vec::new();
            for suite in suites {
                match apt.kernel(checkout, suite) {
                    Ok(kernel) => boots.extend(plan::boots(&kernel, depth, filter)),
                    Err(error) => kernels.cases.push(outcome::unavailable(suite, &error)),
                }
            }
            boots
        }
        Err(error) => {
            kernels.cases.extend(suites.iter().map(|suite| outcome::unavailable(suite, &error)));
            Vec::new()
        }
    };
    // The longest first: the others fit beside it.
    boots.sort_by_key(|boot: &Boot| boot.kernel.series != plan::AT_FULL.0);
    if let Some(first) = boots.first() {
        let root = guest::root(checkout, &scratch)?;
        let accelerator = accelerator(&scratch, &first.kernel)?;
        for (boot, outcome) in all(checkout, &scratch, &root, boots, accelerator) {
            outcome::judge(&boot, accelerator, outcome, &mut kernels, &mut escape);
            escape.cases.extend(boot.left_out(root.tests(), depth));
        }
        fs::remove_file(&root.path).with_context(|| root.path.display().to_string())?;
    }
    kernels.finish(started);
    escape.finish(started);
    let mut reports = vec![kernels];
    if !escape.cases.is_empty() {
        reports.push(escape);
    }
    Ok(reports)
}

/// Runs the boots, [`AT_ONCE`] at a time; says what each found as it ends.
fn all(
    checkout: &Checkout,
    scratch: &Path,
    root: &Root,
    boots: Vec<Boot>,
    accelerator: Accelerator,
) -> Vec<(Boot, Result<Outcome>)> {
    let count = boots.len();
    let queue: Mutex<VecDeque<Boot>> = Mutex::new(boots.into());
    let (sender, receiver) = mpsc::sync_channel(count);
    let small = Size { processors: 1, memory_mib: MEMORY_MIB };
    let mut done: Vec<(Boot, Result<Outcome>)> = Vec::with_capacity(count);
    thread::scope(|scope| {
        for _ in 0..AT_ONCE.min(count) {
            let (queue, sender) = (&queue, sender.clone());
            scope.spawn(move || {
                while let Some(boot) = next(queue) {
                    let outcome = start(checkout, scratch, root, &boot, accelerator, small);
                    // The receiver lives as long as this scope.
                    let _ = sender.send((boot, outcome));
                }
            });
        }
        drop(sender);
        let what = |done: usize| format!("booting kernels with {} ({done} of {count} done)", accelerator.name());
        let mut wait = Wait::start(what(0));
        loop {
            match receiver.try_recv() {
                Ok((boot, outcome)) => {
                    drop(wait);
                    eprintln!("{}", outcome::line(&boot, &outcome));
                    done.push((boot, outcome));
                    wait = Wait::start(what(done.len()));
                }
                Err(mpsc::TryRecvError::Empty) => wait.glance(),
                Err(mpsc::TryRecvError::Disconnected) => break,
            }
        }
        wait.done();
    });
    // In the order of the plan, whoever came first.
    done.sort_by_key(|(boot, _)| {
        let series = SUITES.iter().position(|suite| suite.series == boot.kernel.series);
        (series, boot.cgroups == Cgroups::Hybrid, !boot.bpf_lsm, boot.name())
    });
    done
}

fn next(queue: &Mutex<VecDeque<Boot>>) -> Option<Boot> {
    queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front()
}

/// Boots once and reads what came back.
fn start(
    checkout: &Checkout,
    scratch: &Path,
    root: &Root,
    boot: &Boot,
    accelerator: Accelerator,
    size: Size,
) -> Result<Outcome> {
    let name = boot.name();
    let own = scratch.join(format!("{name}.cpio"));
    let script = match &boot.work {
        Work::Proofs(selection) => guest::proofs(checkout, root, selection),
        Work::Doctor => guest::doctor(checkout, root),
        Work::Command(words) => guest::command(checkout, root, words),
        Work::Shell => guest::shell(checkout, root),
        Work::Systemd => systemd::script(checkout, root),
    };
    let more = if matches!(boot.work, Work::Systemd) { systemd::files(checkout)? } else { Image::default() };
    guest::add_to(root, &own, &boot.kernel, &script, more)?;
    let console = if matches!(boot.work, Work::Shell) {
        Console::Terminal
    } else {
        Console::Log(checkout.log(&format!("vm-{name}")))
    };
    let machine = Machine {
        accelerator,
        kernel: boot.kernel.image()?,
        root: own.clone(),
        words: boot.words(),
        size,
        console,
        out: scratch.join(format!("out-{name}")),
        limit: match &boot.work {
            // Whoever asked for a shell or a command is there to end it.
            Work::Shell | Work::Command(_) => Duration::MAX,
            Work::Proofs(selection) if selection.tries.is_none() => LONG_LIMIT,
            Work::Proofs(_) | Work::Doctor | Work::Systemd => LIMIT,
        },
    };
    let started = Instant::now();
    let ran = machine.run();
    // A quarter of a gigabyte, made again in a second.
    let removed = fs::remove_file(&own);
    ran?;
    removed.with_context(|| own.display().to_string())?;
    Outcome::read(&machine.out, started.elapsed())
}

fn accelerator(scratch: &Path, kernel: &Kernel) -> Result<Accelerator> {
    let root = scratch.join("probe.cpio");
    guest::write_probe(&root)?;
    let found = machine::accelerator(&kernel.image()?, &root, scratch);
    fs::remove_file(&root).with_context(|| root.display().to_string())?;
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernels_are_chosen_by_series_or_suite() {
        let names = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
            chosen(&words).map(|suites| suites.iter().map(|suite| suite.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&[]).unwrap(), ["bullseye", "bookworm", "trixie", "sid"]);
        assert_eq!(names(&["newest", "5.10"]).unwrap(), ["bullseye", "sid"]);
        assert_eq!(names(&["bookworm"]).unwrap(), ["bookworm"]);
        assert!(names(&["4.4"]).is_err());
    }
}
