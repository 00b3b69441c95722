//! `cargo xtask test`: unit tests, then the contracts against the real binary, then a summary made from the reports.

pub(crate) mod programs;

use std::{env, ffi::OsString, fs, path::Path, process::Command, time::Instant};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::programs::Program;
use crate::{
    build,
    checkout::Checkout,
    progress,
    report::{self, Case, Inbox, Report, Verdict},
    root,
    setup::{self, Clients},
    vm,
};

/// Tests beside the code: they need neither root nor a running daemon.
const UNIT: &[&str] = &[
    "--package=caracal-common",
    "--package=caracal-daemon",
    "--package=caracal-tests",
    "--package=xtask",
    "--lib",
    "--bins",
];
/// The contracts: one program per file of tests/.
const CONTRACTS: &[&str] = &["--package=caracal-tests", "--test=*"];

/// The subject that boots other kernels.
const VM: &str = "vm";

/// Set up, build, and try everything; leaves one file per subject in target/report.
///
/// Without a subject: the unit tests and every contract. The contracts run as root, because they make cgroups and
/// network namespaces; they are compiled as you, and leave nothing of root's in the checkout.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  cargo xtask test\n  cargo xtask test unit\n  cargo xtask test wire money\n  \
                        cargo xtask test --long money\n  cargo xtask test wire -- trailers")]
pub(crate) struct Arguments {
    /// Only these: `unit`, `vm`, or a file of tests/ such as `wire`, `money`, `agents`.
    #[arg(value_name = "SUBJECT")]
    subjects: Vec<String>,
    /// Full size rather than the size that fits into CI.
    #[arg(long)]
    long: bool,
    /// Passed to the test programs, for instance a part of a test's name.
    #[arg(last = true, value_name = "FILTER")]
    filter: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let checkout = Checkout::find()?;
    let wants_unit = arguments.subjects.is_empty() || arguments.subjects.iter().any(|subject| subject == "unit");
    let wants_vm = arguments.subjects.is_empty() || arguments.subjects.iter().any(|subject| subject == VM);
    let wants_contracts =
        arguments.subjects.is_empty() || arguments.subjects.iter().any(|subject| subject != "unit" && subject != VM);
    build::all(&checkout)?;
    if arguments.subjects.is_empty() {
        forget_old_reports(&checkout)?;
    }
    let mut written = Vec::new();
    if wants_unit {
        written.push(unit(&checkout, &arguments.filter)?);
    }
    if wants_contracts {
        let clients = setup::for_test(&checkout)?;
        written.extend(contracts(&checkout, &clients, arguments)?);
    }
    if wants_vm {
        for report in vm::test(&checkout, arguments.long, &arguments.filter)? {
            keep(&checkout, &mut written, report)?;
        }
    }
    let reports = written
        .iter()
        .map(|name| Report::read(&checkout.report().join(format!("{name}.json"))))
        .collect::<Result<Vec<_>>>()?;
    if !report::summary(&reports) {
        bail!("not everything passed; the reports are in {}", checkout.report().display());
    }
    Ok(())
}

/// A whole run starts without the last one's reports, so that nothing old can look fresh.
fn forget_old_reports(checkout: &Checkout) -> Result<()> {
    for file in report::files(&checkout.report())? {
        if file.file_name().is_some_and(|name| name != "bench.json") {
            fs::remove_file(&file).with_context(|| file.display().to_string())?;
        }
    }
    Ok(())
}

/// Runs the unit tests, one case per test; returns the subject's name.
fn unit(checkout: &Checkout, filter: &[String]) -> Result<String> {
    let programs = programs::compile(checkout, "compiling the unit tests", UNIT)?;
    let (mut report, started) = (Report::start("unit", &checkout.root), Instant::now());
    for program in programs {
        let log = checkout.log(&format!("unit-{}", program.name));
        let mut command = Command::new(&program.executable);
        command.args(filter).current_dir(&program.directory);
        let outcome = progress::quietly(&format!("unit tests of {}", program.name), &mut command, &log);
        let output = fs::read_to_string(&log).unwrap_or_default();
        let cases = programs::cases(&program.name, &output);
        let told = cases.iter().any(|case| case.verdict == Verdict::Failed);
        report.cases.extend(cases);
        if let Err(error) = outcome
            && !told
        {
            report.cases.push(Case::new(program.name, Verdict::Failed).because(format!("{error:#}")));
        }
    }
    report.finish(started);
    report.write(&checkout.report())?;
    Ok(report.name)
}

/// Runs the chosen contracts; returns the names of the reports that they left.
fn contracts(checkout: &Checkout, clients: &Clients, arguments: &Arguments) -> Result<Vec<String>> {
    let programs = programs::compile(checkout, "compiling the contracts", CONTRACTS)?;
    let chosen = choose(programs, &arguments.subjects)?;
    root::ask("to run the contracts: they make cgroups and network namespaces")?;
    let inbox = Inbox::new()?;
    let mut written = Vec::new();
    for program in &chosen {
        let started = Instant::now();
        let mut command = contract(checkout, clients, arguments, program, inbox.path());
        let status = progress::status(&format!("contracts: {}", program.name), &mut command)?;
        let mut reports = inbox.collect()?;
        let told = reports.iter().any(|report| report.count(Verdict::Failed) > 0);
        if !status.success() && !told {
            let mut report = Report::start(&program.name, &checkout.root);
            report.finish(started);
            let why = format!("the test program ended with {status}; what it said is above");
            report.cases.push(Case::new("the program itself", Verdict::Failed).because(why));
            merge(&mut reports, report);
        }
        for report in reports {
            keep(checkout, &mut written, report)?;
        }
    }
    inbox.remove()?;
    Ok(written)
}

/// Writes a report of this run. Where an earlier program of this run wrote one of the same subject, it adds to that.
fn keep(checkout: &Checkout, written: &mut Vec<String>, mut report: Report) -> Result<()> {
    if written.contains(&report.name) {
        let mut first = Report::read(&checkout.report().join(format!("{}.json", report.name)))?;
        first.add(report);
        report = first;
    } else {
        written.push(report.name.clone());
    }
    report.write(&checkout.report())
}

/// Adds the cases to the report of the same subject, or adds the report.
fn merge(reports: &mut Vec<Report>, extra: Report) {
    match reports.iter_mut().find(|report| report.name == extra.name) {
        Some(report) => report.add(extra),
        None => reports.push(extra),
    }
}

fn choose(programs: Vec<Program>, subjects: &[String]) -> Result<Vec<Program>> {
    let names: Vec<String> = programs.iter().map(|program| program.name.clone()).collect();
    if let Some(unknown) =
        subjects.iter().find(|subject| *subject != "unit" && *subject != VM && !names.contains(subject))
    {
        bail!("there is no subject `{unknown}`; there are: unit {VM} {}", names.join(" "));
    }
    Ok(programs.into_iter().filter(|program| subjects.is_empty() || subjects.contains(&program.name)).collect())
}

/// One test program, as root, told where everything is.
fn contract(
    checkout: &Checkout,
    clients: &Clients,
    arguments: &Arguments,
    program: &Program,
    reports: &Path,
) -> Command {
    let mut command = root::command("env");
    let mut set = |name: &str, value: &Path| {
        let mut word = OsString::from(format!("{name}="));
        word.push(value);
        command.arg(word);
    };
    if let Some(path) = env::var_os("PATH") {
        set("PATH", Path::new(&path));
    }
    set("CARACALD", &checkout.caracald());
    set("CARGO_TARGET_DIR", &checkout.target);
    set("CARACAL_REPORT_DIR", reports);
    set("CARACAL_COMMIT", Path::new(&report::commit(&checkout.root)));
    for (name, value) in clients.environment() {
        set(name, &value);
    }
    if arguments.long {
        set("CARACAL_LONG", Path::new("1"));
    }
    command.arg(&program.executable).args(&arguments.filter).current_dir(&program.directory);
    command
}
