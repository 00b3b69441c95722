//! Listens, speaks HTTP/1.1 and HTTP/2, and sends each request to the host that it names.

use super::deliver::{Out, answer};
use super::directive::Directive;
use super::{World, bedrock, bill, chat, compatible, gemini, git, messages, responses, root, sites, tools, websocket};
use anyhow::{Context as _, Result};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, header};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use rustls::server::Acceptor;
use serde_json::{Value, json};
use std::convert::Infallible;
use std::io::Read as _;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd as _, RawFd};
use std::sync::Arc;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;

const ANTHROPIC: &str = "api.anthropic.com";
const GOOGLE: &str = "generativelanguage.googleapis.com";
const AWS: &str = "bedrock-runtime.us-east-1.amazonaws.com";
/// Largest request to a model API.
const LARGEST: usize = 64 << 20;

/// HTTPS on `address`.
///
/// # Errors
/// When the port cannot be bound.
pub async fn tls(world: Arc<World>, address: SocketAddr) -> Result<()> {
    let listener = listen(address).await?;
    let (settings, asking) = (world.root.server()?, world.root.asking_server()?);
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            let (world, settings, asking) = (Arc::clone(&world), Arc::clone(&settings), Arc::clone(&asking));
            tokio::spawn(async move {
                let socket = stream.as_raw_fd();
                let accepted = async {
                    let start = tokio_rustls::LazyConfigAcceptor::new(Acceptor::default(), stream).await?;
                    let asks = start.client_hello().server_name() == Some(root::ASKS_FOR_A_CERTIFICATE);
                    start.into_stream(if asks { asking } else { settings }).await
                };
                match accepted.await {
                    Ok(stream) => {
                        let sni = stream.get_ref().1.server_name().map(str::to_owned);
                        connection(world, stream, peer, sni, Some(socket)).await;
                    }
                    Err(error) => world
                        .log
                        .write(&json!({"event": "tls_failed", "peer": peer.to_string(), "why": error.to_string()})),
                }
            });
        }
    });
    Ok(())
}

/// HTTP without TLS on `address`.
///
/// # Errors
/// When the port cannot be bound.
pub async fn plain(world: Arc<World>, address: SocketAddr) -> Result<()> {
    let listener = listen(address).await?;
    tokio::spawn(async move {
        while let Ok((stream, peer)) = listener.accept().await {
            tokio::spawn(connection(Arc::clone(&world), stream, peer, None, None));
        }
    });
    Ok(())
}

async fn listen(address: SocketAddr) -> Result<TcpListener> {
    let socket = if address.is_ipv4() { tokio::net::TcpSocket::new_v4()? } else { tokio::net::TcpSocket::new_v6()? };
    socket.set_reuseaddr(true)?;
    if address.is_ipv6() {
        only_v6(&socket)?;
    }
    socket.bind(address).with_context(|| format!("binding to {address}"))?;
    Ok(socket.listen(1_024)?)
}

/// Leaves IPv4 to the other listener.
fn only_v6(socket: &tokio::net::TcpSocket) -> Result<()> {
    let on: libc::c_int = 1;
    let size = libc::socklen_t::try_from(size_of::<libc::c_int>())?;
    // SAFETY: the descriptor is open for the call, and `on` is a c_int of the size given.
    let done = unsafe {
        libc::setsockopt(socket.as_raw_fd(), libc::IPPROTO_IPV6, libc::IPV6_V6ONLY, (&raw const on).cast(), size)
    };
    anyhow::ensure!(done == 0, "IPV6_V6ONLY: {}", std::io::Error::last_os_error());
    Ok(())
}

tokio::task_local! {
    /// The socket of the connection that is being served.
    pub static SOCKET: Option<RawFd>;
}

/// Makes the socket's close a reset. A number, because whoever holds the socket open keeps it from closing.
pub fn reset_at_close(socket: RawFd) {
    let now = libc::linger { l_onoff: 1, l_linger: 0 };
    let size = u32::try_from(size_of::<libc::linger>()).unwrap_or(0);
    // SAFETY: `now` is a linger of the size given; a descriptor that is no socket any more is an error.
    unsafe { libc::setsockopt(socket, libc::SOL_SOCKET, libc::SO_LINGER, (&raw const now).cast(), size) };
}

async fn connection<S>(world: Arc<World>, stream: S, peer: SocketAddr, sni: Option<String>, socket: Option<RawFd>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let service = service_fn(move |request| {
        let (world, sni) = (Arc::clone(&world), sni.clone());
        SOCKET.scope(socket, async move { Ok::<_, Infallible>(route(world, request, peer, sni).await) })
    });
    // Clients break off all the time; the bill, not this error, says what happened to a call.
    let _ended = Builder::new(TokioExecutor::new()).serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

fn host(request: &Request<Incoming>) -> String {
    let named = request.headers().get(header::HOST).and_then(|value| value.to_str().ok());
    let authority = request.uri().authority().map(|authority| authority.as_str()).or(named).unwrap_or_default();
    authority.rsplit_once(':').map_or(authority, |(name, _)| name).to_lowercase()
}

async fn route(world: Arc<World>, request: Request<Incoming>, peer: SocketAddr, sni: Option<String>) -> Response<Out> {
    let host = host(&request);
    let path = request.uri().path().to_owned();
    world.log.write(&json!({
        "event": "request", "host": host, "method": request.method().as_str(), "path": path,
        "version": format!("{:?}", request.version()), "sni": sni, "peer": peer.to_string(),
        "headers": sites::pairs(request.headers()),
    }));
    if let Some(inside) = path.strip_prefix("/acme/demo.git/").filter(|_| host == "github.com") {
        return git::file(&world.repository, inside);
    }
    if let Some(response) = world.sites.as_ref().and_then(|sites| sites::file(sites, &host, &path)) {
        return response;
    }
    match host.as_str() {
        ANTHROPIC | GOOGLE | AWS => api(&world, &host, &path, request).await,
        _ if compatible::is_host(&host) => api(&world, &host, &path, request).await,
        "mcp.example" => tools::serve(&world, request).await,
        "chatgpt.com"
        | "ab.chatgpt.com"
        | "api.github.com"
        | "github.com"
        | "raw.githubusercontent.com"
        | "statsig.anthropic.com" => answer(404, &json!({"message": "Not Found"})),
        _ if websocket::asked(&request) => websocket::echo(request),
        _ => sites::answer_for(request).await,
    }
}

async fn api(world: &Arc<World>, host: &str, path: &str, request: Request<Incoming>) -> Response<Out> {
    // Only to who asks for it, so that agents find the road without.
    let socket = request.headers().get("x-stand-in").is_some_and(|value| value == "socket");
    if websocket::asked(&request) && socket && path == "/v1/responses" {
        return websocket::responses(Arc::clone(world), request);
    }
    if websocket::asked(&request) {
        // Nothing here meters a WebSocket: whoever lets one through to a model lets an unmetered call through.
        world.log.write(&json!({"event": "websocket_to_a_model", "host": host, "path": path}));
        return answer(426, &json!({"error": {"message": "no WebSocket here"}}));
    }
    if request.method() == Method::GET && path == "/v1/models" {
        let data: Vec<Value> =
            bill::models().map(|id| json!({"id": id, "object": "model", "owned_by": "stand-in"})).collect();
        return answer(200, &json!({"object": "list", "data": data}));
    }
    if request.method() == Method::POST && host == "api.openai.com" && path == "/v1/images/generations" {
        return tools::picture(world, path);
    }
    let place = compatible::place(host, path);
    let call = place.as_ref().map_or(path, |(_, call)| call);
    let known = match call {
        "/chat/completions" | "/embeddings" | "/responses" | "/moderations" => place.is_some(),
        _ => matches!(host, GOOGLE | AWS) || (host == ANTHROPIC && path == "/v1/messages"),
    };
    if request.method() != Method::POST || !known {
        return answer(404, &json!({"error": {"type": "not_found_error", "message": "Not Found"}}));
    }
    let extra = request.headers().get("x-stand-in").and_then(|value| value.to_str().ok()).map(str::to_owned);
    let encoding =
        request.headers().get(header::CONTENT_ENCODING).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let (uri, headers) = (request.uri().clone(), request.headers().clone());
    let Ok(body) = Limited::new(request.into_body(), LARGEST).collect().await else {
        return answer(400, &json!({"error": {"message": "the body broke off or is too large"}}));
    };
    let Some(bytes) = decoded(body.to_bytes(), encoding.as_deref()) else {
        return answer(400, &json!({"error": {"message": "the body cannot be decoded"}}));
    };
    let Ok(value) = serde_json::from_slice::<Value>(&bytes) else {
        return answer(400, &json!({"error": {"type": "invalid_request_error", "message": "the body is not JSON"}}));
    };
    let size = bytes.len() as u64;
    let mut words = Directive::in_text(&String::from_utf8_lossy(&bytes));
    words.take(extra.as_deref().unwrap_or_default());
    if words.redirect && uri.query().is_none_or(|query| !query.contains("key=")) {
        return elsewhere(&uri);
    }
    match (host, call, &place) {
        (GOOGLE, ..) => gemini::call(world, path, uri.query().unwrap_or_default(), &value, size, extra.as_deref()),
        (AWS, ..) => bedrock::call(world, &uri, &headers, &value, &bytes, extra.as_deref()),
        (ANTHROPIC, ..) => messages::create(world, &value, size, extra.as_deref()),
        (_, "/chat/completions", Some((whose, _))) => {
            chat::completions(world, whose.clone(), &value, size, extra.as_deref())
        }
        (_, "/embeddings", Some((whose, _))) if whose.provider == "openai" => {
            chat::embeddings(world, &value, size, extra.as_deref())
        }
        (_, "/moderations", Some((whose, _))) if whose.provider == "openai" => moderated(),
        (_, "/responses", Some((whose, _))) if matches!(whose.provider, "openai" | "azure") => {
            responses::create(world, whose.provider, &value, size, extra.as_deref())
        }
        _ => answer(404, &json!({"error": {"type": "not_found_error", "message": "Not Found"}})),
    }
}

/// The same call, at a place of its own.
fn elsewhere(uri: &hyper::Uri) -> Response<Out> {
    let query = uri.query().map(|query| format!("{query}&")).unwrap_or_default();
    let mut response = answer(307, &json!({"error": {"message": "it has moved"}}));
    if let Ok(place) = header::HeaderValue::try_from(format!("{}?{query}key=moved", uri.path())) {
        response.headers_mut().insert(header::LOCATION, place);
    }
    response
}

/// `POST /v1/moderations`, which nobody bills.
fn moderated() -> Response<Out> {
    let result = json!({"flagged": false, "categories": {"violence": false}, "category_scores": {"violence": 0.0},
        "category_applied_input_types": {"violence": ["text"]}});
    answer(200, &json!({"id": "modr-standin", "model": "omni-moderation-latest", "results": [result]}))
}

fn decoded(bytes: Bytes, encoding: Option<&str>) -> Option<Bytes> {
    let mut out = Vec::new();
    match encoding {
        None | Some("identity") => return Some(bytes),
        Some("gzip") => flate2::read::GzDecoder::new(bytes.as_ref()).read_to_end(&mut out).ok()?,
        Some("zstd") => zstd::Decoder::new(bytes.as_ref()).ok()?.read_to_end(&mut out).ok()?,
        Some(_) => return None,
    };
    Some(out.into())
}
