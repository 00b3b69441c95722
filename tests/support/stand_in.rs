//! The stand-in provider: the real host names under a test root, with its own bill.
//!
//! `serve` listens and routes; `proxy` is a company's HTTP proxy; `sites` are hosts that cost nothing; `chat`, `responses`, `messages`, `gemini` and
//! `bedrock` are the model APIs: each reads a request into a [`plan::Ask`], `plan` decides what is generated, each renders it in its own shape,
//! `tools` is a server of tools (MCP); and `deliver` sends it and writes the bill when the last byte that will be billed is generated.

pub mod bedrock;
pub mod bill;
pub mod chat;
pub mod compatible;
pub mod deliver;
pub mod directive;
pub mod gemini;
pub mod git;
pub mod messages;
pub mod names;
pub mod plan;
pub mod proxy;
pub mod responses;
pub mod root;
pub mod script;
pub mod serve;
pub mod sites;
pub mod tools;
pub mod websocket;

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};

/// What every connection of one stand-in shares.
#[derive(Debug)]
pub struct World {
    /// The bill.
    pub bill: bill::Bill,
    /// One line for each request and look-up.
    pub log: bill::Lines,
    /// The test root and its leaves.
    pub root: root::Root,
    /// The bare repository served as `github.com/acme/demo.git`.
    pub repository: PathBuf,
    /// A file `HOST/PATH` below it is what that host serves there.
    pub sites: Option<PathBuf>,
    /// Who listens to the server of tools, over its older transport.
    pub listeners: tools::Listeners,
    calls: AtomicU64,
}

impl World {
    /// Puts the parts together.
    #[must_use]
    pub fn new(
        bill: bill::Bill,
        log: bill::Lines,
        root: root::Root,
        repository: PathBuf,
        sites: Option<PathBuf>,
    ) -> World {
        World { bill, log, root, repository, sites, listeners: tools::Listeners::default(), calls: AtomicU64::new(0) }
    }

    /// A number for the next paid call.
    pub fn next_call(&self) -> u64 {
        self.calls.fetch_add(1, Ordering::Relaxed)
    }
}
