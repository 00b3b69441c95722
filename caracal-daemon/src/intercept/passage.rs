//! Connections whose content is not read, because a rule says so: `tcp` and `tls-passthrough`.

use crate::http::upgrade;
use crate::intercept::record::About;
use crate::intercept::session::Origin;
use crate::meter::Surface;
use crate::policy::{Action, Decision, Grant, Mode, Verdict};
use crate::refusal::{Reason, Refusal, Side, Stage};
use crate::tls::dial::Route;
use http::{HeaderMap, Method};
use std::net::IpAddr;
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

/// Dials `host` and copies both ways.
pub(crate) async fn pass<S>(origin: &Origin, mut stream: S, host: &str, decision: &Decision, grant: &Grant)
where
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
    let route = Route { host, port: origin.port, private: grant.private, netns: origin.elsewhere(grant) };
    match origin.stack.pool.dialer().tcp(route).await {
        Ok(mut upstream) => upgrade::copy(&mut stream, &mut upstream).await,
        Err(refusal) => origin.refused(&refusal, about, &decision.policies),
    }
}
