//! The log is sound, and the keys that the judge was given are not its keys.

use super::{Corpus, Part, put, text};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sha2::{Digest as _, Sha256};

impl Corpus<'_> {
    fn key(&mut self, name: &str, part: Part, forged: &[String]) {
        let forged = forged.join("\n") + "\n";
        assert_ne!(forged, text(&self.logs.keys[0]), "{name} changes nothing");
        self.case(&format!("keys {name}"), part, |case| put(&case.join("keys"), forged.as_bytes()));
    }

    pub(super) fn keys(&mut self) {
        let lines = |at: usize| text(&self.logs.keys[at]).lines().map(str::to_owned).collect::<Vec<_>>();
        let (own, others) = (lines(0), lines(1));
        let [ecdsa, ed25519, host] = &own[..] else { panic!("not our keys: {own:?}") };
        let changed = |key: &str, change: &dyn Fn(&mut Vec<u8>)| {
            let [name, id, body] = parts(key);
            let mut raw = STANDARD.decode(body).expect("base64");
            change(&mut raw);
            format!("{name}+{id}+{}", STANDARD.encode(raw))
        };
        let flip = |raw: &mut Vec<u8>| *raw.last_mut().expect("bytes") ^= 1;
        let cut = |raw: &mut Vec<u8>| raw.truncate(raw.len() - 1);
        let with = |one: &str, other: &str| vec![one.to_owned(), other.to_owned(), host.clone()];
        self.key("flipped: ECDSA key", Part::EcdsaKey, &with(&changed(ecdsa, &flip), ed25519));
        self.key("flipped: Ed25519 key", Part::Keys, &with(ecdsa, &changed(ed25519, &flip)));
        self.key("cut: ECDSA key", Part::EcdsaKey, &with(&changed(ecdsa, &cut), ed25519));
        self.key("cut: Ed25519 key", Part::Keys, &with(ecdsa, &changed(ed25519, &cut)));
        self.key("cut: no ECDSA key", Part::EcdsaKey, &[ed25519.clone(), host.clone()]);
        self.key("cut: no Ed25519 key", Part::Keys, &[ecdsa.clone(), host.clone()]);
        self.key("swapped: another log's", Part::Keys, &others);
        self.key("swapped: the host's only", Part::Keys, std::slice::from_ref(host));
        // Keys of somebody else who signs under the log's name.
        let name = ecdsa.split('+').next().expect("a name");
        let renamed: Vec<String> = others[..2].iter().map(|key| under(name, key)).collect();
        self.key("replayed: another log's under this one's name", Part::Keys, &with(&renamed[0], &renamed[1]));
    }
}

/// Name, id and key; a key's base64 may have a + in it.
fn parts(key: &str) -> [&str; 3] {
    let parts: Vec<&str> = key.splitn(3, '+').collect();
    parts.try_into().expect("a key has three parts")
}

/// The same key under another name. An ECDSA key's id does not depend on its name.
fn under(name: &str, key: &str) -> String {
    let [_, id, body] = parts(key);
    let raw = STANDARD.decode(body).expect("base64");
    if raw[0] == 2 {
        return format!("{name}+{id}+{body}");
    }
    let digest = Sha256::new().chain_update(name).chain_update(b"\n").chain_update(&raw).finalize();
    let id: String = digest[..4].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{name}+{id}+{body}")
}
