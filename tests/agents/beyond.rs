//! A stream that passes its hold, as Claude Code sees it: the provider's own error in the middle of it. It may ask once more, which
//! the frozen model answers; there is one bill, charged truly, and our sentence is on the screen.

use crate::claude::claude;
use crate::measured;
use serde_json::{Map, Value, json};
use support::daemon::Daemon;
use support::ledger::Record;
use support::netns::Ran;
use support::scene::Scene;

/// A hold that is little more than the input's, so that a stream passes it before it is long.
const SMALL: &str = r#"
[clamp]
min_output = 256

[[allow]]
hosts = ["api.openai.com", "api.anthropic.com"]

[[budget]]
name = "small"
limit = "1 USD"
window = "day"
"#;

/// Which model was asked how often, by what was billed and what was refused since.
fn asked(scene: &Scene, daemon: &Daemon<'_>, ran: &Ran) -> Map<String, Value> {
    let bill = scene.bill();
    let outcomes = |records: &[Record]| {
        let passed = |record: &&Record| record.is_outcome() && record.text("caracal.reason") == "hold_passed";
        records.iter().filter(passed).count()
    };
    let records = daemon.records_when(|records| outcomes(records) >= 1 && crate::closed(records) >= bill.len());
    let of = |model: &str| -> (u64, u64) {
        let denials = records.iter().filter(|record| record.is_denial("price_unknown"));
        let again = denials.filter(|record| record.text("gen_ai.request.model") == model).map(Record::count).sum();
        (bill.iter().filter(|line| line.model == model).count() as u64, again)
    };
    let mut models: Vec<&str> = bill.iter().map(|line| line.model.as_str()).collect();
    models.sort_unstable();
    models.dedup();
    let mut most = 0;
    for model in models {
        let (billed, again) = of(model);
        assert_eq!(billed, 1, "{model} was billed {billed} times\n{}", ran.screen());
        assert!(again <= 1, "{model} was asked {again} times more\n{}", ran.screen());
        most = most.max(billed + again);
    }
    let screen = ran.screen();
    let ours = ["Caracal ended this answer", "Caracal refuses model"].into_iter().find(|said| screen.contains(said));
    assert!(ours.is_some(), "our sentence is not on the screen: {screen}");
    Map::from_iter([("requests".to_owned(), json!(most)), ("on_screen".to_owned(), json!(ours))])
}

#[test]
fn claude_code_in_mid_stream() {
    measured("Claude Code, a stream that passes its hold", SMALL, |scene, daemon| {
        let ran = claude(daemon, "Say something. [[beyond=30000]]").ran();
        asked(scene, daemon, &ran)
    });
}
