//! Charges that are made again from what their records say.

use super::Report;
use crate::event::Record;
use crate::ledger::books::{Charge, Fault, Recount};
use crate::meter::PriceBook;
use std::sync::Arc;

/// Counts the record at leaf `index`, and makes the charge of an outcome again, where its price book is at hand. Where records
/// before it may be missing, it is `partial`: what counts for nothing then is no finding.
pub(in crate::ledger) fn count(
    books: &[Arc<PriceBook>],
    index: u64,
    record: &[u8],
    (recount, partial): (&mut Recount, bool),
    report: &mut Report,
) {
    let (fault, charge) = recount.post(index, record);
    match fault {
        Some(Fault::Unfit(what)) => report.find("outcome", format!("leaf {index} {what}")),
        Some(Fault::Stray) if !partial => report.stray(index),
        _ => {}
    }
    if let Some(charge) = &charge
        && !books.is_empty()
    {
        price(books, index, record, charge, report);
    }
}

fn price(books: &[Arc<PriceBook>], index: u64, record: &[u8], charge: &Charge<'_>, report: &mut Report) {
    let read;
    let (outcome, cost) = match charge {
        Charge::Read(outcome, cost) => (*outcome, *cost),
        Charge::Unread => {
            let Ok(Record { data, .. }) = Record::parse(record) else { return };
            read = data;
            ((&read).into(), read.cost)
        }
    };
    let Some(bill) = books.iter().find_map(|book| book.reprice(outcome)) else {
        report.not_repriced += u64::from(outcome.settle == Some("settled"));
        return;
    };
    report.repriced += 1;
    if cost != Some(bill) {
        let charged = cost.unwrap_or_default().0;
        report.find("price", format!("leaf {index} charges {charged} nano-USD, but its usage costs {}", bill.0));
    }
}
