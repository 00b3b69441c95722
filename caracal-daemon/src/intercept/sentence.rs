//! The sentences of the refusals that the story itself makes.

use crate::intercept::session::{Asked, Origin};
use crate::meter::{Provider, Unmetered};
use crate::refusal::{Reason, Refusal, Side, Stage};
use std::time::Duration;

fn refusal(stage: Stage, side: Side, reason: Reason, sentence: String) -> Refusal {
    Refusal { stage, side, reason, sentence, limit: None }
}

pub(super) fn unknown_protocol(origin: &Origin) -> Refusal {
    let sentence = format!(
        "Caracal does not know the protocol spoken to {}:{}; a tcp rule for it, or for a name that was looked up here, \
         would let it pass.",
        origin.host, origin.port
    );
    refusal(Stage::Tls, Side::Agent, Reason::ProtocolUnknown, sentence)
}

pub(super) fn too_many(origin: &Origin) -> Refusal {
    let sentence = format!(
        "Caracal has too many connections of agent {} open; [limits] in the configuration says how many it may have.",
        origin.agent.name
    );
    refusal(Stage::Capture, Side::Agent, Reason::TooManyConnections, sentence)
}

pub(super) fn agent_tls(name: &str, why: &str) -> Refusal {
    let sentence = format!(
        "Caracal could not end TLS for {name}: {why}. The process may not trust the local CA; see `caracald status`."
    );
    refusal(Stage::Tls, Side::Agent, Reason::TlsAgent, sentence)
}

pub(super) fn half_a_head(time: Duration) -> Refusal {
    let sentence = format!(
        "Caracal closed this connection: the head of its request did not end within {} seconds.",
        time.as_secs()
    );
    refusal(Stage::Http, Side::Agent, Reason::HeadInvalid, sentence)
}

pub(super) fn unmetered(asked: &Asked) -> Refusal {
    let sentence = format!("Caracal does not meter WebSockets to {}; use HTTP.", asked.target.host);
    refusal(Stage::Meter, Side::Agent, Reason::WebsocketUnmetered, sentence)
}

pub(super) fn unmetered_call(asked: &Asked, provider: Provider, why: Unmetered) -> Refusal {
    let reason = why.reason();
    let (host, path, provider, why) = (&asked.target.host, &asked.path, provider.name(), why.why());
    let sentence = format!(
        "Caracal refused {path} on {host} ({provider}), because {why}. An [[api]] entry can give it a price per call."
    );
    refusal(Stage::Meter, Side::Agent, reason, sentence)
}

pub(super) fn unknown_path(asked: &Asked, provider: Provider) -> Refusal {
    let (host, path, provider) = (&asked.target.host, &asked.path, provider.name());
    let sentence = format!(
        "Caracal cannot price {path} on {host} ({provider}), so it may cost anything; a rule can mark the path free."
    );
    refusal(Stage::Meter, Side::Agent, Reason::PathUnknown, sentence)
}

pub(super) fn no_host() -> Refusal {
    refusal(
        Stage::Http,
        Side::Agent,
        Reason::HeadInvalid,
        "Caracal does not forward this request: it names no host.".to_owned(),
    )
}

pub(super) fn nested(host: &str) -> Refusal {
    let sentence = format!("Caracal opens a tunnel to {host} only over plain HTTP/1.1, and not inside another one.");
    refusal(Stage::Http, Side::Agent, Reason::ProtocolUnknown, sentence)
}
