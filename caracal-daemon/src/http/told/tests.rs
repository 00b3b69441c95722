use super::*;
use crate::agent::CgroupId;
use proptest::prelude::*;
use std::collections::VecDeque;
use std::task::Waker;

/// A server's bytes, frame by frame; empty where nothing has come yet.
struct Frames(VecDeque<Bytes>);

impl Body for Frames {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.0.pop_front() {
            Some(frame) if frame.is_empty() => Poll::Pending,
            frame => Poll::Ready(frame.map(|frame| Ok(Frame::data(frame)))),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

fn at(place: &str) -> Endpoint {
    let place = place.parse().expect("a place");
    Endpoint { agent: CgroupId(1), tls: true, host: "mcp.example".into(), port: 443, place }
}

fn told(frames: &[&str]) -> (Told<Frames>, Arc<Listeners>) {
    let listeners = Arc::new(Listeners::default());
    let frames = Frames(frames.iter().map(|frame| Bytes::copy_from_slice(frame.as_bytes())).collect());
    (Told::new(frames, at("/sse"), listeners.clone()), listeners)
}

/// What one poll gives.
fn poll(told: &mut Told<Frames>) -> Option<String> {
    match Pin::new(told).poll_frame(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(Ok(frame))) => {
            let data = frame.into_data().unwrap_or_default();
            Some(String::from_utf8(data.to_vec()).expect("text"))
        }
        Poll::Ready(Some(Err(error))) => panic!("{error}"),
        Poll::Ready(None) => Some("END".to_owned()),
        Poll::Pending => None,
    }
}

fn some(text: &str) -> Option<String> {
    Some(text.to_owned())
}

const FIRST: &str = "event: endpoint\ndata: /m?s=1\n\n";
const OURS: &str = "event: message\ndata: {}\n\n";

fn say(listeners: &Listeners, place: &str) -> bool {
    listeners.say(&at(place), Bytes::from_static(OURS.as_bytes()))
}

#[test]
fn a_message_waits_for_the_end_of_the_event_that_passes() {
    let (mut told, listeners) = told(&[FIRST, "event: message\nda", "", "ta: 1\n", "", "\ndata: 2\n\n", ""]);
    assert!(!say(&listeners, "/m?s=1"), "the place is not known yet");
    assert_eq!(poll(&mut told), some(FIRST));
    assert_eq!(poll(&mut told), some("event: message\nda"));
    assert!(say(&listeners, "/m?s=1") && !say(&listeners, "/m?s=2"));
    assert_eq!([poll(&mut told), poll(&mut told), poll(&mut told)], [None, some("ta: 1\n"), None]);
    // The frame has the end of one event and all of another.
    assert_eq!([poll(&mut told), poll(&mut told)], [some("\n"), some(OURS)]);
    assert_eq!([poll(&mut told), poll(&mut told)], [some("data: 2\n\n"), None]);
    assert!(say(&listeners, "/m?s=1"));
    assert_eq!(poll(&mut told), some(OURS), "between two events it is at once");
    assert_eq!(poll(&mut told), some("END"));
    assert!(!say(&listeners, "/m?s=1"), "the entry goes with the stream");
}

#[test]
fn a_line_end_of_two_bytes_is_not_parted() {
    let first = FIRST.replace('\n', "\r\n");
    let (mut told, listeners) = told(&[&first, "data: 1\r\n\r", "", "\ndata: 2\r\r", "data: 3\r\r", ""]);
    assert_eq!([poll(&mut told), poll(&mut told)], [some(&first), some("data: 1\r\n\r")]);
    assert!(say(&listeners, "/m?s=1"));
    assert_eq!(poll(&mut told), None);
    assert_eq!([poll(&mut told), poll(&mut told)], [some("\n"), some(OURS)]);
    assert_eq!(poll(&mut told), some("data: 2\r\r"));
    assert!(say(&listeners, "/m?s=1"));
    assert_eq!([poll(&mut told), poll(&mut told)], [some(OURS), some("data: 3\r\r")]);
}

#[test]
fn only_a_stream_that_begins_with_a_place_is_told_anything() {
    let long = format!("data: {}\n\n", "x".repeat(MOST_FIRST));
    for (begin, takes) in [
        (": hello\n\n", true),
        ("\u{feff}retry: 5\n\n\n", true),
        ("data: {}\n\n", false),
        ("event: message\ndata: {}\n\n", false),
        ("event: endpoint\ndata: https://other.example/m?s=1\n\n", false),
        (long.as_str(), false),
    ] {
        let (mut told, listeners) = told(&[begin, FIRST, ""]);
        assert_eq!([poll(&mut told), poll(&mut told)], [some(begin), some(FIRST)]);
        assert_eq!(say(&listeners, "/m?s=1"), takes, "{begin}");
        drop(told);
        assert!(!say(&listeners, "/m?s=1"));
    }
    // The place comes in pieces, with fields in another order.
    let (mut told, listeners) = told(&["data:/m?", "s=1\nid: 4\nevent:endpoint\n", "\n", ""]);
    while poll(&mut told).is_some() {}
    assert!(say(&listeners, "/m?s=1"));
}

/// Events by the letter of the standard, from the whole text.
fn events(text: &str) -> Vec<String> {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let blocks = text.split("\n\n").map(|block| block.trim_matches('\n').to_owned());
    blocks.filter(|block| !block.is_empty()).collect()
}

proptest! {
    #[test]
    fn the_servers_bytes_stay_and_ours_stand_between_events(
        parts in proptest::collection::vec((0..4usize, prop_oneof![Just("\n"), Just("\r\n"), Just("\r")]), 1..12),
        cuts in proptest::collection::vec(1..9usize, 1..12),
        says in proptest::collection::vec(any::<bool>(), 1..60),
    ) {
        let mut server = FIRST.to_owned();
        for (kind, end) in &parts {
            let lines = [&["data: 1"][..], &["event: message", "data: {\"a\":\"b\"}"], &[": ping"], &["id: 7", "data: x", "data: y"]];
            for line in lines[*kind] {
                server += line;
                server += end;
            }
            server += end;
        }
        let (mut left, mut frames, mut cut) = (server.as_str(), vec![FIRST], cuts.iter().cycle());
        left = &left[FIRST.len()..];
        while !left.is_empty() {
            let (frame, rest) = left.split_at((*cut.next().expect("a cycle")).min(left.len()));
            frames.extend([frame, ""]);
            left = rest;
        }
        let (mut told, listeners) = told(&frames);
        let (mut out, mut said, mut turns) = (String::new(), 0, says.iter());
        loop {
            if turns.next().is_some_and(|says| *says) && say(&listeners, "/m?s=1") {
                said += 1;
            }
            match poll(&mut told) {
                Some(end) if end == "END" => break,
                Some(text) => out += &text,
                None => {}
            }
        }
        let heard = out.matches("data: {}").count();
        prop_assert!(heard <= said);
        prop_assert_eq!(out.replace(OURS, ""), server.clone(), "the server's bytes, in their order");
        let theirs: Vec<String> = events(&out).into_iter().filter(|event| !event.contains("data: {}")).collect();
        prop_assert_eq!(theirs, events(&server));
    }
}
