//! Ten years of windows: they tile time, and no course of the clock - forwards, back, over a restart - spends a window twice or
//! forgets what was spent in it.

use super::*;
use crate::budget::window::Windows;
use proptest::prelude::*;
use std::collections::{BTreeMap, HashSet};

const DAY: u64 = 86_400;
/// 2026-01-01T00:00:00Z and ten years later.
const FROM: u64 = 1_767_225_600;
const TO: u64 = 2_082_758_400;
const DAYS: i32 = 3_652;

/// Zones with every habit that there is: none, both hemispheres, half an hour, midnights that are missing or come twice, two
/// changes about Ramadan, the far ends of the day.
const ZONES: [&str; 18] = [
    "",
    "Europe/Berlin",
    "America/New_York",
    "America/Santiago",
    "America/Havana",
    "America/Nuuk",
    "America/St_Johns",
    "Africa/Casablanca",
    "Africa/Cairo",
    "Antarctica/Troll",
    "Asia/Beirut",
    "Asia/Gaza",
    "Asia/Kathmandu",
    "Atlantic/Azores",
    "Australia/Lord_Howe",
    "Pacific/Apia",
    "Pacific/Chatham",
    "Pacific/Kiritimati",
];

fn spec(window: Window, kind: WindowKind, zone: &str) -> BudgetSpec {
    BudgetSpec {
        window,
        kind,
        time_zone: zone.to_owned(),
        wait: Wait { calls: 0, time: Duration::ZERO },
        ..BudgetSpec::daily("b", NanoUsd(1_000))
    }
}

/// Civil date of a day of the Unix epoch (Howard Hinnant's days-to-civil): another calendar than the one under test.
fn civil(days: i64) -> (i64, u32, u32) {
    let shifted = days + 719_468;
    let (era, of_era) = (shifted.div_euclid(146_097), shifted.rem_euclid(146_097));
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * of_year + 2) / 153;
    let day = u32::try_from(of_year - (153 * month + 2) / 5 + 1).unwrap_or(0);
    let month = u32::try_from(if month < 10 { month + 3 } else { month - 9 }).unwrap_or(0);
    (year_of_era + era * 400 + i64::from(month <= 2), month, day)
}

/// Goes from window to window over ten years; gives their labels and lengths in seconds, the first and last cut off.
fn walk(window: Window, zone: &str) -> Result<Vec<(String, u64)>, Box<dyn std::error::Error>> {
    let windows = Windows::new(&spec(window, WindowKind::Calendar, zone))?;
    let (mut at, mut all) = (UnixNanos(FROM * SECOND), Vec::new());
    while at.0 < TO * SECOND {
        let place = windows.at(at);
        let ends = place.ends.ok_or("a window without an end")?;
        assert!(ends > at, "{zone} {}: it ends before it is over", place.key);
        // A fresh finder agrees at the window's last instant, and beyond it is another window: no gap and no overlap.
        let fresh = Windows::new(&spec(window, WindowKind::Calendar, zone))?;
        assert_eq!(fresh.at(UnixNanos(ends.0 - 1)), place, "{zone}: the last instant of {}", place.key);
        assert_ne!(fresh.at(ends).key, place.key, "{zone}: the first instant after {}", place.key);
        all.push((place.key.to_string(), (ends.0 - at.0) / SECOND));
        at = ends;
    }
    let labels: HashSet<&String> = all.iter().map(|(label, _)| label).collect();
    assert_eq!(labels.len(), all.len(), "{zone}: a label that comes twice would open a spent window");
    Ok(all)
}

#[test]
fn ten_years_of_days_weeks_and_months_tile_time_in_every_zone() -> Outcome {
    for zone in ZONES {
        let days = walk(Window::Day, zone)?;
        // Where the zone stands off UTC, the years begin and end in the middle of a day.
        let want = usize::try_from(DAYS)?..=usize::try_from(DAYS)? + 1;
        assert!(want.contains(&days.len()), "{zone}: {} days", days.len());
        let first = days.first().map(|(label, _)| label.clone()).ok_or("no day")?;
        let begins = i64::try_from(FROM / DAY)? - i64::from(first != "day/2026-01-01");
        for (n, (label, length)) in days.iter().enumerate() {
            let (year, month, day) = civil(begins + i64::try_from(n)?);
            assert_eq!(*label, format!("day/{year}-{month:02}-{day:02}"), "{zone}");
            let cut = n == 0 || n + 1 == days.len();
            assert!(cut || (22 * 3_600..=26 * 3_600).contains(length), "{zone} {label} has {length} s");
        }
        let (months, weeks) = (walk(Window::Month, zone)?, walk(Window::Week, zone)?);
        assert!((120..=121).contains(&months.len()) && (522..=523).contains(&weeks.len()), "{zone}");
        for (label, length) in months.iter().skip(1).take(months.len() - 2) {
            let here = days.iter().filter(|(day, _)| day.starts_with(&label.replace("month", "day")));
            let (count, sum) = here.fold((0, 0), |(count, sum), (_, length)| (count + 1, sum + length));
            assert_eq!(sum, *length, "{zone} {label}: its {count} days");
        }
        let odd = days.iter().filter(|(_, length)| *length != DAY).count();
        let steady = ["", "Asia/Kathmandu", "Pacific/Kiritimati", "Pacific/Apia"].contains(&zone);
        assert!(steady || odd >= 18, "{zone}: only {odd} days of another length: does this system know its rules?");
    }
    Ok(())
}

#[test]
fn ten_years_of_hours_and_some_minutes_tile_time() -> Outcome {
    let hours = walk(Window::Hour, "")?;
    assert_eq!(hours.len(), usize::try_from(DAYS)? * 24);
    assert!(hours.iter().all(|(_, length)| *length == 3_600));
    let windows = Windows::new(&spec(Window::Minute, WindowKind::Calendar, "Europe/Berlin"))?;
    let mut before = windows.at(UnixNanos((FROM - 60) * SECOND));
    // A minute in 61 over ten years, and the one after it.
    for minute in (FROM / 60..TO / 60).step_by(61) {
        for minute in [minute, minute + 1] {
            let place = windows.at(UnixNanos(minute * 60 * SECOND + 59 * SECOND));
            assert_eq!(place.ends, Some(UnixNanos((minute + 1) * 60 * SECOND)));
            assert_ne!(place.key, before.key);
            before = place;
        }
    }
    Ok(())
}

/// What happens to a budget.
#[derive(Clone, Debug)]
enum Turn {
    /// The clock moves by so many seconds.
    Clock(i64),
    /// A call holds and is settled at once.
    Spend(u64),
    /// A call holds, and is settled at `Settle`.
    Hold(u64),
    Settle,
    /// The daemon starts anew with what the ledger has; what was held is charged.
    Restart,
}

fn turn() -> impl Strategy<Value = Turn> {
    let minute = 60i64;
    prop_oneof![
        4 => (0i64..3 * minute).prop_map(Turn::Clock),
        3 => (0i64..4 * 3_600).prop_map(Turn::Clock),
        2 => (0i64..40 * 86_400).prop_map(Turn::Clock),
        2 => (-2 * 3_600i64..0).prop_map(Turn::Clock),
        1 => (-40 * 86_400i64..0).prop_map(Turn::Clock),
        8 => (1u64..700).prop_map(Turn::Spend),
        2 => (1u64..700).prop_map(Turn::Hold),
        2 => Just(Turn::Settle),
        3 => Just(Turn::Restart),
    ]
}

fn kinds() -> impl Strategy<Value = (Window, WindowKind)> {
    let window = prop_oneof![
        Just(Window::Minute),
        Just(Window::Hour),
        Just(Window::Day),
        Just(Window::Week),
        Just(Window::Month)
    ];
    prop_oneof![
        1 => Just((Window::Total, WindowKind::Calendar)),
        5 => window.clone().prop_map(|window| (window, WindowKind::Calendar)),
        5 => window.prop_map(|window| (window, WindowKind::Rolling)),
    ]
}

fn seconds(window: Window) -> u64 {
    match window {
        Window::Minute => 60,
        Window::Hour => 3_600,
        Window::Day => DAY,
        Window::Week => 7 * DAY,
        Window::Month | Window::Total => 30 * DAY,
    }
}

/// What was spent, by the window that the charge's hold named: the ledger's account.
type Account = BTreeMap<WindowKey, u64>;

fn charge(account: &mut Account, windows: &[WindowKey], amount: u64) {
    for key in windows {
        *account.entry(key.clone()).or_default() += amount;
    }
}

/// No stretch of a rolling window's length has more than the limit, by the parts that the charges name.
fn most_in_one_stretch(account: &Account) -> u64 {
    let parts: BTreeMap<u64, u64> = account
        .iter()
        .filter_map(|(key, amount)| Some((key.window.split_once('/')?.1.parse().ok()?, *amount)))
        .collect();
    // A window has sixty parts, and lies across sixty-one.
    parts
        .keys()
        .map(|last| parts.range(last.saturating_sub(60)..=*last).map(|(_, amount)| amount).sum())
        .max()
        .unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn no_course_of_the_clock_spends_a_window_twice_or_forgets_it(
        (window, kind) in kinds(),
        zone in prop::sample::select(&ZONES[..]),
        begin in FROM..TO,
        turns in prop::collection::vec(turn(), 1..80),
    ) {
        let failed = |error: &dyn std::fmt::Display| TestCaseError::fail(error.to_string());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build()?;
        let limit = 1_000;
        let clock = Clock::fixed(UnixNanos(begin * SECOND));
        let specs = || vec![spec(window, kind, zone)];
        let mut budgets = Budgets::new(specs(), clock.clone(), HashMap::new()).map_err(|error| failed(&error))?;
        let (mut account, mut open, mut latest) = (Account::new(), Vec::<Hold>::new(), begin);
        let ask = scope("a", "m");
        for turn in turns {
            match turn {
                Turn::Clock(by) => {
                    let now = (clock.now().0 / SECOND).saturating_add_signed(by).max(FROM);
                    clock.set(UnixNanos(now * SECOND));
                    latest = latest.max(now);
                }
                Turn::Spend(amount) | Turn::Hold(amount) => {
                    let before = budgets.snapshot().first().cloned().ok_or_else(|| TestCaseError::fail("no budget"))?;
                    let got = runtime.block_on(budgets.hold(&ask, NanoUsd(amount), NanoUsd(amount)));
                    prop_assert_eq!(got.is_ok(), amount <= before.left.0, "what it shows is what it gives");
                    let Ok(mut hold) = got else { continue };
                    hold.sent();
                    prop_assert_eq!(hold.windows.len(), 1, "in one window of its budget, and in no other");
                    if matches!(turn, Turn::Hold(_)) {
                        open.push(hold);
                    } else {
                        charge(&mut account, &hold.windows, amount);
                        hold.settle(NanoUsd(amount));
                    }
                }
                Turn::Settle => {
                    let Some(hold) = open.pop() else { continue };
                    let bill = hold.amount.0 / 2;
                    charge(&mut account, &hold.windows, bill);
                    hold.settle(NanoUsd(bill));
                }
                Turn::Restart => {
                    for hold in open.drain(..) {
                        charge(&mut account, &hold.windows, hold.amount.0);
                        hold.charge_max();
                    }
                    let totals = account.iter().map(|(key, amount)| (key.clone(), NanoUsd(*amount))).collect();
                    budgets = Budgets::new(specs(), clock.clone(), totals).map_err(|error| failed(&error))?;
                    // A new process knows the clock and nothing of how far it stood.
                    latest = clock.now().0 / SECOND;
                }
            }
            // Of each window, whenever it was open and however often.
            let held: u64 = open.iter().map(|hold| hold.amount.0).sum();
            for (key, amount) in &account {
                prop_assert!(*amount <= limit, "{:?} has {} of {}", key, amount, limit);
            }
            if kind == WindowKind::Rolling {
                let most = most_in_one_stretch(&account);
                prop_assert!(most <= limit, "{most} of {limit} in one stretch: {account:?}");
            }
            // What the present window shows is exactly what the ledger's account has of it: nothing forgotten, nothing twice.
            let status = budgets.snapshot().first().cloned().ok_or_else(|| TestCaseError::fail("no budget"))?;
            let mine = account.get(&status.key).copied().unwrap_or(0);
            prop_assert!(status.settled.0 + status.held.0 <= limit);
            if kind == WindowKind::Calendar {
                prop_assert_eq!(status.settled.0, mine);
                prop_assert!(status.held.0 <= held);
                let want = Windows::new(&spec(window, kind, zone)).map_err(|error| failed(&error))?.at(UnixNanos(latest * SECOND));
                prop_assert_eq!(&status.key.window, &want.key, "a clock that steps back reopens nothing");
            } else {
                prop_assert!(status.settled.0 >= mine);
                // Long after, all of it may be spent again.
                let newest = account.keys().filter_map(|key| key.window.split_once('/')?.1.parse::<u64>().ok()).max();
                let part = latest / (seconds(window) / 60);
                if newest.is_none_or(|newest| part > newest + 60) {
                    prop_assert_eq!(status.settled.0, 0);
                }
            }
        }
    }
}
