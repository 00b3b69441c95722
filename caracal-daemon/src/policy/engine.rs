//! The policy set in force, swapped whole.

use super::{PolicyError, PolicySet};
use crate::config::Config;
use arc_swap::ArcSwap;
use std::fmt::Display;
use std::path::Path;
use std::sync::Arc;

/// The set in force; swapped whole on reload.
#[derive(Debug)]
pub struct Engine {
    current: ArcSwap<PolicySet>,
}

impl Engine {
    /// Compiles the first set. Where this fails, start with [`Engine::deny_all`].
    ///
    /// # Errors
    /// Every place that is wrong.
    pub fn load(config: &Config, base_dir: &Path) -> Result<Engine, PolicyError> {
        PolicySet::compile(config, base_dir).map(Engine::from)
    }

    /// An engine that denies everything and says why in each refusal, until a reload succeeds.
    pub fn deny_all(error: impl Display) -> Engine {
        PolicySet::deny_all(&error.to_string()).into()
    }

    /// Puts a compiled set in force and gives its hash. Asks under way end with the old one.
    pub fn replace(&self, set: PolicySet) -> Arc<str> {
        let hash = set.hash();
        self.current.store(Arc::new(set));
        hash
    }

    /// The set in force now.
    #[must_use]
    pub fn current(&self) -> Arc<PolicySet> {
        self.current.load_full()
    }
}

impl From<PolicySet> for Engine {
    fn from(set: PolicySet) -> Engine {
        Engine { current: ArcSwap::from_pointee(set) }
    }
}
