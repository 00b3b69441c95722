//! What is known of one connection while its requests are answered.

use crate::agent::{Agent, Process};
use crate::event::{Draft, Kind};
use crate::http::body::Download;
use crate::http::framing::Wire;
use crate::http::head::{Expected, Target};
use crate::http::listeners::Endpoint;
use crate::http::pool::Key;
use crate::http::refuse;
use crate::intercept::listening;
use crate::intercept::metered::Metered;
use crate::intercept::record::{About, action_code};
use crate::intercept::stack::Stack;
use crate::meter::{Provider, Rpc, Surface};
use crate::policy::{Action, Ask, Grant, PolicySet, Verdict};
use crate::refusal::{Reason, Refusal, Side, Stage};
use crate::tls::dial::{Alpn, Wanted};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, HeaderValue};
use http::{Method, Response};
use std::net::IpAddr;
use std::sync::{Arc, OnceLock};

/// An answer on its way to an agent.
pub(crate) type Answer = Response<Download<Metered>>;

/// Whose connection it is and where it wanted to go.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    pub(crate) stack: Arc<Stack>,
    pub(crate) agent: Arc<Agent>,
    pub(crate) process: Arc<Process>,
    /// The name, or the address as text.
    pub(crate) host: Arc<str>,
    /// The address, where there is no name.
    pub(crate) address: Option<IpAddr>,
    /// The port.
    pub(crate) port: u16,
    /// It came out of a CONNECT.
    pub(crate) tunnelled: bool,
}

/// A connection on which HTTP is spoken.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) origin: Origin,
    pub(crate) expected: Expected,
    pub(crate) alpn: Alpn,
    pub(crate) wire: Arc<Wire>,
}

impl Origin {
    /// The agent's network namespace, where that is another one than ours and `grant` names a private address.
    pub(crate) fn elsewhere(&self, grant: &Grant) -> Option<u64> {
        (grant.private && self.process.netns != self.stack.netns).then_some(self.process.netns)
    }

    /// The question whether this process may do `action` to `host`.
    pub(crate) fn ask<'a>(&'a self, action: Action, host: &'a str, port: u16, address: Option<IpAddr>) -> Ask<'a> {
        Ask { process: Some(&self.process), address, ..Ask::new(&self.agent, action, host, port) }
    }

    /// Records a refusal.
    pub(crate) fn refused(&self, refusal: &Refusal, about: About<'_>, policies: &[Arc<str>]) {
        let policy_set = self.stack.policy.current().hash();
        self.stack.recorder.refused(&self.agent, Some(&self.process), refusal, about, policies, Some(policy_set));
    }
}

/// A decision about one request, and the set that made it.
#[derive(Debug)]
pub(crate) struct Decided {
    pub(crate) grant: Grant,
    pub(crate) policies: Vec<Arc<str>>,
    pub(crate) policy_set: Arc<str>,
}

/// Decides, and turns the decision into a grant or a refusal that names the rule and what would allow it.
pub(crate) fn granted(set: &PolicySet, ask: &Ask<'_>) -> Result<Decided, (Refusal, Vec<Arc<str>>)> {
    let decision = set.decide(ask);
    match decision.verdict {
        Verdict::Allow(grant) => Ok(Decided { grant, policies: decision.policies, policy_set: set.hash() }),
        Verdict::Deny(reason) => Err((set.denied(ask, &decision, reason), decision.policies)),
    }
}

impl Session {
    /// Where a request's answer comes from.
    pub(crate) fn key(&self, target: &Target, grant: &Grant, wanted: Option<Wanted>) -> Key {
        let mirrored = match self.alpn {
            Alpn::H2 => Wanted::Either,
            Alpn::Http1 => Wanted::Http1,
        };
        Key {
            host: target.host.clone(),
            port: target.port,
            tls: self.expected.tls,
            wanted: wanted.unwrap_or(mirrored),
            private: grant.private,
            netns: self.origin.elsewhere(grant),
        }
    }

    /// The draft of an allowed request's record.
    pub(crate) fn draft(&self, kind: Kind, action: Action, asked: &Asked, decided: &Decided) -> Draft {
        let mut draft = self.origin.stack.recorder.draft(kind, &self.origin.agent, Some(&self.origin.process));
        draft.data.decision = Some("allow");
        draft.data.reason = decided.grant.learned.then_some("learned");
        draft.data.action = Some(action_code(action));
        draft.data.policies = decided.policies.clone();
        draft.data.policy_set = Some(decided.policy_set.clone());
        draft.detail.host = Some(asked.target.host.as_ref().to_owned());
        draft.detail.port = Some(asked.target.port);
        draft.detail.method = Some(asked.method.as_str().to_owned());
        draft.detail.path = Some(asked.path.clone());
        draft
    }

    /// Answers a refused request and records it.
    pub(crate) fn refuse(&self, asked: &Asked, refusal: &Refusal, policies: &[Arc<str>]) -> Answer {
        let action = match asked.surface {
            Surface::Paid(..) => Action::Llm,
            Surface::Priced(ref entry) if entry.provider == Provider::Mcp && asked.model.get().is_some() => {
                Action::Tool
            }
            _ => Action::Request,
        };
        let about = About {
            action: Some(action),
            host: &asked.target.host,
            port: asked.target.port,
            method: Some(asked.method.as_str()),
            path: Some(&asked.path),
            model: asked.model.get(),
        };
        self.origin.refused(refusal, about, policies);
        let rpc = asked.rpc.get().map(|rpc| (rpc, self.origin.stack.clock.now()));
        let answer = refuse::answer(refusal, &asked.surface, rpc);
        if let Some(accepted) = listening::said(self, asked, refusal, &answer) {
            return accepted.map(whole);
        }
        if asked.method == Method::HEAD { bodiless(answer) } else { answer.map(whole) }
    }

    /// Answers a request whose target is not known, and records it.
    pub(crate) fn refuse_head(&self, refusal: &Refusal) -> Answer {
        let about = About {
            action: Some(Action::Request),
            host: &self.origin.host,
            port: self.origin.port,
            ..About::default()
        };
        self.origin.refused(refusal, about, &[]);
        refuse::answer(refusal, &Surface::Unpriced, None).map(whole)
    }
}

/// What a request asks for.
#[derive(Debug)]
pub(crate) struct Asked {
    pub(crate) target: Target,
    pub(crate) method: Method,
    /// Without its query.
    pub(crate) path: String,
    pub(crate) surface: Surface,
    /// The model of a paid call, once its body is read.
    pub(crate) model: OnceLock<Arc<str>>,
    /// What a JSON-RPC request asks for, once its body is read.
    pub(crate) rpc: OnceLock<Rpc>,
    /// Where a message of JSON-RPC was posted, if its answer may be expected over another connection.
    pub(crate) posted: OnceLock<Endpoint>,
}

fn whole(bytes: Bytes) -> Download<Metered> {
    Download::Whole(Some(bytes))
}

/// The refusal of everything while no record can be written.
pub(crate) fn no_journal(error: &crate::journal::JournalError) -> Refusal {
    Refusal {
        stage: Stage::Journal,
        side: Side::Us,
        reason: Reason::JournalUnavailable,
        sentence: format!("Caracal forwards nothing that it cannot record: {error}."),
        limit: None,
    }
}

/// The answer to a HEAD: the length of what a GET would give, and not a byte of it. HTTP/1 cuts a body off by itself,
/// HTTP/2 sends it, and the client resets the stream (RFC 9110, 9.3.2).
fn bodiless(answer: Response<Bytes>) -> Answer {
    let length = answer.body().len();
    let mut answer = answer.map(|_| whole(Bytes::new()));
    answer.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    answer
}
