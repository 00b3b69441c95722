//! Streams that agents listen to for answers to what they post elsewhere (MCP's older transport, HTTP with SSE), by the place
//! where it is posted. Takes a message of ours for such a place; gives it to the one stream that it belongs to, or to nobody.
//!
//! A server says the place itself, so it is a place of its own host, and of the agent that asked for the stream: nobody is
//! heard on the stream of another. Bounded: streams, and messages that wait for one.

use crate::agent::CgroupId;
use bytes::Bytes;
use http::Uri;
use http::uri::PathAndQuery;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use tokio::sync::mpsc;

/// Streams of one agent, and of all.
const MOST_OF_AGENT: usize = 256;
const MOST: usize = 4_096;
/// Messages that wait for their turn on one stream.
const WAITING: usize = 16;

/// Where messages are posted.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Endpoint {
    /// Whose messages.
    pub agent: CgroupId,
    /// `https`, or `http`.
    pub tls: bool,
    /// In lower case.
    pub host: Arc<str>,
    /// Its port.
    pub port: u16,
    /// The path and the query.
    pub place: PathAndQuery,
}

impl Endpoint {
    /// The place that a server named on the stream that was asked for at `self`: a URL, or what is relative to the stream's.
    /// `None` for another host, and for what two readers might resolve in two ways.
    #[must_use]
    pub fn named(&self, reference: &str) -> Option<Endpoint> {
        let reference = reference.split('#').next().unwrap_or_default();
        if reference.is_empty() {
            return None;
        }
        let place = if reference.contains("://") && !reference.starts_with(['/', '?']) {
            let uri: Uri = reference.parse().ok()?;
            let tls = match uri.scheme_str()? {
                "https" => true,
                "http" => false,
                _ => return None,
            };
            let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
            let same = tls == self.tls && port == self.port && uri.host()?.eq_ignore_ascii_case(&self.host);
            uri.path_and_query().filter(|_| same)?.clone()
        } else if reference.starts_with("//") || reference.split(['/', '?']).any(|part| part == "." || part == "..") {
            return None;
        } else if reference.starts_with('/') {
            reference.parse().ok()?
        } else if reference.starts_with('?') {
            format!("{}{reference}", self.place.path()).parse().ok()?
        } else {
            let (folder, _) = self.place.path().rsplit_once('/')?;
            format!("{folder}/{reference}").parse().ok()?
        };
        Some(Endpoint { place, ..self.clone() })
    }
}

/// The open streams.
#[derive(Debug, Default)]
pub struct Listeners(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    next: u64,
    streams: HashMap<Endpoint, Vec<(u64, mpsc::Sender<Bytes>)>>,
}

impl Listeners {
    /// A stream that takes the messages for `endpoint` until its [`Seat`] is dropped; `None` when there are too many.
    #[must_use]
    pub fn listen(self: &Arc<Self>, endpoint: Endpoint) -> Option<(Seat, mpsc::Receiver<Bytes>)> {
        let mut open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = |of: &dyn Fn(&Endpoint) -> bool| -> usize {
            open.streams.iter().filter(|(endpoint, _)| of(endpoint)).map(|(_, streams)| streams.len()).sum()
        };
        if count(&|_| true) >= MOST || count(&|other| other.agent == endpoint.agent) >= MOST_OF_AGENT {
            return None;
        }
        let number = open.next;
        open.next = open.next.wrapping_add(1);
        let (sender, receiver) = mpsc::channel(WAITING);
        open.streams.entry(endpoint.clone()).or_default().push((number, sender));
        Some((Seat { listeners: self.clone(), endpoint, number }, receiver))
    }

    /// Gives `message` to the stream of `endpoint`. False when there is none, when there are two and it may belong to either,
    /// and when as many wait as may.
    #[must_use]
    pub fn say(&self, endpoint: &Endpoint, message: Bytes) -> bool {
        let open = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match open.streams.get(endpoint).map(Vec::as_slice) {
            Some([(_, stream)]) => stream.try_send(message).is_ok(),
            _ => false,
        }
    }
}

/// A stream's entry, which goes with it.
#[derive(Debug)]
pub struct Seat {
    listeners: Arc<Listeners>,
    endpoint: Endpoint,
    number: u64,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut open = self.listeners.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(streams) = open.streams.get_mut(&self.endpoint) {
            streams.retain(|(number, _)| *number != self.number);
            if streams.is_empty() {
                open.streams.remove(&self.endpoint);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(agent: u64, place: &str) -> Endpoint {
        let place = place.parse().expect("a place");
        Endpoint { agent: CgroupId(agent), tls: true, host: "mcp.example".into(), port: 443, place }
    }

    #[test]
    fn a_place_is_of_the_streams_own_host() {
        let stream = at(1, "/desk/sse?key=1");
        for (named, place) in [
            ("/messages?session_id=7", Some("/messages?session_id=7")),
            ("https://mcp.example/messages?s=7", Some("/messages?s=7")),
            ("https://MCP.example:443/m#x", Some("/m")),
            ("messages/?s=7", Some("/desk/messages/?s=7")),
            ("?s=7", Some("/desk/sse?s=7")),
            ("/messages?next=https://other.example/", Some("/messages?next=https://other.example/")),
            ("https://other.example/messages", None),
            ("http://mcp.example/messages", None),
            ("https://mcp.example:8443/messages", None),
            ("ftp://mcp.example/messages", None),
            ("//other.example/messages", None),
            ("../messages", None),
            ("/a/./b", None),
            ("/a b", None),
            ("https://", None),
            ("", None),
        ] {
            let found = stream.named(named);
            assert_eq!(found, place.map(|place| at(1, place)), "{named}");
        }
    }

    #[test]
    fn a_message_goes_to_the_one_stream_of_its_place_and_agent() {
        let listeners = Arc::new(Listeners::default());
        let message = || Bytes::from_static(b"x");
        let (seat, mut stream) = listeners.listen(at(1, "/m?s=1")).expect("room");
        for other in [at(2, "/m?s=1"), at(1, "/m?s=2"), Endpoint { port: 80, ..at(1, "/m?s=1") }] {
            assert!(!listeners.say(&other, message()), "{other:?}");
        }
        assert!(listeners.say(&at(1, "/m?s=1"), message()));
        assert_eq!(stream.try_recv(), Ok(message()));
        // Two streams of one place: which of them it belongs to is not known.
        let second = listeners.listen(at(1, "/m?s=1")).expect("room");
        assert!(!listeners.say(&at(1, "/m?s=1"), message()));
        drop(second);
        for _ in 0..WAITING {
            assert!(listeners.say(&at(1, "/m?s=1"), message()));
        }
        assert!(!listeners.say(&at(1, "/m?s=1"), message()), "no more wait than may");
        drop(seat);
        assert!(!listeners.say(&at(1, "/m?s=1"), message()));
        assert!(listeners.0.lock().expect("open").streams.is_empty());
    }

    #[test]
    fn no_agent_takes_the_room_of_others() {
        let listeners = Arc::new(Listeners::default());
        let mut open: Vec<_> =
            (0..MOST_OF_AGENT).map(|n| listeners.listen(at(1, &format!("/m?s={n}"))).expect("room")).collect();
        assert!(listeners.listen(at(1, "/m?s=more")).is_none());
        assert!(listeners.listen(at(2, "/m?s=1")).is_some());
        drop(open.pop());
        assert!(listeners.listen(at(1, "/m?s=more")).is_some());
    }
}
