use super::facts::Facts;
use super::*;
use crate::config::Config;
use crate::refusal::Reason;
use std::error::Error;
use std::path::Path;

mod slices;
mod tools;

type Outcome = Result<(), Box<dyn Error>>;

pub(super) fn config(text: &str) -> Result<Config, Box<dyn Error>> {
    Ok(Config::parse(text, Path::new("caracal.toml"))?)
}

pub(super) fn set(text: &str) -> Result<PolicySet, Box<dyn Error>> {
    Ok(PolicySet::compile(&config(text)?, Path::new("."))?)
}

/// A set with one Cedar file beside the rules.
fn with_cedar(rules: &str, cedar: &str) -> Result<Result<PolicySet, PolicyError>, Box<dyn Error>> {
    let dir = tempfile::tempdir()?;
    std::fs::write(dir.path().join("extra.cedar"), cedar)?;
    let config = config(&format!("{rules}\n[policy]\ncedar = [\"extra.cedar\"]\n"))?;
    Ok(PolicySet::compile(&config, dir.path()))
}

pub(super) fn agent(name: &str) -> Agent {
    table::named_agent(name, false)
}

/// GET https://host/path of agent `a`.
fn get(set: &PolicySet, host: &str, port: u16, path: &str) -> Verdict {
    let agent = agent("a");
    set.decide(&Ask { method: Some("GET"), path: Some(path), ..Ask::new(&agent, Action::Request, host, port) }).verdict
}

fn on(set: &PolicySet, action: Action, host: &str, port: u16) -> Verdict {
    set.decide(&Ask::new(&agent("a"), action, host, port)).verdict
}

fn allowed() -> Verdict {
    Verdict::Allow(Grant::default())
}

fn denied(reason: Reason) -> Verdict {
    Verdict::Deny(reason)
}

#[test]
fn nothing_is_allowed_by_default() -> Outcome {
    let set = set("")?;
    for action in Action::ALL {
        let verdict = on(&set, action, "example.com", 443);
        let on_host = !matches!(action, Action::Llm | Action::Tool);
        assert_eq!(verdict, denied(if on_host { Reason::HostNotAllowed } else { Reason::PolicyDenied }), "{action:?}");
    }
    Ok(())
}

#[test]
fn a_rule_allows_its_host_on_its_ports_and_no_other() -> Outcome {
    let set = set("[[allow]]\nhosts = [\"example.com\"]\n")?;
    for (host, port, expected) in [
        ("example.com", 443, allowed()),
        ("example.com", 80, allowed()),
        ("EXAMPLE.com.", 443, allowed()),
        ("example.com", 8443, denied(Reason::PolicyDenied)),
        ("www.example.com", 443, denied(Reason::HostNotAllowed)),
        ("example.com.evil.test", 443, denied(Reason::HostNotAllowed)),
        ("93.184.216.34", 443, denied(Reason::HostNotAllowed)),
    ] {
        assert_eq!(get(&set, host, port, "/"), expected, "{host}:{port}");
    }
    assert_eq!(on(&set, Action::Resolve, "example.com", 0), allowed());
    assert_eq!(on(&set, Action::Connect, "example.com", 443), denied(Reason::PolicyDenied), "its bytes are read");
    let decision = set.decide(&Ask::new(&agent("a"), Action::Resolve, "example.com", 0));
    assert_eq!(decision.policies, [Arc::from("allow-1-example-com")]);
    Ok(())
}

#[test]
fn a_suffix_is_every_name_below_it() -> Outcome {
    let set = set("[[allow]]\nhosts = [\"*.example.com\"]\n")?;
    for (host, expected) in [
        ("a.example.com", allowed()),
        ("a.b.example.com", allowed()),
        ("example.com", denied(Reason::HostNotAllowed)),
        ("notexample.com", denied(Reason::HostNotAllowed)),
        ("a.example.com.evil.test", denied(Reason::HostNotAllowed)),
    ] {
        assert_eq!(get(&set, host, 443, "/"), expected, "{host}");
    }
    Ok(())
}

#[test]
fn forbid_wins() -> Outcome {
    let rules = "[[allow]]\nhosts = [\"*.example.com\"]\n[[deny]]\nid = \"no-admin\"\nhosts = [\"x.example.com\"]\npaths = [\"/admin*\"]\n";
    let set = set(rules)?;
    assert_eq!(get(&set, "x.example.com", 443, "/"), allowed());
    assert_eq!(get(&set, "y.example.com", 443, "/admin"), allowed());
    for path in ["/admin", "/admin/x", "/%61dmin", "/a/../admin", "//admin", "/a/..%2fadmin", "/%2561dmin"] {
        let ask_agent = agent("a");
        let ask = Ask {
            method: Some("GET"),
            path: Some(path),
            ..Ask::new(&ask_agent, Action::Request, "x.example.com", 443)
        };
        let decision = set.decide(&ask);
        assert_eq!(
            (decision.verdict, decision.policies),
            (denied(Reason::PolicyDenied), vec![Arc::from("no-admin")]),
            "{path}"
        );
    }
    Ok(())
}

#[test]
fn an_allowed_path_is_allowed_in_each_reading_only() -> Outcome {
    let set = set("[[allow]]\nhosts = [\"example.com\"]\npaths = [\"/public/*\"]\nmethods = [\"GET\"]\n")?;
    assert_eq!(get(&set, "example.com", 443, "/public/a%20b"), allowed());
    for path in [
        "/",
        "/public",
        "/public/../secret",
        "/public/%2e%2e/secret",
        "/public/..%2fsecret",
        "/%70ublic/x",
        "/public/..;/secret",
    ] {
        assert_eq!(get(&set, "example.com", 443, path), denied(Reason::PolicyDenied), "{path}");
    }
    let agent = agent("a");
    let post =
        Ask { method: Some("POST"), path: Some("/public/a"), ..Ask::new(&agent, Action::Request, "example.com", 443) };
    assert_eq!(set.decide(&post).verdict, denied(Reason::PolicyDenied));
    Ok(())
}

#[test]
fn agents_are_told_apart() -> Outcome {
    let set = set(
        "[[allow]]\nagents = [\"builder\"]\nhosts = [\"one.test\"]\n[[allow]]\nagents = [\"ci-*\", \"x\"]\nhosts = [\"many.test\"]\n",
    )?;
    for (name, host, expected) in [
        ("builder", "one.test", true),
        ("builder2", "one.test", false),
        ("ci-7", "many.test", true),
        ("x", "many.test", true),
        ("ci", "many.test", false),
    ] {
        let verdict = set.decide(&Ask::new(&agent(name), Action::Resolve, host, 0)).verdict;
        assert_eq!(verdict == allowed(), expected, "{name} {host}");
    }
    Ok(())
}

#[test]
fn addresses_and_ranges() -> Outcome {
    let set =
        set("[[allow]]\nhosts = [\"10.0.0.0/8\", \"1.1.1.1\", \"2606:4700::/32\"]\n[[allow]]\nhosts = [\"*\"]\n")?;
    let private = Verdict::Allow(Grant { private: true, ..Grant::default() });
    for (host, expected) in [
        ("10.1.2.3", private.clone()),
        ("::ffff:10.1.2.3", private.clone()),
        ("1.1.1.1", allowed()),
        ("[2606:4700::1]", allowed()),
        ("1.1.1.2", denied(Reason::HostNotAllowed)),
        ("11.0.0.1", denied(Reason::HostNotAllowed)),
        ("127.1", denied(Reason::HostNotAllowed)),
        ("0x7f000001", denied(Reason::HostNotAllowed)),
        ("name.test", allowed()),
    ] {
        assert_eq!(get(&set, host, 443, "/"), expected, "{host}");
    }
    assert_eq!(on(&set, Action::Connect, "1.1.1.1", 443), allowed(), "to be read");
    let agent = agent("a");
    let lie = Ask { address: Some("2.2.2.2".parse()?), ..Ask::new(&agent, Action::Request, "1.1.1.1", 443) };
    assert_eq!(set.decide(&lie).verdict, denied(Reason::HostMismatch));
    Ok(())
}

#[test]
fn a_private_address_must_be_meant() -> Outcome {
    let set = set(
        "[[allow]]\nhosts = [\"wiki.corp\"]\nprivate = true\n[[allow]]\nhosts = [\"*\", \"0.0.0.0/0\", \"169.254.169.254\"]\n[[deny]]\nhosts = [\"192.168.0.0/16\"]\n",
    )?;
    let agent = agent("a");
    let to = |host: &'static str, address: &str| -> Result<Verdict, std::net::AddrParseError> {
        Ok(set.decide(&Ask { address: Some(address.parse()?), ..Ask::new(&agent, Action::Request, host, 443) }).verdict)
    };
    let private = Verdict::Allow(Grant { private: true, ..Grant::default() });
    assert_eq!(to("wiki.corp", "10.0.0.9")?, private);
    assert_eq!(to("other.test", "10.0.0.9")?, denied(Reason::PrivateAddress));
    assert_eq!(to("other.test", "93.184.216.34")?, allowed());
    assert_eq!(to("10.0.0.9", "10.0.0.9")?, denied(Reason::PrivateAddress), "0.0.0.0/0 is not a private range");
    assert_eq!(to("169.254.169.254", "169.254.169.254")?, private);
    assert_eq!(to("wiki.corp", "192.168.1.1")?, denied(Reason::PolicyDenied), "a denied range holds for names too");
    Ok(())
}

#[test]
fn modes_and_other_annotations_reach_the_grant() -> Outcome {
    let set = set(
        "[[allow]]\nhosts = [\"git.test\"]\nports = [22]\nmode = \"tcp\"\n[[allow]]\nhosts = [\"pinned.test\"]\nmode = \"tls-passthrough\"\n\
         [[allow]]\nhosts = [\"*.test\"]\nmode = \"tcp\"\n[[allow]]\nhosts = [\"api.openai.com\"]\npaths = [\"/v1/files*\"]\nfree = true\n",
    )?;
    let mode = |mode| Verdict::Allow(Grant { mode, ..Grant::default() });
    assert_eq!(on(&set, Action::Connect, "git.test", 22), mode(Mode::Tcp));
    assert_eq!(on(&set, Action::Connect, "pinned.test", 443), mode(Mode::TlsPassthrough), "the mode that reads more");
    assert_eq!(
        get(&set, "git.test", 22, "/"),
        denied(Reason::PolicyDenied),
        "bytes that are not read carry no request"
    );
    assert_eq!(
        get(&set, "api.openai.com", 443, "/v1/files/x"),
        Verdict::Allow(Grant { free: true, ..Grant::default() })
    );
    assert_eq!(
        get(&set, "api.openai.com", 443, "/v1/files/../files/x"),
        allowed(),
        "a path that can be read otherwise is not free"
    );
    Ok(())
}

#[test]
fn models_are_decided_at_their_host_and_path() -> Outcome {
    let set = set(
        "[[allow]]\nhosts = [\"api.openai.com\"]\nmodels = [\"gpt-6*\"]\npaths = [\"/v1/responses\"]\n[[allow]]\nhosts = [\"api.openai.com\"]\npaths = [\"/v1/embeddings\"]\nmodels = [\"text-*\"]\n\
         [[deny]]\nmodels = [\"*-pro\"]\n",
    )?;
    let agent = agent("a");
    let call = |model: &'static str, path: &'static str, host: &'static str| {
        let ask = Ask::new(&agent, Action::Llm, host, 443);
        set.decide(&Ask { model: Some(model), provider: Some("openai"), method: Some("POST"), path: Some(path), ..ask })
            .verdict
    };
    assert_eq!(call("gpt-6.1", "/v1/responses", "api.openai.com"), allowed());
    for (model, path, host) in [
        ("gpt-6-pro", "/v1/responses", "api.openai.com"),
        ("gpt-5", "/v1/responses", "api.openai.com"),
        ("gpt-6.1", "/v1/embeddings", "api.openai.com"),
        ("gpt-6.1", "/v1/responses", "other.test"),
    ] {
        assert_eq!(call(model, path, host), denied(Reason::PolicyDenied), "{model} {path} {host}");
    }
    Ok(())
}

#[test]
fn learning_lifts_the_host_list_and_nothing_else() -> Outcome {
    let set = set("[[allow]]\nhosts = [\"ruled.test\"]\n[[deny]]\nhosts = [\"never.test\"]\n")?;
    let learner = table::named_agent("a", true);
    let decide = |action, host| {
        set.decide(&Ask { method: Some("GET"), path: Some("/"), ..Ask::new(&learner, action, host, 443) })
    };
    let learned = Verdict::Allow(Grant { learned: true, ..Grant::default() });
    let lifted = decide(Action::Request, "new.test");
    assert_eq!((lifted.verdict, lifted.policies), (learned.clone(), vec![Arc::from("learn")]));
    assert_eq!(decide(Action::Resolve, "new.test").verdict, learned);
    let ruled = decide(Action::Request, "ruled.test");
    assert_eq!((ruled.verdict, ruled.policies), (allowed(), vec![Arc::from("allow-1-ruled-test")]));
    assert_eq!(decide(Action::Request, "never.test").verdict, denied(Reason::PolicyDenied));
    assert_eq!(decide(Action::Connect, "new.test").verdict, denied(Reason::PolicyDenied));
    assert_eq!(decide(Action::Llm, "api.openai.com").verdict, denied(Reason::PolicyDenied));
    assert_eq!(decide(Action::Request, "10.0.0.1").verdict, denied(Reason::PrivateAddress));
    assert_eq!(decide(Action::Request, "127.1").verdict, denied(Reason::HostNotAllowed));
    Ok(())
}

#[test]
fn rules_mean_what_their_cedar_means() -> Outcome {
    let rule =
        "[[allow]]\nagents = [\"a\"]\nhosts = [\"x.test\"]\nports = [443]\nmethods = [\"GET\"]\npaths = [\"/v1/*\"]\n";
    let by_hand = r#"
        permit (principal == Agent::"a", action == Action::"resolve", resource == Host::"x.test");
        @id("read") permit (principal == Agent::"a", action == Action::"request", resource == Host::"x.test")
        when { context.port == 443 && context.method == "GET" && context.path like "/v1/*" };
    "#;
    let (sugar, cedar) = (set(rule)?, with_cedar("", by_hand)??);
    for name in ["a", "b"] {
        let agent = agent(name);
        for action in [Action::Resolve, Action::Request, Action::Connect, Action::Llm] {
            for (host, port, method, path) in [
                ("x.test", 443, "GET", "/v1/a"),
                ("x.test", 80, "GET", "/v1/a"),
                ("x.test", 443, "POST", "/v1/a"),
                ("x.test", 443, "GET", "/"),
                ("y.test", 443, "GET", "/v1/a"),
            ] {
                let ask = Ask { method: Some(method), path: Some(path), ..Ask::new(&agent, action, host, port) };
                if action != Action::Llm {
                    assert_eq!(sugar.decide(&ask).verdict, cedar.decide(&ask).verdict, "{ask:?}");
                }
            }
        }
    }
    let a = agent("a");
    let read = Ask { method: Some("GET"), path: Some("/v1/a"), ..Ask::new(&a, Action::Request, "x.test", 443) };
    assert_eq!(cedar.decide(&read).policies, [Arc::from("read")]);
    assert_eq!(cedar.decide(&Ask::new(&a, Action::Resolve, "x.test", 0)).policies, [Arc::from("extra-1")]);
    Ok(())
}

#[test]
fn cedar_may_not_pass_priced_bytes_through() -> Outcome {
    let set = with_cedar("", "@mode(\"tcp\") permit (principal, action, resource);")??;
    assert_eq!(on(&set, Action::Connect, "x.test", 22), Verdict::Allow(Grant { mode: Mode::Tcp, ..Grant::default() }));
    for host in ["api.openai.com", "API.anthropic.com.", "eu.api.openai.com", "chatgpt.com"] {
        assert_eq!(on(&set, Action::Connect, host, 443), denied(Reason::PolicyDenied), "{host}");
        assert!(matches!(get(&set, host, 443, "/"), Verdict::Allow(_)), "{host}");
    }
    Ok(())
}

#[test]
fn cedar_sees_money_users_and_addresses() -> Outcome {
    let set = with_cedar(
        "[[allow]]\nhosts = [\"api.openai.com\", \"x.test\"]\n",
        r#"
        @id("dear") forbid (principal, action == Action::"llm", resource) when { context.estimate_nano > 1000000000 };
        @id("root") forbid (principal, action, resource) when { context.user == 7 };
        @id("one-model") forbid (principal, action, resource == Model::"openai/gpt-0");
        @id("lan") forbid (principal, action, resource) when { context has address && context.address.isInRange(ip("10.0.0.0/8")) };
        "#,
    )??;
    let a = agent("a");
    let call =
        Ask { model: Some("gpt-6"), provider: Some("openai"), ..Ask::new(&a, Action::Llm, "api.openai.com", 443) };
    let cost = |nanos| Ask { estimate: Some(NanoUsd(nanos)), ..call.clone() };
    assert_eq!(set.decide(&cost(1_000_000_000)).verdict, allowed());
    for dear in [cost(1_000_000_001), cost(u64::MAX), call.clone()] {
        assert_eq!(set.decide(&dear).policies, [Arc::from("dear")], "an unknown cost is the largest");
    }
    assert_eq!(set.decide(&Ask { model: Some("gpt-0"), ..cost(1) }).policies, [Arc::from("one-model")]);
    let user = Agent { uid: 7, ..agent("a") };
    assert_eq!(set.decide(&Ask::new(&user, Action::Request, "x.test", 443)).policies, [Arc::from("root")]);
    let inside = Ask { address: Some("10.9.9.9".parse()?), ..Ask::new(&a, Action::Request, "x.test", 443) };
    assert_eq!(set.decide(&inside).policies, [Arc::from("lan")]);
    Ok(())
}

#[test]
fn a_policy_that_cannot_be_evaluated_denies() -> Outcome {
    let overflow =
        r#"@id("sum") forbid (principal, action == Action::"llm", resource) when { context.estimate_nano * 9 > 10 };"#;
    let set = with_cedar("[[allow]]\nhosts = [\"api.openai.com\"]\n", overflow)??;
    let a = agent("a");
    let ask = Ask { model: Some("m"), provider: Some("openai"), ..Ask::new(&a, Action::Llm, "api.openai.com", 443) };
    let decision = set.decide(&ask);
    assert_eq!(
        (decision.verdict.clone(), decision.policies.clone()),
        (denied(Reason::PolicyDenied), vec![Arc::from("sum")])
    );
    assert_eq!(set.evaluation_errors(), 1);
    let refusal = set.refusal(&ask, &decision).ok_or("no refusal")?;
    assert_eq!(refusal.side, crate::refusal::Side::Us);
    assert!(refusal.sentence.contains("policy sum cannot be evaluated"), "{}", refusal.sentence);
    assert_eq!(set.decide(&Ask { estimate: Some(NanoUsd(1)), ..ask }).verdict, allowed());
    Ok(())
}

#[test]
fn bad_cedar_is_refused_with_its_line_and_a_hint() -> Outcome {
    for (cedar, line, expected) in [
        ("permit (principal, action, resource)\nwhen { context.hots == \"x\" };", 2, "did you mean `host`?"),
        ("\n\npermit (principal, action == Action::\"reqest\", resource);", 3, "did you mean"),
        ("permit (principal, action, resource);\npermit (principal, action resource);", 2, "unexpected token"),
        ("permit (principal == User::\"x\", action, resource);", 1, "User"),
        ("@mode(\"raw\")\npermit (principal, action, resource);", 1, "tls-passthrough"),
        ("@free(\"true\")\nforbid (principal, action, resource);", 1, "only a permit"),
        (
            "@id(\"a\") permit (principal, action, resource);\n@id(\"a\") forbid (principal, action, resource) when { context.user == 1 };",
            2,
            "first in line 1",
        ),
        (
            "permit (principal, action == Action::\"resolve\", resource)\nwhen { context.port == 1 };",
            2,
            "ask `context has port` first",
        ),
        ("permit (principal == ?principal, action, resource);", 0, "templates"),
    ] {
        let Err(error) = with_cedar("", cedar)? else { return Err(format!("accepted: {cedar}").into()) };
        let problem = error.problems.first().ok_or("no problem")?;
        assert!(problem.file.ends_with("extra.cedar") && problem.line == line, "{cedar}\n{error}");
        assert!(error.to_string().contains(expected), "{cedar}\n{error}");
        assert_eq!(error.problems.len(), 1, "said once: {error}");
    }
    let missing = PolicySet::compile(&config("[policy]\ncedar = [\"none.cedar\"]")?, Path::new("/nowhere"));
    assert!(missing.is_err_and(|error| error.to_string().starts_with("/nowhere/none.cedar: No such file")));
    Ok(())
}

#[test]
fn a_policy_that_never_matches_is_warned_of() -> Outcome {
    let set = with_cedar("", "permit (principal, action, resource) when { false };")??;
    assert_eq!(set.warnings().len(), 1, "{:?}", set.warnings());
    assert!(self::set("[[allow]]\nhosts = [\"x.test\", \"*\", \"10.0.0.1\"]\nmodels = [\"a*\"]\n[[deny]]\nhosts = [\"*\"]\nports = [25]")?.warnings().is_empty());
    Ok(())
}

#[test]
fn ids_are_stable_and_annotations_are_in_the_text() -> Outcome {
    let set = set(
        "[[allow]]\nhosts = [\"api.openai.com\", \"*.x.test\"]\n[[allow]]\nid = \"wiki\"\nhosts = [\"wiki.corp\"]\nprivate = true\n[[deny]]\nhosts = [\"*\"]\nports = [25]\n",
    )?;
    let text = set.to_cedar();
    for expected in [
        "// caracal.toml:1\n@id(\"allow-1-api-openai-com\")\npermit (principal, action == Action::\"resolve\", resource)\nwhen { context.host == \"api.openai.com\" };",
        "@id(\"allow-1-any-x-test\")",
        "// caracal.toml:3\n@id(\"wiki\")\n@private(\"true\")\npermit",
        "@id(\"deny-1-any\")\nforbid (principal, action in [Action::\"connect\", Action::\"request\", Action::\"tool\", Action::\"llm\"], resource)\nwhen { context.port == 25 };",
        "// built in\n@id(\"learn\")",
    ] {
        assert!(text.contains(expected), "{text}\n  lacks {expected}");
    }
    Ok(())
}

#[test]
fn text_in_patterns_stays_text() -> Outcome {
    let set = set("[[allow]]\nhosts = [\"x.test\"]\npaths = ['/a\"b', '/c\\d', '/e\\*', '/${x}']\n")?;
    assert_eq!(get(&set, "x.test", 443, "/a\"b"), allowed());
    assert_eq!(get(&set, "x.test", 443, "/${x}"), allowed());
    assert_eq!(get(&set, "x.test", 443, "/ab"), denied(Reason::PolicyDenied));
    Ok(())
}

#[test]
fn a_bad_reload_keeps_the_last_good_set() -> Outcome {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("extra.cedar");
    let rules = config("[[allow]]\nhosts = [\"x.test\"]\n[policy]\ncedar = [\"extra.cedar\"]")?;
    std::fs::write(&file, "forbid (principal, action, resource) when { context.host == \"y.test\" };")?;
    let engine = Engine::load(&rules, dir.path())?;
    let before = engine.current().hash();
    std::fs::write(&file, "permit (")?;
    assert!(PolicySet::compile(&rules, dir.path()).is_err());
    assert_eq!(engine.current().hash(), before);
    assert_eq!(get(&engine.current(), "x.test", 443, "/"), allowed());
    std::fs::write(&file, "forbid (principal, action, resource);")?;
    let after = engine.replace(PolicySet::compile(&rules, dir.path())?);
    assert_ne!(after, before);
    assert_eq!(get(&engine.current(), "x.test", 443, "/"), denied(Reason::PolicyDenied));
    Ok(())
}

#[test]
fn a_bad_start_denies_everything_and_says_why() -> Outcome {
    let engine = Engine::deny_all("extra.cedar:3: unexpected token");
    let set = engine.current();
    let learner = table::named_agent("a", true);
    for action in Action::ALL {
        let ask = Ask::new(&learner, action, "example.com", 443);
        let decision = set.decide(&ask);
        assert_eq!(decision.verdict, denied(Reason::PolicyDenied));
        let refusal = set.refusal(&ask, &decision).ok_or("no refusal")?;
        assert!(
            refusal.sentence.starts_with("Caracal denies everything") && refusal.sentence.contains("extra.cedar:3"),
            "{}",
            refusal.sentence
        );
    }
    assert_ne!(set.hash(), PolicySet::deny_all("other").hash());
    engine.replace(PolicySet::compile(&config("[[allow]]\nhosts = [\"x.test\"]")?, Path::new("."))?);
    assert_eq!(get(&engine.current(), "x.test", 443, "/"), allowed());
    Ok(())
}

#[test]
fn the_hash_is_of_the_policies_alone() -> Outcome {
    let one = set("[[allow]]\nhosts = [\"x.test\"]\n")?;
    assert_eq!(one.hash(), set("# comment\n\n[[allow]]\nhosts = ['X.test']\nports = [80, 443]\n")?.hash());
    assert_ne!(one.hash(), set("[[allow]]\nhosts = [\"x.test\"]\nports = [443]\n")?.hash());
    assert_eq!(one.hash().len(), 64);
    Ok(())
}

#[test]
fn what_policies_see_is_what_the_schema_says() -> Outcome {
    // Names every attribute, so that all are built, and checks each request against the schema.
    let all = "agent host named address learn user comm port method path provider model estimate_nano tool";
    let set = with_cedar(
        "",
        &format!("@note(\"{all}\") forbid (principal, action, resource) when {{ context.user == 1 }};"),
    )??;
    let schema = source::schema()?;
    let a = agent("a");
    for action in Action::ALL {
        for address in [None, Some("10.0.0.1".parse()?)] {
            let ask = Ask { address, ..Ask::new(&a, action, "x.test", 1) };
            let facts = Facts::of(&ask).map_err(|_| "mismatch")?;
            let request = set.request_with(&facts, "/", Some(&schema)).ok_or_else(|| format!("{action:?}"))?;
            assert!(request.context().is_some());
        }
    }
    Ok(())
}

#[test]
fn explain_names_the_rule_and_the_lines() -> Outcome {
    let set = set("\n[[allow]]\nhosts = [\"example.com\"]\n[[deny]]\nid = \"no\"\nhosts = [\"bad.test\"]\n")?;
    let a = agent("a");
    let ask = |host, port| Ask { method: Some("GET"), path: Some("/p"), ..Ask::new(&a, Action::Request, host, port) };
    let yes = set.explain(&ask("example.com", 443)).to_string();
    assert!(
        yes.starts_with(
            "allowed\n\ndecided by allow-1-example-com (caracal.toml:2):\n@id(\"allow-1-example-com\")\npermit"
        ),
        "{yes}"
    );
    let port = set.explain(&ask("example.com", 8443)).to_string();
    assert!(port.contains("denied: policy_denied\nno policy permits it\nnearest: rule allow-1 (caracal.toml:2) allows this host, but not this port"), "{port}");
    assert!(port.ends_with("[[allow]]\nhosts = [\"example.com\"]\nports = [8443]\n"), "{port}");
    let near = set.explain(&ask("exmaple.com", 443)).to_string();
    assert!(
        near.contains("host_not_allowed")
            && near.contains("rule allow-1 (caracal.toml:2) is for example.com, which is not exmaple.com"),
        "{near}"
    );
    let no = set.explain(&ask("bad.test", 443)).to_string();
    let private = Ask { address: Some("10.0.0.1".parse()?), ..ask("example.com", 443) };
    let private = set.explain(&private).to_string();
    assert!(
        private.contains("but for no private address, by allow-1-example-com") && private.ends_with("private = true\n"),
        "{private}"
    );
    assert!(no.contains("decided by no (caracal.toml:4)") && !no.contains("to allow it"), "{no}");
    Ok(())
}

#[test]
fn a_refusal_says_what_to_do_in_one_line() -> Outcome {
    let set =
        set("[[allow]]\nhosts = [\"example.com\", \"*.lan.test\"]\n[[deny]]\nid = \"no\"\nhosts = [\"bad.test\"]\n")?;
    let a = agent("a");
    let sentence = |ask: &Ask<'_>| set.refusal(ask, &set.decide(ask)).map(|refusal| refusal.sentence);
    let get = |host, port| Ask { method: Some("GET"), path: Some("/p"), ..Ask::new(&a, Action::Request, host, port) };
    assert_eq!(
        sentence(&get("new.test", 8443)).as_deref(),
        Some(
            "Caracal refused GET new.test:8443/p: no rule allows new.test to agent a. To allow it, add an [[allow]] rule with hosts = [\"new.test\"], ports = [8443] to caracal.toml."
        )
    );
    assert_eq!(
        sentence(&get("bad.test", 443)).as_deref(),
        Some("Caracal refused GET bad.test/p to agent a: policy no forbids it.")
    );
    let lan = Ask { address: Some("10.0.0.1".parse()?), ..get("x.lan.test", 443) };
    assert!(
        sentence(&lan).is_some_and(|text| text.contains("private = true") && text.contains("allow-1-any-lan-test"))
    );
    assert!(sentence(&get("a\r\nb\x1b[1m.test", 443)).is_some_and(|text| !text.contains(char::is_control)));
    assert_eq!(sentence(&get("example.com", 443)), None);
    Ok(())
}

#[test]
fn the_lines_that_would_allow_do() -> Outcome {
    let a = agent("a");
    for (action, host, port) in [
        (Action::Request, "new.test", 443),
        (Action::Request, "new.test", 8080),
        (Action::Resolve, "new.test", 0),
        (Action::Connect, "new.test", 22),
        (Action::Connect, "203.0.113.7", 22),
        (Action::Request, "10.0.0.1", 443),
        (Action::Llm, "api.openai.com", 443),
    ] {
        let lines = explain::line_that_would_allow(action, host, port);
        let verdict = set(&lines)?.decide(&Ask::new(&a, action, host, port)).verdict;
        assert!(matches!(verdict, Verdict::Allow(_)), "{lines}");
    }
    let set = set("")?;
    for ask in [
        Ask { model: Some("m-1"), ..Ask::new(&a, Action::Llm, "h.test", 9) },
        Ask { method: Some("PUT"), ..Ask::new(&a, Action::Request, "h.test", 443) },
    ] {
        let lines = set.explain(&ask).would_allow.ok_or("no lines")?;
        assert_eq!(self::set(&lines)?.decide(&ask).verdict, allowed(), "{lines}");
    }
    Ok(())
}

#[test]
fn what_was_learned_suffices() -> Outcome {
    let saw = |host: &str, port, method: Option<&str>, path: Option<&str>| learn::Observed {
        host: host.into(),
        port,
        method: method.map(Into::into),
        path: path.map(Into::into),
    };
    let mut observed = vec![
        saw("x.test", 443, Some("GET"), Some("/a")),
        saw("x.test", 443, Some("post"), Some("/b")),
        saw("y.test", 443, Some("GET"), Some("/")),
        saw("z.test", 443, Some("GET"), Some("/")),
        saw("seen.test", 0, None, None),
        saw("star.test", 80, Some("GET"), Some("/*\"")),
    ];
    observed.extend((0..9).map(|n| saw("many.test", 8443, Some("GET"), Some(&format!("/{n}")))));
    let text = learn::rules_for("a", &observed);
    assert!(
        text.contains("hosts = [\"y.test\", \"z.test\"]") && text.contains("# looked up only: \"seen.test\""),
        "{text}"
    );
    assert!(text.contains("methods = [\"GET\", \"POST\"]\npaths = [\"/a\", \"/b\"]"), "{text}");
    let set = set(&text)?;
    let a = agent("a");
    for one in observed.iter().filter(|one| one.method.is_some()) {
        let ask = Ask {
            method: one.method.as_deref(),
            path: one.path.as_deref(),
            ..Ask::new(&a, Action::Request, &one.host, one.port)
        };
        assert_eq!(set.decide(&ask).verdict, allowed(), "{one:?}\n{text}");
    }
    assert_eq!(get(&set, "x.test", 443, "/c"), denied(Reason::PolicyDenied));
    assert_eq!(get(&set, "seen.test", 443, "/"), denied(Reason::HostNotAllowed));
    Ok(())
}

#[test]
fn a_table_is_decided_case_by_case() -> Outcome {
    let set = set("[[allow]]\nhosts = [\"x.test\"]\nmethods = [\"GET\"]\n")?;
    let text = "[[case]]\nhost = \"x.test\"\nexpect = \"allow\"\n[[case]]\nhost = \"x.test\"\nmethod = \"POST\"\nexpect = \"allow\"\n\
                [[case]]\nhost = \"y.test\"\nexpect = \"deny\"\nreason = \"host_not_allowed\"\n[[case]]\nhost = \"y.test\"\nexpect = \"deny\"\nreason = \"policy_denied\"\n";
    let rows = table::run(text, Path::new("t.toml"), &set)?;
    assert_eq!(rows.iter().map(|row| row.passed).collect::<Vec<_>>(), [true, false, true, false]);
    for (text, expected) in [
        ("", "missing field `case`"),
        ("[[case]]\nhost = \"x\"\n", "t.toml:1: missing field `expect`"),
        ("[[case]]\nhots = \"x\"\nexpect = \"deny\"", "t.toml:2: unknown field `hots`"),
        ("[[case]]\nhost = \"x\"\naction = \"fly\"\nexpect = \"deny\"", "case 1: \"fly\" is no action"),
    ] {
        let message =
            table::run(text, Path::new("t.toml"), &set).map_or_else(|error| error.to_string(), |_| String::new());
        assert!(message.contains(expected), "{message}\n  lacks {expected}");
    }
    Ok(())
}
