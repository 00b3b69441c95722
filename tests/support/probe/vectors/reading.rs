//! Class 27: what the daemon reads. Each is a connection whose bytes ask for another place than policy allows.

use crate::raw::{Tried, connect, send, tcp};
use crate::runner::{Try, any};
use std::io::Read as _;
use std::net::SocketAddr;
use std::time::Duration;

/// The host that the rules of the test allow.
const ALLOWED: &str = "example.com";
const REFUSED: &str = "refused.example";

/// Says it over both families and listens for a moment.
pub(super) fn say_to(this: &Try, port: u16, bytes: &[u8]) -> Tried {
    let [four, six, _] = this.aim.all(port);
    any([four, six], &mut |to| say(&to, &[bytes]))
}

fn say(to: &SocketAddr, parts: &[&[u8]]) -> Tried {
    let socket = tcp(to)?;
    connect(&socket, to)?;
    let _set = socket.set_read_timeout(Some(Duration::from_millis(300)));
    for part in parts {
        send(&socket, part)?;
        let _answer = (&socket).read(&mut [0; 2_048]);
    }
    Ok(())
}

fn http(this: &Try, target: &str, hosts: &[&str]) -> Tried {
    let hosts: String = hosts.iter().map(|host| format!("Host: {host}\r\n")).collect();
    say_to(this, 80, format!("GET {target} HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n").as_bytes())
}

pub(super) fn host_header(this: &Try) -> Tried {
    http(this, &format!("/{}", this.aim.token()), &[REFUSED])
}

pub(super) fn two_hosts(this: &Try) -> Tried {
    let path = format!("/{}", this.aim.token());
    http(this, &path, &[ALLOWED, REFUSED]).and_then(|()| http(this, &path, &[REFUSED, ALLOWED]))
}

pub(super) fn absolute_form(this: &Try) -> Tried {
    http(this, &format!("http://{REFUSED}/{}", this.aim.token()), &[ALLOWED])
}

pub(super) fn connect_tunnel(this: &Try) -> Tried {
    let [four, six, _] = this.aim.all(80);
    let head = format!("CONNECT {REFUSED}:443 HTTP/1.1\r\nHost: {REFUSED}:443\r\n\r\n");
    let allowed = format!("CONNECT {ALLOWED}:7777 HTTP/1.1\r\nHost: {ALLOWED}:7777\r\n\r\n");
    any([four, six], &mut |to| {
        say(&to, &[head.as_bytes(), &this.token()])?;
        // A port that is not the web's: the name is allowed, raw bytes to it are not.
        say(&to, &[allowed.as_bytes(), &this.token()])
    })
}

pub(super) fn tls_other_name(this: &Try) -> Tried {
    say_to(this, 443, &client_hello(&format!("{}.{REFUSED}", this.aim.token())))
}

pub(super) fn http2_prior_knowledge(this: &Try) -> Tried {
    let mut bytes = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0".to_vec();
    // A HEADERS frame: literal fields without indexing (RFC 7541 6.2.2).
    let mut block = vec![0x82, 0x86];
    for (index, value) in [(1_u8, format!("{}.{REFUSED}", this.aim.token())), (4, format!("/{}", this.aim.token()))] {
        block.extend([index, u8::try_from(value.len()).unwrap_or(0)]);
        block.extend(value.bytes());
    }
    bytes.extend([0, 0, u8::try_from(block.len()).unwrap_or(0), 1, 5, 0, 0, 0, 1]);
    bytes.extend(block);
    say_to(this, 80, &bytes)
}

/// A ClientHello (RFC 8446 4.1.2) that names `host`, and little more.
pub(super) fn client_hello(host: &str) -> Vec<u8> {
    let word = |length: usize| u16::try_from(length).unwrap_or(0).to_be_bytes();
    let mut name = vec![0];
    name.extend(word(host.len()));
    name.extend(host.bytes());
    let mut extensions = vec![0, 0];
    extensions.extend(word(name.len() + 2));
    extensions.extend(word(name.len()));
    extensions.extend(name);
    extensions.extend([0, 43, 0, 3, 2, 3, 4]); // supported_versions: 1.3
    let mut body = vec![3, 3];
    body.extend([7; 32]);
    body.extend([0, 0, 2, 0x13, 0x01, 1, 0]);
    body.extend(word(extensions.len()));
    body.extend(extensions);
    let mut out = vec![22, 3, 1];
    out.extend(word(body.len() + 4));
    out.extend([1, 0]);
    out.extend(word(body.len()));
    out.extend(body);
    out
}
