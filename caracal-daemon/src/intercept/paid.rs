//! A call that costs money: read, priced, decided, held, recorded, sent, settled. In this order and no other.

use crate::budget::Scope;
use crate::event::{Draft, Kind};
use crate::http::body::{self, CollectError, Download, Streamed, Upload};
use crate::http::forward::{self, Shape};
use crate::http::pool::{Key, SendError};
use crate::intercept::metered::Metered;
use crate::intercept::rate;
use crate::intercept::session::{Answer, Asked, Decided, Session, granted, no_journal};
use crate::intercept::settle::{Ticket, Unknown};
use crate::intercept::unstoppable::Unstoppable;
use crate::meter::{Call, Edited, Operation, Provider};
use crate::policy::{Action, Ask};
use crate::refusal::{Reason, Refusal, Side, Stage};
use bytes::Bytes;
use http::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_LENGTH, EXPECT, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use std::sync::Arc;

/// A refusal and the policies that it names.
pub(crate) type Refused = (Refusal, Vec<Arc<str>>);

/// Answers a paid call.
pub(crate) async fn call(
    session: &Arc<Session>,
    asked: &Asked,
    provider: Provider,
    operation: Operation,
    request: Request<Incoming>,
    decided: &Decided,
) -> Answer {
    let (mut parts, incoming) = request.into_parts();
    forward::strip(&mut parts.headers);
    // The whole body, because nothing about its price is known before its last byte.
    let body = match collect(session, incoming).await {
        Ok(body) => body,
        Err(refusal) => return session.refuse(asked, &refusal, &[]),
    };
    // The refusal that the same call was given a moment ago, because clients ask many times.
    let stack = &session.origin.stack;
    let equal = (&session.origin.agent.name, &asked.target, place(&parts, asked), &body);
    if let Some((refusal, model)) = stack.remembered.get(&equal_key(&equal), stack.clock.now()) {
        if let Some(model) = model {
            asked.model.get_or_init(|| model);
        }
        return session.refuse(asked, &refusal, &[]);
    }
    match prepare(session, asked, provider, operation, &parts, &body, decided).await {
        Ok(prepared) => answer(session, asked, parts, body, prepared, decided).await,
        Err((refusal, policies)) => {
            stack.remembered.put(&equal_key(&equal), &refusal, asked.model.get(), stack.clock.now());
            session.refuse(asked, &refusal, &policies)
        }
    }
}

/// Sends what is prepared, and answers.
pub(crate) async fn answer(
    session: &Arc<Session>,
    asked: &Asked,
    parts: Parts,
    body: Bytes,
    prepared: Prepared,
    decided: &Decided,
) -> Answer {
    let sent = send(session, asked, parts, body, prepared, decided);
    // An agent that hangs up must not cancel what the provider bills for.
    match Unstoppable::new(sent).await {
        Some(Ok(answer)) => answer,
        Some(Err(refusal)) => session.refuse(asked, &refusal, &[]),
        None => session.refuse(asked, &failed(), &[]),
    }
}

/// A call whose money is held and whose intent is durable.
pub(crate) struct Prepared {
    pub(crate) ticket: Ticket,
    pub(crate) call: Call,
    pub(crate) edited: Edited,
}

/// Everything before the first byte goes upstream. What it gives is held and durable.
async fn prepare(
    session: &Arc<Session>,
    asked: &Asked,
    provider: Provider,
    operation: Operation,
    parts: &Parts,
    body: &Bytes,
    decided: &Decided,
) -> Result<Prepared, Refused> {
    // What is asked for and the longest bill of it.
    let origin = &session.origin;
    let room = Some(origin.stack.room.of(origin.agent.cgroup));
    let place = place(parts, asked);
    let read = origin.stack.meter.read_within(room, (provider, operation), place, &parts.headers, body);
    let read = read.and_then(|call| call.at(&asked.target.host));
    granted_call(session, asked, read.map_err(|refusal| (refusal, Vec::new()))?, decided).await
}

/// The same for a call that is read already.
pub(crate) async fn granted_call(
    session: &Arc<Session>,
    asked: &Asked,
    call: Call,
    decided: &Decided,
) -> Result<Prepared, Refused> {
    let origin = &session.origin;
    asked.model.get_or_init(|| call.model.clone());
    // May this agent call this model at all?
    let set = origin.stack.policy.current();
    let ask = Ask {
        method: Some(asked.method.as_str()),
        path: Some(&asked.path),
        model: Some(&call.model),
        provider: Some(call.provider.name()),
        estimate: Some(call.most()),
        ..origin.ask(Action::Llm, &asked.target.host, asked.target.port, asked.target.address)
    };
    let llm = granted(&set, &ask)?;
    hold(session, asked, call, decided, (Action::Llm, &llm)).await
}

/// Takes the money for `call` and makes its intent durable. `by` is the action that was decided and its decision.
pub(crate) async fn hold(
    session: &Arc<Session>,
    asked: &Asked,
    mut call: Call,
    decided: &Decided,
    by: (Action, &Decided),
) -> Result<Prepared, Refused> {
    let origin = &session.origin;
    let stack = &origin.stack;
    let plain = |refusal: Refusal| (refusal, Vec::new());
    let scope = Scope {
        agent: origin.agent.name.clone(),
        provider: call.provider.name(),
        model: call.priced_as(),
        host: asked.target.host.clone(),
        tool: call.tool().into(),
    };
    // Does it come too often?
    let pass = rate::pass(session, &scope).map_err(plain)?;
    // Money before bytes: taken from every budget, or from none.
    let least = call.least(stack.limits.min_output);
    let mut hold = stack.budgets.hold(&scope, least, call.most()).await.map_err(plain)?;
    // The request that costs at most what was held, and what is left goes back.
    let mut edited = call.edit(hold.amount).map_err(plain)?;
    if let Some(body) = edited.body.take() {
        let mut room = stack.room.of(origin.agent.cgroup);
        room.more(body.len()).map_err(|full| plain(full.refusal()))?;
        edited.body = Some(room.keep(body));
    }
    call.leave_body();
    hold.shrink(edited.hold);
    let intent = intent(session, asked, &call, &edited, &hold, decided, by);
    let mut ticket = Ticket::new(stack.clone(), origin.agent.cgroup, (hold, pass), call.clone(), &intent);
    // Durable before the first byte: after a crash the hold is charged. A wait that is given up is ended by the journal.
    let durable = stack.journal.durable(intent).await;
    ticket.intended(durable.is_ok());
    durable.map_err(|error| plain(no_journal(&error)))?;
    Ok(Prepared { ticket, call, edited })
}

fn intent(
    session: &Session,
    asked: &Asked,
    call: &Call,
    edited: &Edited,
    hold: &crate::budget::Hold,
    decided: &Decided,
    (action, by): (Action, &Decided),
) -> Draft {
    let mut draft = session.draft(Kind::Intent, action, asked, by);
    draft.data.reason = (decided.grant.learned || by.grant.learned).then_some("learned");
    draft.data.call = Some(uuid::Uuid::now_v7());
    draft.data.provider = Some(call.provider.name());
    draft.data.operation = Some(call.operation.name());
    draft.data.model = Some(call.model.clone());
    draft.data.max_tokens = edited.max_tokens;
    draft.data.edits = edited.edits.clone();
    draft.data.hold = Some(hold.amount);
    draft.data.windows = hold.windows.clone();
    draft.data.price_book = Some(call.price_book.clone());
    draft.data.price_assumed = call.is_assumed();
    draft
}

/// Sends the call and starts to read its answer.
fn send(
    session: &Arc<Session>,
    asked: &Asked,
    parts: Parts,
    body: Bytes,
    prepared: Prepared,
    decided: &Decided,
) -> impl Future<Output = Result<Answer, Refusal>> + Send + 'static {
    let Prepared { mut ticket, call, mut edited } = prepared;
    let stack = session.origin.stack.clone();
    let key = session.key(&asked.target, &decided.grant, None);
    ticket.sends(edited.body.as_ref().map_or(body.len(), Bytes::len));
    let written = rebuild(parts, body, &mut edited, session.expected.tls);
    async move {
        let Some((request, shape)) = written else {
            ticket.not_sent().await;
            return Err(failed());
        };
        match exchange(&stack.pool, &key, request, &shape, &mut ticket).await {
            Ok((response, lease)) => {
                let (mut parts, incoming) = response.into_parts();
                ticket.answered(parts.status);
                let reader = call.reader(&edited, parts.status, &parts.headers);
                forward::strip_answer(&mut parts.headers, false);
                if reader.edits_answer() {
                    // The chunk that only we asked for is taken out again, so the length that was said is not what goes on.
                    parts.headers.remove(CONTENT_LENGTH);
                }
                let body = Metered::new(stack, Streamed::new(incoming, lease), reader, ticket);
                Ok(Response::from_parts(parts, Download::Metered(body)))
            }
            Err(SendError::NotSent(refusal)) => {
                ticket.not_sent().await;
                Err(refusal)
            }
            Err(SendError::Failed(refusal)) => {
                ticket.charge_max(Unknown::Upstream).await;
                Err(refusal)
            }
        }
    }
}

async fn exchange(
    pool: &crate::http::pool::Pool,
    key: &Key,
    request: Request<Upload>,
    shape: &Shape,
    ticket: &mut Ticket,
) -> Result<(Response<Incoming>, Option<crate::http::pool::Lease>), SendError> {
    pool.send(key, request, |request, alpn| shape.fit(request, alpn), || ticket.sent()).await
}

/// The request as it goes upstream: the agent's own bytes, or the edited body with the headers that belong to it.
fn rebuild(parts: Parts, body: Bytes, edited: &mut Edited, tls: bool) -> Option<(Request<Upload>, Shape)> {
    let was_chunked = !parts.headers.contains_key(CONTENT_LENGTH);
    // The one that is not sent is let go.
    let (decoded, body) = edited.body.take().map_or((false, body), |body| (true, body));
    let length = body.len();
    let mut request = Request::from_parts(parts, Upload::Whole(Some(body)));
    let shape = forward::shape(&mut request, tls, false)?;
    let headers = request.headers_mut();
    // The body is here already: nobody needs to be asked whether it may come.
    forward::remove_in_order(headers, |name| name == EXPECT || (decoded && name == CONTENT_ENCODING));
    if edited.identity_answer {
        // The answer is edited as it passes, which a compressed one cannot be.
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    }
    if decoded || was_chunked {
        headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    }
    Some((request, shape))
}

/// The path and the query, by which some providers choose the model or what an answer tells.
fn place<'a>(parts: &'a Parts, asked: &'a Asked) -> &'a str {
    parts.uri.path_and_query().map_or(asked.path.as_str(), PathAndQuery::as_str)
}

/// What makes two calls equal, hashed whole.
fn equal_key<'a>(
    equal: &(&'a Arc<str>, &'a crate::http::head::Target, &'a str, &'a Bytes),
) -> (&'a str, &'a str, u16, &'a str, &'a [u8]) {
    (equal.0, &equal.1.host, equal.1.port, equal.2, equal.3)
}

/// Reads a body whole that is priced, within the bounds of one and of all.
pub(crate) async fn collect(session: &Session, incoming: Incoming) -> Result<Bytes, Refusal> {
    let (stack, agent) = (&session.origin.stack, session.origin.agent.cgroup);
    let most = stack.limits.priced_body;
    let error = match body::collect(incoming, most, stack.limits.patience, stack.room.of(agent)).await {
        Ok(body) => return Ok(body),
        Err(error) => error,
    };
    let (reason, sentence) = match error {
        CollectError::Full(full) => return Err(full.refusal()),
        CollectError::TooLong => (
            Reason::BodyTooLarge,
            format!("Caracal prices a call by its whole body, and this one is longer than {} MiB.", most >> 20),
        ),
        CollectError::Broken(error) => {
            (Reason::HeadInvalid, format!("Caracal did not get the whole body of this call: {error}."))
        }
        CollectError::Slow => (
            Reason::BodyTimeout,
            format!(
                "Caracal prices a call by its whole body, and this one did not come in time: {} seconds without a byte, or {} in all.",
                stack.limits.patience.idle.as_secs(),
                stack.limits.patience.whole.as_secs()
            ),
        ),
    };
    Err(Refusal { stage: Stage::Http, side: Side::Agent, reason, sentence, limit: None })
}

fn failed() -> Refusal {
    Refusal {
        stage: Stage::Http,
        side: Side::Us,
        reason: Reason::UpstreamFailed,
        sentence: format!(
            "Caracal could not forward this call ({}); its hold stands as charged if it was sent.",
            StatusCode::BAD_GATEWAY
        ),
        limit: None,
    }
}
