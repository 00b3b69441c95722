//! `cargo xtask test`: unit tests, then the contracts against the real binary, then a summary made from the reports.

pub(crate) mod programs;

use std::{
    env,
    ffi::OsString,
    fs,
    path::Path,
    process::Command,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::Args;

use self::programs::Program;
use crate::{
    build,
    checkout::Checkout,
    demo, fuzz,
    progress::{self, Wait},
    report::{self, Case, Inbox, Report, Verdict},
    root, services,
    setup::{self, Clients},
    vm,
};

/// Tests beside the code: no daemon runs, but some need root.
///
/// caracald is one large crate: optimised, its unit tests take four times as long to compile, and half as long to run. What they
/// call of other crates is optimised all the same. Its program has no tests, and would be linked with a library of its own.
const UNIT: &[&str] = &[
    "test",
    "--no-run",
    "--lib",
    "--bin=xtask",
    "--bin=stand-in",
    "--bin=load",
    "--bin=probe",
    "--config=profile.release.package.caracal-daemon.opt-level=0",
];
/// The contracts: one program per file of tests/.
const CONTRACTS: &[&str] = &["test", "--no-run", "--test=*"];
/// The contracts, and what they run.
const RUN: &[&str] = &["build", "--bin=caracald", "--test=*"];
/// What goes through sudo, which clears the environment.
const KEPT: &[&str] = &[
    "PATH",
    "RUST_BACKTRACE",
    "RUST_LOG",
    "CARACAL_KAFKA",
    "CARACAL_POSTGRES",
    "CARACAL_REDIS",
    "CARACAL_SEED",
    "CARACAL_SEQUENCES",
    "CARACAL_LONG",
    "CARACAL_REQUESTS",
    "CARACAL_EVENTS",
    "CARACAL_KILLS",
    "CARACAL_DESTINATIONS",
    "CARACAL_TRIES",
    "CARACAL_FUZZ_TIMES",
    "PROPTEST_CASES",
    "PROPTEST_RNG_SEED",
];
/// Subjects that are no contract.
const OTHERS: &[&str] = &["unit", VM, "fuzz", DEMO];
/// The subject that runs the two commands of the README.
const DEMO: &str = "demo";
/// The contracts that `--long` also runs with the newest agents, and what their cases' names then end with.
const AGENTS: &str = "agents";
const NEWEST: &str = " (newest)";
/// The subject that runs Kafka, PostgreSQL and Redis.
const PLANE: &str = "plane";
/// The part of it that measures, and what tells it to measure long and to judge.
const SPEED: &str = "speed::";
pub(crate) const BENCH: &str = "CARACAL_BENCH";

/// The subject that boots other kernels.
const VM: &str = "vm";

/// Set up, build, and try everything; leaves one file per subject in target/report.
///
/// Without a subject: the unit tests, every contract, the demo, and Debian's kernels in virtual machines. All run as root, because
/// they make cgroups and network namespaces; they are compiled as you, and leave nothing of root's in the checkout. With
/// `--long` the agents are tried in their newest versions, too, each parser is fuzzed for a minute, and the contract
/// `escape` runs whole on each kernel.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  cargo xtask test\n  cargo xtask test unit\n  cargo xtask test wire money\n  \
                        cargo xtask test --long money\n  cargo xtask test wire -- trailers")]
pub(crate) struct Arguments {
    /// Only these: `unit`, `vm`, `demo`, `fuzz` (by name or with `--long`), or a directory of tests/ such as `wire`, `money`.
    #[arg(value_name = "SUBJECT")]
    subjects: Vec<String>,
    /// Full size rather than the size that fits into CI.
    #[arg(long)]
    long: bool,
    /// Passed to the test programs, for instance a part of a test's name.
    #[arg(last = true, value_name = "FILTER")]
    filter: Vec<String>,
    /// Measure long and judge: `cargo xtask bench --plane`.
    #[arg(skip)]
    bench: bool,
}

/// What a call asks for.
#[derive(Clone, Copy)]
struct Wanted {
    everything: bool,
    unit: bool,
    contracts: bool,
    /// Among the contracts.
    plane: bool,
    demo: bool,
    fuzz: bool,
    vm: bool,
}

impl Wanted {
    fn of(arguments: &Arguments) -> Wanted {
        let everything = arguments.subjects.is_empty();
        let named = |name: &str| everything || arguments.subjects.iter().any(|subject| subject == name);
        Wanted {
            everything,
            unit: named("unit"),
            contracts: everything || arguments.subjects.iter().any(|subject| !OTHERS.contains(&subject.as_str())),
            plane: named(PLANE),
            demo: named(DEMO),
            // Without `--long`, the unit tests try the parsers over the same seeds.
            fuzz: named("fuzz") && (!everything || arguments.long),
            vm: named(VM),
        }
    }

    /// Whether caracald runs, rather than its unit tests or what fuzzes its parsers.
    fn caracald(self) -> bool {
        self.contracts || self.demo || self.vm
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let checkout = Checkout::find()?;
    let wanted = Wanted::of(arguments);
    let started = Instant::now();
    if wanted.everything {
        forget_old_reports(&checkout)?;
    }
    let (contract_programs, unit_programs): (Vec<_>, Vec<_>) =
        compile(&checkout, wanted)?.into_iter().partition(|program| program.contract);
    let compiled = started.elapsed();
    let mut written = Vec::new();
    if wanted.unit {
        written.push(unit(&checkout, unit_programs, &arguments.filter)?);
    }
    if wanted.contracts {
        let clients = setup::for_test(&checkout)?;
        if wanted.plane {
            services::install(&checkout)?;
        }
        written.extend(contracts(&checkout, &clients, contract_programs, arguments)?);
    }
    if wanted.demo {
        let report = demo::report(&checkout);
        report.write(&checkout.report())?;
        written.push(report.name);
    }
    if wanted.fuzz {
        let report = fuzz::report(&checkout, if arguments.long { fuzz::LONG } else { fuzz::SHORT })?;
        report.write(&checkout.report())?;
        written.push(report.name);
    }
    if wanted.vm {
        for report in vm::test(&checkout, arguments.long, &arguments.filter)? {
            keep(&checkout, &mut written, report)?;
        }
    }
    let reports = written
        .iter()
        .map(|name| Report::read(&checkout.report().join(format!("{name}.json"))))
        .collect::<Result<Vec<_>>>()?;
    let passed = report::summary(&reports);
    let minutes = |time: Duration| time.as_secs_f64() / 60.0;
    println!("{:.1} minutes, {:.1} of them for set-up and compilers", minutes(started.elapsed()), minutes(compiled));
    if !passed {
        bail!("not everything passed; the reports are in {}", checkout.report().display());
    }
    root::left_nothing(&checkout)
}

/// Measures the shared plane: `cargo xtask bench --plane`. The figures and cases go into plane.json, beside those that a test of
/// the same commit left there. `long`: at the size that the goals name.
///
/// # Errors
/// When something cannot be set up, or a bar is not met.
pub(crate) fn plane_speed(long: bool) -> Result<()> {
    let checkout = Checkout::find()?;
    build::all(&checkout)?;
    let clients = setup::for_test(&checkout)?;
    services::install(&checkout)?;
    let arguments = Arguments { subjects: vec![PLANE.to_owned()], long, filter: vec![SPEED.to_owned()], bench: true };
    let program = choose(programs::compile(&checkout, "compiling the contracts", CONTRACTS)?, &arguments.subjects)?;
    root::ask("to measure the shared plane: PostgreSQL runs as a user of its own")?;
    let inbox = Inbox::new()?;
    for program in program {
        let mut command = contract(&checkout, &clients, &arguments, &program, inbox.path());
        let status = progress::status("measuring the shared plane", &mut command)?;
        if !status.success() {
            bail!("the measurement ended with {status}; what it said is above");
        }
    }
    let mut reports = Vec::new();
    for mut report in inbox.collect()? {
        report.put_beside(&checkout.report())?;
        report.write(&checkout.report())?;
        reports.push(report);
    }
    inbox.remove()?;
    if !report::summary(&reports) {
        bail!("not every bar is met; the figures are in {}", checkout.report().display());
    }
    root::left_nothing(&checkout)
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

/// Sets up and builds caracald and the tests that are wanted.
fn compile(checkout: &Checkout, wanted: Wanted) -> Result<Vec<Program>> {
    if !wanted.everything {
        if wanted.caracald() {
            build::all(checkout)?;
        }
        let mut programs = Vec::new();
        if wanted.unit {
            setup::for_unit(checkout)?;
            build::kernel_programs(checkout, &setup::for_build(checkout)?)?;
            build::programs_with_lines(checkout)?;
            programs.extend(programs::compile(checkout, "compiling the unit tests", UNIT)?);
        }
        if wanted.contracts {
            programs.extend(programs::compile(checkout, "compiling the contracts", CONTRACTS)?);
        }
        return Ok(programs);
    }
    setup::for_everything(checkout)?;
    thread::scope(|scope| {
        // The network is idle while the compilers run. What cannot be had is asked for again by who needs it, and named there.
        let fetched = scope.spawn(|| {
            progress::in_the_background(|| {
                let _later = setup::for_test(checkout);
                let _later = services::install(checkout);
                let _later = vm::fetch(checkout);
            })
        });
        build::kernel_programs(checkout, &setup::for_build(checkout)?)?;
        build::programs_with_lines(checkout)?;
        let mut programs = programs::compile(checkout, "building caracald and the contracts", RUN)?;
        programs.extend(programs::compile(checkout, "compiling the unit tests", UNIT)?);
        if !fetched.is_finished() {
            let mut wait = Wait::start("fetching what the contracts and machines need");
            while !fetched.is_finished() {
                wait.glance();
            }
            wait.done();
        }
        Ok(programs)
    })
}

/// Runs the unit tests as root, one case per test; returns the subject's name.
fn unit(checkout: &Checkout, programs: Vec<Program>, filter: &[String]) -> Result<String> {
    root::ask("to run the unit tests: some make a cgroup, a mount or a confined process")?;
    let (mut report, started) = (Report::start("unit", &checkout.root), Instant::now());
    for program in programs {
        let log = checkout.log(&format!("unit-{}", program.name));
        let mut command = root::command("env");
        if !root::am_root() {
            // proptest would keep what failed beside the source, as root's file.
            command.arg("PROPTEST_DISABLE_FAILURE_PERSISTENCE=1");
        }
        command.args(environment()).arg(&program.executable).args(filter).current_dir(&program.directory);
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
fn contracts(
    checkout: &Checkout,
    clients: &Clients,
    programs: Vec<Program>,
    arguments: &Arguments,
) -> Result<Vec<String>> {
    let chosen = choose(programs, &arguments.subjects)?;
    root::ask("to run the contracts: they make cgroups and network namespaces")?;
    let newest = if arguments.long && chosen.iter().any(|program| program.name == AGENTS) {
        Some(setup::newest_agents(checkout, clients)?)
    } else {
        None
    };
    let runs = chosen.iter().flat_map(|program| {
        let again = newest.as_ref().filter(|_| program.name == AGENTS).map(|newest| (program, newest, NEWEST));
        [(program, clients, "")].into_iter().chain(again)
    });
    let inbox = Inbox::new()?;
    let mut written = Vec::new();
    for (program, clients, which) in runs {
        let started = Instant::now();
        let mut command = contract(checkout, clients, arguments, program, inbox.path());
        if which == NEWEST {
            // What is not run by an agent has been run.
            command.args(["--skip", "sdks::", "--skip", "starter::"]);
        }
        let status = progress::status(&format!("contracts: {}{which}", program.name), &mut command)?;
        let mut reports = inbox.collect()?;
        if program.name == AGENTS {
            reports.iter_mut().try_for_each(|report| say_versions(report, clients, which))?;
        }
        let told = reports.iter().any(|report| report.count(Verdict::Failed) > 0);
        if !status.success() && !told {
            let mut report = Report::start(&program.name, &checkout.root);
            report.finish(started);
            let why = format!("the test program ended with {status}; what it said is above");
            report.cases.push(Case::new(format!("the program itself{which}"), Verdict::Failed).because(why));
            merge(&mut reports, report);
        }
        for report in reports {
            keep(checkout, &mut written, report)?;
        }
    }
    inbox.remove()?;
    Ok(written)
}

/// Writes into each case of an agent which version it was.
fn say_versions(report: &mut Report, clients: &Clients, which: &str) -> Result<()> {
    for case in &mut report.cases {
        if let Some((_, package)) = setup::AGENTS.iter().find(|(agent, _)| case.name.starts_with(agent)) {
            case.more.insert("version".into(), clients.version(package)?.into());
        }
        case.name.push_str(which);
    }
    Ok(())
}

/// Writes a report of this run. Where an earlier program of this run wrote one of the same subject, it adds to that.
fn keep(checkout: &Checkout, written: &mut Vec<String>, mut report: Report) -> Result<()> {
    if written.contains(&report.name) {
        let mut first = Report::read(&checkout.report().join(format!("{}.json", report.name)))?;
        first.add(report);
        report = first;
    } else {
        written.push(report.name.clone());
        report.keep_measured(&checkout.report())?;
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
        subjects.iter().find(|subject| !OTHERS.contains(&subject.as_str()) && !names.contains(subject))
    {
        bail!("there is no subject `{unknown}`; there are: {} {}", OTHERS.join(" "), names.join(" "));
    }
    Ok(programs.into_iter().filter(|program| subjects.is_empty() || subjects.contains(&program.name)).collect())
}

/// Assignments for `env`: what a program that runs as root keeps of our environment.
fn environment() -> impl Iterator<Item = OsString> {
    KEPT.iter().filter_map(|name| {
        let mut word = OsString::from(format!("{name}="));
        word.push(env::var_os(name)?);
        Some(word)
    })
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
    command.args(environment());
    let mut set = |name: &str, value: &Path| {
        let mut word = OsString::from(format!("{name}="));
        word.push(value);
        command.arg(word);
    };
    set("CARACALD", &checkout.caracald());
    if let Ok(xtask) = env::current_exe() {
        // What starts, kills and stops the services.
        set("CARACAL_XTASK", &xtask);
    }
    set("CARGO_TARGET_DIR", &checkout.target);
    set("CARACAL_REPORT_DIR", reports);
    set("CARACAL_COMMIT", Path::new(&report::commit(&checkout.root)));
    for (name, value) in clients.environment() {
        set(name, &value);
    }
    if arguments.long {
        // After what was kept: `--long` is what was asked for last.
        set("CARACAL_LONG", Path::new("1"));
    }
    if arguments.bench {
        set(BENCH, Path::new("1"));
    }
    command.arg(&program.executable).args(&arguments.filter).current_dir(&program.directory);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A program of the tests that is not named would be tested by nobody.
    #[test]
    fn the_unit_tests_of_every_program_are_among_them() {
        let manifest = include_str!("../../tests/Cargo.toml");
        let programs: Vec<&str> =
            manifest.split("[[bin]]\nname = \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
        assert!(programs.contains(&"probe"), "{programs:?}");
        assert!(programs.iter().all(|name| UNIT.contains(&format!("--bin={name}").as_str())), "{programs:?}");
    }

    /// What the documents tell to set goes through sudo.
    #[test]
    fn every_variable_of_the_documents_is_kept() {
        let text = concat!(include_str!("../../tests/README.md"), include_str!("../../CONTRIBUTING.md"));
        // Not for a test program: those that this program sets, and what it reads itself.
        let ours = ["CARACAL_BPF_OBJECT", "CARACAL_DEBIAN_MIRROR"];
        let named =
            text.split(|c: char| !(c.is_ascii_uppercase() || c == '_')).filter(|word| word.starts_with("CARACAL_"));
        let named: std::collections::BTreeSet<&str> = named.filter(|word| !ours.contains(word)).collect();
        assert!(named.contains("CARACAL_LONG") && named.contains("CARACAL_KILLS"), "{named:?}");
        let lost: Vec<_> = named.iter().filter(|name| !KEPT.contains(name)).collect();
        assert!(lost.is_empty(), "sudo drops {lost:?}");
    }
}
