//! From what was tried and what was seen to a judgement.

use super::Judged;
use super::stage::aim;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use support::catalogue::{Aim, Judge, Phase, Privilege, VECTORS, Vector};
use support::daemon::Daemon;
use support::report;
use support::wire::Packet;

/// How one attempt ended, as the probe says.
#[derive(Clone, Debug)]
pub(super) struct Attempted {
    pub(super) aim: Aim,
    /// The cables have been looked at since.
    pub(super) judged: bool,
    step: String,
    error: String,
}

impl Attempted {
    pub(super) fn read(value: &Value, privilege: Privilege, phase: Phase) -> Option<Attempted> {
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        let aim = aim(&text("vector"), privilege, phase)?;
        Some(Attempted { aim, judged: false, step: text("step"), error: text("error") })
    }

    fn said(&self) -> String {
        if self.step.is_empty() { "went through".to_owned() } else { format!("{}: {}", self.step, self.error) }
    }
}

/// Everything that was tried, and who put packets on a cable.
#[derive(Debug)]
pub(super) struct Found {
    attempted: BTreeMap<Aim, Attempted>,
    seen: BTreeMap<Aim, String>,
    nobodys: Vec<Packet>,
}

/// Who put something on a cable. The handshake of a listener that was opened outside is the kernel's answer for whoever
/// opened it; the attempt gets out when it answers by it.
pub(super) fn owners(packets: &[Packet]) -> BTreeMap<Aim, String> {
    let activated = |aim: Aim| VECTORS.get(aim.vector).is_some_and(|vector| vector.name == "activated_listener");
    let by = |packet: &Packet| {
        let owners = packet.owners().into_iter();
        owners
            .filter(|aim| packet.has_payload() || !activated(*aim))
            .map(|aim| (aim, shown(packet)))
            .collect::<Vec<_>>()
    };
    packets.iter().flat_map(by).collect()
}

fn shown(packet: &Packet) -> String {
    format!("{} -> {} proto {} port {:?}", packet.source, packet.destination, packet.protocol, packet.port)
}

impl Found {
    /// `controls` packets were on the cable before anything was governed.
    pub(super) fn new(attempted: &[Attempted], seen: BTreeMap<Aim, String>, leak: &[Packet], controls: usize) -> Found {
        let nobodys = leak.iter().skip(controls).filter(|packet| packet.owners().is_empty()).cloned().collect();
        let attempted = attempted.iter().map(|one| (one.aim, one.clone())).collect();
        Found { attempted, seen, nobodys }
    }

    /// Packets on the cable that no attempt accounts for, since the first one that was governed.
    pub(super) fn strays(&self) -> Vec<String> {
        self.nobodys.iter().map(shown).collect()
    }
}

/// What `caracald doctor --json` says about each mechanism: under `attach` and under `run`.
#[derive(Debug, Default)]
pub(super) struct Coverage {
    ways: BTreeMap<String, BTreeMap<&'static str, String>>,
    /// `doctor` tried the ways at the level `full`, as it does where it is asked to and the kernel takes all its programs.
    pub(super) full: bool,
}

impl Coverage {
    pub(super) fn ask(daemon: &Daemon<'_>) -> Coverage {
        let value: Value = serde_json::from_str(&daemon.doctor()).unwrap_or_default();
        let full = value["tried_at"] == "full";
        let mut all = BTreeMap::new();
        for row in value["vectors"].as_array().into_iter().flatten() {
            let state = |key: &'static str| (key, row[key].as_str().unwrap_or_default().to_owned());
            let name = row["name"].as_str().unwrap_or_default().to_owned();
            all.insert(name, BTreeMap::from([state("attach"), state("run")]));
        }
        Coverage { ways: all, full }
    }

    fn says(&self, name: &str, phase: Phase) -> &str {
        self.ways.get(name).and_then(|row| row.get(phase.name())).map_or("unknown", String::as_str)
    }
}

/// The judgement's word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Outcome {
    Blocked,
    AllowedExpected,
    Leak,
    Uncovered,
    Absent,
    Inconclusive,
}

impl Outcome {
    pub(super) fn name(self) -> &'static str {
        match self {
            Outcome::Blocked => "BLOCKED",
            Outcome::AllowedExpected => "ALLOWED_EXPECTED",
            Outcome::Leak => "LEAK",
            Outcome::Uncovered => "UNCOVERED",
            Outcome::Absent => "ABSENT",
            Outcome::Inconclusive => "INCONCLUSIVE",
        }
    }

    pub(super) fn fails(self) -> bool {
        matches!(self, Outcome::Leak | Outcome::Inconclusive)
    }
}

/// One attempt's judgement.
#[derive(Clone, Debug)]
pub(super) struct Judgement {
    pub(super) outcome: Outcome,
    /// What the control did.
    pub(super) control: String,
    /// What stopped the attempt, as it saw it.
    pub(super) stopped: String,
    pub(super) why: String,
}

/// Judges one attempt by its control.
pub(super) fn judge(vector: &Vector, aim: Aim, found: &Found, coverage: &Coverage) -> Judgement {
    let before = Aim { phase: Phase::Control, ..aim };
    let (Some(control), Some(tried)) = (found.attempted.get(&before), found.attempted.get(&aim)) else {
        let (outcome, none) = (Outcome::Inconclusive, String::new());
        return Judgement { outcome, control: none.clone(), stopped: none, why: "it was not tried".into() };
    };
    let out = |aim: Aim, tried: &Attempted| match vector.judge {
        Judge::Wire => found.seen.contains_key(&aim),
        Judge::Descriptor | Judge::Allowed => tried.step.is_empty(),
    };
    let control_out = out(before, control);
    let got_out = out(aim, tried);
    let entitled = vector.who.contains(&aim.privilege);
    let refused = control.error.contains("os error 1)") || control.error.contains("os error 13)");
    let seen = found.seen.get(&aim).cloned().unwrap_or_default();
    let (outcome, why) = if !control_out && !entitled {
        (Outcome::Absent, format!("the kernel does not let this privilege: {}", control.said()))
    } else if !control_out && ((control.step == "socket" && !refused) || control.error.contains("os error 95)")) {
        // EOPNOTSUPP at any step: MPTCP has fast open from Linux 6.2 on.
        (Outcome::Absent, format!("this kernel has no such thing: {}", control.said()))
    } else if !control_out {
        (Outcome::Inconclusive, format!("the control does not get out: {}", control.said()))
    } else if vector.judge == Judge::Allowed {
        if got_out {
            (Outcome::AllowedExpected, String::new())
        } else {
            (Outcome::Inconclusive, format!("it must work: {}", tried.said()))
        }
    } else if got_out && coverage.says(vector.name, aim.phase) == "uncovered" {
        (Outcome::Uncovered, "`caracald doctor` lists it".to_owned())
    } else if got_out {
        (Outcome::Leak, format!("{seen}; it {}; `doctor` says {}", tried.said(), coverage.says(vector.name, aim.phase)))
    } else if tried.step == "died" {
        (Outcome::Inconclusive, format!("the attempt ended by itself: {}", tried.said()))
    } else {
        (Outcome::Blocked, String::new())
    };
    let control = if control_out { "leaked".to_owned() } else { control.said() };
    Judgement { outcome, control, stopped: tried.said(), why }
}

/// Before Linux 5.17 only `CAP_NET_ADMIN` marks a socket, which nobody has who tries here. `doctor` has it, as root of an
/// attached workload may, and its own attempt is refused: covered there, and the judge cannot say more.
fn administrators_alone(vector: &Vector, release: &str) -> bool {
    let mut numbers = release.split(|c: char| !c.is_ascii_digit()).map_while(|word| word.parse::<u32>().ok());
    vector.name == "marked" && (numbers.next(), numbers.next()) < (Some(5), Some(17))
}

/// `doctor` and the judge agree, mechanism by mechanism: what is listed as uncovered gets out for at least one privilege,
/// what is listed as covered is there for somebody who may have it, and each side knows every name of the other.
pub(super) fn both_ways(judged: &Judged, coverage: &Coverage, release: &str) -> Vec<(String, Option<String>)> {
    let mut cases = Vec::new();
    for phase in [Phase::Attach, Phase::Run] {
        let mut wrong = Vec::new();
        for (place, vector) in VECTORS.iter().enumerate().filter(|(_, vector)| vector.judge != Judge::Allowed) {
            let of = |privilege| judged.get(&Aim { vector: place, privilege, phase }).map(|one| one.outcome);
            let outcomes: BTreeSet<Outcome> = Privilege::ALL.into_iter().filter_map(of).collect();
            let listed = coverage.says(vector.name, phase);
            let tried = outcomes.contains(&Outcome::Blocked) || outcomes.contains(&Outcome::Uncovered);
            if listed == "uncovered" && tried && !outcomes.contains(&Outcome::Uncovered) {
                wrong.push(format!("{} is listed as uncovered and never gets out", vector.name));
            }
            if listed == "absent" && tried {
                wrong.push(format!("{} is listed as absent and is there", vector.name));
            }
            let entitled = Privilege::ALL.into_iter().filter(|privilege| vector.who.contains(privilege));
            let entitled: BTreeSet<Outcome> = entitled.filter_map(of).collect();
            let cannot = administrators_alone(vector, release);
            if listed == "covered" && entitled == BTreeSet::from([Outcome::Absent]) && !cannot {
                wrong.push(format!("{} is listed as covered and is not there", vector.name));
            }
            if listed == "unknown" && !outcomes.is_empty() {
                wrong.push(format!("{} is not listed", vector.name));
            }
        }
        let fault = (!wrong.is_empty()).then(|| wrong.join("; "));
        cases.push((format!("doctor and the judge agree under {}", phase.name()), fault));
    }
    let known: BTreeSet<&str> = VECTORS.iter().map(|vector| vector.name).collect();
    let strange: Vec<&str> = coverage.ways.keys().map(String::as_str).filter(|name| !known.contains(name)).collect();
    let fault = (!strange.is_empty()).then(|| format!("nobody tries {strange:?}"));
    cases.push(("doctor lists nothing that is not tried".to_owned(), fault));
    cases
}

/// The reasons for refusals that the ledger has. (The kernel's own are one record for all of a kind within a moment, so
/// they cannot be told apart by what they were aimed at.)
pub(super) fn reasons(daemon: &Daemon<'_>) -> BTreeSet<String> {
    let records = daemon.records();
    let denials = records.iter().filter(|record| record.text("caracal.decision") == "deny");
    denials.map(|record| record.text("caracal.reason").to_owned()).collect()
}

/// Under `attach` a socket of a refused kind is refused when it is made, a membership when it is asked for, a datagram when
/// it is sent, and at once: that is what lets a QUIC client fall back. Each reason that the catalogue names is in the
/// ledger.
pub(super) fn expected_reasons(judged: &Judged, reasons: &BTreeSet<String>) -> (String, Option<String>) {
    // By a pair nobody is connected to, so that only receiving can be where it ends.
    let mut wrong = Vec::new();
    for (aim, one) in judged.iter().filter(|(aim, one)| aim.phase == Phase::Attach && one.outcome == Outcome::Blocked) {
        let Some(vector) = VECTORS.get(aim.vector) else { continue };
        let places: &[&str] = match (vector.reasons, vector.class) {
            (["datagram_refused"], 4 | 5) => &["send"],
            (["socket_kind_refused"], _) => &["socket"],
            (["multicast_refused"], _) => &["setsockopt", "uring"],
            _ if vector.name.starts_with("pair_passed_") => &["receive"],
            _ => continue,
        };
        if !places.iter().any(|place| one.stopped.starts_with(place)) {
            wrong.push(format!("{} {}: it saw {}", vector.name, aim.privilege.name(), one.stopped));
        }
    }
    let named: BTreeSet<&str> = VECTORS.iter().flat_map(|vector| vector.reasons).copied().collect();
    wrong.extend(
        named.iter().filter(|name| !reasons.contains(**name)).map(|name| format!("{name} is not in the ledger")),
    );
    (
        "each refusal is where the catalogue says, for its reason".to_owned(),
        (!wrong.is_empty()).then(|| wrong.join("; ")),
    )
}

/// The faults that were planted must be seen, and nothing beside them.
pub(super) fn planted(found: &Found) -> Vec<(String, Option<String>)> {
    let seen =
        |name: &str, privilege| aim(name, privilege, Phase::Planted).is_some_and(|aim| found.seen.contains_key(&aim));
    let case = |name: &str, right: bool, why: &str| (name.to_owned(), (!right).then(|| why.to_owned()));
    vec![
        case(
            "planted: the judge sees a leak when egress is off",
            seen("udp_connected", Privilege::User),
            "egress was taken off, and nothing was seen",
        ),
        case(
            "planted: the other hooks hold when egress is off",
            !seen("udp_sendto", Privilege::User),
            "an unconnected datagram left although sendmsg was on",
        ),
        case(
            "planted: the judge sees a leak in a cgroup that is governed in name only",
            seen("tcp_connect", Privilege::Root) && seen("igmp_join", Privilege::Root),
            "nothing governed it, and nothing was seen",
        ),
    ]
}

/// The running kernel.
pub(super) fn kernel() -> String {
    std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim().to_owned()
}

/// Figures, and a word on what was not tried.
pub(super) fn summary(judged: &Judged) {
    let count = |outcome: Outcome| judged.values().filter(|one| one.outcome == outcome).count() as u64;
    let leaking: BTreeSet<usize> =
        judged.iter().filter(|(_, one)| one.control == "leaked").map(|(aim, _)| aim.vector).collect();
    report::figure("escape", "vectors", VECTORS.len() as u64);
    report::figure("escape", "vectors_with_a_leaking_control", leaking.len() as u64);
    report::figure("escape", "attempts", judged.len() as u64);
    report::figure("escape", "blocked", count(Outcome::Blocked));
    report::figure("escape", "uncovered", count(Outcome::Uncovered));
    report::figure("escape", "leaks", count(Outcome::Leak));
    report::figure("escape", "inconclusive", count(Outcome::Inconclusive));
    report::figure("escape", "skipped", count(Outcome::Absent));
    for (aim, one) in judged.iter().filter(|(aim, one)| one.outcome == Outcome::Absent && aim.phase == Phase::Attach) {
        let name = VECTORS.get(aim.vector).map_or("", |vector| vector.name);
        println!("absent: {name} {}: {}", aim.privilege.name(), one.why);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What `both_ways` says of one mechanism under `attach`, where `doctor` says `listed` and each privilege came to `outcomes`.
    fn said(name: &str, listed: &str, outcomes: [Outcome; 3]) -> Option<String> {
        let (vector, _) = support::catalogue::named(name).expect("a mechanism");
        let row = BTreeMap::from([("attach", listed.to_owned()), ("run", "covered".to_owned())]);
        let coverage = Coverage { ways: BTreeMap::from([(name.to_owned(), row)]), full: false };
        let judgement =
            |outcome| Judgement { outcome, control: String::new(), stopped: String::new(), why: String::new() };
        let aim = |privilege| Aim { vector, privilege, phase: Phase::Attach };
        let judged = Privilege::ALL.into_iter().zip(outcomes).map(|(one, outcome)| (aim(one), judgement(outcome)));
        let (_, fault) = both_ways(&judged.collect(), &coverage, "6.12.1-cloud").into_iter().next().expect("of attach");
        fault
    }

    #[test]
    fn what_only_administrators_may_is_not_held_against_doctor_on_old_kernels() {
        let (_, marked) = support::catalogue::named("marked").expect("a mechanism");
        let (_, other) = support::catalogue::named("uring_join").expect("a mechanism");
        for (release, wanted) in [("5.10.0-46", true), ("5.16.1", true), ("5.17.0", false), ("6.1.0", false)] {
            assert_eq!(administrators_alone(marked, release), wanted, "{release}");
            assert!(!administrators_alone(other, release), "{release}");
        }
    }

    #[test]
    fn planted_what_doctor_and_the_wire_say_differently_is_seen() {
        use Outcome::{Absent, Blocked, Uncovered};
        assert_eq!(said("vsock", "covered", [Blocked; 3]), None);
        assert_eq!(said("vsock", "absent", [Absent; 3]), None);
        assert_eq!(said("vsock", "covered", [Absent, Blocked, Absent]), None);
        assert_eq!(said("vsock", "uncovered", [Blocked, Uncovered, Absent]), None);
        assert_eq!(said("uring_join", "absent", [Absent; 3]), None);
        // For who may not have it, it is absent anywhere; that says nothing of the kernel.
        assert_eq!(said("raw_icmp", "covered", [Absent, Blocked, Absent]), None);
        for (name, listed, outcomes, wanted) in [
            ("vsock", "covered", [Absent; 3], "listed as covered and is not there"),
            ("raw_icmp", "covered", [Absent; 3], "listed as covered and is not there"),
            ("uring_socket", "covered", [Absent; 3], "listed as covered and is not there"),
            ("uring_join", "covered", [Absent; 3], "listed as covered and is not there"),
            ("marked", "covered", [Absent; 3], "listed as covered and is not there"),
            ("vsock", "uncovered", [Blocked; 3], "never gets out"),
            ("vsock", "absent", [Absent, Absent, Blocked], "listed as absent and is there"),
            ("vsock", "unknown", [Blocked; 3], "is not listed"),
        ] {
            let fault = said(name, listed, outcomes);
            assert!(fault.as_ref().is_some_and(|why| why.contains(wanted)), "{name} {listed}: {fault:?}");
        }
    }
}
