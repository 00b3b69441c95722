//! `[[allow]]` and `[[deny]]`: what each of their fields allows, and what it does not.

use super::*;

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
fn text_in_patterns_stays_text() -> Outcome {
    let set = set("[[allow]]\nhosts = [\"x.test\"]\npaths = ['/a\"b', '/c\\d', '/e\\*', '/${x}']\n")?;
    assert_eq!(get(&set, "x.test", 443, "/a\"b"), allowed());
    assert_eq!(get(&set, "x.test", 443, "/${x}"), allowed());
    assert_eq!(get(&set, "x.test", 443, "/ab"), denied(Reason::PolicyDenied));
    Ok(())
}
