//! Class 8: somebody on this host who listens on IP and passes on.

use super::transport::connected;
use crate::raw::{Step as _, Tried, connect, send, send_to, tcp, udp};
use crate::runner::{Try, any};
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::time::Duration;
use support::catalogue::RELAY_PORT;

fn loopback() -> Vec<SocketAddr> {
    let four = [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 9, 9, 9)];
    let six = [Ipv6Addr::LOCALHOST, Ipv4Addr::LOCALHOST.to_ipv6_mapped()];
    let all = four.map(IpAddr::V4).into_iter().chain(six.map(IpAddr::V6));
    all.map(|ip| SocketAddr::new(ip, RELAY_PORT)).collect()
}

fn by_tcp(this: &Try, to: Vec<SocketAddr>) -> Tried {
    any(to, &mut |to| {
        let socket = tcp(&to)?;
        connect(&socket, &to)?;
        send(&socket, &this.token())?;
        let _set = socket.set_read_timeout(Some(Duration::from_millis(200)));
        let _answer = (&socket).read(&mut [0; 64]);
        Ok(())
    })
}

pub(super) fn loopback_tcp(this: &Try) -> Tried {
    by_tcp(this, loopback())
}

pub(super) fn loopback_udp(this: &Try) -> Tried {
    let first = any(loopback(), &mut |to| send_to(&udp(&to)?, &this.token(), &to));
    let second = any(loopback(), &mut |to| send(&connected(&to)?, &this.token()));
    std::thread::sleep(Duration::from_millis(100));
    second.or(first)
}

pub(super) fn own_address(this: &Try) -> Tried {
    let own =
        [IpAddr::V4(Ipv4Addr::new(198, 51, 100, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0x1ea, 0, 0, 0, 0, 1))];
    let to: Vec<_> = own.map(|ip| SocketAddr::new(ip, RELAY_PORT)).into();
    let first = any(to.clone(), &mut |to| send_to(&udp(&to)?, &this.token(), &to));
    by_tcp(this, to).or(first)
}

pub(super) fn unspecified_address(this: &Try) -> Tried {
    let any = [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)];
    by_tcp(this, any.map(|ip| SocketAddr::new(ip, RELAY_PORT)).into())
}

pub(super) fn own(this: &Try) -> Tried {
    let listener = TcpListener::bind("127.0.0.1:0").at("listen")?;
    let at = listener.local_addr().at("listen")?;
    let token = this.token();
    let mut client = TcpStream::connect_timeout(&at, Duration::from_secs(1)).at("connect")?;
    let (mut server, _) = listener.accept().at("accept")?;
    client.write_all(&token).at("send")?;
    let mut got = vec![0; token.len()];
    server.set_read_timeout(Some(Duration::from_secs(1))).at("receive")?;
    server.read_exact(&mut got).at("receive")
}
