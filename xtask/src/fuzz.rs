//! `cargo xtask fuzz`: each parser of bytes that somebody else chose, under libFuzzer, for a while.
//!
//! The targets are laid out for cargo-fuzz, which works on them as well. It is not needed: what it adds to a build is a
//! handful of stable compiler flags, and what it adds to a run is the path of a file. Calling cargo and libFuzzer directly
//! keeps the lock file honest (`--locked`), needs no nightly compiler, and builds all targets at once.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::mpsc,
    thread,
    time::Instant,
};

use anyhow::{Context, Result, bail};
use clap::Args;

use crate::{
    build,
    checkout::{Checkout, cargo},
    progress::{self, Wait},
    report::{Case, Report, Verdict},
    setup,
};

/// The longest input, in bytes: the same as in the unit tests that mutate without coverage.
const LONGEST: usize = 16 * 1024;
/// An input that takes longer is a find. Some hundred times what the slowest target needs for the longest input.
const HANG_SECONDS: u32 = 20;
/// A target that holds more than this is a find: the parsers have bounds far below.
const MEMORY_MIB: u32 = 2048;
/// Seconds for each target in a `cargo xtask test fuzz`, and in one with `--long`.
pub(crate) const SHORT: u32 = 10;
pub(crate) const LONG: u32 = 60;

/// What tells libFuzzer which code an input reached, and what it was compared with. All of it is stable.
///
/// Dependencies are instrumented like our own code: serde_json, hickory, toml and Cedar stand between the bytes and what
/// is ours, and without a view of them the fuzzer does not get past them. There is no sanitizer: it finds little in safe
/// Rust, and halves the speed.
const INSTRUMENT: &[&str] = &[
    "--cfg=fuzzing",
    "-Cpasses=sancov-module",
    "-Cllvm-args=-sanitizer-coverage-level=4",
    "-Cllvm-args=-sanitizer-coverage-inline-8bit-counters",
    "-Cllvm-args=-sanitizer-coverage-pc-table",
    "-Cllvm-args=-sanitizer-coverage-trace-compares",
    "-Cdebug-assertions",
];

/// Build the fuzz targets and run each for some seconds, starting from the seeds in tests/fuzz/seeds.
///
/// A crash, a hang or a hunger for memory is red; the input is kept, and the command that repeats it is printed. Inputs
/// that reach new code stay in tests/fuzz/corpus, from where the next run goes on.
#[derive(Args, Debug)]
#[command(after_help = "Examples:\n  cargo xtask fuzz\n  cargo xtask fuzz http1_stream client_hello --seconds 600\n  \
                        cargo xtask fuzz http1_stream --input tests/fuzz/artifacts/http1_stream/crash-1234")]
pub(crate) struct Arguments {
    /// Only these: a file of tests/fuzz/targets without its ending.
    #[arg(value_name = "TARGET")]
    targets: Vec<String>,
    /// How long each target is tried.
    #[arg(long, value_name = "N", default_value_t = LONG, value_parser = clap::value_parser!(u32).range(1..))]
    seconds: u32,
    /// Try this one file on this one target, aloud.
    #[arg(long, value_name = "FILE")]
    input: Option<PathBuf>,
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let checkout = Checkout::find()?;
    let targets = choose(&checkout, &arguments.targets)?;
    let Some(input) = &arguments.input else {
        let outcomes = all(&checkout, targets, arguments.seconds)?;
        table(&outcomes);
        let found = outcomes.iter().filter(|outcome| outcome.find.is_some()).count();
        if found > 0 {
            bail!("{found} of {} targets found something; make each input a seed once it is mended", outcomes.len());
        }
        return Ok(());
    };
    let [target] = targets.as_slice() else {
        bail!("--input is for one target: `cargo xtask fuzz TARGET --input FILE`");
    };
    let input = fs::canonicalize(input).with_context(|| input.display().to_string())?;
    let built = compile(&checkout, &targets)?;
    let mut command = Command::new(built.join(target));
    command.args(limits()).arg(input).current_dir(home(&checkout));
    progress::aloud(&format!("{target} on one input"), &mut command)
}

/// Runs every target for `seconds` each, as one subject of `cargo xtask test`: one case per target.
///
/// # Errors
/// When the targets do not build or libFuzzer does not start.
pub(crate) fn report(checkout: &Checkout, seconds: u32) -> Result<Report> {
    let (mut report, started) = (Report::start("fuzz", &checkout.root), Instant::now());
    let outcomes = all(checkout, choose(checkout, &[])?, seconds)?;
    for outcome in outcomes {
        report.cases.push(outcome.case());
    }
    report.finish(started);
    Ok(report)
}

/// The targets that were named, or all.
fn choose(checkout: &Checkout, names: &[String]) -> Result<Vec<String>> {
    let directory = home(checkout).join("targets");
    let mut targets = Vec::new();
    for entry in fs::read_dir(&directory).with_context(|| directory.display().to_string())? {
        let path = entry?.path();
        if let (Some(stem), Some("rs")) = (path.file_stem(), path.extension().and_then(|ending| ending.to_str())) {
            targets.push(stem.to_string_lossy().into_owned());
        }
    }
    targets.sort();
    if let Some(unknown) = names.iter().find(|name| !targets.contains(name)) {
        bail!("there is no target `{unknown}`; there are: {}", targets.join(" "));
    }
    Ok(targets.into_iter().filter(|target| names.is_empty() || names.contains(target)).collect())
}

fn home(checkout: &Checkout) -> PathBuf {
    checkout.root.join("tests/fuzz")
}

/// Lets no clippy warning pass in the targets, and shows that they compile.
///
/// # Errors
/// When there is one.
pub(crate) fn lint(checkout: &Checkout) -> Result<()> {
    let mut command = cargo();
    command
        .current_dir(home(checkout))
        .args(["clippy", "--locked", "--target-dir"])
        .arg(checkout.target.join("fuzz"))
        .env("CARGO_ENCODED_RUSTFLAGS", "--cfg=fuzzing")
        .env_remove("RUSTFLAGS")
        .env("CARACAL_BPF_OBJECT", checkout.bpf_object())
        .args(["--", "-D", "warnings"]);
    progress::aloud("clippy on the fuzz targets", &mut command)
}

/// Builds targets with coverage; returns the directory that they are in.
fn compile(checkout: &Checkout, targets: &[String]) -> Result<PathBuf> {
    // The daemon carries the kernel programs, so it cannot be built without them.
    let compiler = setup::for_build(checkout)?;
    build::kernel_programs(checkout, &compiler)?;
    let triple = host()?;
    let target = checkout.target.join("fuzz");
    let mut command = cargo();
    command
        .current_dir(home(checkout))
        // With a target named, build scripts and macros are not instrumented.
        .args(["build", "--locked", "--release", "--target", &triple, "--target-dir"])
        .arg(&target)
        .env("CARGO_ENCODED_RUSTFLAGS", INSTRUMENT.join("\u{1f}"))
        .env_remove("RUSTFLAGS")
        .env("CARACAL_BPF_OBJECT", checkout.bpf_object());
    for target in targets {
        command.args(["--bin", target]);
    }
    progress::aloud(
        "building the fuzz targets; the first time, every dependency is built with coverage",
        &mut command,
    )?;
    Ok(target.join(triple).join("release"))
}

/// The compiler's own platform.
fn host() -> Result<String> {
    let mut command = Command::new("rustc");
    crate::checkout::forget_cargo(&mut command);
    let output = command.arg("-vV").output().context("rustc does not start")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let host = text.lines().find_map(|line| line.strip_prefix("host: ")).context("rustc -vV names no host")?;
    Ok(host.trim().to_owned())
}

fn limits() -> [String; 3] {
    [format!("-max_len={LONGEST}"), format!("-timeout={HANG_SECONDS}"), format!("-rss_limit_mb={MEMORY_MIB}")]
}

/// What a target's run came to.
#[derive(Debug)]
struct Outcome {
    target: String,
    /// libFuzzer's own figures by its own names, without `stat::`.
    figures: BTreeMap<String, u64>,
    find: Option<Find>,
}

/// Something to mend.
#[derive(Debug)]
struct Find {
    what: String,
    /// What repeats it, or where its output is.
    again: String,
}

/// Builds and runs targets, as many at once as there are processors; in the order of `targets`.
fn all(checkout: &Checkout, targets: Vec<String>, seconds: u32) -> Result<Vec<Outcome>> {
    let built = compile(checkout, &targets)?;
    let lanes = thread::available_parallelism().map_or(1, usize::from).min(targets.len());
    let mut wait = Wait::start(format!("fuzzing {} targets, {seconds} s each, {lanes} at a time", targets.len()));
    let (tell, told) = mpsc::sync_channel(targets.len());
    let mut outcomes = Vec::new();
    let (built, targets, next) = (&built, &targets, &std::sync::atomic::AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..lanes {
            let tell = tell.clone();
            scope.spawn(move || {
                while let Some(target) = targets.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                    // The receiver is gone only when this is over.
                    drop(tell.send(one(checkout, built, target, seconds)));
                }
            });
        }
        drop(tell);
        loop {
            match told.try_recv() {
                Ok(outcome) => {
                    let outcome: Outcome = outcome?;
                    wait.say(&outcome.line());
                    outcomes.push(outcome);
                }
                Err(mpsc::TryRecvError::Empty) => wait.glance(),
                Err(mpsc::TryRecvError::Disconnected) => return Ok::<(), anyhow::Error>(()),
            }
        }
    })?;
    wait.done();
    outcomes.sort_by(|a, b| a.target.cmp(&b.target));
    Ok(outcomes)
}

/// Runs one target from its corpus and its seeds.
fn one(checkout: &Checkout, built: &Path, target: &str, seconds: u32) -> Result<Outcome> {
    let home = home(checkout);
    let (corpus, artifacts) = (home.join("corpus").join(target), home.join("artifacts").join(target));
    let log = checkout.log(&format!("fuzz-{target}"));
    for directory in [Some(corpus.as_path()), Some(artifacts.as_path()), log.parent()].into_iter().flatten() {
        fs::create_dir_all(directory).with_context(|| directory.display().to_string())?;
    }
    let out = File::create(&log).with_context(|| log.display().to_string())?;
    let mut prefix = OsString::from("-artifact_prefix=");
    prefix.push(artifacts.join(""));
    let status = Command::new(built.join(target))
        .args(limits())
        .args([format!("-max_total_time={seconds}"), "-print_final_stats=1".into()])
        .arg(prefix)
        // New finds go into the first directory.
        .arg(corpus)
        .arg(home.join("seeds").join(target))
        .current_dir(&home)
        .stdin(Stdio::null())
        .stdout(out.try_clone()?)
        .stderr(out)
        .status()
        .with_context(|| format!("{target} does not start"))?;
    let text = String::from_utf8_lossy(&fs::read(&log)?).into_owned();
    let find = (!status.success()).then(|| find(target, &text, &format!("{status}"), &log));
    Ok(Outcome { target: target.to_owned(), figures: figures(&text), find })
}

/// What libFuzzer says of an input that it stopped at.
fn find(target: &str, text: &str, status: &str, log: &Path) -> Find {
    let panicked = text.lines().position(|line| line.contains("panicked at"));
    let what = match panicked {
        // The place and the sentence below it.
        Some(at) => text.lines().skip(at).take(2).collect::<Vec<_>>().join(" "),
        None => text.lines().find(|line| line.contains("ERROR: libFuzzer")).unwrap_or(status).to_owned(),
    };
    let again = match text.lines().find_map(|line| Some(line.split_once("Test unit written to ")?.1.trim())) {
        Some(input) => format!("cargo xtask fuzz {target} --input {input}"),
        None => format!("no input was kept; see {}", log.display()),
    };
    Find { what: what.trim().to_owned(), again }
}

/// The final figures, and the coverage of the last line that tells it: `#8192 pulse cov: 210 ft: 812 corp: 83/1024b ...`.
fn figures(text: &str) -> BTreeMap<String, u64> {
    let mut figures = BTreeMap::new();
    for line in text.lines() {
        if let Some((name, value)) = line.strip_prefix("stat::").and_then(|line| line.split_once(':')) {
            if let Ok(value) = value.trim().parse() {
                figures.insert(name.trim().to_owned(), value);
            }
        } else if line.starts_with('#') {
            let words: Vec<&str> = line.split_whitespace().collect();
            for pair in words.windows(2) {
                let name = match pair {
                    ["cov:", _] => "coverage",
                    ["corp:", _] => "corpus",
                    _ => continue,
                };
                let number = pair.get(1).and_then(|word| word.split('/').next()).and_then(|word| word.parse().ok());
                if let Some(number) = number {
                    figures.insert(name.to_owned(), number);
                }
            }
        }
    }
    figures
}

impl Outcome {
    fn figure(&self, name: &str) -> u64 {
        self.figures.get(name).copied().unwrap_or(0)
    }

    fn runs(&self) -> u64 {
        self.figure("number_of_executed_units")
    }

    fn line(&self) -> String {
        match &self.find {
            Some(find) => format!("RED {}: {}", self.target, find.what),
            None => format!("ok  {}: {} inputs", self.target, self.runs()),
        }
    }

    fn case(self) -> Case {
        // A target that ran nothing has proved nothing.
        let mut case = match (&self.find, self.runs()) {
            (Some(find), _) => {
                Case::new(&self.target, Verdict::Failed).because(format!("{}; {}", find.what, find.again))
            }
            (None, 0) => Case::new(&self.target, Verdict::Failed).because("no input was tried"),
            (None, _) => Case::new(&self.target, Verdict::Passed),
        };
        case.more.insert("inputs".into(), self.runs().into());
        case.more.insert("coverage".into(), self.figure("coverage").into());
        case
    }
}

fn table(outcomes: &[Outcome]) {
    let width = outcomes.iter().map(|outcome| outcome.target.len()).max().unwrap_or(0).max("target".len());
    println!();
    println!("{:width$}      inputs  inputs/s  coverage  corpus  MiB", "target");
    for outcome in outcomes {
        println!(
            "{:width$}  {:10}  {:8}  {:8}  {:6}  {:3}{}",
            outcome.target,
            outcome.runs(),
            outcome.figure("average_exec_per_sec"),
            outcome.figure("coverage"),
            outcome.figure("corpus"),
            outcome.figure("peak_rss_mb"),
            if outcome.find.is_some() { "  RED" } else { "" },
        );
    }
    println!();
    for outcome in outcomes {
        if let Some(find) = &outcome.find {
            println!("RED {}: {}\n    {}", outcome.target, find.what, find.again);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_libfuzzer_says() {
        let text = "#2\tINITED cov: 90 ft: 91 corp: 1/1b exec/s: 0 rss: 30Mb\n\
                    #8192\tpulse  cov: 210 ft: 812 corp: 83/10Kb lim: 80 exec/s: 4096 rss: 31Mb\n\
                    stat::number_of_executed_units: 12000\nstat::average_exec_per_sec:     4000\n";
        let figures = figures(text);
        assert_eq!(figures["coverage"], 210);
        assert_eq!(figures["corpus"], 83);
        assert_eq!(figures["number_of_executed_units"], 12_000);
        assert_eq!(figures["average_exec_per_sec"], 4_000);
    }

    #[test]
    fn a_find_says_what_and_how_to_see_it_again() {
        let text = "thread '<unnamed>' panicked at src/x.rs:1:2:\nindex out of bounds\n==7== ERROR: libFuzzer: deadly signal\n\
                    artifact_prefix='a/'; Test unit written to /w/artifacts/x/crash-1\n";
        let find = find("x", text, "exit status: 77", Path::new("log"));
        assert!(find.what.ends_with("index out of bounds"));
        assert_eq!(find.again, "cargo xtask fuzz x --input /w/artifacts/x/crash-1");
        let outcome = Outcome { target: "x".into(), figures: BTreeMap::new(), find: Some(find) };
        assert_eq!(outcome.case().verdict, Verdict::Failed);
    }

    #[test]
    fn a_target_that_tried_nothing_is_red() {
        let outcome = Outcome { target: "x".into(), figures: BTreeMap::new(), find: None };
        assert_eq!(outcome.case().verdict, Verdict::Failed);
    }
}
