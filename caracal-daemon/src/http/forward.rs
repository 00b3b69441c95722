//! Takes a request as the agent wrote it; makes it fit the upstream's connection, and the answer the agent's.
//! Only what belongs to one hop goes (RFC 9110 7.6.1). Nothing is added: no Via, no X-Forwarded-For.

use crate::http::body::Upload;
use crate::tls::dial::Alpn;
use http::header::{CONNECTION, COOKIE, HOST, HeaderMap, HeaderName, HeaderValue, TE, TRANSFER_ENCODING, UPGRADE};
use http::uri::{Authority, PathAndQuery, Scheme};
use http::{Request, Uri, Version};

/// Headers about one connection, besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 8] = [
    CONNECTION,
    TRANSFER_ENCODING,
    UPGRADE,
    TE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    HeaderName::from_static("proxy-authorization"),
    HeaderName::from_static("proxy-authenticate"),
];

/// What a request needs to be written for either protocol.
#[derive(Clone, Debug)]
pub struct Shape {
    authority: Authority,
    scheme: Scheme,
    path: PathAndQuery,
    /// The upgrade asked for, if it is to be asked of the upstream too.
    upgrade: Option<HeaderValue>,
}

/// Takes out of `request` what belongs to the agent's connection; gives what is needed to write it for the upstream's.
/// `None` when it names no host, which `head::target` has refused before.
#[must_use]
pub fn shape<B>(request: &mut Request<B>, tls: bool, upgrade: bool) -> Option<Shape> {
    let authority = match request.uri().authority() {
        Some(authority) => authority.clone(),
        None => request.headers().get(HOST)?.to_str().ok()?.parse().ok()?,
    };
    let path = request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    let upgrade = if upgrade { request.headers().get(UPGRADE).cloned() } else { None };
    strip(request.headers_mut());
    let scheme = if tls { Scheme::HTTPS } else { Scheme::HTTP };
    Some(Shape { authority, scheme, path, upgrade })
}

impl Shape {
    /// Writes `request` for a connection that speaks `alpn`. May be called again for another connection.
    pub fn fit(&self, request: &mut Request<Upload>, alpn: Alpn) {
        match alpn {
            Alpn::H2 => {
                *request.version_mut() = Version::HTTP_2;
                request.headers_mut().remove(HOST);
                let mut parts = http::uri::Parts::default();
                parts.scheme = Some(self.scheme.clone());
                parts.authority = Some(self.authority.clone());
                parts.path_and_query = Some(self.path.clone());
                if let Ok(uri) = Uri::from_parts(parts) {
                    *request.uri_mut() = uri;
                }
            }
            Alpn::Http1 => {
                let was_h2 = request.version() == Version::HTTP_2;
                *request.version_mut() = Version::HTTP_11;
                *request.uri_mut() = Uri::from(self.path.clone());
                let headers = request.headers_mut();
                if !headers.contains_key(HOST)
                    && let Ok(host) = HeaderValue::from_str(self.authority.as_str())
                {
                    headers.insert(HOST, host);
                }
                if was_h2 {
                    join_cookies(headers);
                }
                if let Some(protocol) = &self.upgrade {
                    headers.insert(UPGRADE, protocol.clone());
                    headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
                }
            }
        }
    }
}

/// Takes out of an answer what belongs to the upstream's connection. An accepted upgrade keeps what it consists of.
pub fn strip_answer(headers: &mut HeaderMap, upgraded: bool) {
    let upgrade = if upgraded { headers.get(UPGRADE).cloned() } else { None };
    strip(headers);
    if let Some(protocol) = upgrade {
        headers.insert(UPGRADE, protocol);
        headers.insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    }
}

/// Takes out what belongs to one hop, and what `Connection` names. Done before a head is read for its price: what the agent
/// declares away afterwards, the upstream would not see.
pub(crate) fn strip(headers: &mut HeaderMap) {
    let wants_trailers = headers.get_all(TE).iter().any(|value| {
        value.to_str().is_ok_and(|value| value.split(',').any(|word| word.trim().eq_ignore_ascii_case("trailers")))
    });
    let named: Vec<HeaderName> = headers
        .get_all(CONNECTION)
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .filter_map(|name| name.trim().parse().ok())
        // What frames the message, names its host or proves who asks cannot be declared away.
        .filter(|name: &HeaderName| !matches!(name.as_str(), "content-length" | "host" | "authorization" | "cookie" | "te"))
        .collect();
    remove_in_order(headers, |name| HOP_BY_HOP.contains(name) || named.contains(name));
    if wants_trailers {
        // gRPC servers insist on it, and it says something of the agent, not of the connection.
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// Removes headers and keeps the order of the rest, which `HeaderMap::remove` does not.
pub(crate) fn remove_in_order(headers: &mut HeaderMap, goes: impl Fn(&HeaderName) -> bool) {
    if !headers.keys().any(&goes) {
        return;
    }
    let old = std::mem::take(headers);
    headers.reserve(old.len());
    let mut current = None;
    for (name, value) in old {
        // A name stands only with the first of its values.
        current = name.or(current);
        if let Some(name) = current.as_ref().filter(|name| !goes(name)) {
            headers.append(name.clone(), value);
        }
    }
}

/// HTTP/2 may split a cookie header; HTTP/1 must not (RFC 9113 8.2.3).
fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if crumbs.len() > 1
        && let Ok(whole) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..]))
    {
        headers.insert(COOKIE, whole);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request() -> Request<Upload> {
        Request::builder()
            .uri("/a?b=c")
            .header("Host", "a.example")
            .header("Connection", "keep-alive, X-Hop, Content-Length")
            .header("Keep-Alive", "5")
            .header("X-Hop", "1")
            .header("X-Stay", "1")
            .header("TE", "trailers, deflate")
            .header("Content-Length", "3")
            .header("Transfer-Encoding", "chunked")
            .body(Upload::Whole(None))
            .expect("request")
    }

    #[test]
    fn only_the_hop_goes() {
        let mut request = request();
        let shape = shape(&mut request, true, false).expect("shape");
        shape.fit(&mut request, Alpn::Http1);
        let names: Vec<&str> = request.headers().keys().map(HeaderName::as_str).collect();
        assert_eq!(names, ["host", "x-stay", "content-length", "te"]);
        assert_eq!(request.uri(), "/a?b=c");
    }

    #[test]
    fn fits_either_protocol_in_any_order() {
        let mut request = request();
        let shape = shape(&mut request, true, false).expect("shape");
        shape.fit(&mut request, Alpn::H2);
        assert_eq!(request.uri(), "https://a.example/a?b=c");
        assert!(!request.headers().contains_key(HOST));
        request.headers_mut().append(COOKIE, HeaderValue::from_static("a=1"));
        request.headers_mut().append(COOKIE, HeaderValue::from_static("b=2"));
        shape.fit(&mut request, Alpn::Http1);
        assert_eq!(request.uri(), "/a?b=c");
        assert_eq!(request.headers().get(HOST).expect("host"), "a.example");
        assert_eq!(request.headers().get(COOKIE).expect("cookie"), "a=1; b=2");
    }
}
