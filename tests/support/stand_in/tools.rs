//! A server of tools (MCP) over streamable HTTP and over the older HTTP with SSE, and a plain API beside it. Two tools and the
//! API cost money, which is billed here by this server's own list.

use super::World;
use super::bill::{Line, Tokens};
use super::deliver::{Feed, Out, answer, flow, full};
use super::directive::Directive;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::{Frame, Incoming};
use hyper::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderValue};
use hyper::{Method, Request, Response, StatusCode};
use serde_json::{Value, json};
use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};

/// Nano-USD for a call of each.
const PRICES: &[(&str, u64)] = &[
    ("search", 10_000_000),
    ("lookup", 0),
    ("delete_everything", 1),
    ("/geocode", 5_000_000),
    ("/v1/images/generations", 40_000_000),
];

/// Nano-USD for 1,048,576 bytes of a request and of an answer of `/bulk`.
const SENT_MIB: u128 = 2_000_000_000;
const RECEIVED_MIB: u128 = 1_000_000_000;

fn price(name: &str) -> Option<u64> {
    PRICES.iter().find(|(known, _)| *known == name).map(|(_, nano)| *nano)
}

/// The streams of the older transport, by session.
#[derive(Debug, Default)]
pub struct Listeners(Mutex<HashMap<u64, Feed>>);

impl Listeners {
    /// A stream that begins with the place where its messages are posted.
    async fn listen(&self, world: &World) -> Response<Out> {
        let (feed, body) = flow();
        let session = world.next_call();
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(session, feed.clone());
        tokio::spawn(async move { say(&feed, "endpoint", &format!("/messages?session_id={session}")).await });
        let mut response = Response::new(body);
        response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
        response
    }

    fn of(&self, query: &str) -> Option<Feed> {
        let session = query.strip_prefix("session_id=")?.parse().ok()?;
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&session).cloned()
    }
}

/// One event. Who has left hears nothing.
async fn say(feed: &Feed, kind: &str, data: &str) {
    let _gone = feed.send(Ok(Frame::data(format!("event: {kind}\ndata: {data}\n\n").into()))).await;
}

/// Answers for `mcp.example`.
pub async fn serve(world: &World, request: Request<Incoming>) -> Response<Out> {
    let path = request.uri().path().to_owned();
    if path == "/geocode" {
        bill(world, "api", "geo", &path, price(&path).unwrap_or(0));
        return answer(200, &json!({"latitude": 1, "longitude": 2}));
    }
    if let Some(bytes) = path.strip_prefix("/bulk/").and_then(|bytes| bytes.parse().ok()) {
        return bulk(world, request, &path, bytes).await;
    }
    if path == "/sse" && *request.method() == Method::GET {
        return world.listeners.listen(world).await;
    }
    let query = request.uri().query().unwrap_or_default();
    let listener = (path == "/messages").then(|| world.listeners.of(query)).flatten();
    if path != "/mcp" && listener.is_none() {
        return answer(404, &json!({"error": "no such path"}));
    }
    match *request.method() {
        Method::POST => {}
        Method::DELETE => return answer(200, &json!({})),
        _ => return answer(405, &json!({"error": "this server sends nothing by itself"})),
    }
    let Ok(body) = Limited::new(request.into_body(), 1 << 20).collect().await else {
        return answer(400, &json!({"error": "the body broke off"}));
    };
    let Ok(message) = serde_json::from_slice::<Value>(&body.to_bytes()) else {
        return answer(400, &json!({"jsonrpc": "2.0", "id": null, "error": {"code": -32700, "message": "no JSON"}}));
    };
    if message["id"].is_null() {
        let mut response = Response::new(full(""));
        *response.status_mut() = StatusCode::ACCEPTED;
        return response;
    }
    let said = answered(world, &message, &path);
    if let Some(feed) = listener {
        say(&feed, "message", &said.to_string()).await;
        let mut response = Response::new(full("Accepted"));
        *response.status_mut() = StatusCode::ACCEPTED;
        return response;
    }
    if said["result"]["content"].is_null() {
        return answer(200, &said);
    }
    let mut response = Response::new(full(format!("event: message\ndata: {said}\n\n")));
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// `/bulk/N`: N bytes, which cost by the byte, as the request's do. `x-stand-in: cut=M` breaks off after M of them.
async fn bulk(world: &World, request: Request<Incoming>, path: &str, bytes: usize) -> Response<Out> {
    let mut words = Directive::default();
    words.take(request.headers().get("x-stand-in").and_then(|value| value.to_str().ok()).unwrap_or_default());
    let Ok(body) = Limited::new(request.into_body(), 1 << 20).collect().await else {
        return answer(400, &json!({"error": "the body broke off"}));
    };
    let (sent, received) = (body.to_bytes().len() as u128, words.cut.unwrap_or(bytes).min(bytes));
    let nano = (sent * SENT_MIB + received as u128 * RECEIVED_MIB).div_ceil(1 << 20);
    bill(world, "api", "bulk", path, u64::try_from(nano).unwrap_or(u64::MAX));
    let (feed, body) = flow();
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_LENGTH, HeaderValue::from(bytes));
    tokio::spawn(async move {
        let _gone = feed.send(Ok(Frame::data(vec![b'x'; received].into()))).await;
        if received < bytes {
            let _gone = feed.send(Err(std::io::Error::other("cut on request"))).await;
        }
    });
    response
}

/// `POST /v1/images/generations`: one picture of one pixel.
#[must_use]
pub fn picture(world: &World, path: &str) -> Response<Out> {
    bill(world, "openai", "picture", path, price(path).unwrap_or(0));
    answer(200, &json!({"created": 1_795_000_000, "data": [{"b64_json": "AAAA"}]}))
}

fn answered(world: &World, message: &Value, path: &str) -> Value {
    let result = match message["method"].as_str().unwrap_or_default() {
        "initialize" => json!({
            "protocolVersion": message["params"]["protocolVersion"], "capabilities": {"tools": {}},
            "serverInfo": {"name": "stand-in", "version": "1"},
        }),
        "ping" => json!({}),
        "tools/list" => {
            let named = PRICES.iter().map(|(name, _)| *name).filter(|name| !name.starts_with('/'));
            let tools: Vec<Value> =
                named.map(|name| json!({"name": name, "inputSchema": {"type": "object"}})).collect();
            json!({"tools": tools})
        }
        "tools/call" => {
            let name = message["params"]["name"].as_str().unwrap_or_default();
            let Some(nano) = price(name) else { return wrong(message, -32602, "no such tool") };
            bill(world, "mcp", name, path, nano);
            json!({"content": [{"type": "text", "text": format!("{name} was called")}], "isError": false})
        }
        _ => return wrong(message, -32601, "no such method"),
    };
    json!({"jsonrpc": "2.0", "id": message["id"], "result": result})
}

fn wrong(message: &Value, code: i32, why: &str) -> Value {
    json!({"jsonrpc": "2.0", "id": message["id"], "error": {"code": code, "message": why}})
}

fn bill(world: &World, provider: &str, model: &str, path: &str, nano: u64) {
    if nano == 0 {
        return;
    }
    world.bill.add(&Line {
        call: world.next_call(),
        id: None,
        provider: provider.to_owned(),
        model: model.to_owned(),
        path: path.to_owned(),
        stream: false,
        cap: None,
        tokens: Tokens::default(),
        nano,
        cut: false,
        usage_sent: true,
    });
}
