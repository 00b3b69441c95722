use super::answer::{Answer, REFUSED_V4, REFUSED_V6, Transport, answer, refused};
use super::resolve::{Resolver, Servers};
use super::serve::{self, Desk};
use crate::agent::{Agent, CgroupId};
use crate::clock::Clock;
use crate::intercept::tests::fixture::Stages;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, Record, RecordType};
use proptest::prelude::*;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

fn agent() -> Arc<Agent> {
    crate::intercept::tests::fixture::agent("rich")
}

fn stages() -> (Stages, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("directory");
    (Stages::new(directory.path(), &Clock::system(), false), directory)
}

fn query(name: &str, kind: RecordType) -> Vec<u8> {
    let mut message = Message::new(77, MessageType::Query, OpCode::Query);
    message.metadata.recursion_desired = true;
    message.add_query(Query::query(Name::from_ascii(name).expect("name"), kind));
    message.to_vec().expect("bytes")
}

fn resolver() -> Resolver {
    let names = [("a.test".to_owned(), vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9))])];
    Resolver::fixed(HashMap::from(names)).with_search(vec!["corp.example".to_owned()])
}

async fn ask(name: &str, kind: RecordType) -> (Message, Answer) {
    let (stages, _directory) = stages();
    let answer = answer(&query(name, kind), Transport::Udp, &agent(), &stages.policy.current(), &resolver())
        .await
        .expect("an answer");
    let message = Message::from_vec(&answer.bytes).expect("a message");
    assert_eq!(message.metadata.id, 77);
    assert_eq!(message.metadata.message_type, MessageType::Response);
    (message, answer)
}

fn addresses(message: &Message) -> Vec<(IpAddr, u32)> {
    message.answers.iter().filter_map(|record| Some((record.data.ip_addr()?, record.ttl))).collect()
}

#[tokio::test]
async fn a_refused_name_gets_an_address_that_leads_to_us() {
    let (message, answer) = ask("denied.test.", RecordType::A).await;
    assert_eq!(addresses(&message), [(REFUSED_V4.into(), 1)]);
    assert_eq!(answer.decided.expect("decided").0, "denied.test");
    let (message, _) = ask("Denied.TEST.", RecordType::AAAA).await;
    assert_eq!(addresses(&message), [(REFUSED_V6.into(), 1)]);
    for kind in [RecordType::HTTPS, RecordType::SVCB, RecordType::MX, RecordType::TXT, RecordType::ANY] {
        let (message, _) = ask("denied.test.", kind).await;
        assert_eq!((message.metadata.response_code, message.answers.len()), (ResponseCode::NoError, 0), "{kind}");
    }
    assert!(crate::address::is_private(REFUSED_V4.into()) && crate::address::is_private(REFUSED_V6.into()));
}

#[tokio::test]
async fn an_allowed_name_gets_its_addresses_for_a_minute() {
    let (message, _) = ask("a.test.", RecordType::A).await;
    assert_eq!(addresses(&message), [("192.0.2.9".parse().expect("address"), 60)]);
    for kind in [RecordType::AAAA, RecordType::HTTPS, RecordType::SVCB] {
        let (message, _) = ask("a.test.", kind).await;
        assert_eq!((message.metadata.response_code, message.answers.len()), (ResponseCode::NoError, 0), "{kind}");
    }
    let (message, answer) = ask("localhost.", RecordType::A).await;
    assert_eq!(addresses(&message)[0].0, IpAddr::V4(Ipv4Addr::LOCALHOST));
    assert!(answer.decided.is_none());
}

#[tokio::test]
async fn only_search_list_expansions_do_not_exist() {
    for name in ["a.test.corp.example.", "denied.test.corp.example."] {
        let (message, answer) = ask(name, RecordType::A).await;
        assert_eq!(message.metadata.response_code, ResponseCode::NXDomain, "{name}");
        assert!(answer.decided.is_none());
    }
    let (message, _) = ask("intranet.corp.example.", RecordType::A).await;
    assert_eq!(addresses(&message), [(REFUSED_V4.into(), 1)], "a name of its own is refused in words");
}

#[tokio::test]
async fn malformed_queries_are_told_so() {
    let (stages, _directory) = stages();
    let policy = stages.policy.current();
    let code = async |bytes: &[u8]| {
        let answer = answer(bytes, Transport::Udp, &agent(), &policy, &resolver()).await?;
        Some(Message::from_vec(&answer.bytes).expect("a message").metadata.response_code)
    };
    let good = query("a.test.", RecordType::A);
    assert_eq!(code(&good[..good.len() - 2]).await, Some(ResponseCode::FormErr));
    assert_eq!(code(&good[..12]).await, Some(ResponseCode::FormErr), "a question is announced and missing");
    assert_eq!(code(&good[..5]).await, None);
    let mut none = Message::new(1, MessageType::Query, OpCode::Query);
    assert_eq!(code(&none.to_vec().expect("bytes")).await, Some(ResponseCode::FormErr));
    none.metadata.op_code = OpCode::Status;
    assert_eq!(code(&none.to_vec().expect("bytes")).await, Some(ResponseCode::NotImp));
    let mut response = good.clone();
    response[2] |= 0x80;
    assert_eq!(code(&response).await, None, "an answer is not answered");
    assert!(refused(&response).is_none());
}

proptest! {
    #[test]
    fn arbitrary_queries_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let (stages, _directory) = stages();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("runtime");
        runtime.block_on(answer(&bytes, Transport::Udp, &agent(), &stages.policy.current(), &resolver()));
    }
}

/// A name server that answers every A query for `name` with `address`, and counts.
async fn name_server(address: Ipv4Addr, ttl: u32) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("socket");
    let local = socket.local_addr().expect("address");
    let asked = Arc::new(Mutex::new(Vec::new()));
    let log = asked.clone();
    tokio::spawn(async move {
        let mut buffer = [0; 1_500];
        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
            let query = Message::from_vec(&buffer[..length]).expect("query");
            let question = query.queries[0].clone();
            log.lock().expect("lock").push(format!("{} {}", question.name(), question.query_type()));
            let mut reply = Message::new(query.metadata.id, MessageType::Response, OpCode::Query);
            reply.add_query(question.clone());
            if question.query_type() == RecordType::A {
                reply.add_answer(Record::from_rdata(question.name().clone(), ttl, RData::A(address.into())));
            }
            socket.send_to(&reply.to_vec().expect("bytes"), from).await.ok();
        }
    });
    (local, asked)
}

#[tokio::test]
async fn split_dns_asks_the_longest_match_and_caches() {
    let (public, public_log) = name_server(Ipv4Addr::new(192, 0, 2, 1), 3_600).await;
    let (corp, corp_log) = name_server(Ipv4Addr::new(10, 0, 0, 1), 3_600).await;
    let resolver = Resolver::new(Servers {
        nameservers: vec![public],
        domains: vec![("corp.test".to_owned(), vec![corp])],
        fixed: HashMap::new(),
    })
    .expect("resolver");
    assert_eq!(resolver.addresses("www.test").await.expect("found"), [IpAddr::from([192, 0, 2, 1])]);
    assert_eq!(resolver.addresses("git.corp.test").await.expect("found"), [IpAddr::from([10, 0, 0, 1])]);
    assert_eq!(resolver.addresses("notcorp.test").await.expect("found"), [IpAddr::from([192, 0, 2, 1])]);
    resolver.addresses("www.test").await.expect("found");
    let asked = public_log.lock().expect("lock").iter().filter(|asked| *asked == "www.test. A").count();
    assert_eq!(asked, 1, "the cache answers");
    assert!(corp_log.lock().expect("lock").iter().all(|asked| asked.starts_with("git.corp.test. ")));
    // Passed on to an agent, the record lives a minute at most, and its own name is kept.
    let (stages, _directory) = stages();
    let answer =
        answer(&query("www.test.", RecordType::A), Transport::Udp, &agent(), &stages.policy.current(), &resolver)
            .await
            .expect("answer");
    let message = Message::from_vec(&answer.bytes).expect("message");
    assert_eq!(addresses(&message), [(IpAddr::from([192, 0, 2, 1]), 60)]);
}

/// An agent whose names nobody answers for waits for its own queries, and no other agent does.
#[tokio::test]
async fn queries_of_one_agent_that_wait_are_not_in_the_way_of_others() {
    let (stages, _directory) = stages();
    let silent = UdpSocket::bind("127.0.0.1:0").await.expect("socket");
    let names = HashMap::from([("a.test".to_owned(), vec![IpAddr::V4(Ipv4Addr::new(192, 0, 2, 9))])]);
    let nameservers = vec![silent.local_addr().expect("address")];
    let resolver = Resolver::new(Servers { nameservers, domains: Vec::new(), fixed: names }).expect("resolver");
    let (one, other) = (UdpSocket::bind("127.0.0.1:0").await, UdpSocket::bind("127.0.0.2:0").await);
    let (one, other) = (one.expect("socket"), other.expect("socket"));
    let agent = |cgroup| Agent { cgroup: CgroupId(cgroup), ..Agent::clone(&agent()) };
    let agents = [Arc::new(agent(1)), Arc::new(agent(2))];
    let desk = Arc::new(Desk {
        policy: stages.policy.clone(),
        resolver: Arc::new(resolver),
        who: Box::new(move |_, from, _| agents.get(usize::from(from.ip() == IpAddr::from([127, 0, 0, 2]))).cloned()),
        decided: Box::new(|_, _, _, _| {}),
        places: serve::Places::default(),
    });
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("socket");
    let address = udp.local_addr().expect("address");
    tokio::spawn(serve::udp(Arc::new(udp), 1, desk));
    for n in 0..serve::MOST_QUERIES_OF_ONE_AGENT {
        one.send_to(&query(&format!("n{n}.test."), RecordType::A), address).await.expect("sent");
        // The server's loop runs on this thread: it takes each before the next.
        tokio::task::yield_now().await;
    }
    let mut buffer = [0; 1_500];
    let mut beyond = query("beyond.test.", RecordType::A);
    beyond[..2].copy_from_slice(&9_u16.to_be_bytes());
    one.send_to(&beyond, address).await.expect("sent");
    let (length, _) = one.recv_from(&mut buffer).await.expect("answer");
    let message = Message::from_vec(&buffer[..length]).expect("message");
    let told = (message.metadata.id, message.metadata.response_code);
    assert_eq!(told, (9, ResponseCode::Refused), "one above the share");
    other.send_to(&query("a.test.", RecordType::A), address).await.expect("sent");
    let (length, _) = other.recv_from(&mut buffer).await.expect("answer");
    assert_eq!(addresses(&Message::from_vec(&buffer[..length]).expect("message")).len(), 1);
}

#[tokio::test]
#[expect(clippy::disallowed_methods, reason = "a test's own socket on loopback")]
async fn the_loops_answer_agents_and_refuse_strangers() {
    let (stages, _directory) = stages();
    let decided = Arc::new(Mutex::new(Vec::new()));
    let log = decided.clone();
    let known = UdpSocket::bind("127.0.0.1:0").await.expect("socket");
    let known_address = known.local_addr().expect("address");
    let desk = Arc::new(Desk {
        policy: stages.policy.clone(),
        resolver: Arc::new(resolver()),
        who: Box::new(move |netns, from, _| {
            (from == known_address || from.port() == 0 || from.ip() == IpAddr::from([127, 0, 0, 2]))
                .then_some(())
                .filter(|()| netns == 1)
                .map(|()| {
                    Arc::new(Agent {
                        name: Arc::from("rich"),
                        cgroup: CgroupId(1),
                        path: String::new(),
                        uid: 0,
                        learn: false,
                    })
                })
        }),
        decided: Box::new(move |_, host, _, _| log.lock().expect("lock").push(host.to_owned())),
        places: serve::Places::default(),
    });
    let udp = UdpSocket::bind("127.0.0.1:0").await.expect("socket");
    let udp_address = udp.local_addr().expect("address");
    tokio::spawn(serve::udp(Arc::new(udp), 1, desk.clone()));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let tcp_address = listener.local_addr().expect("address");
    tokio::spawn(serve::tcp(listener, 1, desk));
    let mut buffer = [0; 1_500];
    known.send_to(&query("a.test.", RecordType::A), udp_address).await.expect("sent");
    let (length, _) = known.recv_from(&mut buffer).await.expect("answer");
    assert_eq!(addresses(&Message::from_vec(&buffer[..length]).expect("message")).len(), 1);
    let stranger = UdpSocket::bind("127.0.0.1:0").await.expect("socket");
    stranger.send_to(&query("a.test.", RecordType::A), udp_address).await.expect("sent");
    let (length, _) = stranger.recv_from(&mut buffer).await.expect("answer");
    assert_eq!(Message::from_vec(&buffer[..length]).expect("message").metadata.response_code, ResponseCode::Refused);
    // Two queries on one TCP connection of an agent.
    let socket = tokio::net::TcpSocket::new_v4().expect("socket");
    socket.bind("127.0.0.2:0".parse().expect("address")).expect("bound");
    let mut stream: TcpStream = socket.connect(tcp_address).await.expect("connected");
    for name in ["a.test.", "denied.test."] {
        let bytes = query(name, RecordType::A);
        stream.write_u16(u16::try_from(bytes.len()).expect("length")).await.expect("length");
        stream.write_all(&bytes).await.expect("query");
        let length = stream.read_u16().await.expect("length");
        let mut answer = vec![0; usize::from(length)];
        stream.read_exact(&mut answer).await.expect("answer");
        assert_eq!(addresses(&Message::from_vec(&answer).expect("message")).len(), 1, "{name}");
    }
    assert_eq!(*decided.lock().expect("lock"), ["a.test", "a.test", "denied.test"]);
    // Idle connections of others, as many as one may have and more: they are not in this agent's way.
    let mut idle = Vec::new();
    for _ in 0..serve::MOST_OF_ONE_AGENT * 3 {
        idle.push(TcpStream::connect(tcp_address).await.expect("connected"));
    }
    let mut byte = [0; 1];
    let last = idle.last_mut().expect("a connection");
    assert_eq!(last.read(&mut byte).await.ok(), Some(0), "one above the share is closed at once");
    let socket = tokio::net::TcpSocket::new_v4().expect("socket");
    socket.bind("127.0.0.2:0".parse().expect("address")).expect("bound");
    let mut stream: TcpStream = socket.connect(tcp_address).await.expect("connected");
    let bytes = query("a.test.", RecordType::A);
    stream.write_u16(u16::try_from(bytes.len()).expect("length")).await.expect("length");
    stream.write_all(&bytes).await.expect("query");
    assert!(stream.read_u16().await.expect("an answer") > 0);
}
