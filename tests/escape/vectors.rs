//! The catalogue of ways out, tried by an ordinary user, by root without `CAP_NET_ADMIN` and `CAP_SYS_ADMIN`, and by root
//! of a user namespace; under `attach` and under `run`. Each is first tried in a cgroup that nobody governs, in the same
//! world, and must get out there.
//!
//! What each attempt aims at carries its number, so that all of a privilege run at once and every packet on a cable has
//! an owner; a packet without one is a failure as well. `CARACAL_TRIES=root` (or `user`, `userns`) tries as one of them
//! only, and without what breaks the governing: in emulated machines a whole run takes too long for CI. What gets out is a leak unless `caracald doctor --json` lists
//! the same mechanism as uncovered, and what does not get out must not be on that list.

mod judge;
mod stage;

use crate::{RULES, STAND_IN};
use judge::{Coverage, Found, Judgement};
use serde_json::{Map, json};
use stage::Stage;
use std::collections::{BTreeMap, BTreeSet};
use support::catalogue::{Aim, Phase, Privilege, Start, VECTORS};
use support::daemon::Daemon;
use support::report;
use support::scene::Scene;

/// Where attempts are judged.
const SETUPS: [Phase; 2] = [Phase::Attach, Phase::Run];

#[test]
fn every_known_way_out_is_closed_or_named() {
    let scene = Scene::new(STAND_IN).expect("the scene stands");
    let mut stage = Stage::new(&scene);
    let one = std::env::var("CARACAL_TRIES").ok().filter(|name| !name.is_empty());
    let one = one.map(|name| Privilege::named(&name).expect("CARACAL_TRIES names a privilege"));
    let privileges: Vec<Privilege> = Privilege::ALL.into_iter().filter(|it| one.is_none_or(|one| one == *it)).collect();
    for privilege in &privileges {
        stage.tries(*privilege, Phase::Control);
    }
    if one.is_none() {
        stage.tries_last(Privilege::Root, Phase::Control, None);
    }
    // `doctor` is asked for the highest level that the kernel takes, and says which it was: that is what is put in force here.
    let coverage = Coverage::ask(&Daemon::configured(&scene, RULES));
    stage.require_full(coverage.full);
    stage.govern();
    for phase in SETUPS {
        for privilege in &privileges {
            stage.tries(*privilege, phase);
        }
    }
    stage.look();
    let reasons = judge::reasons(stage.daemon());
    planted(&mut stage);
    if one.is_none() {
        last(&mut stage);
    }
    let found = stage.found();
    let judged = judge_all(&found, &coverage, &privileges, one.is_none());
    let failed = write(&found, &judged, &coverage, &reasons);
    assert!(failed.is_empty(), "{} cases failed:\n{}", failed.len(), failed.join("\n"));
}

/// The judge must see a leak: once the backstop is taken off, and once in a cgroup that only pretends to be governed.
fn planted(stage: &mut Stage<'_>) {
    stage.without_egress(|stage| stage.tries_named(Privilege::User, Phase::Planted, &["udp_connected", "udp_sendto"]));
    stage.tries_named_ungoverned(Privilege::Root, Phase::Planted, &["tcp_connect", "igmp_join"]);
    stage.look();
    stage.govern_anew();
}

/// What breaks the governing itself comes last, each with a daemon of its own.
fn last(stage: &mut Stage<'_>) {
    for phase in [Phase::Run, Phase::Attach] {
        for vector in VECTORS.iter().filter(|vector| vector.start == Start::Last) {
            stage.tries_last(Privilege::Root, phase, Some(vector.name));
            stage.look();
            stage.govern_anew();
        }
    }
}

type Judged = BTreeMap<Aim, Judgement>;

/// Judges what was tried; what was left out is counted by privilege and setup.
fn judge_all(found: &Found, coverage: &Coverage, privileges: &[Privilege], with_last: bool) -> Judged {
    let mut judged = Judged::new();
    let mut omitted: BTreeMap<(Privilege, Phase), u64> = BTreeMap::new();
    for (place, vector) in VECTORS.iter().enumerate() {
        for privilege in Privilege::ALL {
            for phase in SETUPS {
                if phase == Phase::Run && matches!(vector.start, Start::Outside | Start::Before) {
                    continue;
                }
                if vector.start == Start::Last && privilege != Privilege::Root {
                    continue;
                }
                let aim = Aim { vector: place, privilege, phase };
                if privileges.contains(&privilege) && (with_last || vector.start != Start::Last) {
                    judged.insert(aim, judge::judge(vector, aim, found, coverage));
                } else {
                    *omitted.entry((privilege, phase)).or_default() += 1;
                }
            }
        }
    }
    report::figure("escape", "omitted", omitted.values().sum());
    for ((privilege, phase), count) in omitted {
        let name = format!("vectors {} {}", privilege.name(), phase.name());
        report::omitted("escape", &name, "too long for CI in an emulated machine; `--long` tries them", count);
    }
    judged
}

/// Writes the cases and figures; gives the failures.
fn write(found: &Found, judged: &Judged, coverage: &Coverage, reasons: &BTreeSet<String>) -> Vec<String> {
    let mut failed = Vec::new();
    let mut case = |name: &str, fault: Option<String>, more: Map<String, serde_json::Value>| {
        if let Some(why) = &fault {
            failed.push(format!("{name}: {why}"));
        }
        report::verdict("escape", name, fault, more);
    };
    for (aim, judgement) in judged {
        let Some(vector) = VECTORS.get(aim.vector) else { continue };
        let mut more = Map::new();
        more.insert("class".into(), json!(vector.class));
        more.insert("privilege".into(), json!(aim.privilege.name()));
        more.insert("setup".into(), json!(aim.phase.name()));
        more.insert("control".into(), json!(judgement.control));
        more.insert("outcome".into(), json!(judgement.outcome.name()));
        more.insert("stopped".into(), json!(judgement.stopped));
        more.insert("kernel".into(), json!(judge::kernel()));
        let fault = judgement.outcome.fails().then(|| format!("{}: {}", judgement.outcome.name(), judgement.why));
        case(&format!("vector {} {} {}", vector.name, aim.privilege.name(), aim.phase.name()), fault, more);
    }
    for (name, fault) in judge::both_ways(judged, coverage, &judge::kernel()) {
        case(&name, fault, Map::new());
    }
    let (name, fault) = judge::expected_reasons(judged, reasons);
    case(&name, fault, Map::new());
    for (name, fault) in judge::planted(found) {
        case(&name, fault, Map::new());
    }
    let strays = found.strays();
    case("no packet without an owner", (!strays.is_empty()).then(|| strays.join("; ")), Map::new());
    report::figure("escape", "level_full", u64::from(coverage.full));
    judge::summary(judged);
    failed
}
