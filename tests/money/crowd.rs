//! Four hosts with sixty-four clients each, of two agents, whatever holds the limits that they share. Some of the calls are as bad
//! for a budget as a provider can make them. What they did is counted as it happens and read off sums, so that a million requests
//! need no more memory than a thousand.

use crate::LOAD;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use support::daemon::Daemon;
use support::ledger::Spending;
use support::netns::{Ran, Run, until};
use support::report;
use support::scene::Scene;
use support::stand_in::bill::Line;
use support::tail::Tail;

pub(crate) const DAEMONS: usize = 4;
pub(crate) const PATIENCE: Duration = Duration::from_secs(300);
/// How long a run of a million may take.
const LONGEST: Duration = Duration::from_secs(24 * 3_600);
/// The budget's part for each request, nano-USD: a little less than one costs, so that it runs out before the requests do.
const OF_EACH: u64 = 90_000;
/// The model of the team's calls, and of those that only the company's budget is above.
const MODELS: [&str; 2] = ["gpt-4o-mini", "gpt-4.1-mini"];
/// Tenths of the company's limit that a level may spend: the company, the team, each agent's seat.
const TENTHS: [u64; 3] = [10, 5, 3];
/// The levels that run out: ann's seat first, since she has the most clients, then the team, in which bob's seat still has
/// money, then the company.
const RUN_OUT: [(&str, &str, u64); 3] =
    [("seat", "ann", TENTHS[2]), ("team", "", TENTHS[1]), ("company", "", TENTHS[0])];

/// What runs on each host at once.
struct Part {
    agent: &'static str,
    model: &'static str,
    clients: &'static str,
    /// Tenths of the requests.
    tenths: u64,
}

const PARTS: [Part; 3] = [
    Part { agent: "ann", model: MODELS[0], clients: "36", tenths: 4 },
    Part { agent: "bob", model: MODELS[0], clients: "14", tenths: 3 },
    Part { agent: "bob", model: MODELS[1], clients: "14", tenths: 3 },
];
/// Caps go round in this many, and none is so high that it is clamped. Each request still has a number of its own.
const CAPS: &str = "3000";

/// Requests of all hosts together: as many as the contract names in a long run; `CARACAL_REQUESTS` says another number.
pub(crate) fn requests() -> u64 {
    let named = std::env::var("CARACAL_REQUESTS").ok().and_then(|text| text.parse().ok());
    named.unwrap_or(if report::long() { 1_000_000 } else { 2_800 })
}

/// So many that streams are the exception.
fn many() -> bool {
    requests() > 20_000
}

fn tenths(of: u64) -> u64 {
    requests() * OF_EACH / 10 * of
}

/// What all together may spend, nano-USD.
pub(crate) fn limit() -> u64 {
    tenths(TENTHS[0])
}

/// Budgets of three levels that are shared, and `place` that says where their limits are.
pub(crate) fn rules(place: &str) -> String {
    let usd = |nano: u64| format!("{}.{:09} USD", nano / 1_000_000_000, nano % 1_000_000_000);
    let [company, team, seat] = TENTHS.map(|part| usd(tenths(part)));
    let model = MODELS[0];
    format!(
        "{place}\n[[allow]]\nhosts = [\"api.openai.com\"]\n\
         [[budget]]\nname = \"company\"\nlimit = \"{company}\"\nwindow = \"total\"\nshared = true\nwait_ms = 60000\n\
         [[budget]]\nname = \"team\"\nparent = \"company\"\nmodels = [\"{model}\"]\nlimit = \"{team}\"\nwindow = \"total\"\nshared = true\nwait_ms = 60000\n\
         [[budget]]\nname = \"seat\"\nparent = \"team\"\nmodels = [\"{model}\"]\nlimit = \"{seat}\"\nwindow = \"total\"\nper = \"agent\"\nshared = true\nwait_ms = 60000\n"
    )
}

/// How requests ended.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) answered: u64,
    pub(crate) refused: u64,
    pub(crate) unanswered: u64,
}

impl Counts {
    fn of(ran: &Ran) -> Counts {
        let counts: Value = serde_json::from_str(ran.stdout.trim()).unwrap_or_else(|_| panic!("{}", ran.screen()));
        let count = |key: &str| counts[key].as_u64().expect("a count");
        assert_eq!(count("other"), 0, "an answer of another kind: {counts}");
        Counts { answered: count("answered"), refused: count("refused"), unanswered: count("unanswered") }
    }

    pub(crate) fn add(&mut self, more: Counts) {
        self.answered += more.answered;
        self.refused += more.refused;
        self.unanswered += more.unanswered;
    }

    pub(crate) fn all(self) -> u64 {
        self.answered + self.refused + self.unanswered
    }

    pub(crate) fn told(self) -> Map<String, Value> {
        Map::from_iter([
            ("answered".into(), json!(self.answered)),
            ("refused".into(), json!(self.refused)),
            ("unanswered".into(), json!(self.unanswered)),
        ])
    }
}

/// What the providers billed, and what the ledgers charged, nano-USD.
#[derive(Clone, Debug)]
pub(crate) struct Spent {
    pub(crate) bill: u64,
    pub(crate) ledger: u64,
    /// Of the bill, the team's.
    team: u64,
    /// What the ledgers charged each budget and scope.
    levels: BTreeMap<(String, String), u64>,
}

impl Spent {
    /// By how much the level that is worst is above its limit, in the ledgers or on the bill.
    pub(crate) fn over(&self) -> u64 {
        let limit = |budget: &str| match budget {
            "company" => tenths(TENTHS[0]),
            "team" => tenths(TENTHS[1]),
            _ => tenths(TENTHS[2]),
        };
        let charged = self.levels.iter().map(|((budget, _), spent)| spent.saturating_sub(limit(budget)));
        let billed = [self.bill.saturating_sub(limit("company")), self.team.saturating_sub(limit("team"))];
        charged.chain(billed).max().unwrap_or(0)
    }

    /// The smallest part that was used of a level that runs out.
    pub(crate) fn least_used(&self) -> f64 {
        let used = |(budget, scope, part): &(&str, &str, u64)| {
            let spent = self.levels.get(&((*budget).to_owned(), (*scope).to_owned())).copied().unwrap_or(0);
            spent as f64 / tenths(*part) as f64
        };
        RUN_OUT.iter().map(used).fold(f64::INFINITY, f64::min)
    }

    /// Each budget and scope with what was charged, as a vault's table says it.
    pub(crate) fn rows(&self) -> Vec<String> {
        self.levels.iter().map(|((budget, scope), spent)| format!("{budget}|{scope}|{spent}")).collect()
    }
}

/// A provider's bill, as far as it was read.
struct Billed {
    tail: Tail,
    lines: u64,
    nano: u64,
    /// Of it, the team's.
    team: u64,
}

impl Billed {
    fn read(&mut self) -> (u64, u64) {
        let (lines, nano, team) = (&mut self.lines, &mut self.nano, &mut self.team);
        self.tail.each(|line| {
            let line: Line = serde_json::from_str(line).expect("a line of the bill");
            *lines += 1;
            *nano += line.nano;
            *team += if line.model == MODELS[0] { line.nano } else { 0 };
        });
        (self.lines, self.nano)
    }
}

pub(crate) struct Crowd<'a> {
    scenes: &'a [Scene],
    daemons: Vec<Daemon<'a>>,
    bills: Vec<Billed>,
}

impl<'a> Crowd<'a> {
    pub(crate) fn new(scenes: &'a [Scene], daemons: Vec<Daemon<'a>>) -> Crowd<'a> {
        let bills = scenes.iter().map(|scene| Billed { tail: scene.bill_tail(), lines: 0, nano: 0, team: 0 }).collect();
        Crowd { scenes, daemons, bills }
    }

    /// Each host may spend from its slices.
    pub(crate) fn wait_for_slices(&self) {
        let live =
            |daemon: &Daemon<'_>| daemon.json(&["status"])["data_path"]["escrow"]["lease_ms"].as_u64().unwrap_or(0) > 0;
        until("every host has its slices", PATIENCE, || self.daemons.iter().all(live)).expect("slices");
    }

    /// `all` requests, an equal part on each host, at once; `hurt` is done in the middle of them. What it broke off is
    /// asked again.
    pub(crate) fn load(&mut self, all: u64, hurt: impl FnOnce(&mut [Daemon<'a>])) -> Counts {
        let each = all.div_ceil(DAEMONS as u64);
        let named = |scene: &Scene| (0..PARTS.len()).map(|n| scene.home.path().join(format!("progress-{n}"))).collect();
        let told: Vec<Vec<PathBuf>> = self.scenes.iter().map(named).collect();
        let begun: Vec<Run> =
            self.daemons.iter().zip(&told).flat_map(|(daemon, files)| loads(daemon, each, 1_000, files)).collect();
        let told = told.concat();
        let over = AtomicBool::new(false);
        let (daemons, bills) = (&mut self.daemons, &mut self.bills);
        let mut counts = std::thread::scope(|scope| {
            // Also when something fails in here: the scope waits for whoever watches.
            let _over = Over(&over);
            scope.spawn(|| watch(&told, &over, all));
            let running: Vec<_> = begun.into_iter().map(|load| scope.spawn(|| Counts::of(&load.ran().ok()))).collect();
            let enough = (all / 50).clamp(50, 5_000);
            let billed = || bills.iter_mut().map(|bill| bill.read().0).sum::<u64>() >= enough;
            until("calls are billed", PATIENCE, billed).expect("calls");
            hurt(daemons);
            let mut counts = Counts::default();
            running.into_iter().for_each(|one| counts.add(one.join().expect("a load")));
            counts
        });
        // While a daemon was down its clients' requests were lost.
        if counts.unanswered > 0 {
            let lost = counts.unanswered.min(each);
            counts.add(self.together(|daemon| loads(daemon, lost.div_ceil(DAEMONS as u64), 1_000, &[])));
        }
        counts
    }

    /// Asks until nobody gets anything any more, twice in a row: on a busy machine a call may wait in vain for what is there.
    pub(crate) fn until_nothing_is_left(&self) -> Counts {
        let (mut counts, mut in_vain) = (Counts::default(), 0);
        for round in 0..30 {
            let again = self.together(|daemon| loads(daemon, 64, 4_001 + 64 * round, &[]));
            counts.add(again);
            in_vain = if again.answered == 0 { in_vain + 1 } else { 0 };
            if in_vain == 2 {
                break;
            }
        }
        counts
    }

    /// Asks for less than anybody did before: who has money left, gives it.
    pub(crate) fn ask_for_less(&self) -> Counts {
        self.together(|daemon| loads(daemon, 64, 900, &[]))
    }

    fn together(&self, of: impl Fn(&Daemon<'a>) -> Vec<Run>) -> Counts {
        let loads: Vec<Run> = self.daemons.iter().flat_map(of).collect();
        let mut counts = Counts::default();
        std::thread::scope(|scope| {
            let running: Vec<_> = loads.into_iter().map(|load| scope.spawn(|| Counts::of(&load.ran().ok()))).collect();
            running.into_iter().for_each(|one| counts.add(one.join().expect("a load")));
        });
        counts
    }

    /// What was billed and what was charged, once every call is closed. Nothing that was billed is without its charge.
    pub(crate) fn spent(&mut self) -> Spent {
        let mut spent = Spent { bill: 0, ledger: 0, team: 0, levels: BTreeMap::new() };
        for (bill, daemon) in self.bills.iter_mut().zip(&self.daemons) {
            let now = || Spending::of(&daemon.json(&["budgets"]), "company");
            until("every call is closed", PATIENCE, || now().is_some_and(|now| now.held == 0)).expect("an end");
            let (billed, charged) = (bill.read().1, now().map_or(0, |now| now.settled));
            assert!(billed <= charged, "bill {billed}, ledger {charged}: something was not charged");
            spent.bill += billed;
            spent.team += bill.team;
            spent.ledger += charged;
            let budgets = daemon.json(&["budgets"]);
            for row in budgets.as_array().expect("rows") {
                let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
                let settled = row["settled_nano_usd"].as_u64().expect("an amount");
                if settled == 0 {
                    // A budget that nobody has asked yet has a row, and no window.
                    continue;
                }
                *spent.levels.entry((text("budget"), text("scope"))).or_default() += settled;
            }
        }
        spent
    }

    /// Each chain of records holds, each charge is made again from its record and is in one outcome only.
    pub(crate) fn verify(&self) {
        for daemon in &self.daemons {
            let verified = daemon.caught_up();
            assert_eq!(verified["findings"], json!([]), "{verified}");
            let rows = daemon.json(&["spend", "--by", "model"]);
            let sum = rows.as_array().expect("rows").iter().filter_map(|row| row["cost"].as_u64()).sum::<u64>();
            let settled = Spending::of(&daemon.json(&["budgets"]), "company").map_or(0, |now| now.settled);
            assert_eq!(sum, settled, "the ledger's sum is what the budget counts");
        }
    }

    /// Hosts that do not share the limit must turn the verdict: otherwise it says nothing.
    pub(crate) fn planted(&mut self, rules: &str) {
        let left = limit().saturating_sub(self.spent().ledger);
        for daemon in &self.daemons {
            daemon.configure(&rules.replace("shared = true", "shared = false"));
            let _ran = daemon.command(&["policy", "reload"]).ran().ok();
        }
        let each = left / OF_EACH / DAEMONS as u64 + 200;
        self.together(|daemon| loads(daemon, each, 3_800, &[]));
        let spent = self.spent();
        assert!(spent.over() > 0, "money that is not shared is seen: {spent:?}");
    }

    /// Waits until no instance spends from its slices any more; gives why.
    pub(crate) fn halted(&self) -> String {
        let escrow = |daemon: &Daemon<'_>| daemon.json(&["status"])["data_path"]["escrow"].clone();
        let shut = |daemon: &Daemon<'_>| {
            let now = escrow(daemon);
            now["lease_ms"] == 0 && now["trouble"].as_str().is_some_and(|why| why.contains("halted"))
        };
        until("every instance stops spending", PATIENCE, || self.daemons.iter().all(shut)).expect("a halt");
        escrow(&self.daemons[0])["trouble"].as_str().unwrap_or_default().to_owned()
    }

    /// A subcommand, beside one of the daemons.
    #[track_caller]
    pub(crate) fn command(&self, at: usize, words: &[&str]) {
        let _ran = self.daemons[at].command(words).ran().ok();
    }

    pub(crate) fn stop(&mut self) {
        self.daemons.iter_mut().for_each(Daemon::stop);
    }
}

/// All that runs on a host at once; each has a file of `progress`, where there are any.
fn loads(daemon: &Daemon<'_>, requests: u64, base: u64, progress: &[PathBuf]) -> Vec<Run> {
    let one = |(n, part): (usize, &Part)| {
        load(daemon, part, (requests * part.tenths).div_ceil(10), base, progress.get(n).map(PathBuf::as_path))
    };
    PARTS.iter().enumerate().map(one).collect()
}

/// A refusal is remembered for a while: whoever asks anew asks for another number of tokens than `base` began with.
fn load(daemon: &Daemon<'_>, part: &Part, requests: u64, base: u64, progress: Option<&Path>) -> Run {
    let (requests, base) = (requests.to_string(), base.to_string());
    let load = daemon.run_as(&["--agent", part.agent], LOAD).args(["--model", part.model, "--clients", part.clients]);
    let load = load.args(["--requests", &requests, "--cap-base", &base, "--adverse"]);
    let load = load.args(["--cap-cycle", CAPS, "--count"]).limit(LONGEST);
    let load = if many() {
        load.args(["--stream-every", "8", "--words", "output=60"])
    } else {
        load.args(["--stream", "--words", "output=60 slow=1"])
    };
    match progress {
        Some(file) => load.arg("--progress").arg(file),
        None => load,
    }
}

/// Says that it is over when it is dropped.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Says on the terminal how far it is. Past the test's own capture, which would keep it until the end.
fn watch(told: &[PathBuf], over: &AtomicBool, all: u64) {
    let began = Instant::now();
    let mut said = Instant::now();
    while !over.load(Ordering::Relaxed) {
        std::thread::sleep(Duration::from_millis(200));
        if said.elapsed() < Duration::from_secs(10) {
            continue;
        }
        said = Instant::now();
        let read = |file: &PathBuf| serde_json::from_str::<Value>(&std::fs::read_to_string(file).ok()?).ok();
        let counts: Vec<Value> = told.iter().filter_map(read).collect();
        let sum = |key: &str| counts.iter().filter_map(|counts| counts[key].as_u64()).sum::<u64>();
        let done = sum("answered") + sum("refused") + sum("unanswered");
        let each = done as f64 / began.elapsed().as_secs_f64();
        let _closed = writeln!(
            std::io::stderr(),
            "... {done} of {all} requests, {each:.0} a second: {} answered, {} refused, {} unanswered",
            sum("answered"),
            sum("refused"),
            sum("unanswered")
        );
    }
}
