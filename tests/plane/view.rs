//! `caracald spend --fleet` by minute, hour and day, out of a Redis that two workers keep at once: the ledger's numbers.

use crate::SUBJECT;
use crate::host::Host;
use crate::plane::{PATIENCE, Plane, now, text};
use crate::worker::Worker;
use rand::{Rng as _, SeedableRng as _, rngs::StdRng};
use serde_json::Value;
use std::collections::BTreeMap;
use support::netns::until;
use support::report;

/// Money by time and model.
type Money = BTreeMap<(String, String), u64>;

#[test]
fn the_fleets_spend_by_minute_hour_and_day_is_the_ledgers_under_two_workers() {
    report::plain(SUBJECT, "spend --fleet by minute, hour and day; two spend workers at once", || {
        let plane = Plane::start(2);
        let mut dice = StdRng::seed_from_u64(13);
        let mut hosts = ["host-0", "host-1", "host-4"].map(Host::new);
        let keys: String = hosts.iter().map(Host::public_key).collect();
        plane.caracald(&["hosts", "enrol", text(&plane.file("hosts.pub", &keys))]);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let producer = plane.producer();
        let ledger = plane.worker("ledger");
        let (one, mut two) = (plane.worker("spend"), plane.worker("spend"));
        let mut wrote = 0;
        let mut burst = |hosts: &mut [Host]| {
            // Minutes are kept for two days, hours for 62.
            for step in ["now", "-1 minute", "-1 hour", "-3 days", "-100 days"] {
                let at = now(step).text;
                for host in &mut *hosts {
                    let records: Vec<_> = (0..40).map(|_| host.record(dice.random(), &at)).collect();
                    runtime.block_on(host.message(&records).send(&producer, &plane.topic));
                    wrote += 40;
                }
            }
            wrote
        };
        for _ in 0..4 {
            burst(&mut hosts);
        }
        // One ends at some moment, and another takes its place.
        two.kill();
        burst(&mut hosts);
        let two = plane.worker("spend");
        let wrote = burst(&mut hosts);
        plane.settled(wrote);

        let of_ledger = |length: usize, since: &str| {
            let sql = format!(
                "SELECT left(minute, {length}), model, sum(nano) FROM charges WHERE minute >= '{}' GROUP BY 1, 2 \
                 HAVING sum(nano) > 0",
                &now(since).text[..16]
            );
            let rows = plane.query(&sql).into_iter().map(|row| {
                let mut parts = row.split('|').map(str::to_owned);
                let mut next = || parts.next().expect("three columns");
                let key = (next(), next());
                (key, next().parse().expect("a number"))
            });
            rows.collect::<Money>()
        };
        let told = |by: &str, words: &[&str]| fleet(&plane, by, words);
        let wanted = [("minute", 16, "-1 day"), ("hour", 13, "-50 days"), ("day", 10, "-200 days")];
        for (by, length, since) in wanted {
            let of_ledger = of_ledger(length, since);
            assert!(of_ledger.len() >= 2, "{of_ledger:?}");
            let same = until("Redis has it", PATIENCE, || told(by, &[]) == of_ledger);
            assert!(same.is_ok(), "by {by}: {:?}, in the ledger {of_ledger:?}\n{}", told(by, &[]), plane.log());
        }
        // The hosts know what they charged, whatever any worker says.
        let mut charged = Money::new();
        for (what, nano) in hosts.iter().flat_map(|host| &host.charges) {
            *charged.entry((what.day.clone(), what.model.clone())).or_default() += nano;
        }
        charged.retain(|_, nano| *nano > 0);
        assert_eq!(told("day", &[]), charged);
        // One day, by hour.
        let today = now("now").text[..10].to_owned();
        let hours = told("hour", &["--since", &today, "--until", &today]);
        assert!(!hours.is_empty() && hours.keys().all(|(hour, _)| hour.starts_with(&today)), "{hours:?}");
        let sum = |money: &Money| money.values().sum::<u64>();
        assert_eq!(sum(&hours), sum(&told("day", &["--since", &today, "--until", &today])));
        let own = sum(&told("day", &["--host", "host-1"]));
        assert_eq!(own, hosts[1].charges.values().sum::<u64>(), "one host's");
        assert!(!plane.agrees(&["spend", "--fleet", "--by", "host"]), "whom agents called is not in Redis");

        assert!(plane.agrees(&["worker", "spend", "--check"]), "both kept one view");
        [ledger, one, two].into_iter().for_each(Worker::stop);
        assert!(plane.agrees(&["worker", "spend", "--check"]));
    });
}

/// What `spend --fleet` says by this time and by model: nothing that is nothing.
fn fleet(plane: &Plane, by: &str, words: &[&str]) -> Money {
    let said = plane.caracald(&[&["spend", "--fleet", "--json", "--by", by, "--by", "model"], words].concat());
    let rows: Value = serde_json::from_str(&said).expect("JSON");
    let rows = rows.as_array().expect("rows").iter().map(|row| {
        let text = |name: &str| row[name].as_str().expect("text").to_owned();
        ((text(by), text("model")), row["cost"].as_u64().expect("a number"))
    });
    rows.filter(|(_, nano)| *nano > 0).collect()
}
