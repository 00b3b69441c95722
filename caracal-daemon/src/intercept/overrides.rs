//! Heads by which a request tells some servers another method or path than its own. Such a server acts on those, so a
//! request that carries one is allowed only if each of its readings is, and costs nothing only if none does.

use crate::intercept::session::{Asked, Session, granted};
use crate::meter::Surface;
use crate::policy::{Action, Ask};
use crate::refusal::{Reason, Refusal, Side, Stage};
use http::{HeaderMap, HeaderName, Method, Uri};
use std::sync::Arc;

/// What frameworks take the method from (Rails, Django, Symfony, Express and others).
const METHODS: [&str; 3] = ["x-http-method-override", "x-http-method", "x-method-override"];
/// What IIS's rewriting and frameworks that know of it take the path from.
const PATHS: [&str; 2] = ["x-original-url", "x-rewrite-url"];
/// Readings of one request that are decided.
const MOST: usize = 16;

/// Whether `name` is one of `names`, also with underscores: CGI and its heirs make both the same variable.
fn is_one_of(name: &HeaderName, names: &[&str]) -> bool {
    let folded = |byte| if byte == b'_' { b'-' } else { byte };
    names.iter().any(|one| one.len() == name.as_str().len() && one.bytes().eq(name.as_str().bytes().map(folded)))
}

/// What heads of these names say.
fn said<'h>(headers: &'h HeaderMap, names: &'h [&str]) -> impl Iterator<Item = (&'h HeaderName, String)> {
    let found = headers.iter().filter(|(name, _)| is_one_of(name, names));
    found.map(|(name, value)| (name, String::from_utf8_lossy(value.as_bytes()).trim().to_owned()))
}

/// The path of what a server may take for one: a path, or a whole URL; without its query.
fn path_of(text: &str) -> String {
    let path = match text.parse::<Uri>() {
        Ok(uri) if uri.scheme().is_some() => uri.path().to_owned(),
        _ => text.split(['?', '#']).next().unwrap_or_default().to_owned(),
    };
    if path.starts_with('/') { path } else { format!("/{path}") }
}

/// Refuses a request whose heads name another method or path, where it is priced, or where any of its readings is not allowed.
///
/// # Errors
/// The refusal, and the policies that forbid a reading.
pub(crate) fn check(session: &Session, asked: &Asked, headers: &HeaderMap) -> Result<(), (Refusal, Vec<Arc<str>>)> {
    let mut first = None;
    let (mut methods, mut paths) = (vec![asked.method.clone()], vec![asked.path.clone()]);
    for (name, text) in said(headers, &METHODS) {
        first = first.or(Some(name));
        let method = Method::from_bytes(text.to_ascii_uppercase().as_bytes());
        methods.push(method.map_err(|_| (refusal(name, "it has no method in it"), Vec::new()))?);
    }
    for (name, text) in said(headers, &PATHS) {
        first = first.or(Some(name));
        paths.push(path_of(&text));
    }
    let Some(name) = first else { return Ok(()) };
    if methods.len() * paths.len() > MOST {
        return Err((refusal(name, "there are too many of them"), Vec::new()));
    }
    let stack = &session.origin.stack;
    let set = stack.policy.current();
    for (method, path) in methods.iter().flat_map(|method| paths.iter().map(move |path| (method, path))) {
        // The price goes by the method and the path: neither may be another one than is read here.
        if stack.meter.surface(&asked.target.host, method, path, headers) != Surface::Unpriced {
            return Err((refusal(name, "the price of a request goes by its own method and path"), Vec::new()));
        }
        let target = &asked.target;
        let ask = Ask {
            method: Some(method.as_str()),
            path: Some(path),
            ..session.origin.ask(Action::Request, &target.host, target.port, target.address)
        };
        granted(&set, &ask).map_err(|(denied, policies)| {
            let why = format!("to some servers it is {method} {path}, which is not allowed: {}", denied.sentence);
            (refusal(name, &why), policies)
        })?;
    }
    Ok(())
}

fn refusal(name: &HeaderName, why: &str) -> Refusal {
    Refusal {
        stage: Stage::Policy,
        side: Side::Agent,
        reason: Reason::AmbiguousRequest,
        sentence: format!("Caracal does not forward this request with its head {name}: {why}. Leave that head out."),
        limit: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_known_in_each_spelling_and_others_are_not() {
        for (name, method) in [
            ("X-HTTP-Method-Override", true),
            ("x_http_method_override", true),
            ("X-Http-Method", true),
            ("x-method_override", true),
            ("x-http-methods", false),
            ("method", false),
        ] {
            let name: HeaderName = name.parse().expect("a name");
            assert_eq!(is_one_of(&name, &METHODS), method, "{name}");
        }
        for text in ["/admin?x=1", "https://a.example/admin#y", "admin"] {
            assert_eq!(path_of(text), "/admin");
        }
        assert_eq!(path_of(""), "/");
    }
}
