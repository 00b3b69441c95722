//! What was measured: takes a sample per peer, plan and round; gives medians, ratios inside a round, and what the report says.

use std::{collections::BTreeMap, fs};

use serde_json::{Map, Number, json};

use crate::{
    bench::{
        PeerName, goals,
        load::Seen,
        profile::{self, Threads},
    },
    report::{Case, Verdict},
};

/// One peer under one load in one round.
#[derive(Clone, Debug)]
pub(in crate::bench) struct Sample {
    pub(in crate::bench) seen: Seen,
    /// CPU of the peer's processes per request, microseconds.
    pub(in crate::bench) cpu_us: f64,
    pub(in crate::bench) rss_kb: u64,
    /// CPU per request by kind of thread.
    pub(in crate::bench) threads: Threads,
}

impl Sample {
    pub(in crate::bench) fn rps(&self) -> f64 {
        self.seen.requests as f64 / self.seen.seconds.max(f64::MIN_POSITIVE)
    }
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(in crate::bench) struct Results {
    /// One sample per round; `None` where the peer failed.
    pub(super) samples: BTreeMap<(&'static str, &'static str), Vec<Option<Sample>>>,
    pub(super) idle_kb: BTreeMap<&'static str, u64>,
    /// Median time of one small durable write on this machine, microseconds.
    pub(in crate::bench) fdatasync_us: u64,
    /// The same where a request's time lies between two of them.
    pub(in crate::bench) fdatasync_after_pause_us: u64,
    /// CPU time of a hold and its end, microseconds, without the journal's wait; half of all batches of calls took no more.
    pub(in crate::bench) hold_settle_us: Option<f64>,
    /// How long `caracald policy reload` takes, milliseconds; half of all took no longer.
    pub(in crate::bench) price_reload_ms: Option<f64>,
}

impl Results {
    /// The rounds of one peer and plan.
    pub(in crate::bench) fn rounds(&self, peer: PeerName, plan: &str) -> &[Option<Sample>] {
        self.samples
            .iter()
            .find(|((name, of), _)| *name == peer.name() && *of == plan)
            .map_or(&[], |(_, samples)| samples)
    }

    /// The median over the rounds of something of one peer.
    pub(in crate::bench) fn median(&self, peer: PeerName, plan: &str, value: impl Fn(&Sample) -> f64) -> Option<f64> {
        median(self.rounds(peer, plan).iter().flatten().map(value).collect())
    }

    /// The median over the rounds of something between two peers in the same round.
    pub(in crate::bench) fn between(
        &self,
        a: PeerName,
        b: PeerName,
        plan: &str,
        value: impl Fn(&Sample, &Sample) -> f64,
    ) -> Option<f64> {
        let pairs = self.rounds(a, plan).iter().zip(self.rounds(b, plan));
        median(pairs.filter_map(|(a, b)| Some(value(a.as_ref()?, b.as_ref()?))).collect())
    }

    /// Memory before the first request.
    pub(in crate::bench) fn idle_kb(&self, peer: PeerName) -> Option<f64> {
        self.idle_kb.get(peer.name()).map(|kb| *kb as f64)
    }
}

/// NaN and infinity are no figures: a peer without CPU time has no ratio.
fn median(mut values: Vec<f64>) -> Option<f64> {
    values.retain(|value| value.is_finite());
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied()
}

/// What the report says of each peer and plan.
pub(super) fn cases(results: &Results) -> Vec<Case> {
    let mut cases = Vec::new();
    for ((peer, plan), samples) in &results.samples {
        let value = |value: fn(&Sample) -> f64| median(samples.iter().flatten().map(value).collect());
        let Some(rps) = value(Sample::rps) else { continue };
        let mut case = Case::new(format!("{peer} {plan}"), Verdict::Passed);
        case.more = Map::from_iter([
            ("rps".to_owned(), json!(rounded(rps))),
            ("cpu_us".to_owned(), json!(value(|sample| sample.cpu_us).map(rounded))),
            ("p50_us".to_owned(), json!(value(|sample| sample.seen.p50_us as f64))),
            ("p99_us".to_owned(), json!(value(|sample| sample.seen.p99_us as f64))),
            ("first_byte_p50_us".to_owned(), json!(value(|sample| sample.seen.first_byte_p50_us as f64))),
            ("rss_kb".to_owned(), json!(value(|sample| sample.rss_kb as f64))),
        ]);
        let threads = profile::mean(samples.iter().flatten().map(|sample| &sample.threads));
        let thread =
            |(name, spent): (String, profile::Spent)| (name, json!([rounded(spent.user_us), rounded(spent.system_us)]));
        case.more.insert("threads".to_owned(), threads.into_iter().map(thread).collect::<Map<_, _>>().into());
        cases.push(case);
    }
    cases
}

/// The figures that goals are judged by, and the circumstances.
pub(super) fn figures(results: &Results, rounds: u32, milliseconds: u64) -> BTreeMap<String, Number> {
    let mut figures = BTreeMap::new();
    let mut set = |name: &str, value: Option<f64>| {
        if let Some(number) = value.map(rounded).and_then(Number::from_f64) {
            figures.insert(name.to_owned(), number);
        }
    };
    for goal in goals::GOALS {
        set(goal.key, (goal.value)(results));
    }
    set("stream_first_byte_with_sync_over_floor_us", goals::first_byte_over_floor(results));
    set("fdatasync_p50_us", Some(results.fdatasync_us as f64));
    set("fdatasync_after_pause_p50_us", Some(results.fdatasync_after_pause_us as f64));
    set("floor_rps_x_direct", results.between(PeerName::Floor, PeerName::Direct, "paid-32", |a, b| a.rps() / b.rps()));
    set("squid_cpu_x_floor", results.between(PeerName::Squid, PeerName::Floor, "paid-32", |a, b| a.cpu_us / b.cpu_us));
    set("load_average", fs::read_to_string("/proc/loadavg").ok().and_then(|text| text.split(' ').next()?.parse().ok()));
    set("rounds", Some(f64::from(rounds)));
    // 1: the size at which the goals are judged.
    set("scale", Some(if milliseconds >= 2000 { 1.0 } else { 0.0 }));
    figures
}

fn rounded(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_leaves_out_what_is_no_number() {
        assert_eq!(median(vec![3.0, f64::NAN, 1.0, 2.0]), Some(2.0));
        assert_eq!(median(vec![f64::INFINITY]), None);
    }

    #[test]
    fn ratios_are_taken_inside_a_round() {
        let sample = |requests| {
            Some(Sample {
                seen: Seen { requests, seconds: 1.0, ..Seen::default() },
                cpu_us: 1.0,
                rss_kb: 1,
                threads: Threads::new(),
            })
        };
        let mut results = Results::default();
        results.samples.insert(("floor", "paid-1"), vec![sample(10), None, sample(40)]);
        results.samples.insert(("direct", "paid-1"), vec![sample(20), sample(1), sample(80)]);
        let ratio = results.between(PeerName::Floor, PeerName::Direct, "paid-1", |a, b| a.rps() / b.rps());
        assert_eq!(ratio, Some(0.5));
    }
}
