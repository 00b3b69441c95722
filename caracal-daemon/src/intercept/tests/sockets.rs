//! A metered WebSocket between an agent and a provider that this test plays both: each answer is charged to its own call.

use super::fixture::{self, Seen};
use super::world::{Speaks, World};
use crate::http::framing::Wire;
use crate::http::head::{Expected, Target};
use crate::http::websocket::{Kind, Message, Reader, Side, write};
use crate::intercept::Limits;
use crate::intercept::session::{Asked, Origin, Session, granted};
use crate::intercept::socket::Socket;
use crate::meter::{Provider, Surface};
use crate::policy::{Action, Ask};
use crate::tls::dial::Alpn;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::io::{DuplexStream, ReadHalf, WriteHalf};
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// One end of the socket, and whose frames it sends.
struct End {
    from: Reader<ReadHalf<DuplexStream>>,
    to: WriteHalf<DuplexStream>,
    side: Side,
}

impl End {
    fn new(stream: DuplexStream, side: Side) -> End {
        let (from, to) = tokio::io::split(stream);
        let other = if side == Side::Client { Side::Server } else { Side::Client };
        End { from: Reader::new(from, other, 1 << 24), to, side }
    }

    async fn say(&mut self, text: &str) {
        let message = Message::text(text.to_owned().into());
        write(&mut self.to, self.side, &message).await.expect("said");
    }

    /// The next message: a text, `close CODE`, or nothing at the end.
    async fn hear(&mut self) -> String {
        let next = timeout(Duration::from_secs(60), self.from.next()).await.expect("in time");
        match next.ok().flatten() {
            Some(Message { kind: Kind::Close, data }) => {
                format!("close {}", u16::from_be_bytes([data[0], data[1]]))
            }
            Some(message) => String::from_utf8(message.data.to_vec()).expect("text"),
            None => String::new(),
        }
    }
}

struct Play {
    world: World,
    agent: End,
    provider: End,
    story: JoinHandle<()>,
}

impl Play {
    /// `buffer` is what the agent's side takes without being read, bytes.
    async fn begin(limits: Limits, buffer: usize) -> Play {
        let world = World::with(Speaks::Http1, Limits { websockets: true, ..limits }, false).await;
        let host: Arc<str> = "api.openai.com".into();
        let origin = Origin {
            stack: world.stack.clone(),
            agent: fixture::agent("rich"),
            process: Arc::new(fixture::process()),
            host: host.clone(),
            address: None,
            port: 443,
            tunnelled: false,
        };
        let asked = Asked {
            target: Target { host: host.clone(), address: None, port: 443 },
            method: http::Method::GET,
            path: "/v1/responses".to_owned(),
            surface: Surface::Websocket(Provider::OpenAi),
            model: OnceLock::new(),
            rpc: OnceLock::new(),
            posted: OnceLock::new(),
        };
        let ask =
            Ask { method: Some("GET"), path: Some("/v1/responses"), ..origin.ask(Action::Request, &host, 443, None) };
        let decided = granted(&world.stages.policy.current(), &ask).expect("allowed");
        let expected = Expected { name: Some(host), tunnel: None, port: 443, tls: true };
        let session = Session { origin: origin.clone(), expected, alpn: Alpn::Http1, wire: Arc::new(Wire::default()) };
        let socket = Socket::new(Arc::new(session), asked, Provider::OpenAi, decided);
        let (agent, agent_side) = tokio::io::duplex(buffer);
        let (provider, provider_side) = tokio::io::duplex(1 << 20);
        let story = tokio::spawn(socket.story(agent_side, provider_side));
        let (agent, provider) = (End::new(agent, Side::Client), End::new(provider, Side::Server));
        Play { world, agent, provider, story }
    }

    /// Asks, and the call is with the provider.
    async fn ask(&mut self, cap: u64) {
        self.agent.say(&create(cap)).await;
        let sent = self.provider.hear().await;
        assert!(sent.contains("response.create") && sent.contains(&format!("\"max_output_tokens\":{cap}")), "{sent}");
    }

    async fn ended(self) {
        timeout(Duration::from_secs(60), self.story).await.expect("the socket ends").expect("without a panic");
    }

    /// The outcomes, once there are so many.
    async fn outcomes(&self, count: usize) -> Vec<Seen> {
        let outcome = |record: &&Seen| record.kind == "caracal.outcome.v1";
        let records = self.world.records(|records| records.iter().filter(outcome).count() == count).await;
        records.iter().filter(outcome).cloned().collect()
    }
}

fn create(cap: u64) -> String {
    format!(r#"{{"type":"response.create","model":"gpt-5-mini","max_output_tokens":{cap},"input":"hi"}}"#)
}

fn created(id: &str) -> String {
    format!(r#"{{"type":"response.created","response":{{"id":"{id}","usage":null}}}}"#)
}

fn delta(text: &str) -> String {
    format!(r#"{{"type":"response.output_text.delta","delta":"{text}"}}"#)
}

fn completed(id: &str, output: u64) -> String {
    format!(
        r#"{{"type":"response.completed","response":{{"id":"{id}","usage":{{"input_tokens":10,"output_tokens":{output}}}}}}}"#
    )
}

const ERROR: &str = r#"{"type":"error","status":400,"error":{"message":"no"}}"#;

/// 10 tokens at 0.25 and the output at 2 USD a million.
fn cost(output: u64) -> Option<u64> {
    Some(10 * 250 + output * 2_000)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_but_a_call_reaches_the_provider() {
    let mut play = Play::begin(Limits::default(), 1 << 20).await;
    for stray in [r#"{"type":"response.cancel"}"#, r#"{"type":"response.cancel","response_id":"r0"}"#] {
        play.agent.say(stray).await;
        let said = play.agent.hear().await;
        assert!(said.contains("does not pass a message of type \\\"response.cancel\\\" on"), "{said}");
    }
    // The first that it hears of is the call, so that no answer to a stray message can release its hold.
    play.ask(100).await;
    for text in [created("r1"), delta("a"), completed("r1", 7)] {
        play.provider.say(&text).await;
        assert_eq!(play.agent.hear().await, text);
    }
    let outcomes = play.outcomes(1).await;
    assert_eq!((outcomes[0].settle.as_deref(), outcomes[0].cost), (Some("settled"), cost(7)));
    // A provider that refuses gets nothing.
    play.ask(101).await;
    play.provider.say(ERROR).await;
    assert_eq!(play.agent.hear().await, ERROR);
    assert_eq!(play.outcomes(2).await[1].settle.as_deref(), Some("released"));
    drop((play.agent, play.provider));
    timeout(Duration::from_secs(60), play.story).await.expect("the socket ends").expect("without a panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_in_the_middle_ends_no_call() {
    let mut play = Play::begin(Limits::default(), 1 << 20).await;
    play.ask(100).await;
    // The second call is there before the first one ends, and waits.
    let second = create(50_000);
    for text in [created("r1"), ERROR.to_owned()] {
        play.provider.say(&text).await;
        assert_eq!(play.agent.hear().await, text);
    }
    play.agent.say(&second).await;
    for text in [delta("a"), completed("r1", 9)] {
        play.provider.say(&text).await;
        assert_eq!(play.agent.hear().await, text);
    }
    let sent = play.provider.hear().await;
    assert!(sent.contains("\"max_output_tokens\":50000"), "{sent}");
    for text in [created("r2"), completed("r2", 40_000)] {
        play.provider.say(&text).await;
        assert_eq!(play.agent.hear().await, text);
    }
    let outcomes = play.outcomes(2).await;
    let costs: Vec<Option<u64>> = outcomes.iter().map(|outcome| outcome.cost).collect();
    assert_eq!(costs, [cost(9), cost(40_000)], "{outcomes:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_is_nobodys_ends_the_socket() {
    // After a refusal; the end of another one; a second answer in the middle of one; before an answer has begun.
    let scripts: [&[String]; 4] = [
        &[ERROR.to_owned(), created("r1")],
        &[created("r2"), completed("r1", 1)],
        &[created("r1"), created("r2")],
        &[delta("a")],
    ];
    for (case, script) in scripts.into_iter().enumerate() {
        let mut play = Play::begin(Limits::default(), 1 << 20).await;
        play.ask(100).await;
        let (last, before) = script.split_last().expect("a script");
        for text in before {
            play.provider.say(text).await;
            assert_eq!(play.agent.hear().await, *text);
        }
        play.provider.say(last).await;
        assert_eq!(play.agent.hear().await, "close 1011", "{script:?}");
        let outcome = play.outcomes(1).await.remove(0);
        let want = if case == 0 { "released" } else { "charged_max" };
        assert_eq!(outcome.settle.as_deref(), Some(want), "{script:?}");
        play.ended().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_read_for_nobody_is_bounded() {
    // No answer may be read on; so many bytes of one; or as long as it takes.
    let bytes = Limits { drain_bytes: 1_000, ..Limits::default() };
    for (limits, texts, settle) in [
        (Limits { drains: 0, ..Limits::default() }, 0, "charged_max"),
        (bytes.clone(), 50, "charged_max"),
        (bytes, 1, "settled"),
    ] {
        let mut play = Play::begin(limits, 1 << 20).await;
        play.ask(5_000).await;
        play.provider.say(&created("r1")).await;
        assert_eq!(play.agent.hear().await, created("r1"));
        drop(play.agent);
        for _ in 0..texts {
            // It may have gone by then.
            let message = Message::text(delta(&"word ".repeat(10)).into());
            write(&mut play.provider.to, Side::Server, &message).await.ok();
        }
        if settle == "settled" {
            play.provider.say(&completed("r1", 9)).await;
        }
        let records = play.world.records(|records| records.iter().any(|record| record.settle.is_some())).await;
        let outcome = records.iter().find(|record| record.settle.is_some()).expect("an outcome");
        assert_eq!(outcome.settle.as_deref(), Some(settle), "{outcome:?}");
        timeout(Duration::from_secs(60), play.story).await.expect("the socket ends").expect("without a panic");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_does_not_read_pins_nothing() {
    let limits = Limits { drain_time: Duration::from_millis(200), ..Limits::default() };
    let mut play = Play::begin(limits, 64).await;
    play.ask(5_000).await;
    // It takes the first 64 bytes, and stays.
    play.provider.say(&created("r1")).await;
    play.provider.say(&delta(&"word ".repeat(10))).await;
    let outcome = play.outcomes(1).await.remove(0);
    assert_eq!((outcome.settle.as_deref(), outcome.reason.as_deref()), (Some("charged_max"), Some("agent_gone")));
    play.ended().await;
}

/// A message is read whole to be priced, as a body is, and has the same bounds.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_has_a_bound_in_bytes_and_in_time() {
    use crate::http::body::Patience;
    use tokio::io::AsyncWriteExt as _;
    let narrow = Limits { priced_bodies: 400_000, ..Limits::default() };
    let whole = Duration::from_millis(100);
    let hasty = Limits { patience: Patience { whole, ..Patience::default() }, ..Limits::default() };
    // The begin of a masked text of 200,000 bytes, and what there is of it.
    for (limits, length, reason) in [(narrow, 200_000, "too_many_bodies"), (hasty, 1_000, "body_timeout")] {
        let mut play = Play::begin(limits, 1 << 20).await;
        play.ask(5_000).await;
        for said in [created("r1"), completed("r1", 5)] {
            play.provider.say(&said).await;
            assert!(play.agent.hear().await.contains("r1"));
        }
        let mut frame = vec![0x81, 0xff];
        frame.extend_from_slice(&200_000_u64.to_be_bytes());
        frame.resize(14 + length, 0);
        play.agent.to.write_all(&frame).await.ok();
        let said = play.agent.hear().await;
        assert!(said.contains("\"type\":\"error\"") && said.contains("Caracal prices a call"), "{said}");
        assert_eq!(play.agent.hear().await, "close 1013");
        let refused = |records: &[Seen]| records.iter().any(|one| one.reason.as_deref() == Some(reason));
        play.world.records(refused).await;
        play.story.await.expect("it ends");
        assert_eq!(play.world.stack.room.taken(), 0, "{reason}");
    }
}
