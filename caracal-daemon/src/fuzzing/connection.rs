//! What a connection begins with, and what is asked on it: by the agent, and once by a proxy.

use super::{Script, at_once, choice};
use crate::agent::{Agent, CgroupId};
use crate::config::Config;
use crate::dns::answer::{self, Transport};
use crate::dns::resolve::Resolver;
use crate::http::framing::{Framed, Wire};
use crate::http::head;
use crate::policy::PolicySet;
use crate::tls::dial::proxy::Proxy;
use crate::tls::rewind::Rewind;
use crate::tls::{hello, sniff};
use hickory_proto::op::{Message, MessageType};
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::sync::{Arc, LazyLock};
use tokio::io::AsyncReadExt as _;

/// What a connection begins with. More bytes never change an answer, and few bytes are enough for one.
pub fn first_bytes(bytes: &[u8]) {
    let whole = sniff::sniff(bytes);
    assert!(whole.is_some() || bytes.len() < 26, "nothing begins with so many bytes and is still unknown");
    for cut in 0..bytes.len().min(32) {
        if let Some(early) = sniff::sniff(&bytes[..cut]) {
            assert_eq!(Some(early), whole);
        }
    }
}

/// A ClientHello. Where TLS is passed through, the upstream gets every byte.
pub fn client_hello(bytes: &[u8]) {
    let (piece, bytes) = choice(bytes);
    let Ok(hello) = at_once(hello::read(Rewind::new(Script::new(bytes, piece)))) else { return };
    assert_eq!(hello.name.as_ref().map(|name| name.to_ascii_lowercase()), hello.name);
    let mut passed = Vec::new();
    at_once(hello.into_stream().read_to_end(&mut passed)).expect("a script does not fail");
    assert_eq!(passed, bytes);
}

/// The bytes that the HTTP stack gets, and whether the connection was broken off.
fn judged(bytes: &[u8], piece: usize) -> (Vec<u8>, bool, bool) {
    let wire = Arc::new(Wire::default());
    let mut framed = Framed::new(Script::new(bytes, piece), Arc::clone(&wire));
    let mut passed = Vec::new();
    let broken = at_once(framed.read_to_end(&mut passed)).is_err();
    (passed, broken, wire.take_refusal().is_some())
}

/// HTTP/1 as it comes off the wire. The way it is cut into segments changes nothing, and what is passed on is what came.
pub fn http1_stream(bytes: &[u8]) {
    let (piece, bytes) = choice(bytes);
    let (whole, broken, refused) = judged(bytes, usize::MAX);
    let (pieces, broken_too, refused_too) = judged(bytes, piece);
    assert_eq!((broken, refused), (broken_too, refused_too), "it depends on the segments");
    if broken {
        // What was judged good before the fault may have gone on.
        assert!(pieces.starts_with(&whole) || whole.starts_with(&pieces));
    } else {
        assert_eq!(whole, pieces, "it depends on the segments");
    }
    if !refused {
        let mut rest = bytes.iter();
        // Only the empty lines before a request line are left out.
        assert!(whole.iter().all(|byte| rest.any(|came| came == byte)), "a byte was made up");
    }
}

/// The host that a request is for. Each line of the input is a part of the head.
pub fn http_target(bytes: &[u8]) {
    let (how, bytes) = choice(bytes);
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let mut request = http::Request::builder().method(if how & 1 == 0 { "GET" } else { "CONNECT" });
    if let Some(target) = lines.next() {
        request = request.uri(target);
    }
    let expected = head::Expected {
        name: lines.next().filter(|name| !name.is_empty()).map(|name| String::from_utf8_lossy(name).into()),
        tunnel: None,
        port: if how & 2 == 0 { 443 } else { 80 },
        tls: how & 2 == 0,
    };
    for host in lines {
        request = request.header(http::header::HOST, host);
    }
    let Ok(request) = request.body(()) else { return };
    let parts = request.into_parts().0;
    for target in [head::target(&parts, &expected), head::connect_target(&parts)].into_iter().flatten() {
        assert_eq!(target.address, target.host.parse().ok());
        assert!(target.address.is_some() || crate::keeper::authority::is_dns_name(&target.host), "{target:?}");
        assert_eq!(target.host.to_ascii_lowercase(), *target.host);
        assert_ne!(target.port, 0);
    }
    if let (Ok(target), Some(name)) = (head::target(&parts, &expected), &expected.name) {
        assert_eq!(target.host, *name, "another host than the connection's");
    }
}

const RULES: &str = "[[allow]]\nhosts = [\"a.test\", \"*.b.test\"]\n";

static POLICY: LazyLock<PolicySet> = LazyLock::new(|| {
    let config = Config::parse(RULES, Path::new("caracal.toml")).expect("a configuration");
    PolicySet::compile(&config, Path::new("/")).expect("a policy")
});

static AGENT: LazyLock<Agent> = LazyLock::new(|| Agent {
    name: Arc::from("a"),
    cgroup: CgroupId(7),
    path: "/a".to_owned(),
    uid: 1_000,
    learn: false,
});

/// A DNS query. Whatever is answered is a response to this query, and never more than the transport takes.
pub fn dns_query(bytes: &[u8]) {
    let (how, bytes) = choice(bytes);
    let transport = if how & 1 == 0 { Transport::Udp } else { Transport::Tcp };
    let names = [("a.test".to_owned(), vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9))])];
    let resolver = Resolver::fixed(names.into()).with_search(vec!["corp.example".to_owned()]);
    let answered = at_once(answer::answer(bytes, transport, &AGENT, &POLICY, &resolver));
    let refused = answer::refused(bytes);
    for reply in answered.iter().map(|answer| &answer.bytes).chain(&refused) {
        let message = Message::from_vec(reply).expect("a message");
        assert_eq!(message.metadata.message_type, MessageType::Response);
        assert_eq!(reply.first_chunk::<2>(), bytes.first_chunk::<2>());
        assert!(reply.len() <= if how & 1 == 0 { 1_232 } else { 65_535 }, "{} bytes", reply.len());
    }
    assert_eq!(answered.is_some(), refused.is_some());
}

/// The answer of a company's proxy to our CONNECT.
pub fn proxy_answer(bytes: &[u8]) {
    let (piece, bytes) = choice(bytes);
    let proxy = Proxy::new("http://user:word@proxy.test:3128", &[]).expect("a proxy");
    let mut stream = Script::new(bytes, piece);
    match at_once(proxy.tunnel(&mut stream, "a.test", 443)) {
        Ok(()) => {
            let read = bytes.len() - stream.left.len();
            assert!(bytes[..read].ends_with(b"\r\n\r\n"), "bytes of the tunnel were taken");
        }
        Err(why) => assert!(why.len() <= 400 && !why.chars().any(char::is_control), "{why:?}"),
    }
}
