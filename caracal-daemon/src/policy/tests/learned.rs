//! `--learn`: what it lifts, and rules made of what was seen.

use super::*;

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
