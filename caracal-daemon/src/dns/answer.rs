//! Takes a query's bytes and the agent that sent it; gives the answer's bytes.
//! A refused name is answered from a reserved range, so that the connection arrives and is refused in words; nobody is asked.
//! Never gives a `HTTPS` or `SVCB` record: no encrypted ClientHello, no other ALPN, no other address.

use crate::agent::Agent;
use crate::dns::resolve::Resolver;
use crate::policy::{Action, Ask, Decision, PolicySet, Verdict};
use crate::refusal::Reason;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// What a refused name's A look-up is answered with: the benchmarking range (RFC 2544), which nobody routes.
pub const REFUSED_V4: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);
/// What a refused name's AAAA look-up is answered with: the discard-only prefix (RFC 6666).
pub const REFUSED_V6: Ipv6Addr = Ipv6Addr::new(0x100, 0, 0, 0, 0, 0, 0, 1);

/// Seconds for which a refused name may be cached.
const REFUSED_TTL: u32 = 1;
/// Seconds for which an allowed name may be cached.
const MOST_TTL: u32 = 60;
/// Records of an answer that are passed on.
const MOST_RECORDS: usize = 64;
/// A query longer than this is no query of a resolver library.
const MOST_QUERY: usize = 4_096;
/// Largest answer over UDP when the query does not say (RFC 1035 2.3.4).
const PLAIN_UDP: u16 = 512;
/// Largest answer over UDP that is given whatever the query says: below every path's MTU.
const MOST_UDP: u16 = 1_232;
/// Length of a message's header.
const HEADER: usize = 12;

/// An answer and what was decided on the way.
#[derive(Debug)]
pub struct Answer {
    /// The message, ready to send.
    pub bytes: Vec<u8>,
    /// The name and the decision, when the policy was asked.
    pub decided: Option<(String, Decision)>,
    /// What an allowed name was answered with.
    pub addresses: Vec<IpAddr>,
}

/// How the answer travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// Truncated to what the asker takes.
    Udp,
    /// At most 65,535 bytes.
    Tcp,
}

/// Answers `query` for `agent`. `None` for what must not be answered: a message without a header, and answers themselves.
pub async fn answer(
    query: &[u8],
    transport: Transport,
    agent: &Agent,
    policy: &PolicySet,
    resolver: &Resolver,
) -> Option<Answer> {
    let id = query.first_chunk::<2>().map(|id| u16::from_be_bytes(*id))?;
    if query.len() < HEADER || query.get(2).is_some_and(|flags| flags & 0x80 != 0) {
        return None;
    }
    let asked = if query.len() <= MOST_QUERY { Message::from_vec(query).ok() } else { None };
    let Some(asked) = asked else {
        return plain(Message::error_msg(id, OpCode::Query, ResponseCode::FormErr), PLAIN_UDP);
    };
    let limit = match transport {
        Transport::Tcp => u16::MAX,
        Transport::Udp => asked.edns.as_ref().map_or(PLAIN_UDP, |edns| edns.max_payload().clamp(PLAIN_UDP, MOST_UDP)),
    };
    let mut reply = Message::new(id, MessageType::Response, asked.metadata.op_code);
    reply.metadata.recursion_desired = asked.metadata.recursion_desired;
    reply.metadata.recursion_available = true;
    if asked.edns.is_some() {
        let mut edns = hickory_proto::op::Edns::new();
        edns.set_max_payload(MOST_UDP);
        reply.set_edns(edns);
    }
    if asked.metadata.op_code != OpCode::Query {
        reply.metadata.response_code = ResponseCode::NotImp;
        return plain(reply, limit);
    }
    let [question] = asked.queries.as_slice() else {
        reply.metadata.response_code = ResponseCode::FormErr;
        return plain(reply, limit);
    };
    reply.add_query(question.clone());
    if question.query_class() != DNSClass::IN {
        reply.metadata.response_code = ResponseCode::Refused;
        return plain(reply, limit);
    }
    let host = question.name().to_ascii().trim_end_matches('.').to_ascii_lowercase();
    let decided = fill(&mut reply, question.name(), &host, question.query_type(), agent, policy, resolver).await;
    let allowed = decided.as_ref().is_some_and(|decision| matches!(decision.verdict, Verdict::Allow(_)));
    let told = reply.answers.iter().filter_map(|record| record.data.ip_addr());
    let addresses = if allowed { told.collect() } else { Vec::new() };
    Some(Answer { bytes: bytes_of(reply, limit)?, decided: decided.map(|decision| (host, decision)), addresses })
}

/// Answers with `refused` without looking at more than the id: for askers that no agent accounts for, and overload.
#[must_use]
pub fn refused(query: &[u8]) -> Option<Vec<u8>> {
    let id = query.first_chunk::<2>().map(|id| u16::from_be_bytes(*id))?;
    if query.len() < HEADER || query.get(2).is_some_and(|flags| flags & 0x80 != 0) {
        return None;
    }
    Message::error_msg(id, OpCode::Query, ResponseCode::Refused).to_vec().ok()
}

async fn fill(
    reply: &mut Message,
    name: &Name,
    host: &str,
    kind: RecordType,
    agent: &Agent,
    policy: &PolicySet,
    resolver: &Resolver,
) -> Option<Decision> {
    if host == "localhost" || host.ends_with(".localhost") {
        // RFC 6761 6.3: never asked of a server.
        add_addresses(reply, name, kind, &[Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()], MOST_TTL);
        return None;
    }
    let decision = policy.decide(&ask(agent, host));
    if matches!(decision.verdict, Verdict::Deny(_)) {
        if is_search_expansion(host, agent, policy, resolver.search()) {
            reply.metadata.response_code = ResponseCode::NXDomain;
            return None;
        }
        add_addresses(reply, name, kind, &[REFUSED_V4.into(), REFUSED_V6.into()], REFUSED_TTL);
        return Some(decision);
    }
    if matches!(kind, RecordType::HTTPS | RecordType::SVCB | RecordType::ANY) {
        return Some(decision);
    }
    if let Some(fixed) = resolver.fixed_addresses(host) {
        add_addresses(reply, name, kind, fixed, MOST_TTL);
        return Some(decision);
    }
    match resolver.records(host, kind).await {
        Ok(records) => {
            let kept = records
                .into_iter()
                .filter(|record| !matches!(record.record_type(), RecordType::HTTPS | RecordType::SVCB));
            reply.add_answers(kept.take(MOST_RECORDS).map(|mut record| {
                record.ttl = record.ttl.min(MOST_TTL);
                record
            }));
        }
        Err(error) if error.is_nx_domain() => reply.metadata.response_code = ResponseCode::NXDomain,
        Err(error) if error.is_no_records_found() => {}
        Err(_) => reply.metadata.response_code = ResponseCode::ServFail,
    }
    Some(decision)
}

/// A name that a libc made by appending a suffix of the search list to what the program asked for, and that no rule allows.
fn is_search_expansion(host: &str, agent: &Agent, policy: &PolicySet, search: &[String]) -> bool {
    search.iter().any(|suffix| {
        let rest = host.strip_suffix(suffix.as_str()).and_then(|rest| rest.strip_suffix('.'));
        // The name without the suffix must be one that could stand alone; `www.corp.example` itself is a name of the suffix.
        rest.is_some_and(|rest| {
            rest.contains('.') || matches!(policy.decide(&ask(agent, rest)).verdict, Verdict::Allow(_))
        })
    })
}

fn ask<'a>(agent: &'a Agent, host: &'a str) -> Ask<'a> {
    Ask::new(agent, Action::Resolve, host, 0)
}

fn add_addresses(reply: &mut Message, name: &Name, kind: RecordType, addresses: &[IpAddr], ttl: u32) {
    for address in addresses {
        let data = match (kind, address) {
            (RecordType::A, IpAddr::V4(address)) => RData::A(A(*address)),
            (RecordType::AAAA, IpAddr::V6(address)) => RData::AAAA(AAAA(*address)),
            _ => continue,
        };
        reply.add_answer(Record::from_rdata(name.clone(), ttl, data));
    }
}

fn plain(reply: Message, limit: u16) -> Option<Answer> {
    Some(Answer { bytes: bytes_of(reply, limit)?, decided: None, addresses: Vec::new() })
}

/// The message's bytes; without its records and with TC set where it does not fit, so that the asker comes back over TCP.
fn bytes_of(reply: Message, limit: u16) -> Option<Vec<u8>> {
    let whole = reply.to_vec().ok()?;
    if whole.len() <= usize::from(limit) {
        return Some(whole);
    }
    let mut short = reply.truncate();
    short.metadata.truncation = true;
    short.to_vec().ok()
}

/// The reason of a refused look-up.
#[must_use]
pub fn reason(decision: &Decision) -> Option<Reason> {
    match decision.verdict {
        Verdict::Allow(_) => None,
        Verdict::Deny(reason) => Some(reason),
    }
}
