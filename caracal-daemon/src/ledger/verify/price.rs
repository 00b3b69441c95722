//! Charges that are made again from what their records say.

use super::Report;
use crate::event::Record;
use crate::event::write::PLACE_BYTES;
use crate::meter::PriceBook;
use std::sync::Arc;

/// Makes the charge of the outcome at leaf `index` again, where its price book is at hand.
pub(in crate::ledger) fn price(books: &[Arc<PriceBook>], index: u64, record: &[u8], report: &mut Report) {
    let kind = record.get(PLACE_BYTES..).unwrap_or_default();
    if books.is_empty() || !kind.starts_with(br#""type":"caracal.outcome.v1""#) {
        return;
    }
    let Ok(Record { data, .. }) = Record::parse(record) else { return };
    let Some(bill) = books.iter().find_map(|book| book.reprice(&data)) else {
        report.not_repriced += u64::from(data.settle.as_deref() == Some("settled"));
        return;
    };
    report.repriced += 1;
    if data.cost != Some(bill) {
        let charged = data.cost.unwrap_or_default().0;
        report.find("price", format!("leaf {index} charges {charged} nano-USD, but its usage costs {}", bill.0));
    }
}
