//! Reads what an agent sends to a server of tools (MCP over HTTP): JSON-RPC requests, one or a batch.
//! Gives the one tool call in it, if there is one. Refuses two at once and a body with two readings.
//! Source: <https://modelcontextprotocol.io/specification/2025-11-25/basic/transports>.

use super::body::{decode, is_respelled, text, walk};
use super::shape::{Raw, parse};
use super::{Meter, refuse_agent};
use crate::http::room::Taken;
use crate::refusal::{Reason, Refusal};
use bytes::Bytes;
use http::HeaderMap;
use std::collections::BTreeMap;

/// Longest id that is answered to, bytes.
const MAX_ID: usize = 256;
/// Longest name of a tool.
const MAX_TOOL: usize = 256;

/// What a body asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rpc {
    /// The id of the call, or else of the only request, as JSON.
    pub id: Option<String>,
    /// The tool that is called.
    pub tool: Option<String>,
}

/// An object, and its members by name.
type Object<'a> = BTreeMap<String, Raw<'a>>;

/// A member. Its name in another spelling is refused: servers in Go took it for the same (`encoding/json` looks at no case), and
/// the last of two, so that one tool would be decided and another one called.
fn member<'a>(object: &Object<'a>, name: &str) -> Result<Raw<'a>, Refusal> {
    if object.keys().any(|key| is_respelled(key, &[name])) {
        return Err(refuse_agent(
            Reason::AmbiguousRequest,
            format!("cannot decide a message that spells {name:?} in another way."),
        ));
    }
    Ok(object.get(name).copied().unwrap_or_default())
}

impl Meter {
    /// Reads a body that goes to a server of tools.
    ///
    /// # Errors
    /// An unknown encoding, no JSON with one reading, a call of a tool without a name, more than one call.
    pub fn tool_call(&self, headers: &HeaderMap, body: &Bytes) -> Result<Rpc, Refusal> {
        self.tool_call_within(None, headers, body)
    }

    /// The same, decoding into `room`.
    ///
    /// # Errors
    /// As [`Meter::tool_call`], and a body for which there is no room.
    pub fn tool_call_within(&self, room: Option<Taken>, headers: &HeaderMap, body: &Bytes) -> Result<Rpc, Refusal> {
        let decoded = decode(headers, body, self.body_limit, room)?;
        read(text(&decoded.bytes)?)
    }
}

/// Reads one message or a batch.
pub(crate) fn read(text: &str) -> Result<Rpc, Refusal> {
    walk(text)?;
    let list: Vec<Object<'_>> =
        if text.trim_start().starts_with('[') { parse(text, "the body")? } else { vec![parse(text, "the body")?] };
    let mut found = Rpc::default();
    let alone = list.len() == 1;
    for message in list {
        let method: Option<String> = member(&message, "method")?.get("method")?;
        let (id, params) = (member(&message, "id")?, member(&message, "params")?);
        let calls = method.as_deref() == Some("tools/call");
        if calls && found.tool.is_some() {
            return Err(refuse_agent(
                Reason::AmbiguousRequest,
                "decides each call of a tool by itself, and this body has two. Send one at a time.".to_owned(),
            ));
        }
        if calls || alone {
            found.id = id.text().filter(|id| id.len() <= MAX_ID).map(str::to_owned);
        }
        if calls {
            let params = params.get::<Object<'_>>("params")?.unwrap_or_default();
            let name: Option<String> = member(&params, "name")?.get("params.name")?;
            found.tool = Some(name.filter(|name| (1..=MAX_TOOL).contains(&name.len())).ok_or_else(|| {
                refuse_agent(
                    Reason::AmbiguousRequest,
                    format!("cannot decide a call of a tool without a name, or with one longer than {MAX_TOOL} bytes."),
                )
            })?);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call(id: &str, tool: &str) -> String {
        format!(r#"{{"jsonrpc":"2.0","id":{id},"method":"tools/call","params":{{"name":"{tool}","arguments":{{}}}}}}"#)
    }

    #[test]
    fn finds_the_one_tool_that_is_called() -> Result<(), Refusal> {
        let asked = |id: Option<&str>, tool: Option<&str>| Rpc { id: id.map(Into::into), tool: tool.map(Into::into) };
        assert_eq!(read(&call("7", "search"))?, asked(Some("7"), Some("search")));
        assert_eq!(read(&call("\"a\"", "se\\u0061rch"))?, asked(Some("\"a\""), Some("search")));
        let list = r#"{"jsonrpc":"2.0","id":1,"method":"tools/list"}"#;
        assert_eq!(read(list)?, asked(Some("1"), None));
        assert_eq!(read(r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#)?, asked(None, None));
        assert_eq!(read(&format!("[{list},{}]", call("2", "x")))?, asked(Some("2"), Some("x")));
        // The answer to a request of the server's.
        assert_eq!(read(r#"{"jsonrpc":"2.0","id":5,"result":{}}"#)?, asked(Some("5"), None));
        Ok(())
    }

    /// In UTF-7, which servers of tools read where the head says so, this `ping` is a call of `dear`.
    #[test]
    fn a_body_in_another_charset_is_refused() -> Result<(), crate::meter::BookError> {
        let body = r#"{"jsonrpc":"2.0","id":1,"method":"ping","x":"+ACI-,+ACI-method+ACI-:+ACI-tools/call+ACI-,+ACI-params+ACI-:+AHsAIg-name+ACI-:+ACI-dear+ACI-,+ACI-arguments+ACI-:+AHsAfQB9-,+ACI-y+ACI-:+ACI-"}"#;
        let meter = Meter::new(crate::meter::PriceBook::parse(crate::meter::PriceBook::BUILT_IN)?, []);
        for (kind, refused) in [
            ("application/json; charset=utf-7", Some(Reason::AmbiguousRequest)),
            ("application/json; charset=utf-8", None),
        ] {
            let headers = HeaderMap::from_iter([(http::header::CONTENT_TYPE, http::HeaderValue::from_static(kind))]);
            let asked = meter.tool_call(&headers, &Bytes::from_static(body.as_bytes()));
            assert_eq!(asked.err().map(|refusal| refusal.reason), refused, "{kind}");
        }
        Ok(())
    }

    #[test]
    fn what_has_two_readings_is_refused() {
        for body in [
            format!("[{},{}]", call("1", "a"), call("2", "b")),
            r#"{"method":"ping","method":"tools/call","params":{"name":"a"}}"#.to_owned(),
            r#"{"method":"tools/call","params":{"name":"a","name":"b"}}"#.to_owned(),
            r#"{"method":"tools/call","params":{}}"#.to_owned(),
            r#"{"method":"tools/call"}"#.to_owned(),
            r#"{"method":7}"#.to_owned(),
            format!("{}\n{}", call("1", "a"), call("2", "b")),
            // What a server that does not look at the case of a key would do: call `b`.
            r#"{"id":1,"Method":"tools/call","params":{"name":"b"}}"#.to_owned(),
            r#"{"id":1,"method":"ping","METHOD":"tools/call","params":{"name":"b"}}"#.to_owned(),
            r#"{"id":1,"method":"tools/call","params":{"name":"a","Name":"b"}}"#.to_owned(),
            r#"{"id":1,"method":"tools/call","params":{"name":"a"},"Params":{"name":"b"}}"#.to_owned(),
            "{\"id\":1,\"method\":\"tools/call\",\"params\":{\"name\":\"a\"},\"param\u{17f}\":{\"name\":\"b\"}}"
                .to_owned(),
            "name=a".to_owned(),
            String::new(),
        ] {
            assert_eq!(read(&body).map_err(|refusal| refusal.reason), Err(Reason::AmbiguousRequest), "{body}");
        }
    }
}
