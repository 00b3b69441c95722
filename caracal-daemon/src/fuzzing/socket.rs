//! Either side of a metered WebSocket.

use super::{Script, at_once, choice};
use crate::http::websocket::{Kind, Message, Reader, Side, write};
use crate::meter::{Answer, Chain, Heard, Meter, PriceBook, Provider};
use bytes::Bytes;
use std::sync::LazyLock;

static METER: LazyLock<Meter> =
    LazyLock::new(|| Meter::new(PriceBook::built_in().expect("the built-in prices"), []).with_body_limit(1 << 20));

fn read(bytes: &[u8], piece: usize, side: Side) -> (Vec<Message>, bool) {
    let mut reader = Reader::new(Script::new(bytes, piece), side, 1 << 16);
    let mut all = Vec::new();
    loop {
        match at_once(reader.next()) {
            Ok(Some(message)) => all.push(message),
            Ok(None) => return (all, true),
            Err(_) => return (all, false),
        }
    }
}

/// Frames of a client or a server. In other pieces they are the same messages, written again they are read again, and what
/// is taken for a paid call is a JSON object that says so.
pub fn socket_messages(bytes: &[u8]) {
    let (how, bytes) = choice(bytes);
    let side = if how & 1 == 0 { Side::Client } else { Side::Server };
    let (messages, whole) = read(bytes, usize::MAX, side);
    assert_eq!((messages.clone(), whole), read(bytes, how >> 1, side), "it depends on the segments");
    let mut again = Vec::new();
    for message in &messages {
        at_once(write(&mut again, side, message)).expect("written into memory");
        if message.kind != Kind::Text {
            continue;
        }
        if METER.message(Provider::OpenAi, &Chain::default(), &message.data).is_ok() {
            let value: serde_json::Value = serde_json::from_slice(&message.data).expect("JSON");
            assert_eq!(value["type"], "response.create");
        }
        // Any bytes are read, and nothing ends a call whose answer has not begun.
        let heard = Answer::default().hear(&message.data);
        assert!(!matches!(heard, Heard::Ended(_) | Heard::Failed), "{heard:?}");
    }
    let first: Vec<Bytes> = messages.iter().map(|message| message.data.clone()).collect();
    let second: Vec<Bytes> = read(&again, usize::MAX, side).0.into_iter().map(|message| message.data).collect();
    assert_eq!(first, second, "what is written is read");
}
