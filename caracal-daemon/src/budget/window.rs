//! Which window a time falls into. The window is part of the key, so that nothing has to be reset when it turns.

use super::spec::{BudgetSpec, SpecError, Window, WindowKind};
use crate::clock::UnixNanos;
use jiff::tz::TimeZone;
use jiff::{Timestamp, Zoned};
use std::sync::{Arc, Mutex, PoisonError};

const SECOND: u64 = 1_000_000_000;
/// Parts of a rolling window.
const PARTS: u64 = 60;

/// The windows of a call: money is taken from `key`, and what stands under `counted` counts against the limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) key: Arc<str>,
    /// First nanosecond after it.
    pub(crate) ends: Option<UnixNanos>,
    /// When nothing counts it any more.
    pub(crate) forget: Option<UnixNanos>,
    /// Rolling windows: the other parts, newest first.
    pub(crate) counted: Arc<[Arc<str>]>,
}

/// Finds windows and remembers the last one.
#[derive(Debug)]
pub(crate) struct Windows {
    window: Window,
    kind: WindowKind,
    zone: TimeZone,
    last: Mutex<Option<(UnixNanos, Place)>>,
}

impl Windows {
    pub(crate) fn new(spec: &BudgetSpec) -> Result<Windows, SpecError> {
        Ok(Windows { window: spec.window, kind: spec.kind, zone: spec.zone()?, last: Mutex::new(None) })
    }

    /// The window of `now`.
    pub(crate) fn at(&self, now: UnixNanos) -> Place {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((from, place)) = last.as_ref()
            && *from <= now
            && place.ends.is_none_or(|ends| now < ends)
        {
            return place.clone();
        }
        let (from, place) = match self.kind {
            WindowKind::Calendar => self.calendar(now),
            WindowKind::Rolling => self.rolling(now),
        };
        *last = Some((from, place.clone()));
        place
    }

    fn calendar(&self, now: UnixNanos) -> (UnixNanos, Place) {
        let fixed = |label: String, from: u64, length: u64| {
            let ends = Some(UnixNanos(from.saturating_add(length)));
            (UnixNanos(from), Place { key: label.into(), ends, forget: ends, counted: nothing() })
        };
        match self.window {
            Window::Minute | Window::Hour => {
                let (length, form) = if self.window == Window::Minute {
                    (60 * SECOND, "minute/%Y-%m-%dT%H:%MZ")
                } else {
                    (3_600 * SECOND, "hour/%Y-%m-%dT%HZ")
                };
                let from = now.0 - now.0 % length;
                fixed(instant(from).to_zoned(TimeZone::UTC).strftime(form).to_string(), from, length)
            }
            Window::Total => {
                (UnixNanos(0), Place { key: "total".into(), ends: None, forget: None, counted: nothing() })
            }
            Window::Day | Window::Week | Window::Month => {
                let local = instant(now.0).to_zoned(self.zone.clone());
                let bounds = bounds(self.window, &local);
                let label = label(self.window, &local);
                match bounds {
                    Some((from, to)) => fixed(label, from, to.saturating_sub(from)),
                    // At the end of the calendar: a window of one instant under the right name.
                    None => fixed(label, now.0, 1),
                }
            }
        }
    }

    /// The part that `now` falls into and the sixty before it: together they cover every stretch of the window's length
    /// that ends now.
    fn rolling(&self, now: UnixNanos) -> (UnixNanos, Place) {
        let length = part_length(self.window);
        let part = now.0 / length;
        let name = |part: u64| Arc::from(format!("rolling-{}/{part}", self.window.as_str()));
        let from = UnixNanos(part * length);
        let counted = (1..=PARTS).filter_map(|back| part.checked_sub(back)).map(name).collect();
        let after = |parts: u64| Some(UnixNanos(from.0.saturating_add(length.saturating_mul(parts))));
        (from, Place { key: name(part), ends: after(1), forget: after(PARTS + 1), counted })
    }
}

/// What a window of the calendar counts beside itself.
fn nothing() -> Arc<[Arc<str>]> {
    Arc::from([])
}

/// Length of a part of a rolling window, nanoseconds.
fn part_length(window: Window) -> u64 {
    let seconds = match window {
        Window::Minute => 60,
        Window::Hour => 3_600,
        Window::Day => 86_400,
        Window::Week => 7 * 86_400,
        Window::Month | Window::Total => 30 * 86_400,
    };
    seconds * SECOND / PARTS
}

/// The kind and number of a part of a rolling window: `rolling-hour/120`.
fn part(label: &str) -> Option<(&str, u64)> {
    let (kind, number) = label.strip_prefix("rolling-")?.split_once('/')?;
    Some((kind, number.parse().ok()?))
}

/// Whether `label` is a part of a rolling window that begins after `now`.
pub(super) fn begins_after(label: &str, now: UnixNanos) -> bool {
    const KINDS: [Window; 5] = [Window::Minute, Window::Hour, Window::Day, Window::Week, Window::Month];
    let Some((kind, number)) = part(label) else { return false };
    let window = KINDS.into_iter().find(|window| window.as_str() == kind);
    window.is_some_and(|window| number > now.0 / part_length(window))
}

/// Whether the rolling window that ends with the part `last` has the part `label` in it.
pub(super) fn is_within(label: &str, last: &str) -> bool {
    let (Some(label), Some(last)) = (part(label), part(last)) else { return false };
    label.0 == last.0 && last.1.checked_sub(label.1).is_some_and(|back| back <= PARTS)
}

fn instant(nanos: u64) -> Timestamp {
    Timestamp::from_nanosecond(i128::from(nanos)).unwrap_or(Timestamp::MAX)
}

fn label(window: Window, local: &Zoned) -> String {
    match window {
        Window::Week => {
            let week = local.date().iso_week_date();
            format!("week/{}-W{:02}", week.year(), week.week())
        }
        Window::Month => local.strftime("month/%Y-%m").to_string(),
        _ => local.strftime("day/%Y-%m-%d").to_string(),
    }
}

/// First nanosecond of the window and of the next one.
fn bounds(window: Window, local: &Zoned) -> Option<(u64, u64)> {
    let date = local.date();
    let (first, next) = match window {
        Window::Week => {
            let first =
                date.checked_sub(jiff::Span::new().days(i64::from(date.weekday().to_monday_zero_offset()))).ok()?;
            (first, first.checked_add(jiff::Span::new().weeks(1)).ok()?)
        }
        Window::Month => (date.first_of_month(), date.first_of_month().checked_add(jiff::Span::new().months(1)).ok()?),
        _ => (date, date.tomorrow().ok()?),
    };
    let start = |date: jiff::civil::Date| {
        let zoned = date.to_zoned(local.time_zone().clone()).ok()?.start_of_day().ok()?;
        u64::try_from(zoned.timestamp().as_nanosecond().max(0)).ok()
    };
    Some((start(first)?, start(next)?))
}

/// A time as people read it.
pub(crate) fn shown(at: UnixNanos) -> String {
    instant(at.0).to_zoned(TimeZone::UTC).strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::money::NanoUsd;
    use proptest::prelude::*;

    fn windows(window: Window, kind: WindowKind, zone: &str) -> Result<Windows, SpecError> {
        Windows::new(&BudgetSpec { window, kind, time_zone: zone.to_owned(), ..BudgetSpec::daily("b", NanoUsd(1)) })
    }

    fn time(text: &str) -> Result<UnixNanos, jiff::Error> {
        Ok(UnixNanos(u64::try_from(text.parse::<Timestamp>()?.as_nanosecond()).unwrap_or(0)))
    }

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    #[test]
    fn windows_over_daylight_saving() -> Outcome {
        let day = windows(Window::Day, WindowKind::Calendar, "Europe/Berlin")?;
        // 2026-03-29 has 23 hours there, 2026-10-25 has 25.
        for (at, key, ends) in [
            ("2026-03-28T22:59:59Z", "day/2026-03-28", "2026-03-28T23:00:00Z"),
            ("2026-03-28T23:00:00Z", "day/2026-03-29", "2026-03-29T22:00:00Z"),
            ("2026-03-29T21:59:59Z", "day/2026-03-29", "2026-03-29T22:00:00Z"),
            ("2026-03-29T22:00:00Z", "day/2026-03-30", "2026-03-30T22:00:00Z"),
            ("2026-10-24T22:00:00Z", "day/2026-10-25", "2026-10-25T23:00:00Z"),
            ("2026-10-25T22:59:59Z", "day/2026-10-25", "2026-10-25T23:00:00Z"),
        ] {
            let place = day.at(time(at)?);
            assert_eq!((place.key.as_ref(), place.ends), (key, Some(time(ends)?)), "{at}");
        }
        // A zone whose midnight does not exist on that day.
        let day = windows(Window::Day, WindowKind::Calendar, "America/Santiago")?;
        let place = day.at(time("2026-09-06T04:00:00Z")?);
        assert_eq!((place.key.as_ref(), place.ends), ("day/2026-09-06", Some(time("2026-09-07T03:00:00Z")?)));
        Ok(())
    }

    #[test]
    fn months_weeks_and_the_rest() -> Outcome {
        for (window, at, key, ends) in [
            (Window::Month, "2028-02-29T12:00:00Z", "month/2028-02", Some("2028-03-01T00:00:00Z")),
            (Window::Month, "2026-12-31T23:59:59Z", "month/2026-12", Some("2027-01-01T00:00:00Z")),
            (Window::Week, "2027-01-03T12:00:00Z", "week/2026-W53", Some("2027-01-04T00:00:00Z")),
            (Window::Week, "2027-01-04T00:00:00Z", "week/2027-W01", Some("2027-01-11T00:00:00Z")),
            (Window::Hour, "2026-11-24T12:34:56Z", "hour/2026-11-24T12Z", Some("2026-11-24T13:00:00Z")),
            (Window::Minute, "2026-11-24T12:34:56Z", "minute/2026-11-24T12:34Z", Some("2026-11-24T12:35:00Z")),
            (Window::Total, "2026-11-24T12:34:56Z", "total", None),
        ] {
            let place = windows(window, WindowKind::Calendar, "")?.at(time(at)?);
            assert_eq!((place.key.as_ref(), place.ends), (key, ends.map(time).transpose()?), "{at}");
        }
        Ok(())
    }

    #[test]
    fn a_rolling_window_counts_at_least_its_length() -> Outcome {
        let hour = windows(Window::Hour, WindowKind::Rolling, "")?;
        let place = hour.at(UnixNanos(7_200 * SECOND + 5));
        assert_eq!(place.key.as_ref(), "rolling-hour/120");
        assert_eq!(place.counted.first().map(AsRef::as_ref), Some("rolling-hour/119"));
        assert_eq!(place.counted.last().map(AsRef::as_ref), Some("rolling-hour/60"));
        assert_eq!(place.counted.len(), 60);
        Ok(())
    }

    proptest! {
        #[test]
        fn ten_years_have_no_gap_and_no_overlap(at in 1_700_000_000u64..2_020_000_000, zone in prop_oneof![Just("Europe/Berlin"), Just("America/Santiago"), Just("Australia/Lord_Howe"), Just("Asia/Kathmandu"), Just("")], window in prop_oneof![Just(Window::Minute), Just(Window::Hour), Just(Window::Day), Just(Window::Week), Just(Window::Month)]) {
            let at = UnixNanos(at * SECOND);
            let fresh = || windows(window, WindowKind::Calendar, zone).map_err(|error| TestCaseError::fail(error.to_string()));
            let one = fresh()?;
            let place = one.at(at);
            let ends = place.ends.ok_or_else(|| TestCaseError::fail("no end"))?;
            prop_assert!(at < ends);
            prop_assert_eq!(&fresh()?.at(UnixNanos(ends.0 - 1)), &place, "the last instant is in the same window");
            let next = fresh()?.at(ends);
            prop_assert_ne!(&next.key, &place.key);
            prop_assert_eq!(one.at(ends), next);
            prop_assert_eq!(one.at(at), place, "a clock that steps back finds the former window");
        }
    }
}
