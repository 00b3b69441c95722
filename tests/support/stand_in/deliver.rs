//! Sends what was generated, and bills it: in full, or as far as it had come when the call broke.

use super::World;
use super::bill::Line;
use super::directive::Directive;
use super::plan::{self, Plan};
use bytes::Bytes;
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body, Frame, SizeHint};
use hyper::{Response, StatusCode, header};
use serde_json::{Value, json};
use std::io;
use std::os::fd::RawFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::sync::mpsc;

/// The body of every answer.
pub type Out = BoxBody<Bytes, io::Error>;

/// A body that a task feeds.
#[derive(Debug)]
pub struct Flow(mpsc::Receiver<Result<Frame<Bytes>, io::Error>>);

/// The feeding end of a [`Flow`]: an error breaks the connection off.
pub type Feed = mpsc::Sender<Result<Frame<Bytes>, io::Error>>;

/// A body and the end that feeds it. One frame waits at most, so that a feeder knows how far the reader is.
#[must_use]
pub fn flow() -> (Feed, Out) {
    let (feed, rest) = mpsc::channel(1);
    (feed, Flow(rest).boxed())
}

impl Body for Flow {
    type Data = Bytes;
    type Error = io::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, io::Error>>> {
        self.0.poll_recv(cx)
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}

/// A whole body.
#[must_use]
pub fn full(bytes: impl Into<Bytes>) -> Out {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed()
}

/// A JSON answer.
#[must_use]
pub fn answer(status: u16, value: &Value) -> Response<Out> {
    let mut response = Response::new(full(value.to_string()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
    response
}

/// One event of a stream.
#[derive(Clone, Debug)]
pub struct Event {
    /// Its bytes.
    pub bytes: Bytes,
    /// How many of the plan's pieces are out once it is sent.
    pub pieces: usize,
    /// It says what the call costs.
    pub usage: bool,
}

/// A call that is about to be answered.
#[derive(Debug)]
pub struct Delivery {
    /// The shared parts.
    pub world: Arc<World>,
    /// The bill's line, but for how it ended.
    pub line: Line,
    /// What is generated.
    pub plan: Plan,
    /// What the test asked for.
    pub directive: Directive,
    /// The connection's socket.
    pub socket: Option<RawFd>,
}

impl Delivery {
    /// On the connection that is being served.
    #[must_use]
    pub fn new(world: &Arc<World>, line: Line, plan: Plan, directive: Directive) -> Delivery {
        let socket = super::serve::SOCKET.try_with(|socket| *socket).ok().flatten();
        Delivery { world: Arc::clone(world), line, plan, directive, socket }
    }

    fn started(&self) {
        self.world.log.write(&json!({"event": "started", "call": self.line.call, "id": self.line.id}));
    }

    fn ended(mut self, pieces: Option<(usize, usize)>, usage_sent: bool) {
        self.line.cut = pieces.is_some();
        self.line.usage_sent = usage_sent;
        self.line.tokens = pieces.map_or(self.plan.tokens, |(done, all)| plan::generated(&self.plan, done, all));
        self.line.nano = super::bill::nano(&self.line.model, &self.line.tokens).unwrap_or_default();
        self.world.bill.add(&self.line);
        self.world.log.write(&json!({"event": "ended", "call": self.line.call, "cut": self.line.cut}));
    }

    /// Answers with one JSON document. Its length is announced, so that a cut shows.
    #[must_use]
    pub fn whole(self, value: &Value) -> Response<Out> {
        self.started();
        let mut text = value.to_string();
        text.push_str(&"x".repeat(self.directive.trailing));
        let text = Bytes::from(text);
        let mut response = Response::new(full(Bytes::new()));
        response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static("application/json"));
        let length = text.len().saturating_add_signed(isize::try_from(self.directive.length).unwrap_or(0));
        let sent = if self.directive.cut.is_some() { text.len() / 2 } else { text.len().min(length) };
        if sent == length {
            *response.body_mut() = full(text.slice(..sent));
            let usage = !self.directive.no_usage && sent == text.len();
            self.ended(None, usage);
            return response;
        }
        let (feed, body) = flow();
        response.headers_mut().insert(header::CONTENT_LENGTH, header::HeaderValue::from(length));
        *response.body_mut() = body;
        tokio::spawn(async move {
            // The answer was generated whole before its first byte went out: it is billed whole.
            let _gone = feed.send(Ok(Frame::data(text.slice(..sent)))).await;
            let _gone = feed.send(Err(io::Error::other("cut on request"))).await;
            self.ended(Some((1, 1)), false);
        });
        response
    }

    /// Answers with an event stream.
    #[must_use]
    pub fn stream(self, events: Vec<Event>) -> Response<Out> {
        self.stream_as("text/event-stream; charset=utf-8", events)
    }

    /// Answers with a stream of another kind.
    #[must_use]
    pub fn stream_as(self, kind: &'static str, events: Vec<Event>) -> Response<Out> {
        self.started();
        let (feed, body) = flow();
        let mut response = Response::new(body);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, header::HeaderValue::from_static("no-cache"));
        tokio::spawn(self.feed(feed, events));
        response
    }

    /// The same as messages of a socket: the data of each event. An error breaks the socket off.
    #[must_use]
    pub fn messages(self, events: Vec<Event>) -> mpsc::Receiver<Result<String, io::Error>> {
        self.started();
        let (tell, told) = mpsc::channel(1);
        let (feed, mut flow) = mpsc::channel(1);
        tokio::spawn(self.feed(feed, events));
        tokio::spawn(async move {
            while let Some(frame) = flow.recv().await {
                let text = frame.map(|frame| {
                    let event = frame.into_data().unwrap_or_default();
                    let event = String::from_utf8_lossy(&event).into_owned();
                    event.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or_default().to_owned()
                });
                if tell.send(text).await.is_err() {
                    return;
                }
            }
        });
        told
    }

    /// Stands still until it is told to go on, or nobody listens.
    async fn stop(&self, feed: &Feed) {
        let gate = super::sites::gate(self.line.id.as_deref().unwrap_or_default());
        tokio::select! {
            () = gate.notified() => {}
            () = feed.closed() => {}
        }
    }

    /// Breaks the connection off.
    async fn cut(&self, feed: &Feed) {
        if let (true, Some(socket)) = (self.directive.reset, self.socket) {
            // What was sent before is on its way by then.
            tokio::time::sleep(Duration::from_millis(100)).await;
            super::serve::reset_at_close(socket);
        }
        let _gone = feed.send(Err(io::Error::other("cut on request"))).await;
    }

    async fn feed(self, feed: Feed, events: Vec<Event>) {
        let all = self.plan.pieces.len();
        let mut done = 0;
        let mut usage_sent = false;
        let count = events.len();
        for (index, event) in events.into_iter().enumerate() {
            if self.directive.stop == Some(index) {
                self.stop(&feed).await;
            }
            if self.directive.cut == Some(index) {
                self.cut(&feed).await;
                return self.ended(Some((done, all)), usage_sent);
            }
            if event.usage && self.directive.late_usage {
                tokio::time::sleep(Duration::from_millis(300)).await;
            }
            // A piece is generated, and so billed, before anybody knows whether it arrives.
            done = event.pieces;
            if feed.send(Ok(Frame::data(event.bytes))).await.is_err() {
                return self.ended(Some((done, all)), usage_sent);
            }
            usage_sent |= event.usage;
            if !self.directive.slow.is_zero() {
                tokio::time::sleep(self.directive.slow).await;
            }
        }
        if self.directive.stop == Some(count) {
            self.stop(&feed).await;
        }
        if self.directive.cut == Some(count) {
            self.cut(&feed).await;
        }
        self.ended(None, usage_sent);
    }
}
