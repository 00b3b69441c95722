//! What of a configuration a running daemon does not take by a reload.

use super::Config;

impl Config {
    /// The keys in which `newer` differs from this, which a daemon was started with, and that it takes at its next start only.
    #[must_use]
    pub fn waiting_for_restart(&self, newer: &Config) -> Vec<&'static str> {
        // By name, so that a new key is put on one of the two sides.
        let Config {
            instance,
            state_dir,
            runtime_dir,
            user,
            admin_group,
            require,
            allow_degraded,
            listen,
            upstream,
            journal,
            limits,
            upgrade,
            clamp,
            websocket,
            kafka,
            postgres,
            escrow,
            redis,
            agent,
            // A reload takes these.
            prices: _,
            policy: _,
            allow: _,
            deny: _,
            unix: _,
            inbound: _,
            provider: _,
            mcp: _,
            api: _,
            budget: _,
            rate: _,
            // The workers', and no key.
            worker: _,
            file: _,
        } = self;
        // Where an entry stands in the file is not what it says.
        let agents = |of: &[super::AgentEntry]| {
            of.iter().map(|one| super::AgentEntry { line: 0, ..one.clone() }).collect::<Vec<_>>()
        };
        [
            ("instance", *instance != newer.instance),
            ("state_dir", *state_dir != newer.state_dir),
            ("runtime_dir", *runtime_dir != newer.runtime_dir),
            ("user", *user != newer.user),
            ("admin_group", *admin_group != newer.admin_group),
            ("require", *require != newer.require),
            // The command line may have said it, too.
            ("allow_degraded", !allow_degraded && newer.allow_degraded),
            ("[listen]", *listen != newer.listen),
            ("[upstream]", *upstream != newer.upstream),
            ("[journal]", *journal != newer.journal),
            ("[limits]", *limits != newer.limits),
            ("[upgrade]", *upgrade != newer.upgrade),
            ("[clamp]", *clamp != newer.clamp),
            ("[websocket]", *websocket != newer.websocket),
            ("[kafka]", *kafka != newer.kafka),
            ("[postgres]", *postgres != newer.postgres),
            ("[escrow]", *escrow != newer.escrow),
            ("[redis]", *redis != newer.redis),
            ("[[agent]]", agents(agent) != agents(&newer.agent)),
        ]
        .into_iter()
        .filter_map(|(key, differs)| differs.then_some(key))
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_is_named_and_what_is_taken_is_not() {
        let config = |text: &str| Config::parse(text, std::path::Path::new("caracal.toml")).expect(text);
        let agent = "[[agent]]\nname = \"a\"\ncgroup = \"/a.slice\"\n";
        let before = config(agent);
        let taken = "[[allow]]\nhosts = [\"x.test\"]\n[prices]\nmax_age_days = 7\n";
        assert!(before.waiting_for_restart(&config(&format!("{taken}{agent}"))).is_empty());
        let waits = "require = \"full\"\n[limits]\nconnections = 9000\n[listen]\ndns_port = 15054\n";
        assert_eq!(before.waiting_for_restart(&config(waits)), ["require", "[listen]", "[limits]", "[[agent]]"]);
    }
}
