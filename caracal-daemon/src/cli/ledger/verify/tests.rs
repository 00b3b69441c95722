use super::*;
use crate::keeper::ledger_key::LedgerKey;
use clap::Parser as _;

#[derive(clap::Parser, Debug)]
struct Asked {
    #[command(flatten)]
    verify: VerifyArgs,
}

fn asked(words: &[&str]) -> VerifyArgs {
    Asked::try_parse_from([&["verify"], words].concat()).expect("it is understood").verify
}

#[test]
fn a_log_that_was_signed_or_whose_keys_are_given_must_be_there() {
    let dir = tempfile::tempdir().expect("a directory");
    let open = |name: &str| LedgerKey::open(&dir.path().join(name), name).expect("keys");
    let (signed, fresh) = (open("fleet-0"), open("fleet-1"));
    signed.sign_checkpoint(1, [1; 32], &[]).expect("signed");
    let origins = |origins: &[&str]| origins.iter().map(|origin| (*origin).to_owned()).collect::<BTreeSet<_>>();
    let nothing = expected(&asked(&["--fleet"]), &dir.path().join("nowhere")).expect("no keys at all");
    assert_eq!(nothing, BTreeSet::new());
    assert_eq!(expected(&asked(&["--fleet"]), dir.path()).expect("read"), origins(&["caracal/fleet-0/ledger"]));
    let keys = dir.path().join("given");
    std::fs::write(&keys, signed.public_keys() + &fresh.public_keys()).expect("written");
    let args = asked(&["--fleet", "--public-key", keys.to_str().expect("text")]);
    let both = origins(&["caracal/fleet-0/ledger", "caracal/fleet-1/ledger"]);
    assert_eq!(expected(&args, dir.path()).expect("read"), both);
}

#[test]
fn charges_that_nobody_made_again_are_wrong_when_that_is_asked() {
    let report = Report { not_repriced: 1, ..Report::default() };
    assert!(asked(&[]).accepts(&report) && !asked(&["--strict"]).accepts(&report));
    assert!(asked(&["--strict"]).accepts(&Report::default()));
    asked(&["--fleet", "--prices", "book.toml", "--checkpoint", "kept"]);
}

#[test]
fn a_terminal_obeys_nothing_of_a_finding() {
    let finding = Finding { code: "chain", what: "leaf 3 of \u{1b}[2K\rThe ledger is sound.\u{9b}8m".into() };
    assert!(!line(&finding).contains(|c: char| c.is_control()), "{:?}", line(&finding));
}
