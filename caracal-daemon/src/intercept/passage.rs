//! Connections whose content is not read, because a rule says so: `tcp` and `tls-passthrough`.

use crate::http::upgrade;
use crate::intercept::opening::Beginning;
use crate::intercept::record::About;
use crate::intercept::session::Origin;
use crate::meter::Surface;
use crate::policy::{Action, Decision, Grant, Mode, Verdict};
use crate::refusal::{Reason, Refusal, Side, Stage};
use crate::tls::dial::Route;
use http::{HeaderMap, Method};
use std::net::IpAddr;
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};

/// The decision to pass this connection on unread in `mode`, if a rule says so.
pub(crate) fn allowed(origin: &Origin, host: &str, address: Option<IpAddr>, mode: Mode) -> Option<(Decision, Grant)> {
    let decision = origin.stack.policy.current().decide(&origin.ask(Action::Connect, host, origin.port, address));
    match &decision.verdict {
        Verdict::Allow(grant) if grant.mode == mode => {
            let grant = grant.clone();
            Some((decision, grant))
        }
        _ => None,
    }
}

/// The host, decision and grant of a `tcp` rule for this connection: one for its address, or for a name that this agent was
/// told this address for. Where such a name may be read here, nothing passes unread: which of them is meant shows in TLS.
pub(crate) fn unread(origin: &Origin) -> Option<(Arc<str>, Decision, Grant)> {
    if let Some((decision, grant)) = allowed(origin, &origin.host, origin.address, Mode::Tcp) {
        return Some((origin.host.clone(), decision, grant));
    }
    let names = origin.stack.pins.names(origin.agent.cgroup, origin.address?);
    let found = names.iter().find_map(|name| {
        allowed(origin, name, None, Mode::Tcp).map(|(decision, grant)| (name.clone(), decision, grant))
    })?;
    let policy = origin.stack.policy.current();
    let read = |name: &Arc<str>| {
        let request = origin.ask(Action::Request, name, origin.port, None);
        matches!(policy.decide(&request).verdict, Verdict::Allow(_))
    };
    (!names.iter().any(read)).then_some(found)
}

/// Dials `host` and copies both ways. Where it has the address that the agent asked for, that one is tried first.
pub(crate) async fn pass<S>(
    origin: &Origin,
    mut stream: S,
    host: &str,
    (decision, grant): (&Decision, &Grant),
    begins: Beginning,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let about = About { action: Some(Action::Connect), host, port: origin.port, ..About::default() };
    if origin.stack.meter.surface(host, &Method::GET, "/", &HeaderMap::new()) != Surface::Unpriced {
        let refusal = Refusal {
            stage: Stage::Policy,
            side: Side::Us,
            reason: Reason::PolicyDenied,
            sentence: format!(
                "Caracal does not pass {host} through unread: its calls cost money. Remove the tcp or tls-passthrough rule."
            ),
            limit: None,
        };
        return origin.refused(&refusal, about, &decision.policies);
    }
    let mut draft = origin.stack.recorder.draft(crate::event::Kind::Decision, &origin.agent, Some(&origin.process));
    draft.data.decision = Some("allow");
    draft.data.reason = grant.learned.then_some("learned");
    draft.data.action = Some("connect");
    draft.data.policies = decision.policies.clone();
    draft.data.policy_set = Some(origin.stack.policy.current().hash());
    draft.detail.host = Some(host.to_owned());
    draft.detail.port = Some(origin.port);
    if let Err(error) = origin.stack.recorder.allowed(&origin.agent, draft).await {
        return origin.refused(&crate::intercept::session::no_journal(&error), about, &decision.policies);
    }
    let route = Route {
        host,
        port: origin.port,
        private: grant.private,
        netns: origin.elsewhere(grant),
        first: origin.address,
    };
    match origin.stack.pool.dialer().tcp(route).await {
        Ok(mut upstream) => {
            drop(begins);
            upgrade::copy(&mut stream, &mut upstream).await;
        }
        Err(refusal) => origin.refused(&refusal, about, &decision.policies),
    }
}
