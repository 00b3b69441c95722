//! A price book is replaced while calls are going on: none is dropped, and the new prices count from the reload's end on.

use crate::{LOAD, STAND_IN};
use serde_json::{Map, Value, json};
use std::process::Stdio;
use std::time::{Duration, Instant};
use support::daemon::Daemon;
use support::ledger::calls;
use support::netns::until;
use support::report;
use support::scene::Scene;

/// The prices at first and later, in dollars for a million tokens; the provider goes by the first.
const OUTPUT: [&str; 2] = ["0.6", "6"];
const RELOADS: usize = 20;

#[test]
fn a_price_book_is_replaced_in_the_middle_of_calls() {
    report::case("money", "a price book is replaced while calls go on", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::configured(&scene, "");
        let built_in = daemon.command(&["prices", "show", "--toml"]).ran().ok().stdout;
        let entry = built_in.find("names = [\"gpt-4o-mini\"").expect("the model's entry");
        let (before, after) = built_in.split_at(entry);
        let book = |version: usize| {
            let price = OUTPUT[version % 2];
            let after = after.replacen(&format!("output = \"{}\"", OUTPUT[0]), &format!("output = \"{price}\""), 1);
            format!("{before}{after}").replacen("version = \"", &format!("version = \"{version}-"), 1)
        };
        let file = scene.file("prices.toml", &book(0));
        daemon.configure(&format!("[prices]\nfile = \"{}\"\n{}", file.display(), crate::rules("500 USD")));
        daemon.restart();
        let stop = scene.home.path().join("stop");
        let out = scene.net.files().join("load.out");
        let to = Stdio::from(std::fs::File::create(&out).expect("a file"));
        let load =
            daemon.run(LOAD).args(["--clients", "16", "--stream", "--words", "output=20 slow=5", "--count", "--until"]);
        let mut load = load.arg(&stop).spawn(to, Stdio::inherit()).expect("the load starts");
        until("calls are billed", Duration::from_secs(60), || scene.bill().len() > 50).expect("calls");
        let mut times: Vec<Duration> = Vec::with_capacity(RELOADS);
        for version in 1..=RELOADS {
            std::fs::write(&file, book(version)).expect("the book");
            let began = Instant::now();
            let _ran = daemon.command(&["policy", "reload"]).ran().ok();
            times.push(began.elapsed());
        }
        std::fs::write(&stop, "").expect("the stop file");
        until("the load ends", Duration::from_secs(60), || load.try_wait().is_ok_and(|status| status.is_some()))
            .expect("an end");
        let told: Value = serde_json::from_str(std::fs::read_to_string(&out).expect("counts").trim()).expect("JSON");
        assert_eq!(
            (told["refused"].as_u64(), told["unanswered"].as_u64(), told["other"].as_u64()),
            (Some(0), Some(0), Some(0)),
            "{told}"
        );
        // The last version has the first price, so it is put to the other one, and the next call costs that.
        std::fs::write(&file, book(RELOADS + 1)).expect("the book");
        let _ran = daemon.command(&["policy", "reload"]).ran().ok();
        let one = ["--clients", "1", "--requests", "1", "--cap-base", "15000", "--words", "output=50"];
        let _ran = daemon.run(LOAD).args(one).ran().ok();
        let of = |records: &[_]| calls(records).into_values().find(|call| call.cap == Some(15_000));
        let records = daemon.records_when(|records| of(records).is_some_and(|call| call.cost.is_some()));
        let dear = of(&records).and_then(|call| call.cost).expect("a charge");
        let billed = scene.bill().iter().find(|line| line.cap == Some(15_000)).expect("a bill").nano;
        // Fifty tokens of output at ten times the price that the provider has.
        assert_eq!(dear, billed + 50 * 5_400, "the new price is in force when the reload says so");
        times.sort_unstable();
        let median = times[RELOADS / 2].as_secs_f64() * 1e3;
        // How fast is for the report, as of all times here; `cargo xtask bench` holds it against its bar.
        report::measure("money", "price_reload_ms", median);
        daemon.stop();
        Map::from_iter([
            ("slowest_ms".to_owned(), json!(times[RELOADS - 1].as_secs_f64() * 1e3)),
            ("answered".to_owned(), told["answered"].clone()),
        ])
    });
}
