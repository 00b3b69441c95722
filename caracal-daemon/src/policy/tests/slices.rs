//! The sliced set decides as the whole does, and as the rules read by themselves do.

use super::*;
use crate::policy::explain::rule_allows;
use crate::policy::set::{ATTRIBUTES, PolicySet};
use proptest::prelude::*;
use proptest::sample::{select, subsequence};
use std::fmt::Write;

const HOSTS: [&str; 12] = [
    "x.test",
    "y.test",
    "a.x.test",
    "*.test",
    "*.x.test",
    "*",
    "10.0.0.1",
    "10.0.0.0/8",
    "1.1.1.1",
    "0.0.0.0/0",
    "api.openai.com",
    "*.com",
];
const ASKED: [&str; 10] = [
    "x.test",
    "y.test",
    "a.x.test",
    "b.a.x.test",
    "test",
    "10.0.0.1",
    "10.9.9.9",
    "1.1.1.1",
    "api.openai.com",
    "127.1",
];
const AGENTS: [&str; 4] = ["a", "b", "a*", "*"];
const PATHS: [&str; 4] = ["/v1/*", "/", "/admin*", "*"];
const CEDAR: [&str; 6] = [
    "permit (principal, action == Action::\"request\", resource == Host::\"y.test\");",
    "forbid (principal == Agent::\"b\", action, resource);",
    "forbid (principal, action in [Action::\"resolve\", Action::\"request\"], resource == Host::\"x.test\") when { context.host like \"x*\" };",
    "@mode(\"tcp\") permit (principal == Agent::\"a\", action, resource == Host::\"a.x.test\");",
    "permit (principal, action == Action::\"llm\", resource == Model::\"openai/m\");",
    "forbid (principal, action == Action::\"llm\", resource) when { context.estimate_nano * 4 < 8 };",
];

fn list(texts: &[&str]) -> String {
    format!("{texts:?}")
}

fn rule() -> impl Strategy<Value = String> {
    let hosts = subsequence(&HOSTS[..], 1..4);
    let parts = (any::<bool>(), hosts, subsequence(&AGENTS[..], 0..3), subsequence(&[80_u16, 443, 22][..], 0..3));
    let read =
        (subsequence(&["GET", "POST"][..], 0..2), subsequence(&PATHS[..], 0..3), subsequence(&["m", "n*"][..], 0..2));
    (parts, read, select(vec!["inspect", "tcp", "tls-passthrough"]), any::<bool>()).prop_map(
        |((allow, hosts, agents, ports), (methods, paths, models), mode, private)| {
            let mut text = format!("[[{}]]\nhosts = {}\n", if allow { "allow" } else { "deny" }, list(&hosts));
            let priced = hosts.iter().any(|host| matches!(*host, "*" | "api.openai.com" | "*.com"));
            let copied = allow && mode != "inspect" && !priced;
            let mut add = |key: &str, value: String, wanted: bool| {
                if wanted {
                    let _ = writeln!(text, "{key} = {value}");
                }
            };
            add("agents", list(&agents), !agents.is_empty());
            add("ports", format!("{ports:?}"), !ports.is_empty());
            add("methods", list(&methods), !methods.is_empty() && !copied);
            add("paths", list(&paths), !paths.is_empty() && !copied);
            add("models", list(&models), !models.is_empty() && !copied);
            add("private", "true".into(), private && allow);
            add("mode", format!("{mode:?}"), copied);
            text
        },
    )
}

#[derive(Clone, Debug)]
struct Question {
    agent: Agent,
    action: Action,
    host: &'static str,
    port: u16,
    method: &'static str,
    path: &'static str,
    model: &'static str,
    address: Option<IpAddr>,
    estimate: u64,
}

fn question() -> impl Strategy<Value = Question> {
    let who = (select(vec!["a", "b", "ab", "c"]), any::<bool>(), select(Action::ALL.to_vec()));
    let place =
        (select(ASKED.to_vec()), select(vec![80_u16, 443, 22]), prop::option::of(select(vec!["10.0.0.1", "1.1.1.1"])));
    let paths = vec!["/", "/v1/x", "/admin", "/v1/../admin", "/%61dmin", ""];
    let read = (
        select(vec!["GET", "POST", "get"]),
        select(paths),
        select(vec!["m", "n1", "z"]),
        select(vec![1_u64, u64::MAX]),
    );
    (who, place, read).prop_map(|((agent, learn, action), (host, port, address), (method, path, model, estimate))| {
        Question {
            agent: table::named_agent(agent, learn),
            action,
            host,
            port,
            method,
            path,
            model,
            address: address.and_then(|address| address.parse().ok()),
            estimate,
        }
    })
}

impl Question {
    fn ask(&self) -> Ask<'_> {
        Ask {
            address: self.address,
            method: Some(self.method),
            path: Some(self.path),
            model: Some(self.model),
            provider: Some("openai"),
            tool: Some("t"),
            estimate: Some(NanoUsd(self.estimate)),
            ..Ask::new(&self.agent, self.action, self.host, self.port)
        }
    }
}

/// All policies at once and all attributes, as Cedar itself decides.
fn whole(set: &PolicySet, policies: &cedar_policy::PolicySet, ask: &Ask<'_>) -> Decision {
    set.outcome_by(ask, |facts, path, answer| set.put(facts, path, std::iter::once(policies), answer)).decision
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(160))]

    #[test]
    fn a_slice_decides_as_the_whole(
        rules in prop::collection::vec(rule(), 0..6),
        cedar in subsequence(&CEDAR[..], 0..4),
        questions in prop::collection::vec(question(), 1..24),
    ) {
        let set = with_cedar(&rules.concat(), &cedar.join("\n")).map_err(|e| TestCaseError::fail(e.to_string()))?;
        let set = set.map_err(|e| TestCaseError::fail(e.to_string()))?;
        let mut full = with_cedar(&rules.concat(), &cedar.join("\n")).map_err(|e| TestCaseError::fail(e.to_string()))?
            .map_err(|e| TestCaseError::fail(e.to_string()))?;
        full.read = ATTRIBUTES.to_vec();
        let all = cedar_policy::PolicySet::from_policies(full.entries.iter().map(|entry| entry.policy.clone()));
        let all = all.map_err(|e| TestCaseError::fail(e.to_string()))?;
        for question in &questions {
            prop_assert_eq!(set.decide(&question.ask()), whole(&full, &all, &question.ask()), "{:?}\n{}", question, rules.concat());
        }
    }

    #[test]
    fn cedar_decides_as_the_rules_read(rules in prop::collection::vec(rule(), 0..5), questions in prop::collection::vec(question(), 1..24)) {
        let allow: Vec<String> = rules.into_iter().filter(|rule| rule.starts_with("[[allow]]")).collect();
        let set = set(&allow.concat()).map_err(|e| TestCaseError::fail(e.to_string()))?;
        for question in questions.iter().filter(|question| !question.agent.learn) {
            let ask = question.ask();
            let expected = Facts::of(&ask).is_ok_and(|facts| {
                let priced = facts.action == Action::Connect && &*facts.host == "api.openai.com";
                !priced && set.allow.iter().any(|rule| rule_allows(rule, &facts))
            });
            let verdict = set.decide(&ask).verdict;
            let permitted = matches!(verdict, Verdict::Allow(_) | Verdict::Deny(Reason::PrivateAddress));
            // With several readings of a path, different rules may each allow one: that is allowed too.
            let several = Facts::of(&ask).is_ok_and(|facts| !facts.paths.others.is_empty());
            prop_assert!(permitted == expected || (several && permitted), "{:?} {:?}\n{}", question, verdict, allow.concat());
        }
    }
}

#[test]
fn a_decision_touches_only_what_could_match() -> Outcome {
    let rules: String = (0..300)
        .map(|n| format!("[[allow]]\nagents = [\"a{n}\"]\nhosts = [\"h{n}.test\", \"*.s{n}.test\", \"shared.test\"]\n"))
        .collect();
    let set = set(&rules)?;
    let agent = agent("a7");
    let touched = |host: &str| {
        let ask = Ask::new(&agent, Action::Request, host, 443);
        Facts::of(&ask)
            .map(|facts| set.relevant(&facts).map(cedar_policy::PolicySet::num_of_policies).sum::<usize>())
            .unwrap_or_default()
    };
    assert_eq!((touched("h7.test"), touched("a.b.s7.test"), touched("shared.test"), touched("h8.test")), (1, 1, 1, 0));
    Ok(())
}
