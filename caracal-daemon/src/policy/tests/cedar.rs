//! Cedar files beside the rules: they mean the same, see what rules cannot say, and where one is wrong, or cannot be
//! evaluated, the answer is no.

use super::*;

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
