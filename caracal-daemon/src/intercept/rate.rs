//! Whether a request comes too often: asked after policy and before money, of paid calls and all others alike.

use super::session::{Asked, Session};
use crate::budget::{Pass, Scope};
use crate::refusal::{Reason, Refusal, Side, Stage};

/// Lets a request through, or says when it may come again.
pub(crate) fn pass(session: &Session, scope: &Scope) -> Result<Pass, Refusal> {
    let stack = &session.origin.stack;
    stack.rates.pass(scope, stack.clock.now()).map_err(|limited| Refusal {
        stage: Stage::Budget,
        side: Side::Us,
        reason: Reason::RateLimited { seconds: limited.seconds },
        sentence: format!(
            "Caracal: the limit {:?} on {} is reached; there is room in {} s.",
            limited.rate, limited.unit, limited.seconds
        ),
        limit: None,
    })
}

/// What a request that calls no model counts as.
pub(crate) fn unpaid(session: &Session, asked: &Asked) -> Scope {
    Scope {
        agent: session.origin.agent.name.clone(),
        provider: "",
        // A free call of a tool has its name.
        model: asked.model.get().cloned().unwrap_or_default(),
        host: asked.target.host.clone(),
        tool: asked.rpc.get().and_then(|rpc| rpc.tool.as_deref()).unwrap_or_default().into(),
    }
}
