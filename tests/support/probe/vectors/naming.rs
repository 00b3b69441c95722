//! Classes 6 and 7: names, asked of a resolver or of somebody who asks one.

use super::deputies::{self, Kind};
use super::transport::{card, connected};
use crate::raw::{Step as _, Tried, connect, send, send_to, tcp, udp};
use crate::runner::{Try, any};
use std::io::Read as _;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::time::Duration;

/// A zone that no rule allows.
const ZONE: &str = "refused.example";

/// A query (RFC 1035 4.1) for the attempt's name.
pub(super) fn query(this: &Try, kind: u16) -> Vec<u8> {
    let mut out = vec![0x12, 0x34, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0];
    for label in [this.aim.token().as_str()].into_iter().chain(ZONE.split('.')) {
        out.push(u8::try_from(label.len()).unwrap_or(0));
        out.extend(label.bytes());
    }
    out.push(0);
    out.extend(kind.to_be_bytes());
    out.extend([0, 1]);
    out
}

/// Unconnected as musl asks, connected as glibc does; waits a moment for the answer.
fn ask(this: &Try, bytes: &[u8]) -> Tried {
    let first = this.each(53, |to| {
        let socket = udp(&to)?;
        send_to(&socket, bytes, &to)?;
        let _set = socket.set_read_timeout(Some(Duration::from_millis(100)));
        let _answer = (&socket).read(&mut [0; 512]);
        Ok(())
    });
    let second = this.each(53, |to| {
        let socket = connected(&to)?;
        send(&socket, bytes)?;
        let _set = socket.set_read_timeout(Some(Duration::from_millis(100)));
        let _answer = (&socket).read(&mut [0; 512]);
        Ok(())
    });
    second.or(first)
}

pub(super) fn dns_refused_name(this: &Try) -> Tried {
    ask(this, &query(this, 1))
}

pub(super) fn dns_txt_tunnel(this: &Try) -> Tried {
    ask(this, &query(this, 16))
}

pub(super) fn dns_port_no_query(this: &Try) -> Tried {
    ask(this, &this.token())
}

pub(super) fn dns_tcp_refused_name(this: &Try) -> Tried {
    let query = query(this, 1);
    let length = u16::try_from(query.len()).unwrap_or(0).to_be_bytes();
    super::reading::say_to(this, 53, &[&length, query.as_slice()].concat())
}

pub(super) fn dns_over_tls(this: &Try) -> Tried {
    super::reading::say_to(this, 853, &super::reading::client_hello(&format!("{}.{ZONE}", this.aim.token())))
}

pub(super) fn nscd_socket(this: &Try) -> Tried {
    let key = format!("{}.{ZONE}\0", this.aim.token());
    // nscd's protocol, version 2: GETHOSTBYNAME and the length of the key, as glibc sends it.
    let length = i32::try_from(key.len()).unwrap_or(0);
    let request = [2_i32, 4, length].iter().flat_map(|word| word.to_ne_bytes()).chain(key.bytes()).collect::<Vec<_>>();
    deputies::tell(this, Kind::Nscd, &request)
}

pub(super) fn resolved_varlink(this: &Try) -> Tried {
    let name = format!("{}.{ZONE}", this.aim.token());
    let call =
        format!("{{\"method\":\"io.systemd.Resolve.ResolveHostname\",\"parameters\":{{\"name\":\"{name}\"}}}}\0");
    deputies::tell(this, Kind::Varlink, call.as_bytes())
}

pub(super) fn stub_resolver(this: &Try) -> Tried {
    let to = SocketAddr::from((Ipv4Addr::new(127, 0, 0, 53), 53));
    let query = query(this, 1);
    let first = udp(&to).and_then(|socket| send_to(&socket, &query, &to));
    let second = connected(&to).and_then(|socket| send(&socket, &query));
    let stream = tcp(&to).and_then(|socket| {
        connect(&socket, &to)?;
        let length = u16::try_from(query.len()).unwrap_or(0).to_be_bytes();
        send(&socket, &[&length, query.as_slice()].concat())
    });
    std::thread::sleep(Duration::from_millis(100));
    second.or(first).or(stream)
}

pub(super) fn multicast_dns(this: &Try) -> Tried {
    let card = card()?;
    let four = SocketAddr::from((Ipv4Addr::new(224, 0, 0, 251), 5_353));
    let six = SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0xfb), 5_353, 0, card));
    any([four, six], &mut |to| {
        let socket = udp(&to)?;
        socket.send_to(&query(this, 1), &to.into()).at("send").map(drop)
    })
}
