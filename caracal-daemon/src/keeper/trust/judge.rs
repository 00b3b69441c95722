//! Whether a process that runs will trust the local CA. Takes what `/proc` shows of it: the store that it sees, its
//! environment, its program and libraries. Gives a verdict and what to do; the verdict of an own connection, which
//! `status` shows, outweighs it. Names and bytes are compared here, nothing is parsed.
//!
//! What each runtime reads is known from trials; see the table of variables in [`crate::cli::trust`].

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use serde::{Deserialize, Serialize};

use super::contains;
use crate::cli::trust::REPLACING;
use crate::cli::trust::bundle::SYSTEM_BUNDLES;

/// So much is read of a file that a workload names.
const MOST_BYTES: u64 = 4 << 20;
/// So much of a program is searched for the mark of its compiler.
const MOST_PROGRAM: u64 = 256 << 20;
/// What the Go linker writes into every program (`debug/buildinfo`), backwards: forwards it would stand in this program too.
const GO_BACKWARDS: &[u8] = b":fnidliub oG \xff";

/// How it stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Trusts {
    /// Its next handshake succeeds.
    Trusted,
    /// It will once it is started again, as `what` says.
    NeedsRestart,
    /// It carries roots of its own, which `what` says how to extend.
    OwnStore,
    /// Nothing known that speaks TLS; what it starts is judged by itself.
    Unknown,
}

/// One process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Verdict {
    /// Process id.
    pub pid: u32,
    /// Its name.
    pub process: String,
    /// `openssl`, `gnutls`, `node`, `bun`, `deno`, `java`, `go`, `python`, or `-`.
    pub runtime: String,
    /// The verdict.
    pub verdict: Trusts,
    /// Why, and what to do.
    pub what: String,
}

/// Judges a process. `advised` is a bundle with the CA that it may be pointed at. `None`: it is gone.
#[must_use]
pub fn judge(pid: u32, process: &str, ca: &str, advised: &Path) -> Option<Verdict> {
    let program = fs::read_link(format!("/proc/{pid}/exe")).ok()?;
    let program = program.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let maps = fs::read_to_string(format!("/proc/{pid}/maps")).unwrap_or_default();
    let environment = read(&format!("/proc/{pid}/environ"));
    let holds = |path: &str| contains(&read(&format!("/proc/{pid}/root/{path}")), ca.as_bytes());
    let store = SYSTEM_BUNDLES.iter().find(|path| holds(path));
    let runtime = runtime(&program, &maps, || is_go(pid));
    // In its own files the store itself is the bundle with the CA.
    let advised = store.map_or_else(|| advised.display().to_string(), |path| (*path).to_owned());
    let (verdict, what) = verdict(runtime, store.is_some(), &environment, &holds, &advised);
    Some(Verdict { pid, process: process.to_owned(), runtime: runtime.to_owned(), verdict, what })
}

/// The runtime by the program's name and the libraries that it has loaded.
fn runtime(program: &str, maps: &str, is_go: impl FnOnce() -> bool) -> &'static str {
    let name = program.trim_end_matches(" (deleted)");
    let starts = |prefix: &str| name.starts_with(prefix);
    let loaded =
        |library: &str| maps.lines().any(|line| line.rsplit('/').next().is_some_and(|file| file.starts_with(library)));
    match name {
        _ if starts("python") || loaded("libpython") => "python",
        "node" | "nodejs" => "node",
        "bun" | "claude" => "bun",
        "deno" => "deno",
        _ if name == "java" || loaded("libjvm.so") => "java",
        _ if loaded("libssl") => "openssl",
        _ if loaded("libgnutls") => "gnutls",
        _ if loaded("libnss3") => "nss",
        // A shell or another program without any of these has no TLS unless it is linked in.
        _ if !maps.contains("libc.so") && is_go() => "go",
        _ => "-",
    }
}

fn verdict(
    runtime: &str,
    store: bool,
    environment: &[u8],
    holds: &dyn Fn(&str) -> bool,
    advised: &str,
) -> (Trusts, String) {
    let value = |name: &str| {
        let variables = environment.split(|byte| *byte == 0);
        let found = variables.filter_map(|line| line.strip_prefix(name.as_bytes())?.strip_prefix(b"=")).next_back();
        found.map(|value| String::from_utf8_lossy(value).into_owned()).filter(|value| !value.is_empty())
    };
    let restart = |what: String| (Trusts::NeedsRestart, format!("start it again with {what}"));
    let added = |name: &str| value(name).is_some_and(|path| holds(&path));
    match runtime {
        "node" if added("NODE_EXTRA_CA_CERTS") => (Trusts::Trusted, "by NODE_EXTRA_CA_CERTS".to_owned()),
        "node" => restart(format!("NODE_EXTRA_CA_CERTS={advised}")),
        "deno" => restart(format!("DENO_CERT={advised}")),
        "java" => {
            let what = "a trust store that has the CA: JAVA_TOOL_OPTIONS=-Djavax.net.ssl.trustStore=FILE";
            (Trusts::OwnStore, format!("give it {what} (`caracald run` makes one)"))
        }
        "nss" => (Trusts::OwnStore, "add the CA of `caracald ca export` to its NSS database".to_owned()),
        _ => {
            // A variable that names another bundle wins over the store.
            let other = REPLACING.iter().find_map(|name| value(name).filter(|path| !holds(path)).map(|_| *name));
            let pointed = REPLACING.iter().any(|name| added(name));
            match (runtime, other) {
                ("-", _) => (Trusts::Unknown, "loaded no TLS library; what it starts reads the store anew".to_owned()),
                (_, Some(name)) => restart(format!("{name}={advised}")),
                ("bun" | "go", None) if store => {
                    (Trusts::NeedsRestart, "start it again: it reads the store once".to_owned())
                }
                ("python", None) if pointed => (Trusts::Trusted, "by its variables".to_owned()),
                ("python", None) if store => {
                    let what = "ssl and urllib read the store; requests and httpx carry their own roots";
                    (
                        Trusts::Trusted,
                        format!("{what}: start those again with REQUESTS_CA_BUNDLE and SSL_CERT_FILE={advised}"),
                    )
                }
                (_, None) if store => (Trusts::Trusted, "new handshakes read the store, which has the CA".to_owned()),
                (_, None) if pointed => (Trusts::Trusted, "by its variables".to_owned()),
                ("gnutls", None) => {
                    restart(format!("GIT_SSL_CAINFO={advised} if it is git; else attach with --trust-system"))
                }
                ("python", None) => restart(format!(
                    "SSL_CERT_FILE={advised} and REQUESTS_CA_BUNDLE={advised}, or attach with --trust-system"
                )),
                (_, None) => restart(format!("SSL_CERT_FILE={advised}, or attach with --trust-system")),
            }
        }
    }
}

/// Whether the Go linker made a program.
fn is_go(pid: u32) -> bool {
    let Ok(file) = File::open(format!("/proc/{pid}/exe")) else { return false };
    let mut file = file.take(MOST_PROGRAM);
    let mut buffer = vec![0; 1 << 20];
    let mut kept = 0;
    while let Some(room) = buffer.get_mut(kept..) {
        let Ok(length @ 1..) = file.read(room) else { return false };
        let filled = buffer.get(..kept + length).unwrap_or_default();
        if filled.windows(GO_BACKWARDS.len()).any(|bytes| bytes.iter().rev().eq(GO_BACKWARDS)) {
            return true;
        }
        // The mark may lie across two reads.
        let tail = filled.len().saturating_sub(GO_BACKWARDS.len());
        kept = filled.len() - tail;
        buffer.copy_within(tail..tail + kept, 0);
    }
    false
}

/// A file that a workload names, as far as the bound; nothing when it cannot be read.
fn read(path: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let file = fs::OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open(path);
    let file = file.ok().filter(|file| file.metadata().is_ok_and(|facts| facts.is_file()));
    let _ = file.map(|file| file.take(MOST_BYTES).read_to_end(&mut bytes));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ask(runtime: &str, store: bool, environment: &[u8]) -> (Trusts, String) {
        verdict(runtime, store, environment, &|path| path == "/with-ca", "/advised")
    }

    #[test]
    fn verdicts_say_what_to_do() {
        assert_eq!(ask("openssl", true, b"").0, Trusts::Trusted);
        assert_eq!(ask("gnutls", true, b"").0, Trusts::Trusted);
        assert_eq!(ask("python", true, b"").0, Trusts::Trusted);
        assert_eq!(ask("go", true, b"").0, Trusts::NeedsRestart);
        assert_eq!(ask("-", false, b"").0, Trusts::Unknown);
        assert_eq!(ask("java", true, b"").0, Trusts::OwnStore);
        let (verdict, what) = ask("openssl", false, b"");
        assert!(verdict == Trusts::NeedsRestart && what.contains("SSL_CERT_FILE=/advised"), "{what}");
        let (verdict, what) = ask("node", true, b"A=1\0NODE_EXTRA_CA_CERTS=/other\0");
        assert!(verdict == Trusts::NeedsRestart && what.contains("NODE_EXTRA_CA_CERTS=/advised"), "{what}");
        assert_eq!(ask("node", false, b"NODE_EXTRA_CA_CERTS=/with-ca\0").0, Trusts::Trusted);
        let (verdict, what) = ask("openssl", true, b"CURL_CA_BUNDLE=/other\0");
        assert!(verdict == Trusts::NeedsRestart && what.contains("CURL_CA_BUNDLE"), "a variable wins: {what}");
        assert_eq!(ask("openssl", false, b"SSL_CERT_FILE=/with-ca\0").0, Trusts::Trusted);
    }

    #[test]
    fn runtimes_by_name_and_library() {
        let maps = "7f r-xp 0 0:1 5 /usr/lib/x86_64-linux-gnu/libssl.so.3\n7f r 0 0:1 5 /usr/lib/libc.so.6";
        assert_eq!(runtime("curl", maps, || true), "openssl");
        assert_eq!(runtime("python3.11", maps, || true), "python");
        assert_eq!(runtime("sh", "7f r 0 0:1 5 /usr/lib/libc.so.6", || true), "-");
        assert_eq!(runtime("gh", "", || true), "go");
        assert!(!is_go(std::process::id()));
    }

    proptest::proptest! {
        #[test]
        fn no_environment_panics(environment: Vec<u8>, store: bool) {
            for runtime in ["node", "python", "openssl", "gnutls", "-"] {
                let _ = ask(runtime, store, &environment);
            }
        }
    }
}
