use super::accept::{Acceptor, Offer};
use super::dial::proxy::Proxy;
use super::dial::{Alpn, Dialer, Route, Settings, Wanted};
use super::hello;
use super::rewind::Rewind;
use crate::clock::Clock;
use crate::dns::resolve::Resolver;
use crate::intercept::tests::world::{LocalSigner, client_config};
use crate::keeper::authority::Authority;
use crate::refusal::Reason;
use rustls::pki_types::ServerName;
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn acceptor() -> (Acceptor, rustls::pki_types::CertificateDer<'static>, tempfile::TempDir) {
    let directory = tempfile::tempdir().expect("directory");
    let authority = Authority::open(directory.path(), Clock::system()).expect("authority");
    let ca = authority.certificate().clone();
    (Acceptor::new(Arc::new(LocalSigner(authority)), Clock::system()).expect("acceptor"), ca, directory)
}

#[expect(clippy::disallowed_methods, reason = "a test's own socket on loopback")]
async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let (client, accepted) =
        tokio::join!(TcpStream::connect(listener.local_addr().expect("address")), listener.accept());
    (client.expect("connected"), accepted.expect("accepted").0)
}

#[tokio::test]
async fn a_leaf_is_made_once_for_each_name_and_address() {
    let (acceptor, ca, _directory) = acceptor();
    for (round, name) in ["a.test", "a.test", "b.test", "192.0.2.1", "2001:db8::1"].iter().enumerate() {
        let (client, server) = pair().await;
        let connect = tokio_rustls::TlsConnector::from(client_config(&ca, &["http/1.1"]));
        let connect = connect.connect(ServerName::try_from((*name).to_owned()).expect("name"), client);
        let accept = async {
            let hello = hello::read(Rewind::new(server)).await.expect("hello");
            assert_eq!(hello.name.is_some(), name.parse::<IpAddr>().is_err());
            acceptor.accept(hello, name, Offer::Both).await.expect("accepted")
        };
        let (client, (_, alpn)) = tokio::join!(connect, accept);
        client.expect("trusted");
        assert_eq!(alpn, Alpn::Http1);
        assert_eq!(acceptor.leaves(), [1, 1, 2, 3, 4][round]);
    }
}

#[tokio::test]
async fn a_hello_in_single_bytes_is_read_whole_and_given_back() {
    let (_, ca, _directory) = acceptor();
    let (client, server) = pair().await;
    // What a client writes first, caught on the way.
    let (caught_client, mut caught) = pair().await;
    let connect = tokio_rustls::TlsConnector::from(client_config(&ca, &["h2", "http/1.1"]));
    tokio::spawn(connect.connect(ServerName::try_from("split.test").expect("name"), caught_client));
    let mut bytes = vec![0; 4_096];
    let length = caught.read(&mut bytes).await.expect("hello");
    bytes.truncate(length);
    let sent = bytes.clone();
    tokio::spawn(async move {
        let mut client = client;
        client.set_nodelay(true).expect("nodelay");
        for byte in sent {
            client.write_all(&[byte]).await.expect("byte");
            tokio::task::yield_now().await;
        }
        client.write_all(b"rest").await.expect("rest");
    });
    let hello = hello::read(Rewind::new(server)).await.expect("hello");
    assert_eq!(hello.name.as_deref(), Some("split.test"));
    let offered = hello.alpn.expect("alpn");
    assert!(offered.h2 && offered.http1);
    let mut again = hello.into_stream();
    let mut whole = Vec::new();
    again.read_to_end(&mut whole).await.expect("read");
    bytes.extend_from_slice(b"rest");
    assert_eq!(whole, bytes);
}

#[tokio::test]
async fn an_endless_hello_is_refused() {
    let (mut client, server) = pair().await;
    tokio::spawn(async move {
        // A handshake record that announces a message of 16 MB, and more of it for ever.
        let mut record = vec![0x16, 3, 1, 0x40, 0];
        record.resize(5 + 0x4000, 0xff);
        record[5] = 1;
        while client.write_all(&record).await.is_ok() {}
    });
    assert!(hello::read(Rewind::new(server)).await.is_err());
}

fn route(host: &str, port: u16) -> Route<'_> {
    Route { host, port, private: true, netns: None, first: None }
}

fn resolver(names: &[&str]) -> Arc<Resolver> {
    let loopback = vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    Arc::new(Resolver::fixed(names.iter().map(|name| ((*name).to_owned(), loopback.clone())).collect()))
}

#[tokio::test]
async fn addresses_are_tried_in_turn_and_private_ones_refused() {
    let (_, ca, _directory) = acceptor();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let port = listener.local_addr().expect("address").port();
    // Nobody listens at the first address.
    let names =
        HashMap::from([("two.test".to_owned(), vec![IpAddr::from([127, 0, 0, 77]), IpAddr::from([127, 0, 0, 1])])]);
    let settings = Settings { roots: vec![ca], ..Settings::default() };
    let dialer = Dialer::new(settings, Arc::new(Resolver::fixed(names))).expect("dialer");
    dialer.tcp(route("two.test", port)).await.expect("the second address");
    let refused = dialer.tcp(Route { private: false, ..route("two.test", port) }).await.expect_err("private");
    assert_eq!(refused.reason, Reason::PrivateAddress);
    let elsewhere =
        dialer.tcp(Route { netns: Some(7), ..route("127.0.0.1", port) }).await.expect_err("another namespace");
    assert_eq!(elsewhere.reason, Reason::UpstreamConnect, "never dialled from here");
}

#[tokio::test]
async fn a_certificate_that_does_not_verify_is_refused() {
    let (acceptor, ca, _directory) = acceptor();
    let (_, other, _other_directory) = self::acceptor();
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let port = listener.local_addr().expect("address").port();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            if let Ok(hello) = hello::read(Rewind::new(stream)).await {
                acceptor.accept(hello, "right.test", Offer::Both).await.ok();
            }
        }
    });
    let dial = async |root: &rustls::pki_types::CertificateDer<'static>, host: &str| {
        let settings = Settings { roots: vec![root.clone()], ..Settings::default() };
        let dialer = Dialer::new(settings, resolver(&["right.test", "wrong.test"])).expect("dialer");
        dialer.tls(route(host, port), Wanted::Either).await.map(|(_, alpn)| alpn).map_err(|refusal| refusal.reason)
    };
    assert_eq!(dial(&ca, "right.test").await, Ok(Alpn::H2));
    assert_eq!(dial(&ca, "wrong.test").await, Err(Reason::UpstreamTls));
    assert_eq!(dial(&other, "right.test").await, Err(Reason::UpstreamTls));
}

/// A proxy that answers every CONNECT with `status` and then echoes; gives its address and the head that it saw.
async fn proxy(status: &'static str) -> (SocketAddr, tokio::sync::mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    let address = listener.local_addr().expect("address");
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("accepted");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("byte"));
        }
        sender.send(String::from_utf8(head).expect("text")).await.expect("told");
        // The first bytes of the tunnel come with the answer.
        stream.write_all(format!("HTTP/1.1 {status}\r\nX: y\r\n\r\nhello").as_bytes()).await.expect("answer");
        stream.read_u8().await.ok();
    });
    (address, receiver)
}

#[tokio::test]
async fn the_company_proxy_is_asked_and_obeyed() {
    let (_, ca, _directory) = acceptor();
    let dialer = |address: SocketAddr| {
        let url = format!("http://user:secret@proxy.test:{}", address.port());
        let proxy = Proxy::new(&url, &["past.test".to_owned()]).expect("proxy");
        let settings = Settings { roots: vec![ca.clone()], proxy: Some(proxy), ..Settings::default() };
        Dialer::new(settings, resolver(&["proxy.test", "past.test"])).expect("dialer")
    };
    let (address, mut heads) = proxy("200 Connection established").await;
    let mut stream = dialer(address).tcp(Route { private: false, ..route("far.test", 443) }).await.expect("tunnel");
    let head = heads.recv().await.expect("head");
    assert!(head.starts_with("CONNECT far.test:443 HTTP/1.1\r\nHost: far.test:443\r\n"), "{head}");
    assert!(head.contains("Proxy-Authorization: Basic dXNlcjpzZWNyZXQ=\r\n"), "{head}");
    let mut first = [0; 5];
    stream.read_exact(&mut first).await.expect("the tunnel's first bytes");
    assert_eq!(&first, b"hello");
    let (address, _heads) = proxy("407 Proxy Authentication Required").await;
    let refused = dialer(address).tcp(route("far.test", 443)).await.expect_err("refused");
    assert_eq!(refused.reason, Reason::UpstreamConnect);
    assert!(refused.sentence.contains("407") && !refused.sentence.contains("secret"), "{}", refused.sentence);
    // An address that no rule names is not reached through the proxy either, and an exception goes past it.
    let refused =
        dialer(address).tcp(Route { private: false, ..route("169.254.169.254", 80) }).await.expect_err("private");
    assert_eq!(refused.reason, Reason::PrivateAddress);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("listener");
    dialer(address).tcp(route("past.test", listener.local_addr().expect("address").port())).await.expect("directly");
}
