//! The bill is what the client was told, and cut calls are billed as far as they had come.

use crate::STAND_IN;
use serde_json::Value;
use support::scene::Scene;

fn load(scene: &Scene, args: &[&str]) -> Vec<Value> {
    let ran = scene.direct(env!("CARGO_BIN_EXE_load")).args(args).ran().ok();
    ran.stdout.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

#[test]
fn many_clients_have_one_line_each() {
    let scene = Scene::new(STAND_IN).expect("the scene stands");
    let told = load(&scene, &["--clients", "16", "--requests", "64", "--stream"]);
    assert!(told.iter().all(|line| line["status"] == 200 && line["complete"] == true), "{told:?}");
    let bill = scene.bill();
    assert_eq!(bill.len(), 64);
    let mut caps: Vec<u64> = bill.iter().filter_map(|line| line.cap).collect();
    caps.sort_unstable();
    assert_eq!(caps, (1_000..1_064).collect::<Vec<u64>>());
    assert!(bill.iter().all(|line| line.nano > 0 && !line.cut && line.tokens.output == 64));
    assert_eq!(bill.iter().filter(|line| line.usage_sent).count(), 32, "only who asks is told the usage");
}

#[test]
fn a_cut_call_is_billed_as_far_as_it_had_come() {
    let scene = Scene::new(STAND_IN).expect("the scene stands");
    let told = load(&scene, &["--clients", "1", "--requests", "1", "--stream", "--words", "cut=11 output=20"]);
    assert_eq!(told[0]["complete"], false);
    let bill = scene.bill();
    assert_eq!(bill.len(), 1);
    assert!(bill[0].cut && bill[0].tokens.output == 10, "{bill:?}");
}

#[test]
fn the_greediest_answer_is_billed_at_its_cap() {
    let scene = Scene::new(STAND_IN).expect("the scene stands");
    let _told = load(&scene, &["--clients", "1", "--requests", "1", "--words", "max"]);
    assert_eq!(scene.bill()[0].tokens.output, 1_000);
}
