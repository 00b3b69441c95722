//! A call that the configuration prices: a tool of an `[[mcp]]` server, decided by its name, or a path of an `[[api]]`.
//! What costs nothing is recorded and forwarded; all else is held, recorded, sent and settled as a call of a model is.

use crate::event::Kind;
use crate::http::body::{Download, Streamed, Upload};
use crate::http::forward;
use crate::http::pool::SendError;
use crate::intercept::session::{Answer, Asked, Decided, Session, granted, no_journal};
use crate::intercept::{forward as unpaid, listening, sentence};
use crate::intercept::{paid, rate};
use crate::meter::{Priced, Provider};
use crate::policy::{Action, Ask};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HeaderValue};
use http::{Method, Request};
use http_body::Body;
use hyper::body::Incoming;
use std::sync::Arc;

/// Answers a request to a priced place.
pub(crate) async fn call(
    session: &Arc<Session>,
    asked: &Asked,
    entry: &Priced,
    request: Request<Incoming>,
    decided: &Decided,
) -> Answer {
    // Listening to a server of tools, or leaving it, calls nothing. With a body it may, whatever the method is called.
    let reads = matches!(asked.method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS)
        && request.body().is_end_stream();
    if entry.provider == Provider::Mcp && reads {
        return listening::opened(session, asked, unpaid(session, asked, request, decided).await);
    }
    let (mut parts, incoming) = request.into_parts();
    forward::strip(&mut parts.headers);
    let body = match paid::collect(session, incoming).await {
        Ok(body) => body,
        Err(refusal) => return session.refuse(asked, &refusal, &[]),
    };
    let stack = &session.origin.stack;
    let mut tool = None;
    if entry.provider == Provider::Mcp {
        let room = Some(stack.room.of(session.origin.agent.cgroup));
        match stack.meter.tool_call_within(room, &parts.headers, &body) {
            Ok(read) => {
                tool.clone_from(&read.tool);
                asked.rpc.get_or_init(|| read);
                listening::posted(session, asked, &parts);
            }
            Err(refusal) => return session.refuse(asked, &refusal, &decided.policies),
        }
        if tool.is_none() {
            return plain(session, asked, parts, body, decided, (Action::Request, decided)).await;
        }
    }
    let named = tool.as_deref();
    if let Some(tool) = named {
        asked.model.get_or_init(|| format!("{}/{tool}", entry.name).into());
    }
    // The refusal that the same call was given a moment ago. A call of a tool costs the same whatever it is called with, and
    // each try has another id: tool and place make two of them equal. Of all else the bodies do.
    let equal = (
        &*session.origin.agent.name,
        &*asked.target.host,
        asked.target.port,
        asked.method.as_str(),
        asked.path.as_str(),
        named.map(str::as_bytes).unwrap_or(&body),
        named.is_some(),
    );
    if let Some((refusal, model)) = stack.remembered.get(&equal, stack.clock.now()) {
        if let Some(model) = model {
            asked.model.get_or_init(|| model);
        }
        return session.refuse(asked, &refusal, &[]);
    }
    match admit(session, asked, entry, (named, &body), decided).await {
        Ok(Admitted::Free(by, action)) => {
            let by = by.as_ref().unwrap_or(decided);
            plain(session, asked, parts, body, decided, (action, by)).await
        }
        Ok(Admitted::Paid(prepared)) => paid::answer(session, asked, parts, body, *prepared, decided).await,
        Err((refusal, policies)) => {
            stack.remembered.put(&equal, &refusal, asked.model.get(), stack.clock.now());
            session.refuse(asked, &refusal, &policies)
        }
    }
}

/// A call that may go on.
enum Admitted {
    /// It costs nothing. The decision about its tool, if it has one, and what was decided.
    Free(Option<Decided>, Action),
    /// Its money is held and its intent durable.
    Paid(Box<paid::Prepared>),
}

/// Whether a call of this tool, or of the entry's path, may be made, and the money for it.
async fn admit(
    session: &Arc<Session>,
    asked: &Asked,
    entry: &Priced,
    (tool, body): (Option<&str>, &Bytes),
    decided: &Decided,
) -> Result<Admitted, paid::Refused> {
    let mut allowed = None;
    if let Some(tool) = tool {
        let set = session.origin.stack.policy.current();
        let ask = Ask {
            method: Some(asked.method.as_str()),
            path: Some(&asked.path),
            tool: Some(tool),
            ..session.origin.ask(Action::Tool, &asked.target.host, asked.target.port, asked.target.address)
        };
        allowed = Some(granted(&set, &ask)?);
    }
    let action = if allowed.is_some() { Action::Tool } else { Action::Request };
    let by = allowed.as_ref().unwrap_or(decided);
    let call = session.origin.stack.meter.fixed(entry, tool, body);
    let call = call.map_err(|refusal| (refusal, by.policies.clone()))?;
    asked.model.get_or_init(|| call.model.clone());
    if call.is_free() {
        return Ok(Admitted::Free(allowed, action));
    }
    let prepared = paid::hold(session, asked, call, decided, (action, by)).await?;
    Ok(Admitted::Paid(Box::new(prepared)))
}

/// Records what costs nothing and forwards it, as it came.
async fn plain(
    session: &Arc<Session>,
    asked: &Asked,
    parts: http::request::Parts,
    body: Bytes,
    decided: &Decided,
    by: (Action, &Decided),
) -> Answer {
    if let Err(refusal) = rate::pass(session, &rate::unpaid(session, asked)) {
        return session.refuse(asked, &refusal, &decided.policies);
    }
    let mut draft = session.draft(Kind::Decision, by.0, asked, by.1);
    draft.data.model = asked.model.get().cloned();
    if let Err(error) = session.origin.stack.recorder.allowed(&session.origin.agent, draft).await {
        return session.refuse(asked, &no_journal(&error), &decided.policies);
    }
    let length = body.len();
    let mut request = Request::from_parts(parts, Upload::Whole(Some(body)));
    let Some(shape) = forward::shape(&mut request, session.expected.tls, false) else {
        return session.refuse(asked, &sentence::no_host(), &decided.policies);
    };
    forward::remove_in_order(request.headers_mut(), |name| name == EXPECT);
    if length > 0 && !request.headers().contains_key(CONTENT_LENGTH) {
        request.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    let key = session.key(&asked.target, &decided.grant, None);
    let sent = session.origin.stack.pool.send(&key, request, |request, alpn| shape.fit(request, alpn), || {}).await;
    match sent {
        Ok((mut response, lease)) => {
            forward::strip_answer(response.headers_mut(), false);
            response.map(|body| Download::Stream(Streamed::new(body, lease)))
        }
        Err(SendError::NotSent(refusal) | SendError::Failed(refusal)) => {
            session.refuse(asked, &refusal, &decided.policies)
        }
    }
}
