//! Money: bill and ledger side by side, under concurrency, broken calls and `kill -9`, on one host and on four. Leaves `money.json`.

mod beyond;
mod broken;
mod compatible;
mod corrections;
mod cost;
mod crowd;
mod cuts;
mod folder;
mod kills;
mod lost;
mod many;
mod planted;
mod price_book;
mod prices;
mod providers;
mod reload;
mod restored;
mod shared;
mod socket;
mod spent;
mod unmetered;
mod upgraded;
mod usable;
mod vault;

use support::daemon::Daemon;
use support::ledger::{Audit, Record, audit};
use support::scene::Scene;

/// The stand-in's binary.
const STAND_IN: &str = env!("CARGO_BIN_EXE_stand-in");
/// The load client.
const LOAD: &str = env!("CARGO_BIN_EXE_load");

/// One provider under a budget of `limit`.
fn rules(limit: &str) -> String {
    format!(
        "[[allow]]\nhosts = [\"api.openai.com\"]\n\n[[budget]]\nname = \"purse\"\nlimit = \"{limit}\"\nwindow = \"total\"\nwait_ms = 2000\n"
    )
}

/// Records and audit, once every call of the ledger is closed.
#[track_caller]
fn settled(scene: &Scene, daemon: &Daemon<'_>) -> (Vec<Record>, Audit) {
    let bill = scene.bill();
    let records = daemon.records_when(|records| {
        let calls = support::ledger::calls(records);
        calls.len() >= bill.len() && calls.values().all(|call| call.cost.is_some())
    });
    let audit = audit(&records, &bill);
    (records, audit)
}
