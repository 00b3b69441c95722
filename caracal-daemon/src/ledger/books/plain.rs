//! Reads a record of a paid call as a daemon writes it, by hand: in one pass over its bytes, and without a copy. Takes only what
//! leaves no doubt: the daemon's order of attributes, no space between tokens, no escape, no name twice, whole numbers. Refuses the
//! rest, which serde then reads. What is taken here, serde would read to the same fields.

use super::paid::{Paid, PaidData, Terms};
use crate::event::write::{PLACE_BYTES, has_place, plain_length, read_schema};

/// A place in a record.
pub(super) struct Scan<'a> {
    text: &'a str,
    at: usize,
}

/// The number of every name that nobody asks for.
const UNKNOWN: u32 = 63;

/// Names that were there, by their numbers.
#[derive(Default)]
struct Once(u64);

impl Once {
    /// A name that is known may stand once.
    fn first(&mut self, number: u32) -> Option<()> {
        let before = self.0;
        self.0 |= 1 << number;
        (self.0 != before || number == UNKNOWN).then_some(())
    }
}

impl<'a> Scan<'a> {
    /// Reads the paid call of `record` into `paid`, which is as new: it is large, and is filled where it is. Gives `None` where that
    /// leaves a doubt; what is in `paid` then is of no use.
    pub(super) fn paid(record: &'a [u8], paid: &mut Paid<'a>) -> Option<()> {
        paid.schema = read_schema(record).filter(|_| has_place(record))?;
        let mut scan = Scan { text: std::str::from_utf8(record.get(PLACE_BYTES..)?).ok()?, at: 0 };
        scan.eat(r#""type":"#)?;
        scan.string()?;
        scan.eat(r#","id":"#)?;
        scan.string()?;
        scan.eat(r#","source":"#)?;
        scan.string()?;
        scan.eat(r#","time":"#)?;
        paid.time = scan.string()?;
        scan.eat(r#","datacontenttype":"application/json","#)?;
        if scan.eat(r#""caracalsubject":"#).is_some() {
            scan.string()?;
            scan.eat(r#","caracaldetail":"#)?;
            scan.string()?;
            scan.eat(",")?;
        }
        scan.eat(r#""data":"#)?;
        scan.data(&mut paid.data, paid.terms.insert(Terms::default()))?;
        scan.eat("}")?;
        (scan.at == scan.text.len()).then_some(())
    }

    fn data(&mut self, data: &mut PaidData<'a>, terms: &mut Terms<'a>) -> Option<()> {
        let mut once = Once::default();
        self.eat("{")?;
        loop {
            let name = self.name()?;
            match name.strip_prefix("caracal.") {
                Some(name) => once.first(self.ours(name, data, terms)?)?,
                None => once.first(self.standard(name, data, terms)?)?,
            }
            if self.ends()? {
                return Some(());
            }
        }
    }

    /// The field `caracal.NAME`; gives its number.
    fn ours(&mut self, name: &str, data: &mut PaidData<'a>, terms: &mut Terms<'a>) -> Option<u32> {
        Some(match name {
            "agent" => set(&mut data.agent, self.string()?.into(), 0),
            "call" => set(&mut data.call, Some(self.string()?.into()), 1),
            "hold.nano_usd" => set(&mut data.hold, self.number()?, 2),
            "cost.nano_usd" => set(&mut data.cost, Some(self.number()?), 3),
            "settle" => set(&mut data.settle, self.string()?.into(), 4),
            "windows" => set(&mut data.windows, self.windows()?.into(), 5),
            "price_book" => set(&mut data.price_book, Some(self.string()?.into()), 6),
            "price_entry" => set(&mut data.price_entry, Some(self.string()?.into()), 7),
            "bytes.sent" => set(&mut data.sent, self.number()?, 8),
            "bytes.received" => set(&mut data.received, self.number()?, 9),
            "usage.uncached_input_tokens" => set(&mut data.input, Some(self.number()?), 10),
            "usage.cache_write_5m_tokens" => set(&mut data.cache_write_5m, self.number()?, 11),
            "usage.cache_write_1h_tokens" => set(&mut data.cache_write_1h, self.number()?, 12),
            "usage.web_searches" => set(&mut data.web_searches, self.number()?, 13),
            "usage.calls" => set(&mut terms.calls, self.number()?, 14),
            "usage.sent_bytes" => set(&mut terms.sent, self.number()?, 15),
            "usage.received_bytes" => set(&mut terms.received, self.number()?, 16),
            "terms.tier" => set(&mut data.tier, Some(self.string()?.into()), 17),
            "terms.geo_us" => set(&mut terms.geo_us, self.number()? == 1, 18),
            "terms.fast" => set(&mut terms.fast, self.number()? == 1, 19),
            // Corrections are few, and may be below zero.
            name if name.starts_with("correction.") => return None,
            _ => {
                self.skip()?;
                UNKNOWN
            }
        })
    }

    /// A field of another name; gives its number.
    fn standard(&mut self, name: &str, data: &mut PaidData<'a>, terms: &mut Terms<'a>) -> Option<u32> {
        Some(match name {
            "gen_ai.provider.name" => set(&mut data.provider, self.string()?.into(), 20),
            "gen_ai.operation.name" => set(&mut data.operation, self.string()?.into(), 21),
            "gen_ai.request.model" => {
                terms.has_model = true;
                set(&mut data.model, self.string()?.into(), 22)
            }
            "gen_ai.usage.cache_read.input_tokens" => set(&mut data.cache_read, self.number()?, 23),
            "gen_ai.usage.output_tokens" => set(&mut data.output, self.number()?, 24),
            "gen_ai.usage.reasoning.output_tokens" => set(&mut data.reasoning, self.number()?, 25),
            "gen_ai.response.model" => set(&mut terms.answered, Some(self.string()?), 26),
            _ => {
                self.skip()?;
                UNKNOWN
            }
        })
    }

    /// Goes past `token`, if it is there.
    #[inline]
    fn eat(&mut self, token: &str) -> Option<()> {
        let is = self.text.as_bytes().get(self.at..)?.starts_with(token.as_bytes());
        self.at += if is { token.len() } else { 0 };
        is.then_some(())
    }

    /// Behind a member: whether the object ends here.
    fn ends(&mut self) -> Option<bool> {
        self.at += 1;
        match self.text.as_bytes().get(self.at - 1)? {
            b',' => Some(false),
            b'}' => Some(true),
            _ => None,
        }
    }

    /// The name of a member, and the colon.
    fn name(&mut self) -> Option<&'a str> {
        let name = self.string()?;
        self.eat(":")?;
        Some(name)
    }

    fn string(&mut self) -> Option<&'a str> {
        let start = self.at + 1;
        let rest = self.text.as_bytes().get(self.at..)?.strip_prefix(b"\"")?;
        let end = start + plain_length(rest)?;
        self.at = end + 1;
        self.text.get(start..end)
    }

    /// A number of at most 19 digits: it fits.
    fn number(&mut self) -> Option<u64> {
        let rest = self.text.as_bytes().get(self.at..)?;
        let (mut value, mut digits) = (0_u64, 0);
        for byte in rest.iter().take(20) {
            let digit = byte.wrapping_sub(b'0');
            if digit > 9 {
                break;
            }
            (value, digits) = (value.wrapping_mul(10).wrapping_add(u64::from(digit)), digits + 1);
        }
        self.at += digits;
        let plain = (1..20).contains(&digits) && (digits == 1 || rest.first() != Some(&b'0'));
        plain.then_some(value)
    }

    /// Windows, as they stand there; an empty text where there are none.
    fn windows(&mut self) -> Option<&'a str> {
        let start = self.at;
        self.eat("[")?;
        if self.text.as_bytes().get(self.at) == Some(&b']') {
            self.at += 1;
            return Some("");
        }
        loop {
            for before in [r#"{"budget":"#, r#","scope":"#, r#","window":"#] {
                self.eat(before)?;
                self.string()?;
            }
            self.eat("}")?;
            if self.list_ends()? {
                return self.text.get(start..self.at);
            }
        }
    }

    fn list_ends(&mut self) -> Option<bool> {
        self.at += 1;
        match self.text.as_bytes().get(self.at - 1)? {
            b',' => Some(false),
            b']' => Some(true),
            _ => None,
        }
    }

    /// Goes past a value that nobody asks for: a text, a number, or texts.
    fn skip(&mut self) -> Option<()> {
        match self.text.as_bytes().get(self.at)? {
            b'"' => self.string().map(drop),
            b'[' => {
                self.at += 1;
                loop {
                    self.string()?;
                    if self.list_ends()? {
                        return Some(());
                    }
                }
            }
            _ => self.number().map(drop),
        }
    }
}

/// Sets a field; gives the number of its name.
fn set<T>(field: &mut T, value: T, number: u32) -> u32 {
    *field = value;
    number
}

#[cfg(any(test, fuzzing))]
fn read(record: &[u8]) -> Option<Paid<'_>> {
    let mut paid = Paid::default();
    Scan::paid(record, &mut paid).map(|()| paid)
}

/// Whether what is read by hand is what serde reads, but for what only the reading by hand gives.
#[cfg(any(test, fuzzing))]
pub(crate) fn reads_alike(record: &[u8]) -> bool {
    let by_hand = read(record).map(|paid| Paid { terms: None, ..paid });
    by_hand.is_none() || by_hand == Paid::by_serde(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::Kind;
    use crate::event::write::tests::{paid, scribe};
    use proptest::prelude::*;
    use std::sync::LazyLock;

    /// An intent and an outcome: a key is made and synced for each.
    static RECORDS: LazyLock<[Vec<u8>; 2]> = LazyLock::new(|| [Kind::Intent, Kind::Outcome].map(record));

    fn record(kind: Kind) -> Vec<u8> {
        let (_dir, scribe) = scribe();
        let mut bytes = Vec::new();
        scribe.seal(&paid(kind, uuid::Uuid::from_u128(7))).expect("sealed").place(3, &[9; 32], &mut bytes);
        bytes
    }

    #[test]
    fn what_a_daemon_writes_is_read_by_hand_and_as_serde_reads_it() {
        for kind in [Kind::Intent, Kind::Outcome] {
            let record = record(kind);
            let by_hand = read(&record).expect("its own form");
            let Terms { has_model, answered, geo_us, fast, .. } = by_hand.terms.expect("read by hand");
            let outcome = kind == Kind::Outcome;
            assert_eq!((has_model, answered.is_some(), geo_us, fast), (true, outcome, outcome, false));
            assert!(reads_alike(&record));
            assert_eq!(by_hand.data.windows().len(), 1);
        }
    }

    #[test]
    fn what_leaves_a_doubt_is_left_to_serde() {
        let whole = String::from_utf8(record(Kind::Outcome)).expect("text");
        let swap = |from: &str, to: &str| {
            assert!(whole.contains(from), "{from}");
            whole.replacen(from, to, 1)
        };
        let doubtful = [
            swap(r#""caracal.settle":"#, r#""caracal.settle": "#),
            swap(r#""settled""#, r#""settled","caracal.settle":"released""#),
            swap(r#""settled""#, r#""se\u0074tled""#),
            swap(r#"nano_usd":1234"#, r#"nano_usd":01234"#),
            swap(r#"nano_usd":1234"#, r#"nano_usd":1234.0"#),
            swap(r#"nano_usd":1234"#, r#"nano_usd":-1"#),
            swap(r#"nano_usd":1234"#, r#"nano_usd":99999999999999999999"#),
            swap(r#""scope":"#, r#""other":"#),
            swap(r#""time":"#, r#""time":"2026-01-01T00:00:00Z","time":"#),
            swap(r#""data":"#, r#""caracalschema":1,"data":"#),
            format!("{whole} "),
            format!("{whole}x"),
        ];
        for record in doubtful {
            assert_eq!(read(record.as_bytes()), None, "{record}");
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_096))]
        #[test]
        fn whatever_is_read_by_hand_serde_reads_too(
            outcome in any::<bool>(),
            edits in proptest::collection::vec((any::<prop::sample::Index>(), 0u8..4, any::<prop::sample::Index>()), 1..4),
        ) {
            const BYTES: &[u8] = b"\"\\,:{}[]0 19-.eE\x1f\x7fa\xc3";
            let mut record = RECORDS[usize::from(outcome)].clone();
            for (at, what, with) in edits {
                let at = PLACE_BYTES + at.index(record.len() - PLACE_BYTES);
                match what {
                    0 => record[at] = BYTES[with.index(BYTES.len())],
                    1 => drop(record.remove(at)),
                    2 => record.insert(at, BYTES[with.index(BYTES.len())]),
                    // A part of it twice.
                    _ => {
                        let end = (at + with.index(60)).min(record.len());
                        let part = record[at..end].to_vec();
                        drop(record.splice(at..at, part));
                    }
                }
            }
            prop_assert!(reads_alike(&record), "{}", String::from_utf8_lossy(&record));
        }
    }
}
