//! Every version that set-up installs from outside the workspace's own lock file.
//!
//! The clients are pinned so that a red test means a change of ours, not of theirs. To move a pin, change it here and
//! run `cargo xtask test agents wire`.

/// Links the kernel programs. 0.13 reads the bitcode of LLVM 21 to 23.
pub(crate) const BPF_LINKER: &str = "0.13.0";

/// The LLVM versions that this bpf-linker can be built against.
pub(crate) const LLVM: std::ops::RangeInclusive<u32> = 21..=23;

/// Clients from PyPI, in a virtual environment below the target directory.
pub(crate) const PYTHON: &[&str] = &[
    "openai==3.54.0",
    "anthropic==2.12.0",
    "requests==2.34.2",
    "websockets==17.4",
    // gRPC, with c-ares; a libcurl that speaks HTTP/3.
    "grpcio==1.85.3",
    "curl_cffi==0.17.0",
    "google-genai==3.4.0",
    "boto3==1.44.8",
    "mcp==2.3.0",
    // A judge of the ledger, and what checks the signatures for it.
    "pymerkle==7.0.0",
    "cryptography==48.0.0",
];

/// Clients from npm: SDKs and two agents, installed below the target directory.
pub(crate) const NODE: &[&str] = &[
    "openai@6.49.0",
    "@anthropic-ai/sdk@1.14.0",
    "@modelcontextprotocol/sdk@1.32.2",
    "@anthropic-ai/claude-code@2.1.197",
    "@openai/codex@0.169.0",
];

/// The oldest Node.js that runs all of [`NODE`].
pub(crate) const NODE_MAJOR: u32 = 18;

/// The Go that builds the ledger's judges, where none on the host is as new. Their modules stand in tests/judges/go/go.sum.
pub(crate) const GO: &str = "1.26.0";

/// Proxies that `bench --peers all` compares with.
pub(crate) const MITMPROXY: &[&str] = &["mitmproxy==11.0.2"];
pub(crate) const LITELLM: &[&str] = &["litellm[proxy]==1.106.2"];

/// Apache Kafka and what it logs with, from Maven Central, and the SHA-256 over `sha256sum *.jar` of all that they bring.
pub(crate) const KAFKA: &str = "4.1.1";
pub(crate) const LOG4J: &str = "2.25.2";
pub(crate) const KAFKA_JARS_SHA256: &str = "d4b3812c1026634370750b1f6da1e94ca64067291c6446e1c321831cb1ba0e1d";
