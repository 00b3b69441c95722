//! The run: rounds, in each of them every shape, in each shape every peer, one right after the other.
//!
//! Ratios are taken inside a round and the median of the rounds is reported: on a busy machine requests per second
//! move by half between rounds, while ratios inside one hardly do.

mod results;

pub(super) use results::Results;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Seek, SeekFrom, Write},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use results::{Sample, cases, figures};
use serde_json::json;

use super::{
    PeerName,
    awake::Awake,
    goals,
    load::{Seen, Shape, percentile},
    peer::{self, Peer},
    peer_caracal,
    process::{tree, usage},
    profile,
    scene::Scene,
};
use crate::report::{Case, Report, Verdict};

/// What the measuring half is told.
#[derive(clap::Args, Debug)]
pub(crate) struct Arguments {
    #[arg(long, value_enum, value_delimiter = ',')]
    peers: Vec<PeerName>,
    #[arg(long)]
    quick: bool,
    /// Only the plans of these names.
    #[arg(long, value_delimiter = ',')]
    loads: Vec<String>,
    #[arg(long)]
    commit: String,
    /// The directory that gets bench.json.
    #[arg(long)]
    report: PathBuf,
    #[arg(long)]
    caracald: PathBuf,
    /// Where set-up has installed mitmproxy and LiteLLM.
    #[arg(long)]
    tools: PathBuf,
}

/// A shape of load and its number of connections; the name of both in the report.
#[derive(Clone, Copy, Debug)]
struct Plan {
    name: &'static str,
    shape: Shape,
    connections: usize,
}

const PLANS: &[Plan] = &[
    Plan { name: "paid-1", shape: Shape::Paid, connections: 1 },
    Plan { name: "paid-32", shape: Shape::Paid, connections: 32 },
    Plan { name: "paid-256", shape: Shape::Paid, connections: 256 },
    Plan { name: "free-1", shape: Shape::Free, connections: 1 },
    Plan { name: "fresh-8", shape: Shape::Fresh, connections: 8 },
    Plan { name: "stream-1", shape: Shape::Stream, connections: 1 },
    Plan { name: "stream-8", shape: Shape::Stream, connections: 8 },
];

/// What is sampled with perf, where there is one, and for how many milliseconds.
const PROFILES: &[&str] = &["paid-32", "fresh-8", "stream-8"];
const PROFILED: u64 = 1_500;

/// About the time between two syncs with one connection: a device that rested answers later.
const PAUSE: Duration = Duration::from_micros(300);

/// How long a new peer is left alone before its idle memory is read.
const SETTLE: Duration = Duration::from_millis(500);

impl Arguments {
    fn wants(&self, plan: &Plan) -> bool {
        self.loads.is_empty() || self.loads.iter().any(|name| name == plan.name)
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let started = Instant::now();
    let mut report = Report::start("bench", Path::new("."));
    report.commit.clone_from(&arguments.commit);
    // Never one round: a neighbour on the machine would decide the ratio.
    let (rounds, milliseconds) = if arguments.quick { (3, 500) } else { (5, 2000) };
    let scene = Scene::new()?;
    let sync = |pause| fdatasync(scene.files(), pause);
    let mut results =
        Results { fdatasync_us: sync(Duration::ZERO)?, fdatasync_after_pause_us: sync(PAUSE)?, ..Results::default() };
    let mut peers = start(arguments, &scene, &mut results, &mut report);
    for round in 1..=rounds {
        // The quietest moment's: what a sync costs, not what else the machine was doing.
        results.fdatasync_us = results.fdatasync_us.min(sync(Duration::ZERO)?);
        results.fdatasync_after_pause_us = results.fdatasync_after_pause_us.min(sync(PAUSE)?);
        for plan in PLANS.iter().filter(|plan| arguments.wants(plan)) {
            for peer in &mut peers {
                eprintln!("... round {round} of {rounds}: {} through {}", plan.name, peer.name.name());
                let sample = sample(&scene, peer, *plan, milliseconds);
                if let Err(error) = &sample {
                    let case = Case::new(format!("{} {} round {round}", peer.name.name(), plan.name), Verdict::Failed);
                    report.cases.push(case.because(format!("{error:#}")));
                }
                results.samples.entry((peer.name.name(), plan.name)).or_default().push(sample.ok());
            }
        }
    }
    for peer in peers.iter().filter(|peer| peer.name == PeerName::Caracal) {
        for plan in PLANS.iter().filter(|plan| PROFILES.contains(&plan.name) && arguments.wants(plan)) {
            report.cases.extend(sampled(&scene, peer, *plan)?);
        }
    }
    for peer in peers.iter().filter(|peer| peer.name == PeerName::Caracal) {
        results.price_reload_ms = Some(peer_caracal::reload_ms(&scene, peer)?);
    }
    drop(peers);
    drop(scene);
    if arguments.peers.contains(&PeerName::Caracal) {
        results.hold_settle_us = Some(hold_settle(&arguments.caracald)?);
    }
    report.cases.extend(cases(&results));
    report.figures = figures(&results, rounds, milliseconds);
    report.finish(started);
    report.write(&arguments.report)?;
    goals::print(&report);
    if report.red().count() > 0 {
        bail!("not every peer could be measured");
    }
    Ok(())
}

/// Starts the peers. Direct and the floor always take part: everything is measured against them.
fn start(arguments: &Arguments, scene: &Scene, results: &mut Results, report: &mut Report) -> Vec<Peer> {
    let mut peers = Vec::new();
    for name in [PeerName::Direct, PeerName::Floor].iter().chain(PeerName::value_variants()) {
        let wanted = matches!(name, PeerName::Direct | PeerName::Floor) || arguments.peers.contains(name);
        if !wanted || peers.iter().any(|peer: &Peer| peer.name == *name) {
            continue;
        }
        match peer::start(*name, scene, &arguments.caracald, &arguments.tools) {
            Ok(peer) => {
                thread::sleep(SETTLE);
                results.idle_kb.insert(name.name(), usage(&peer.pids()).rss_kb);
                peers.push(peer);
            }
            Err(error) => {
                eprintln!("--  {} left out: {error:#}", name.name());
                report.cases.push(Case::new(name.name(), Verdict::Skipped).because(format!("{error:#}")));
            }
        }
    }
    peers
}

/// One load through one peer.
fn sample(scene: &Scene, peer: &mut Peer, plan: Plan, milliseconds: u64) -> Result<Sample> {
    let _awake = (plan.connections == 1).then(Awake::keep).transpose()?;
    let mut load = load(scene, peer, plan, milliseconds)?;
    let mut output = BufReader::new(load.stdout.take().context("the load has no output")?);
    let outcome = follow(&mut output, peer);
    if outcome.is_err() {
        // It may have ended by itself; either way it is gone afterwards.
        drop(load.kill());
    }
    let status = load.wait()?;
    let sample = outcome.with_context(|| format!("the load ended with {status}"))?;
    if let Some(error) = &sample.seen.error {
        bail!("{} of {} connections failed; the first: {error}", sample.seen.errors, plan.connections);
    }
    if sample.seen.requests == 0 {
        bail!("not one request was answered");
    }
    Ok(sample)
}

/// Reads the peer's use when the load says `start`, and again when it reports.
fn follow(output: &mut impl BufRead, peer: &Peer) -> Result<Sample> {
    let pids = peer.pids();
    line(output, |line| line == "start")?;
    let all = tree(&pids);
    let (before, threads_before) = (usage(&pids), profile::threads(all.iter().copied()));
    let seen: Seen = serde_json::from_str(&line(output, |line| line.starts_with('{'))?)?;
    let (after, threads_after) = (usage(&pids), profile::threads(all.iter().copied()));
    let cpu_us = (after.cpu_seconds - before.cpu_seconds) * 1e6 / (seen.requests.max(1) as f64);
    let threads = profile::per_request(&threads_before, &threads_after, seen.requests);
    Ok(Sample { seen, cpu_us, rss_kb: before.rss_kb.max(after.rss_kb), threads })
}

/// A run that is only sampled, not measured: perf takes CPU, too.
fn sampled(scene: &Scene, peer: &Peer, plan: Plan) -> Result<Option<Case>> {
    let mut load = load(scene, peer, plan, PROFILED)?;
    let mut output = BufReader::new(load.stdout.take().context("the load has no output")?);
    line(&mut output, |line| line == "start")?;
    let file = scene.files().join("perf.data");
    let perf = profile::sample(&tree(&peer.pids()), &file);
    let seen = line(&mut output, |line| line.starts_with('{'));
    let shares = perf.map(|perf| profile::stop(perf, &file)).transpose();
    load.wait()?;
    seen?;
    let Some((purposes, functions)) = shares? else { return Ok(None) };
    let mut case = Case::new(format!("{} {} profile", peer.name.name(), plan.name), Verdict::Passed);
    let percent =
        |shares: profile::Shares| shares.into_iter().map(|(name, share)| json!([name, share])).collect::<Vec<_>>();
    case.more.insert("purposes".to_owned(), percent(purposes).into());
    case.more.insert("functions".to_owned(), percent(functions).into());
    Ok(Some(case))
}

/// The next line that is meant for us: what starts the load may print, too.
fn line(output: &mut impl BufRead, ours: impl Fn(&str) -> bool) -> Result<String> {
    let mut line = String::new();
    loop {
        line.clear();
        if output.read_line(&mut line)? == 0 {
            bail!("the load ended before it had measured");
        }
        if ours(line.trim()) {
            return Ok(line.trim().to_owned());
        }
    }
}

fn load(scene: &Scene, peer: &Peer, plan: Plan, milliseconds: u64) -> Result<Child> {
    let own = scene.own_path();
    let mut command = match peer.before_load.split_first() {
        Some((first, rest)) => {
            let mut command = scene.program(first);
            command.args(rest).arg(own);
            command
        }
        None => scene.program(own),
    };
    let shape = plan.shape.to_possible_value().context("the shape has a name")?;
    command.args(["bench-load", "--shape", shape.get_name()]);
    command.args(["--address", &peer.address.to_string(), "--connections", &plan.connections.to_string()]);
    command.args(["--milliseconds", &milliseconds.to_string()]);
    if let Some(trust) = &peer.trust {
        command.arg("--trust").arg(trust);
    }
    if peer.plain {
        command.arg("--plain");
    }
    if peer.tunnel {
        command.arg("--tunnel");
    }
    command.stdout(Stdio::piped()).spawn().context("the load does not start")
}

/// What `caracald measure` says of the data path's own code, in one thread.
fn hold_settle(caracald: &Path) -> Result<f64> {
    let output = Command::new(caracald).arg("measure").output().context("caracald measure")?;
    let said: serde_json::Value = serde_json::from_slice(&output.stdout).context("caracald measure")?;
    said.get("hold_settle_us_p50").and_then(serde_json::Value::as_f64).context("caracald measure says no time")
}

/// What one small durable write costs here: 1 KB into a file that has its size already. Measured as the loads of one
/// connection are, whose unit it is.
/// `pause` lies before each.
fn fdatasync(directory: &Path, pause: Duration) -> Result<u64> {
    let _awake = Awake::keep()?;
    const WRITES: usize = 200;
    let path = directory.join("fdatasync");
    let mut file = File::create(&path).with_context(|| path.display().to_string())?;
    file.write_all(&vec![0; WRITES * 1024])?;
    file.sync_all()?;
    file.seek(SeekFrom::Start(0))?;
    let mut times = Vec::with_capacity(WRITES);
    for _ in 0..WRITES {
        thread::sleep(pause);
        let started = Instant::now();
        file.write_all(&[1; 1024])?;
        file.sync_data()?;
        times.push(started.elapsed());
    }
    times.sort_unstable();
    fs::remove_file(&path)?;
    Ok(percentile(&times, 50))
}
