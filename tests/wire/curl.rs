//! curl, HTTP/1.1 and HTTP/2: bodies, headers, encodings, trailers.

use crate::{RULES, case, curl};
use serde_json::Value;
use support::stand_in::sites;

const VERSIONS: [&str; 2] = ["--http1.1", "--http2"];

#[test]
fn both_versions_are_spoken() {
    case("curl speaks HTTP/1.1 and HTTP/2", RULES, |scene, daemon| {
        for (version, spoken) in VERSIONS.into_iter().zip(["1.1", "2"]) {
            let ran = curl(daemon, &[version, "-w", "%{http_code} %{http_version}", "https://example.com/hello"]).ok();
            assert!(ran.stdout.contains("hello from the stand-in"), "{}", ran.screen());
            assert!(ran.stdout.contains(&format!("200 {spoken}")), "{}", ran.screen());
        }
        assert_eq!(scene.requests("example.com", "/hello"), 2);
    });
}

#[test]
fn header_names_and_values_arrive_as_they_were() {
    case("headers are not changed", RULES, |scene, daemon| {
        let args = [
            "-H",
            "X-One: 1",
            "-H",
            "x-two: a, b",
            "-H",
            "X-Two: c",
            "-H",
            "Cookie: a=b; c=d",
            "-H",
            "TE: trailers",
            "https://example.com/headers",
        ];
        let direct = VERSIONS.map(|version| scene.direct("curl").args(["-sS", version]).args(args).ran().ok());
        // The control is governed by nobody: what it sent is no leak.
        scene.wire.clear();
        for (version, direct) in VERSIONS.into_iter().zip(direct) {
            let through = curl(daemon, &[&[version][..], &args].concat()).ok();
            let read = |text: &str| serde_json::from_str::<Value>(text).expect("the headers");
            assert_eq!(read(&through.stdout), read(&direct.stdout), "{version}");
        }
    });
}

#[test]
fn large_bodies_pass_both_ways() {
    case("8 MiB down and up, byte for byte", RULES, |scene, daemon| {
        let length = 8 << 20;
        let file = scene.home.path().join("body");
        std::fs::write(&file, (0..length).map(sites::byte).collect::<Vec<u8>>()).expect("a body");
        let expected: Vec<u8> = std::fs::read(&file).expect("the body");
        for version in VERSIONS {
            let got = scene.home.path().join("got");
            let got = got.to_str().expect("a path");
            let _ran = curl(daemon, &[version, "-o", got, &format!("https://example.com/bytes/{length}")]).ok();
            assert!(std::fs::read(got).expect("the download") == expected, "{version}: the download differs");
            let body = format!("@{}", file.display());
            let _ran = curl(daemon, &[version, "--data-binary", &body, "-o", got, "https://example.com/echo"]).ok();
            assert!(std::fs::read(got).expect("the echo") == expected, "{version}: the echo differs");
        }
    });
}

#[test]
fn uploads_of_every_framing() {
    case("100-continue, chunked and sized uploads", RULES, |scene, daemon| {
        let file = scene.home.path().join("up");
        std::fs::write(&file, "x".repeat(3 << 20)).expect("a body");
        let body = format!("@{}", file.display());
        for more in [&["-H", "Expect: 100-continue"][..], &["-H", "Transfer-Encoding: chunked"], &[]] {
            let args = [&["--http1.1", "--data-binary", &body], more, &["https://example.com/hash"]].concat();
            let ran = curl(daemon, &args).ok();
            let said: Value = serde_json::from_str(&ran.stdout).expect("a hash");
            assert_eq!(said["length"], 3 << 20, "{more:?}");
        }
    });
}

#[test]
fn head_and_statuses_pass() {
    case("HEAD, 204, 304, 404, 500", RULES, |_, daemon| {
        for version in VERSIONS {
            let ran = curl(daemon, &[version, "-I", "https://example.com/bytes/1000"]).ok();
            assert!(ran.stdout.to_lowercase().contains("content-length: 1000"), "{}", ran.screen());
            // Our own answer to a HEAD has a body as little: over HTTP/2 the client would reset the stream.
            let refused = curl(daemon, &[version, "-I", "https://pypi.org/"]).ok();
            assert!(
                refused.stdout.to_lowercase().contains("x-caracal-reason: host_not_allowed"),
                "{}",
                refused.screen()
            );
            for status in ["204", "304", "404", "500"] {
                let ran = curl(
                    daemon,
                    &[
                        version,
                        "-o",
                        "/dev/null",
                        "-w",
                        "%{http_code}",
                        &format!("https://example.com/status/{status}"),
                    ],
                )
                .ok();
                assert_eq!(ran.stdout, status);
            }
        }
    });
}

#[test]
fn encoded_bodies_are_not_touched() {
    case("gzip, br and zstd bodies stay encoded as they were", RULES, |scene, daemon| {
        let encodings = ["gzip", "br", "zstd"];
        let file =
            |how: &str, encoding: &str, version: &str| scene.home.path().join(format!("{how}{version}.{encoding}"));
        let all = || encodings.into_iter().flat_map(|encoding| VERSIONS.map(|version| (encoding, version)));
        for (encoding, version) in all() {
            let to = file("direct", encoding, version);
            let url = format!("https://example.com/{encoding}");
            let _ran = scene.direct("curl").args(["-sS", version, "-o"]).arg(&to).arg(&url).ran().ok();
        }
        // The control is governed by nobody: what it sent is no leak.
        scene.wire.clear();
        for (encoding, version) in all() {
            let url = format!("https://example.com/{encoding}");
            let (one, two) = (file("through", encoding, version), file("direct", encoding, version));
            let _ran = curl(daemon, &[version, "-o", one.to_str().expect("a path"), &url]).ok();
            let (through, direct) = (std::fs::read(&one).expect("a body"), std::fs::read(&two).expect("a body"));
            assert!(!direct.is_empty() && through == direct, "{encoding} {version}");
            let ran = curl(daemon, &[version, "--compressed", &url]).ok();
            assert_eq!(ran.stdout, sites::text(), "{encoding} {version}");
        }
    });
}

#[test]
fn trailers_arrive() {
    case("trailers", RULES, |_, daemon| {
        for version in VERSIONS {
            // curl writes trailers to the same place as headers.
            let ran = curl(daemon, &[version, "-H", "TE: trailers", "-D", "-", "https://example.com/trailers"]).ok();
            let said = ran.stdout.to_lowercase();
            assert!(
                said.contains("x-checksum: c0ffee") && said.contains("grpc-status: 0"),
                "{version}: {}",
                ran.screen()
            );
        }
    });
}
