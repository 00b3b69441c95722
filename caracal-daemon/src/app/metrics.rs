//! What the daemon tells Prometheus, and when it is ready. Numbers only: names stay in the records.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use tokio::sync::Notify;

use super::App;
use crate::telemetry::metrics::{Row, serve};

/// How often the address is asked for while somebody has it, such as the data path before this one, which lets it go in turn.
const LOOKS_EVERY: Duration = Duration::from_secs(1);

/// Serves on `address` until another data path comes, whose numbers are asked for then. Whoever has the address keeps nothing
/// from starting.
pub(super) fn start(address: SocketAddr, app: Arc<App>) {
    tokio::spawn(async move {
        let (mut told, mut serving) = (false, None::<Arc<Notify>>);
        while app.successor.get().is_none() {
            if serving.is_none() {
                let (rows, ready) = (Arc::clone(&app), Arc::clone(&app));
                match serve(address, move || self::rows(&rows), move || is_ready(&ready)) {
                    Ok(stop) => serving = Some(stop),
                    Err(error) if !told => {
                        tracing::warn!(%error, "Metrics are not served yet; it is tried again.");
                        told = true;
                    }
                    Err(_) => {}
                }
            }
            tokio::time::sleep(LOOKS_EVERY).await;
        }
        serving.iter().for_each(|stop| stop.notify_one());
    });
}

/// Agents are served, and what they do can be written down.
fn is_ready(app: &App) -> bool {
    *app.begun.borrow()
        && !app.stopping.load(Ordering::Acquire)
        && app.stages.journal.tail().failure().is_none()
        && app.stages.ledger.progress().trouble.is_none()
}

fn rows(app: &App) -> Vec<Row> {
    let telemetry = &app.gate.telemetry;
    let count = |name, help, value: &AtomicU64| Row::counter(name, help, value.load(Ordering::Relaxed));
    let ledger = app.stages.ledger.progress();
    let (used, limit) = app.stages.journal.tail().bytes();
    let mut rows = vec![
        count("caracal_connections_total", "Connections accepted.", &telemetry.connections),
        Row::gauge("caracal_connections_open", "Connections open.", telemetry.open.load(Ordering::Relaxed)),
        count("caracal_requests_total", "Requests decided.", &telemetry.requests),
        count("caracal_refusals_total", "Refusals of every stage.", &telemetry.refusals),
        count("caracal_untrusted_total", "Handshakes that agents broke off.", &telemetry.untrusted),
        Row::counter("caracal_journal_records_total", "Records on disk.", app.stages.journal.tail().durable()),
        Row::gauge("caracal_journal_bytes", "Bytes of the journal's segments.", used),
        Row::gauge("caracal_journal_limit_bytes", "Beyond these nothing is forwarded.", limit),
        Row::counter("caracal_ledger_leaves_total", "Leaves of this host's ledger.", ledger.size),
        Row::counter("caracal_ledger_signed_leaves_total", "Leaves under a checkpoint.", ledger.checkpoint),
    ];
    if let Some(days) = app.stages.meter.book().age_days(app.stages.clock.now()) {
        rows.push(Row::gauge(
            "caracal_price_book_age_days",
            "Days since the version of the price book in force.",
            days,
        ));
    }
    if let Some(kafka) = app.stages.publisher.as_ref().map(crate::bus::publish::Publisher::progress) {
        rows.push(Row::counter("caracal_published_records_total", "Records that Kafka has.", kafka.acknowledged));
        rows.push(Row::gauge("caracal_publish_backlog", "Durable records that Kafka has not.", kafka.backlog));
        rows.push(Row::gauge("caracal_publish_lag_ms", "Since when the oldest of them waits.", kafka.lag_ms));
    }
    if let Some(escrow) = app.stages.escrow.as_ref().map(crate::escrow::Refill::progress) {
        rows.push(Row::counter("caracal_escrow_answers_total", "Answers of the vault.", escrow.answered));
        rows.push(Row::gauge("caracal_escrow_lease_ms", "Slices may be spent from for so long.", escrow.lease_ms));
    }
    rows
}
