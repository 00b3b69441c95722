//! gRPC, unary and streaming in both directions, over TLS: HTTP/2 with trailers that end each call. The client finds its
//! server with c-ares.

use crate::{Server, case, recorded, refused};
use support::programs;
use support::scene::Scene;

const RULES: &str = "[[allow]]\nhosts = [\"grpc.example\"]\nports = [50051]\n";

fn server(scene: &Scene) -> Server {
    let files = scene.net.files();
    let run = scene.net.b.run(programs::python()).args(["-c", include_str!("../programs/grpc_server.py")]);
    let run = run.arg(files.join("grpc.example.pem")).arg(files.join("grpc.example.key"));
    Server::start(scene, "grpc", run, &[50_051])
}

#[test]
fn calls_streams_and_errors_arrive_as_they_were() {
    case("gRPC over TLS: unary, streams, trailers, errors", RULES, server, |scene, daemon, _| {
        let client = include_str!("../programs/grpc_client.py");
        let said = |run: support::netns::Run| run.args(["-c", client, "grpc.example:50051"]).ran().ok().stdout;
        let direct = scene.direct(programs::python());
        let direct = said(direct.env("GRPC_DEFAULT_SSL_ROOTS_FILE_PATH", scene.net.files().join("bundle.pem")));
        // The control is governed by nobody: what it sent is no leak.
        scene.wire.clear();
        let through = said(daemon.run(programs::python()));
        assert!(through.contains("grpc: done"), "{through}");
        assert_eq!(through, direct);
        recorded(daemon, "request", "grpc.example", 50_051);
    });
}

#[test]
fn a_refused_server_says_so_in_grpc() {
    case(
        "gRPC to a host without a rule",
        "",
        |_| (),
        |_, daemon, _| {
            let client = include_str!("../programs/grpc_client.py");
            let ran = daemon.run(programs::python()).args(["-c", client, "denied.example:50051"]).ran();
            assert!(ran.screen().contains("PERMISSION_DENIED"), "{}", ran.screen());
            refused(daemon, "host_not_allowed", "denied.example");
        },
    );
}
