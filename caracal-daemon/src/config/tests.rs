use super::*;
use crate::money::NanoUsd;
use std::error::Error;

type Outcome = Result<(), Box<dyn Error>>;

fn parse(text: &str) -> Result<Config, ConfigError> {
    Config::parse(text, Path::new("caracal.toml"))
}

/// The message for a text that must be refused.
fn refused(text: &str) -> String {
    parse(text).map_or_else(|error| error.to_string(), |_| format!("accepted: {text}"))
}

#[test]
fn nothing_written_is_the_default() -> Outcome {
    let config = parse("")?;
    assert_eq!(config, Config::default());
    assert_eq!(config.clamp, Clamp { enabled: true, min_output: 4096 });
    assert_eq!((config.listen.tcp_port, config.listen.dns_port), (15001, 15053));
    assert_eq!(config.limits.pricing_body_bytes, 64 << 20);
    Ok(())
}

#[test]
fn an_unknown_key_is_named_with_its_place_and_the_nearest() {
    let text = "# one\n[[allow]]\nhosst = [\"example.com\"]\n";
    let message = refused(text);
    assert!(message.starts_with("caracal.toml:3:1: `hosst`: unknown field"), "{message}");
    assert!(message.contains("did you mean `hosts`?"), "{message}");
    for (text, nearest) in [
        ("instanze = \"x\"", "instance"),
        ("[upstream]\nproxi = \"http://p:1\"", "proxy"),
        ("[[upstream.split_dns]]\ndomains = \"x\"", "domain"),
        ("[journal]\nsegment_byte = 1", "segment_bytes"),
        ("require = \"ful\"", "full"),
        ("[[budget]]\nname = \"a\"\nlimit = \"1 USD\"\nwindow = \"dya\"", "day"),
    ] {
        let message = refused(text);
        assert!(message.contains(&format!("did you mean `{nearest}`?")), "{message}");
    }
}

#[test]
fn a_bad_value_is_named_with_its_key() {
    for (text, expected) in [
        ("instance = \"A\"", "caracal.toml:1:12: `instance`: \"A\": an instance is"),
        (
            "[[budget]]\nname = \"a\"\nlimit = \"5 EUR\"\nwindow = \"day\"",
            "caracal.toml:3:9: `limit`: \"5 EUR\": only USD",
        ),
        ("[[budget]]\nname = \"a\"\nlimit = 5.0\nwindow = \"day\"", "caracal.toml:3:9: `limit`: invalid type"),
        (
            "[[allow]]\nhosts = [\n  \"ok.example\",\n  \"https://x.example/\",\n]",
            "`hosts`: \"https://x.example/\" is a URL",
        ),
        ("[upstream]\nproxy = \"https://p:1\"", "`proxy`: a proxy is spoken to in plain HTTP"),
        ("[upstream]\nnameservers = [\"dns.example\"]", "`nameservers`: \"dns.example\""),
        ("[listen]\ntcp_port = 70000", "`tcp_port`: invalid value"),
        ("\n[listen]\ntcp_port = 15053", "caracal.toml:2: `listen`"),
        ("instance = \"x\"\nuser = \"root\"", "caracal.toml:2: `user`: the data path runs as a user of its own"),
        ("user = \"0\"", "caracal.toml:1: `user`"),
        ("admin_group = \"\"", "caracal.toml:1: `admin_group`"),
        ("user = 5 5", "caracal.toml:1"),
    ] {
        let message = refused(text);
        assert!(message.contains(expected), "{message}\n  lacks {expected}");
    }
}

#[test]
fn rules_are_typed_and_know_their_lines() -> Outcome {
    let config = parse(
        "\n[[allow]]\nhosts = [\"a.example\", \"*.b.example\", \"10.0.0.0/8\"]\n\n[[deny]]\nhosts = [\"x.b.example\"]\npaths = [\"/admin*\"]\n",
    )?;
    let allow = config.allow.first().ok_or("no rule")?;
    assert_eq!((allow.line, allow.ports.as_slice()), (2, [80, 443].as_slice()));
    assert_eq!(
        allow.hosts.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["a.example", "*.b.example", "10.0.0.0/8"]
    );
    assert_eq!(config.deny.first().map(|rule| rule.line), Some(5));
    Ok(())
}

#[test]
fn a_priced_host_is_never_passed_through() {
    for host in [
        "api.openai.com",
        "*.openai.com",
        "*",
        "API.Anthropic.com.",
        "chatgpt.com",
        "eu.api.openai.com",
        "*.chatgpt.com",
    ] {
        for mode in ["tcp", "tls-passthrough"] {
            let message = refused(&format!("[[allow]]\nhosts = [\"{host}\"]\nmode = \"{mode}\""));
            assert!(message.contains("caracal.toml:1: `mode`") && message.contains("unpriced"), "{message}");
        }
    }
    assert!(parse("[[allow]]\nhosts = [\"git.example\"]\nports = [22]\nmode = \"tcp\"").is_ok());
}

#[test]
fn rules_that_mean_nothing_are_refused() {
    for (rule, expected) in [
        ("[[allow]]\nagents = [\"a\"]", "missing field `hosts`"),
        ("[[allow]]\nhosts = []", "at least one host"),
        ("[[allow]]\nhosts = [\"a.example\"]\nports = []", "leave `ports` out"),
        ("[[inbound]]\nports = []", "at least one port"),
        ("[[inbound]]\nagents = []\nports = [1455]", "leave `agents` out"),
        ("\n[[inbound]]\nports = [1455, 15053]", "15053 is a port of Caracal's own"),
        ("[[allow]]\nhosts = [\"a.example\"]\nports = [0]", "1 to 65535"),
        ("[[allow]]\nhosts = [\"a.example\"]\nagents = []", "leave `agents` out"),
        ("[[allow]]\nhosts = [\"a.example\"]\nmethods = [\"get\"]", "capitals"),
        ("[[allow]]\nhosts = [\"a.example\"]\npaths = [\"v1\"]", "begins with /"),
        ("[[allow]]\nhosts = [\"a.example\"]\nfree = true", "names its `paths`"),
        ("[[allow]]\nhosts = [\"*.openai.com\"]\npaths = [\"/v1/*\"]\nfree = true", "which is a paid call"),
        ("[[allow]]\nhosts = [\"a.example\"]\nmode = \"tcp\"\npaths = [\"/x\"]", "not read"),
        ("[[allow]]\nhosts = [\"a.example\"]\nid = \"learn\"", "kept for generated ids"),
        (
            "[[allow]]\nid = \"x\"\nhosts = [\"a.example\"]\n[[deny]]\nid = \"x\"\nhosts = [\"b.example\"]",
            "there twice",
        ),
        ("[[deny]]\nagents = [\"a\"]", "say what is denied"),
        ("\n[[agent]]\nname = \"-a\"", "caracal.toml:2: `name`: agent \"-a\""),
        ("[[agent]]\nname = \"a\"\n[[agent]]\nname = \"a\"", "there twice"),
    ] {
        let message = refused(rule);
        assert!(message.contains(expected), "{message}\n  lacks {expected}");
    }
}

fn budget(name: &str, limit: &str, window: &str, rest: &str) -> String {
    format!("[[budget]]\nname = \"{name}\"\nlimit = \"{limit}\"\nwindow = \"{window}\"\n{rest}\n")
}

#[test]
fn budgets_form_a_tree() -> Outcome {
    let text = budget("month", "200 USD", "month", "time_zone = \"UTC\"")
        + &budget(
            "day",
            "10.5 USD",
            "day",
            "parent = \"month\"\nper = \"agent\"\nkind = \"rolling\"\nmodels = [\"gpt-*\"]",
        );
    let config = parse(&text)?;
    let day = config.budget.get(1).ok_or("no second budget")?;
    assert_eq!(
        (day.limit, day.window, day.kind, day.per),
        (NanoUsd(10_500_000_000), Window::Day, WindowKind::Rolling, Per::Agent)
    );
    assert_eq!((day.parent.as_deref(), day.line, day.wait_ms), (Some("month"), 6, 30_000));
    assert_eq!(day.warn_at, [50, 80, 95], "what is said where nothing is written");
    let tools = parse(&budget("tools", "1 USD", "day", "per = \"tool\"\nwarn_at = []"))?;
    assert_eq!(tools.budget.first().map(|tools| (tools.per, tools.warn_at.len())), Some((Per::Tool, 0)));
    Ok(())
}

#[test]
fn a_broken_budget_tree_is_refused() {
    let one = |name: &str, rest: &str| budget(name, "1 USD", "day", rest);
    for (text, expected) in [
        (one("a", "parent = \"b\"") + &one("b", "parent = \"a\""), "a -> b -> a"),
        (one("a", "parent = \"a\""), "a -> a"),
        (
            one("daily", "") + &one("b", "parent = \"dayly\""),
            "caracal.toml:6: `parent`: there is no budget \"dayly\"; did you mean `daily`?",
        ),
        (one("a", "") + &one("a", ""), "budget \"a\" is there twice"),
        (one("A", ""), "a budget's name"),
        (
            one("a", "") + &budget("b", "2 USD", "hour", "parent = \"a\""),
            "a child narrows its parent: 2.00 USD per hour is more than the 1.00 USD per day",
        ),
        (
            one("a", "") + &budget("b", "2 USD", "day", "parent = \"a\""),
            "2.00 USD per day is more than the 1.00 USD per day that \"a\" allows",
        ),
        (budget("a", "1 USD", "total", "kind = \"rolling\""), "never ends"),
        (one("a", "time_zone = \"Europe/Atlantis\""), "\"Europe/Atlantis\" is no time zone"),
        (one("a", "per = \"port\""), "expected one of `all`, `agent`, `model`, `host`"),
        (one("a", "warn_at = [0]"), "percent of the limit"),
        (one("a", "wait_ms = 600001"), "at most 600000 ms"),
        (
            (0..9)
                .map(|n| one(&format!("b{n}"), &if n > 0 { format!("parent = \"b{}\"", n - 1) } else { String::new() }))
                .collect(),
            "at most 8",
        ),
    ] {
        let message = refused(&text);
        assert!(message.contains(expected), "{message}\n  lacks {expected}");
    }
}

#[test]
fn a_limit_on_how_often_limits_something() {
    let rate = |rest: &str| format!("[[rate]]\nname = \"r\"\nwindow = \"minute\"\n{rest}\n");
    for (text, expected) in [
        (rate(""), "`requests` or `tokens`"),
        (rate("requests = 0"), "at least 1"),
        (rate("tokens = 5").replace("minute", "month"), "minute, hour or day"),
        (rate("tokens = 5") + &rate("tokens = 5"), "there twice"),
        (rate("tokens = 5\nagents = []"), "counts nobody's requests"),
        ("[prices]\npublic_key = \"key.pem\"\n".to_owned(), "signed by nobody"),
    ] {
        let message = refused(&text);
        assert!(message.contains(expected), "{message}\n  lacks {expected}");
    }
}

/// Lines that begin with `#` and no space are examples.
fn with_examples(text: &str) -> String {
    let example = |line: &'_ str| {
        line.strip_prefix('#').filter(|rest| !rest.is_empty() && !rest.starts_with(' ')).map(ToOwned::to_owned)
    };
    text.lines().map(|line| example(line).unwrap_or_else(|| line.to_owned()) + "\n").collect()
}

#[test]
fn the_starter_is_accepted_with_and_without_its_examples() -> Outcome {
    let config = parse(starter())?;
    assert_eq!((config.allow.len(), config.budget.len()), (1, 1));
    assert_eq!(config.budget.first().map(|b| (b.limit, b.window)), Some((NanoUsd(10_000_000_000), Window::Day)));
    let all = parse(&with_examples(starter()))?;
    assert_eq!((all.allow.len(), all.deny.len(), all.budget.len(), all.policy.cedar.len()), (5, 1, 2, 1));
    Ok(())
}

#[test]
fn the_example_file_shows_the_defaults() -> Outcome {
    let example = include_str!("../../../caracal.example.toml");
    assert_eq!(parse(example)?, Config::default());
    let all = parse(&with_examples(example))?;
    assert_eq!((all.agent.len(), all.allow.len(), all.deny.len(), all.budget.len()), (1, 1, 1, 2));
    assert_eq!((all.upstream.split_dns.len(), all.upstream.client_certificate.len()), (1, 1));
    Ok(())
}

#[test]
fn paths_are_taken_from_the_files_directory() -> Outcome {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("caracal.toml");
    std::fs::write(&file, "[policy]\ncedar = [\"a.cedar\", \"/b.cedar\"]\n[prices]\nfile = \"book.json\"\n")?;
    let config = Config::load(&file)?;
    assert_eq!(config.policy.cedar, [dir.path().join("a.cedar"), PathBuf::from("/b.cedar")]);
    assert_eq!(config.prices.file, Some(dir.path().join("book.json")));
    assert_eq!(config.state_dir, Path::new("/var/lib/caracal"));
    let missing = Config::load(&dir.path().join("none.toml")).map_err(|error| error.to_string());
    assert!(missing.is_err_and(|message| message.contains("none.toml: No such file")));
    Ok(())
}

#[test]
fn a_proxys_password_is_not_printed() -> Outcome {
    let config = parse("[upstream]\nproxy = \"http://me:secret@proxy.example:8080\"")?;
    let proxy = config.upstream.proxy.clone().ok_or("no proxy")?;
    assert_eq!((proxy.host(), proxy.port(), proxy.userinfo()), ("proxy.example", 8080, Some("me:secret")));
    assert!(!format!("{config:?}").contains("secret"));
    let both = parse("[upstream]\nproxy = \"http://p\"\nproxy_file = \"p\"").map_err(|error| error.to_string());
    assert!(both.is_err_and(|message| message.contains("either `proxy` or `proxy_file`")));
    Ok(())
}

/// Whatever may carry a password can stand in a file of its own.
#[test]
fn every_secret_has_a_file() -> Outcome {
    let config = parse(
        "[upstream]\nproxy_file = \"a\"\n[kafka]\nservers = \"k:1\"\n[kafka.sasl]\nmechanism = \"SCRAM-SHA-512\"\nuser = \"u\"\n\
         password_file = \"b\"\n[postgres]\nurl_file = \"c\"\n[redis]\nurl_file = \"d\"\n",
    )?;
    let named = (config.upstream.proxy_file.is_some(), config.kafka.and_then(|kafka| kafka.sasl).is_some());
    assert_eq!(named, (true, true));
    assert!(config.postgres.is_some_and(|place| place.url_file.is_some()));
    assert!(config.redis.is_some_and(|place| place.url_file.is_some()));
    // And a password can stand nowhere else.
    assert!(
        parse("[kafka]\nservers = \"k:1\"\n[kafka.sasl]\nmechanism = \"PLAIN\"\nuser = \"u\"\npassword = \"x\"\n")
            .is_err()
    );
    Ok(())
}

#[test]
fn globs_match_whole_texts() {
    let glob = |pattern: &str| Glob::try_from(pattern.to_owned());
    for (pattern, text, expected) in [
        ("gpt-*", "gpt-6", true),
        ("gpt-*", "my-gpt-6", false),
        ("*", "", true),
        ("a*b*c", "a--b--c", true),
        ("a*b*c", "a--c--b", false),
        ("a*a", "a", false),
        ("a**b", "ab", true),
        ("exact", "exact", true),
        ("exact", "exactly", false),
        ("*x*", "x", true),
        ("claude-*", "xclaude-", false),
        ("*-mini", "gpt-5-mini-x", false),
        (&"*a".repeat(100), &"a".repeat(50), false),
    ] {
        assert_eq!(glob(pattern).map(|g| g.matches(text)), Ok(expected), "{pattern} {text}");
    }
    // A pattern means the same in a rule, a budget and a rate: Cedar's `like` has no other wildcard.
    assert!(glob("g?t-*").expect_err("one wildcard").contains("one wildcard"));
}
