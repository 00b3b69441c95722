//! Audio, pictures, video, realtime and batches: refused with a reason of their own at every provider that sells them, or
//! priced by the call where an `[[api]]` says so.

use crate::STAND_IN;
use crate::providers::{budget, charged};
use serde_json::json;
use support::daemon::Daemon;
use support::ledger::Record;
use support::programs;
use support::report;
use support::scene::Scene;

const GOOGLE: &str = "generativelanguage.googleapis.com";
const AWS: &str = "bedrock-runtime.us-east-1.amazonaws.com";

/// Where each provider sells what is not metered, and the reason of its refusal.
const PLACES: &[(&str, &str, &str)] = &[
    ("api.openai.com", "/v1/audio/speech", "audio_unmetered"),
    ("api.openai.com", "/v1/audio/transcriptions", "audio_unmetered"),
    ("api.openai.com", "/v1/images/edits", "images_unmetered"),
    ("api.openai.com", "/v1/videos", "video_unmetered"),
    ("api.openai.com", "/v1/realtime/client_secrets", "realtime_unmetered"),
    ("api.openai.com", "/v1/batches", "batch_unmetered"),
    ("api.anthropic.com", "/v1/messages/batches", "batch_unmetered"),
    (GOOGLE, "/v1beta/models/gemini-2.5-flash:batchGenerateContent", "batch_unmetered"),
    (GOOGLE, "/v1beta/models/imagen-4:predict", "images_unmetered"),
    (GOOGLE, "/v1beta/models/veo-3:predictLongRunning", "images_unmetered"),
    (GOOGLE, "/v1beta/openai/images/generations", "images_unmetered"),
    (AWS, "/async-invoke", "batch_unmetered"),
    (AWS, "/model/amazon.nova-sonic-v1:0/invoke-with-bidirectional-stream", "realtime_unmetered"),
    ("mine.openai.azure.com", "/openai/deployments/d/audio/speech?api-version=1", "audio_unmetered"),
    ("mine.openai.azure.com", "/openai/v1/images/generations", "images_unmetered"),
    ("mine.openai.azure.com", "/openai/batches?api-version=1", "batch_unmetered"),
    ("api.mistral.ai", "/v1/audio/transcriptions", "audio_unmetered"),
    ("api.mistral.ai", "/v1/batch/jobs", "batch_unmetered"),
    ("api.groq.com", "/openai/v1/audio/transcriptions", "audio_unmetered"),
    ("api.groq.com", "/openai/v1/batches", "batch_unmetered"),
    ("api.x.ai", "/v1/images/generations", "images_unmetered"),
    ("openrouter.ai", "/api/v1/audio/speech", "audio_unmetered"),
    ("api.together.xyz", "/v1/images/generations", "images_unmetered"),
    ("api.together.xyz", "/v1/videos", "video_unmetered"),
];

/// The SDK calls of the program, and the reason of each refusal.
const CALLS: [(&str, &str); 5] = [
    ("images", "images_unmetered"),
    ("speech", "audio_unmetered"),
    ("openai batch", "batch_unmetered"),
    ("anthropic batch", "batch_unmetered"),
    ("realtime", "realtime_unmetered"),
];

fn rules(more: &str) -> String {
    let mut hosts: Vec<&str> = PLACES.iter().map(|(host, ..)| *host).collect();
    hosts.dedup();
    format!("[[allow]]\nhosts = {}\n{more}{}", json!(hosts), budget("50 USD"))
}

fn refusals(records: &[Record]) -> u64 {
    records.iter().filter(|record| record.text("caracal.reason").ends_with("_unmetered")).map(Record::count).sum()
}

#[test]
fn what_is_not_metered_is_refused_with_its_own_reason() {
    report::plain("money", "audio, pictures, video, realtime and batches are refused by name, at 10 providers", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let mut daemon = Daemon::start(&scene, &rules(""));
        scene.wire.clear();
        let table = json!(PLACES.iter().map(|(host, path, _)| (host, path)).collect::<Vec<_>>()).to_string();
        let script = include_str!("../programs/unmetered.py");
        let ran = daemon.run(programs::python()).args(["-c", script, &table]).ran().ok();
        for (host, path, reason) in PLACES {
            let line = format!("{host}{path} 400 {reason} True");
            assert!(ran.stdout.lines().any(|said| said == line), "{line}: {}", ran.screen());
        }
        for (call, reason) in CALLS {
            let said = ran.stdout.lines().find(|line| line.starts_with(&format!("{call}:"))).unwrap_or_default();
            let told = if call == "realtime" { format!("400 {reason}") } else { "BadRequestError".to_owned() };
            assert!(said.contains(&told) && (call == "realtime" || said.contains("because")), "{}", ran.screen());
        }
        // One request each, and not one of them left the host.
        let asked = (PLACES.len() + CALLS.len()) as u64;
        let records = daemon.records_when(|records| refusals(records) >= asked);
        assert_eq!(refusals(&records), asked, "{records:#?}");
        assert!(scene.bill().is_empty() && scene.log("request").is_empty(), "{:?}", scene.log("request"));
        scene.wire.silent();
        daemon.stop();
    });
}

#[test]
fn what_is_not_metered_can_be_priced_by_the_call() {
    report::plain("money", "pictures are priced by the call where an [[api]] says so", || {
        let scene = Scene::new(STAND_IN).expect("the scene stands");
        let priced = "\n[[api]]\nname = \"pictures\"\nhost = \"api.openai.com\"\npaths = [\"/v1/images/generations\"]\ncall = \"0.04 USD\"\n";
        let mut daemon = Daemon::start(&scene, &rules(priced));
        let script = include_str!("../programs/unmetered.py");
        let ran = daemon.run(programs::python()).args(["-c", script, "[]"]).ran().ok();
        assert!(
            ran.stdout.contains("images: AAAA") && ran.stdout.contains("speech: BadRequestError"),
            "{}",
            ran.screen()
        );
        let (records, charges, bill) = charged(&scene, &daemon);
        assert_eq!((charges, bill), (vec![40_000_000], vec![40_000_000]), "{records:#?}");
        daemon.stop();
    });
}
