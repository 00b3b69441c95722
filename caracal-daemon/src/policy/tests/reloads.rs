//! The set in force: a bad reload keeps the last good one, a bad start denies everything.

use super::*;

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
