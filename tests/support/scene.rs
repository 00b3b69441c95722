//! One test's world: two hosts, the stand-in in one of them, and what it wrote down.

use crate::netns::{AGENT_UID, NAME_SERVER, Net, Run, until};
use crate::programs;
use crate::stand_in::bill::Line;
use crate::stand_in::names::{FIRST_V4, KNOWN};
use crate::tail::Tail;
use crate::wire::Wire;
use anyhow::{Context as _, Result};
use serde_json::Value;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;

/// Where a company's HTTP proxy listens.
pub const PROXY: &str = "203.0.113.60:3128";
/// A name server that only some names are asked of.
pub const CORPORATE_NAME_SERVER: &str = "203.0.113.54";
/// Rules about the stand-in's server of tools: prices for three, one of which is denied.
pub const TOOLS: &str = r#"
[[deny]]
tools = ["delete_*"]

[[mcp]]
name = "desk"
host = "mcp.example"
paths = ["/mcp"]
prices = { search = "0.01 USD", lookup = "0 USD", delete_everything = "0.01 USD" }
"#;
const NAME_SERVER_V6: &str = "2001:db8:ca::53";

/// Hosts, stand-in and judge; the daemon is started by the test.
#[derive(Debug)]
pub struct Scene {
    stand_in: Child,
    /// The judge.
    pub wire: Wire,
    /// The hosts.
    pub net: Net,
    /// The agent's home: files here belong to the agent's user.
    pub home: tempfile::TempDir,
}

impl Scene {
    /// Builds it. `stand_in` is the path of the stand-in's binary.
    ///
    /// # Errors
    /// When not root, or something does not start.
    pub fn new(stand_in: &str) -> Result<Scene> {
        Scene::build(stand_in, true)
    }

    /// The same for very many requests: the stand-in writes its bill and nothing else, so [`Scene::log`] has nothing.
    ///
    /// # Errors
    /// When not root, or something does not start.
    pub fn quiet(stand_in: &str) -> Result<Scene> {
        Scene::build(stand_in, false)
    }

    fn build(stand_in: &str, logs: bool) -> Result<Scene> {
        let net = Net::new()?;
        let wire = Wire::tap(&net)?;
        let files = net.files().to_owned();
        let requests = if logs { files.join("requests.jsonl") } else { PathBuf::from("/dev/null") };
        let log = std::fs::File::create(files.join("stand-in.err"))?;
        let child = net
            .b
            .run(stand_in)
            .arg("--root-out")
            .arg(files.join("root.pem"))
            .arg("--bill")
            .arg(files.join("bill.jsonl"))
            .arg("--log")
            .arg(requests)
            .arg("--sites")
            .arg(files.join("sites"))
            .arg("--keys-out")
            .arg(&files)
            .args(["--proxy", PROXY])
            .args(["--dns", NAME_SERVER, "--dns", NAME_SERVER_V6, "--dns", CORPORATE_NAME_SERVER])
            .spawn(Stdio::from(std::fs::File::create(files.join("stand-in.out"))?), Stdio::from(log))?;
        let scene = Scene { stand_in: child, wire, net, home: programs::home() };
        until("the stand-in listens", Duration::from_secs(120), || {
            std::fs::read_to_string(files.join("stand-in.out")).is_ok_and(|text| text.contains("ready"))
        })
        .with_context(|| std::fs::read_to_string(files.join("stand-in.err")).unwrap_or_default())?;
        std::fs::write(files.join("bundle.pem"), scene.bundle()?)?;
        Ok(scene)
    }

    /// Files below `HOST/` here are what that host serves.
    #[must_use]
    pub fn sites(&self) -> PathBuf {
        self.net.files().join("sites")
    }

    /// The IPv4 address that the stand-in's name server gives for a name.
    ///
    /// # Panics
    /// When it knows no such name.
    #[must_use]
    #[track_caller]
    pub fn address(&self, name: &str) -> Ipv4Addr {
        let place = KNOWN.iter().position(|known| *known == name).expect("a known name");
        Ipv4Addr::from_bits(FIRST_V4.to_bits() + u32::try_from(place).expect("a place"))
    }

    /// The test root's certificate.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        self.net.files().join("root.pem")
    }

    fn bundle(&self) -> Result<String> {
        let system = std::fs::read_to_string("/etc/ssl/certs/ca-certificates.crt").unwrap_or_default();
        Ok(system + &std::fs::read_to_string(self.root())?)
    }

    /// A program of the agent's user in A, in its home, with a clean environment: ungoverned until it is put behind
    /// `caracald run`.
    #[must_use]
    pub fn agent(&self, program: impl AsRef<std::ffi::OsStr>) -> Run {
        self.net.a.run(program).clean_env().env("HOME", self.home.path()).user(AGENT_UID).dir(self.home.path())
    }

    /// The same, trusting the test root by variables: for runs without the daemon.
    #[must_use]
    pub fn direct(&self, program: impl AsRef<std::ffi::OsStr>) -> Run {
        let bundle = self.net.files().join("bundle.pem");
        let names = ["SSL_CERT_FILE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE", "GIT_SSL_CAINFO", "CURL_CA_BUNDLE"];
        names.iter().fold(self.agent(program), |run, name| run.env(name, &bundle))
    }

    /// What the stand-in bills so far.
    #[must_use]
    pub fn bill(&self) -> Vec<Line> {
        lines(&self.net.files().join("bill.jsonl"))
            .into_iter()
            .filter_map(|line| serde_json::from_value(line).ok())
            .collect()
    }

    /// The same, to be read as it grows.
    #[must_use]
    pub fn bill_tail(&self) -> Tail {
        Tail::new(self.net.files().join("bill.jsonl"))
    }

    /// What reached the stand-in: requests, look-ups, starts and ends of paid calls.
    #[must_use]
    pub fn log(&self, event: &str) -> Vec<Value> {
        lines(&self.net.files().join("requests.jsonl")).into_iter().filter(|line| line["event"] == event).collect()
    }

    /// Requests that reached `host` at `path`.
    #[must_use]
    pub fn requests(&self, host: &str, path: &str) -> usize {
        self.log("request").iter().filter(|line| line["host"] == host && line["path"] == path).count()
    }

    /// Paid calls that have started and not ended.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let ended = self.log("ended").len();
        self.log("started").len().saturating_sub(ended)
    }

    /// A file of the scene that every user of A can read.
    ///
    /// # Panics
    /// When it cannot be written.
    #[must_use]
    pub fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.net.files().join(name);
        std::fs::write(&path, text).expect("a scratch file");
        path
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _gone = self.stand_in.kill();
        let _gone = self.stand_in.wait();
    }
}

/// JSON lines; a line that is still being written is left for the next time.
#[must_use]
pub fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}
