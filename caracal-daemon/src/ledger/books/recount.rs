//! What the records of one host say of money, counted again by an audit. Takes records in the ledger's order, one at a time; gives what
//! is wrong with each, and in the end the sums that must be stored. Counts by the rules of [`Changes`](super::Changes), which the
//! writer goes by, in another way: names become numbers when they are seen first, and a call that has ended is forgotten.

use super::fit::{self, Held};
use super::paid::{Paid, windows_of};
use super::{Corrected, OpenIntent, Overrun, Spend, SpendKey, Total, nanos};
use crate::event::write::PLACE_BYTES;
use crate::event::{Usage, WindowKey};
use crate::meter::Outcome;
use crate::money::NanoUsd;
use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

/// Spend by what: a day, or a minute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::ledger) enum By {
    /// `2026-11-24`.
    Day,
    /// `2026-11-24T10:05`.
    Minute,
}

/// What is wrong with a record.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::ledger) enum Fault {
    /// It does not fit its intent.
    Unfit(String),
    /// It is about money, and its call is not open, or is open still: it counts for nothing.
    Stray,
}

/// An outcome as an audit makes its charge again.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "one at a time, on the stack: a box would be made for each record")]
pub(in crate::ledger) enum Charge<'a> {
    /// What its bill is made from, and the bill.
    Read(Outcome<'a>, Option<NanoUsd>),
    /// It is in no form of ours, and is to be read as any record is.
    Unread,
}

/// The sums so far.
#[derive(Debug)]
pub(in crate::ledger) struct Recount {
    by: By,
    names: Names,
    sets: Sets,
    open: HashMap<Box<str>, Open>,
    spend: HashMap<Row, Spend>,
    overruns: BTreeSet<Overrun>,
    pub(in crate::ledger) corrections: Vec<Corrected>,
}

/// A call that is open. Its time is read when somebody asks.
#[derive(Debug)]
struct Open {
    leaf: u64,
    time: Box<str>,
    hold: u64,
    windows: u32,
    agent: u32,
    provider: u32,
    operation: u32,
    model: u32,
    price_book: Option<u32>,
}

/// What a row of spend is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Row {
    agent: u32,
    provider: u32,
    model: u32,
    time: u32,
}

impl Recount {
    pub(in crate::ledger) fn new(by: By) -> Recount {
        Recount {
            by,
            names: Names::default(),
            sets: Sets::default(),
            open: HashMap::new(),
            spend: HashMap::new(),
            overruns: BTreeSet::new(),
            corrections: Vec::new(),
        }
    }

    /// Reads one record at `leaf`. Gives what is wrong with it, and the charge that an outcome is.
    pub(in crate::ledger) fn post<'r>(&mut self, leaf: u64, record: &'r [u8]) -> (Option<Fault>, Option<Charge<'r>>) {
        let Some(rest) = record.get(PLACE_BYTES..) else { return (None, None) };
        if rest.starts_with(br#""type":"caracal.intent.v1""#) {
            let mut paid = Paid::default();
            if paid.fill(record).is_some() {
                self.intent(leaf, &paid);
            }
        } else if rest.starts_with(br#""type":"caracal.outcome.v1""#) {
            let mut paid = Paid::default();
            if paid.fill(record).is_none() {
                return (None, Some(Charge::Unread));
            }
            let fault = self.outcome(&paid);
            let cost = paid.data.cost.map(NanoUsd);
            return (fault, Some(paid.bill().map_or(Charge::Unread, |outcome| Charge::Read(outcome, cost))));
        } else if rest.starts_with(br#""type":"caracal.correction.v1""#)
            && let Some(paid) = Paid::read(record)
        {
            return (self.correction(leaf, &paid), None);
        }
        (None, None)
    }

    fn intent(&mut self, leaf: u64, paid: &Paid<'_>) {
        let Some(call) = &paid.data.call else { return };
        let open = Open {
            leaf,
            time: paid.time.into(),
            hold: paid.data.hold,
            windows: self.sets.number(&paid.data.windows),
            agent: self.names.number(&paid.data.agent),
            provider: self.names.number(&paid.data.provider),
            operation: self.names.number(&paid.data.operation),
            model: self.names.number(&paid.data.model),
            price_book: paid.data.price_book.as_ref().map(|book| self.names.number(book)),
        };
        self.open.insert(Box::from(&**call), open);
    }

    fn outcome(&mut self, paid: &Paid<'_>) -> Option<Fault> {
        let released = paid.data.settle == "released";
        let Some((call, intent)) = self.open.remove_entry(paid.data.call.as_deref().unwrap_or_default()) else {
            // One that was released changes nothing either way: the journal may have lost its intent, with which nothing was sent.
            let of_money = !released || paid.data.cost.unwrap_or(0) > 0;
            return of_money.then_some(Fault::Stray);
        };
        let windows = if paid.data.windows.is_empty() { intent.windows } else { self.sets.number(&paid.data.windows) };
        let name = |number: u32| self.names.text(number);
        let held = Held {
            call: &call,
            hold: intent.hold,
            same_windows: windows == intent.windows,
            provider: name(intent.provider),
            model: name(intent.model),
            price_book: intent.price_book.map(name),
        };
        let fault = fit::fault(&held, paid).map(Fault::Unfit);
        if let Some(entry) = &paid.data.price_entry {
            let (provider, model) = (held.provider.to_owned(), held.model.to_owned());
            self.overruns.insert(Overrun { provider, model, entry: entry.to_string() });
        }
        // Without a cost the longest bill is the only sound one.
        let cost = NanoUsd(paid.data.cost.unwrap_or(if released { 0 } else { intent.hold }));
        self.sets.add(windows, Total { charged: cost, ..Total::default() });
        let sent = |bytes: u64| if released { 0 } else { bytes };
        let spend = Spend {
            calls: u64::from(!released),
            cost,
            credited: NanoUsd::ZERO,
            charged_max: u64::from(paid.data.settle == "charged_max"),
            usage: if released { Usage::default() } else { paid.data.usage() },
            sent: sent(paid.data.sent),
            received: sent(paid.data.received),
        };
        let time = self.time(paid.time);
        let row = Row { agent: intent.agent, provider: intent.provider, model: intent.model, time };
        self.spend.entry(row).or_default().add(&spend);
        fault
    }

    /// A charge that is put right counts where the charge did: in its windows, and in its day's spend.
    fn correction(&mut self, leaf: u64, paid: &Paid<'_>) -> Option<Fault> {
        let data = &paid.data;
        let (Some(call), Some(nano), Some(sequence), Some(at)) =
            (&data.call, data.correction, data.corrects, &data.charged_at)
        else {
            return Some(Fault::Stray);
        };
        if self.open.contains_key(&**call) {
            return Some(Fault::Stray);
        }
        let change = Total::change(nano);
        let windows = self.sets.number(&data.windows);
        self.sets.add(windows, change);
        self.corrections.push(Corrected { leaf, call: call.to_string(), nano, sequence });
        let row = Row {
            agent: self.names.number(&data.agent),
            provider: self.names.number(&data.provider),
            model: self.names.number(&data.model),
            time: self.time(at),
        };
        let spend = Spend { cost: change.charged, credited: change.credited, ..Spend::default() };
        self.spend.entry(row).or_default().add(&spend);
        None
    }

    fn time(&mut self, time: &str) -> u32 {
        let length = if self.by == By::Day { 10 } else { 16 };
        self.names.number(time.get(..length).unwrap_or_default())
    }

    /// What was charged to each window.
    pub(in crate::ledger) fn totals(&self) -> HashMap<WindowKey, Total> {
        let windows = self.sets.windows.iter();
        windows.filter_map(|(window, total)| Some((window.clone(), (*total)?))).collect()
    }

    /// The rows of spend.
    pub(in crate::ledger) fn spend(&self) -> BTreeMap<SpendKey, Spend> {
        let text = |number: u32| self.names.text(number).to_owned();
        let key = |row: &Row| SpendKey {
            agent: text(row.agent),
            provider: text(row.provider),
            model: text(row.model),
            day: text(row.time),
        };
        self.spend.iter().map(|(row, spend)| (key(row), *spend)).collect()
    }

    /// Bills above their holds.
    pub(in crate::ledger) fn overruns(&self) -> &BTreeSet<Overrun> {
        &self.overruns
    }

    /// The calls that are open, in the order of their leaves.
    pub(in crate::ledger) fn open(&self) -> Vec<OpenIntent> {
        let mut open: Vec<_> = self.open.iter().collect();
        open.sort_by_key(|(_, intent)| intent.leaf);
        let text = |number: u32| self.names.text(number).to_owned();
        let made = open.into_iter().map(|(call, intent)| OpenIntent {
            call: call.to_string(),
            at: intent.time.parse().ok().and_then(nanos).unwrap_or_default(),
            hold: NanoUsd(intent.hold),
            windows: self.sets.of(intent.windows),
            agent: text(intent.agent),
            provider: text(intent.provider),
            operation: text(intent.operation),
            model: text(intent.model),
            price_book: intent.price_book.map(text),
        });
        made.collect()
    }
}

impl<'a> Paid<'a> {
    /// What its bill is made from; `None` where it was not read by hand.
    fn bill(&self) -> Option<Outcome<'a>> {
        let (data, terms) = (&self.data, self.terms?);
        let text = |text: &Cow<'a, str>| match text {
            Cow::Borrowed(text) => Some(*text),
            Cow::Owned(_) => None,
        };
        let usage = Usage { calls: terms.calls, sent: terms.sent, received: terms.received, ..data.usage() };
        Some(Outcome {
            settle: text(&data.settle),
            price_book: data.price_book.as_ref().and_then(text),
            provider: text(&data.provider),
            model: text(&data.model).filter(|_| terms.has_model),
            answered: terms.answered,
            tier: data.tier.as_ref().and_then(text),
            geo_us: terms.geo_us,
            fast: terms.fast,
            usage: data.input.map(|_| usage),
        })
    }
}

/// Texts that have a number.
#[derive(Debug, Default)]
struct Names {
    numbers: HashMap<Arc<str>, u32>,
    texts: Vec<Arc<str>>,
    /// Numbers of texts that were asked for last, by [`Names::slot`]: most texts are one of a few, and are found here without a hash.
    recent: [u32; RECENT],
}

const RECENT: usize = 32;

impl Names {
    fn number(&mut self, text: &str) -> u32 {
        let slot = Names::slot(text);
        let recent = self.recent[slot];
        if self.texts.get(recent as usize).is_some_and(|known| **known == *text) {
            return recent;
        }
        let number = self.find(text);
        self.recent[slot] = number;
        number
    }

    /// Texts that stand for each other's like mostly differ at their end.
    fn slot(text: &str) -> usize {
        let last = text.as_bytes().last().map_or(0, |last| usize::from(*last));
        (8 * text.len() + last) % RECENT
    }

    fn find(&mut self, text: &str) -> u32 {
        if let Some(number) = self.numbers.get(text) {
            return *number;
        }
        let number = u32::try_from(self.texts.len()).unwrap_or(u32::MAX);
        let text: Arc<str> = text.into();
        self.texts.push(Arc::clone(&text));
        self.numbers.insert(text, number);
        number
    }

    fn text(&self, number: u32) -> &str {
        self.texts.get(number as usize).map_or("", |text| text)
    }
}

/// Windows that a hold was taken from, as a number, and what was charged to each of them.
#[derive(Debug, Default)]
struct Sets {
    texts: Names,
    /// The windows of a set, by their places in `windows`.
    members: Vec<Vec<usize>>,
    places: HashMap<WindowKey, usize>,
    windows: Vec<(WindowKey, Option<Total>)>,
}

impl Sets {
    /// The number of these windows, which stand in their one form.
    fn number(&mut self, text: &str) -> u32 {
        let number = self.texts.number(text);
        if number as usize != self.members.len() {
            return number;
        }
        let mut members = Vec::new();
        for window in windows_of(text) {
            let place = *self.places.entry(window.clone()).or_insert(self.windows.len());
            if place == self.windows.len() {
                self.windows.push((window, None));
            }
            members.push(place);
        }
        self.members.push(members);
        number
    }

    fn members(&self, number: u32) -> &[usize] {
        self.members.get(number as usize).map_or(&[], Vec::as_slice)
    }

    fn of(&self, number: u32) -> Vec<WindowKey> {
        let members = self.members(number).iter();
        members.filter_map(|place| self.windows.get(*place)).map(|(window, _)| window.clone()).collect()
    }

    fn add(&mut self, number: u32, change: Total) {
        let members = self.members.get(number as usize).map_or(&[][..], Vec::as_slice);
        for place in members {
            if let Some((_, total)) = self.windows.get_mut(*place) {
                total.get_or_insert_default().add(change);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// A text has the number that its first place among all of them gives it, whatever was asked for meanwhile.
        #[test]
        fn a_text_keeps_its_number(asked in proptest::collection::vec("[ab]{0,6}|é?", 0..80)) {
            let (mut names, mut known) = (Names::default(), Vec::new());
            for text in asked {
                let number = known.iter().position(|one| *one == text).unwrap_or(known.len());
                if number == known.len() {
                    known.push(text.clone());
                }
                prop_assert_eq!(names.number(&text) as usize, number);
                prop_assert_eq!(names.text(number as u32), text);
            }
        }
    }
}
