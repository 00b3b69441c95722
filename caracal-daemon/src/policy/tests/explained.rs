//! Why, in words: explanations, refusals, and lines of `caracal.toml` that do what they promise.

use super::*;

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
