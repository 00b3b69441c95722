//! A call that the configuration prices: a tool of an `[[mcp]]` server, decided by its name, or a path of an `[[api]]`.
//! What costs nothing is recorded and forwarded; all else is held, recorded, sent and settled as a call of a model is.

use crate::event::Kind;
use crate::http::body::{self, CollectError, Download, Streamed, Upload};
use crate::http::forward;
use crate::http::pool::SendError;
use crate::intercept::session::{Answer, Asked, Decided, Session, granted, no_journal};
use crate::intercept::{forward as unpaid, sentence};
use crate::intercept::{paid, rate};
use crate::meter::{Call, Priced, Provider};
use crate::policy::{Action, Ask};
use bytes::Bytes;
use http::header::{CONTENT_LENGTH, EXPECT, HeaderValue};
use http::{Method, Request};
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
    // Listening to a server of tools, or leaving it, calls nothing.
    let reads = matches!(asked.method, Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS);
    if entry.provider == Provider::Mcp && reads {
        return unpaid(session, asked, request, decided).await;
    }
    let (parts, incoming) = request.into_parts();
    let body = match body::collect(incoming, session.origin.stack.limits.priced_body).await {
        Ok(body) => body,
        Err(CollectError::TooLong) => return session.refuse(asked, &paid::too_large(session), &[]),
        Err(CollectError::Broken(error)) => {
            return session.refuse(asked, &paid::broken_off(&error.to_string()), &[]);
        }
    };
    let meter = &session.origin.stack.meter;
    let mut tool = None;
    if entry.provider == Provider::Mcp {
        match meter.tool_call(&parts.headers, &body) {
            Ok(read) => {
                asked.rpc.get_or_init(|| read.id.unwrap_or_else(|| "null".to_owned()));
                tool = read.tool;
            }
            Err(refusal) => return session.refuse(asked, &refusal, &decided.policies),
        }
        if tool.is_none() {
            return plain(session, asked, parts, body, decided, (Action::Request, decided)).await;
        }
    }
    let named = tool.as_deref();
    let (action, name) = if named.is_some() { (Action::Tool, named) } else { (Action::Request, None) };
    let allowed;
    let by = match name {
        None => decided,
        Some(tool) => {
            asked.model.get_or_init(|| format!("{}/{tool}", entry.name).into());
            let set = session.origin.stack.policy.current();
            let ask = Ask {
                method: Some(asked.method.as_str()),
                path: Some(&asked.path),
                tool: Some(tool),
                ..session.origin.ask(action, &asked.target.host, asked.target.port, asked.target.address)
            };
            match granted(&set, &ask) {
                Ok(granted) => allowed = granted,
                Err((refusal, policies)) => return session.refuse(asked, &refusal, &policies),
            }
            &allowed
        }
    };
    match meter.fixed(entry, name, &body) {
        Ok(call) => {
            asked.model.get_or_init(|| call.model.clone());
            if call.is_free() {
                return plain(session, asked, parts, body, decided, (action, by)).await;
            }
            pay(session, asked, parts, body, decided, (action, by), call).await
        }
        Err(refusal) => session.refuse(asked, &refusal, &by.policies),
    }
}

async fn pay(
    session: &Arc<Session>,
    asked: &Asked,
    parts: http::request::Parts,
    body: Bytes,
    decided: &Decided,
    by: (Action, &Decided),
    call: Call,
) -> Answer {
    match paid::hold(session, asked, call, decided, by).await {
        Ok(prepared) => paid::answer(session, asked, parts, body, prepared, decided).await,
        Err((refusal, policies)) => session.refuse(asked, &refusal, &policies),
    }
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
