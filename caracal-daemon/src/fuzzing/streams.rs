//! Streams of servers of tools, on which we say something as well.

use super::at_once;
use crate::agent::CgroupId;
use crate::http::body::BodyError;
use crate::http::listeners::{Endpoint, Listeners};
use crate::http::told::Told;
use bytes::Bytes;
use http::uri::PathAndQuery;
use http_body::{Body, Frame};
use http_body_util::BodyExt as _;
use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

struct Pieces(VecDeque<Bytes>);

impl Body for Pieces {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        Poll::Ready(self.0.pop_front().map(|piece| Ok(Frame::data(piece))))
    }
}

/// A stream that comes in pieces, and something of ours to say before each. Its bytes stay as they are, and what is ours stands
/// behind a blank line, between two line ends and not in one.
pub fn tool_stream(bytes: &[u8]) {
    const OURS: &[u8] = b"event: message\ndata: \0\n\n";
    let Some((piece, stream)) = bytes.split_first() else { return };
    let place = PathAndQuery::from_static("/sse");
    let from = Endpoint { agent: CgroupId(1), tls: true, host: "mcp.example".into(), port: 443, place };
    let named = Endpoint { place: PathAndQuery::from_static("/m"), ..from.clone() };
    let listeners = Arc::new(Listeners::default());
    let pieces = stream.chunks(usize::from(*piece).max(1)).map(Bytes::copy_from_slice).collect();
    let mut told = Told::new(Pieces(pieces), from, listeners.clone());
    let mut out = Vec::new();
    for turn in 0.. {
        // Whoever speaks without an end is all that is heard.
        let _heard = turn % 2 == 0 && listeners.say(&named, Bytes::from_static(OURS));
        let Some(frame) = at_once(told.frame()) else { break };
        let frame = frame.expect("nothing breaks off").into_data().expect("no trailers");
        if frame == OURS {
            let line = line_end(&out).expect("inside of a line");
            assert!(line_end(line).is_some(), "inside of an event");
            assert!(!(out.ends_with(b"\r") && stream.get(out.len()) == Some(&b'\n')), "inside of a line end");
        } else {
            out.extend_from_slice(&frame);
        }
    }
    assert_eq!(out, stream);
}

/// What stands before the line end at the end of `bytes`.
fn line_end(bytes: &[u8]) -> Option<&[u8]> {
    let (lf, cr) = (bytes.strip_suffix(b"\r\n"), bytes.strip_suffix(b"\n").or_else(|| bytes.strip_suffix(b"\r")));
    lf.or(cr)
}
