//! The command line of `caracald policy`, and the question that `explain` asks by it.

use crate::policy::table::{Case, Expect};
use anyhow::Context;
use clap::{Args, Subcommand, ValueEnum};
use std::net::IpAddr;
use std::path::PathBuf;

/// Check, test and explain the policy, or put it into force.
#[derive(Clone, Debug, Args)]
pub struct PolicyArgs {
    /// The configuration: the command line's own `--config`.
    #[arg(skip)]
    pub config: PathBuf,
    /// Print JSON, for scripts
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do
    #[command(subcommand)]
    pub command: PolicyCommand,
}

/// What to do.
#[derive(Clone, Debug, Subcommand)]
pub enum PolicyCommand {
    /// Read the configuration and its Cedar files and say what is wrong
    ///
    /// Nothing is put into force. Exit code 0: all is well. 64: something is wrong; each place is named with file and line.
    Check {
        /// Print all policies as Cedar, the rules of caracal.toml too
        #[arg(long)]
        print: bool,
    },
    /// Compare a table of expected decisions with what would be decided
    ///
    /// FILE holds one [[case]] for each decision:
    ///
    ///   [[case]]
    ///   agent = "builder"            # default "agent"
    ///   action = "request"           # connect, resolve, request, llm, tool; default request
    ///   host = "api.openai.com"
    ///   method = "POST"              # default GET
    ///   path = "/v1/responses"       # default /
    ///   expect = "allow"             # or "deny"
    ///   reason = "host_not_allowed"  # of a denial; default any
    ///
    /// Also: port, address, provider, model, tool, estimate ("0.10 USD"), learn. Exit code 1 when a case differs.
    #[command(verbatim_doc_comment)]
    Test {
        /// The table
        file: PathBuf,
    },
    /// Say what would be decided for one request, by which rule, and what would change it
    ///
    /// Looks at the policy, and for --model at the price book; not at budgets, rates and what is open. Exit code 0: allowed. 1:
    /// denied, or without a price.
    ///
    ///   caracald policy explain https://api.openai.com/v1/responses --method POST
    ///   caracald policy explain api.openai.com --action llm --provider openai --model gpt-6
    ///   caracald policy explain git.example.com --port 22 --action connect --agent builder
    #[command(verbatim_doc_comment)]
    Explain(ExplainArgs),
    /// Put the configuration on disk into force in the running daemon
    ///
    /// Taken: [[allow]], [[deny]], [policy], [[budget]], [[rate]], [prices], [[provider]], [[mcp]], [[api]], [[inbound]] and
    /// [[unix]]. Everything else waits for a restart of the daemon: [[agent]], [listen], [upstream], [limits], [clamp],
    /// [websocket], [journal], [upgrade], [kafka], [postgres], [redis], [escrow], require, allow_degraded, admin_group, user and
    /// the directories. A warning names what of it changed since the daemon started.
    ///
    /// A broken configuration changes nothing: the daemon keeps the last good policy and the reason is printed here.
    Reload,
}

/// One request.
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// A URL, or a host name or address
    #[arg(value_name = "URL|HOST")]
    pub target: String,
    /// Who asks
    #[arg(long, short, default_value = "agent")]
    pub agent: String,
    /// What for
    #[arg(long, value_enum, default_value_t = ActionName::Request)]
    pub action: ActionName,
    /// The port, if it is not the URL's
    #[arg(long, short)]
    pub port: Option<u16>,
    /// The method
    #[arg(long, short, default_value = "GET")]
    pub method: String,
    /// The path, if it is not the URL's
    #[arg(long)]
    pub path: Option<String>,
    /// The address that the name leads to
    #[arg(long)]
    pub address: Option<IpAddr>,
    /// For llm: whose model
    #[arg(long)]
    pub provider: Option<String>,
    /// For llm: which model
    #[arg(long)]
    pub model: Option<String>,
    /// For tool: which tool
    #[arg(long)]
    pub tool: Option<String>,
    /// For llm: the most that the call can cost, such as "0.10 USD"
    #[arg(long)]
    pub estimate: Option<String>,
    /// As under `run --learn`
    #[arg(long)]
    pub learn: bool,
}

/// The five actions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum ActionName {
    /// Open a connection that is not read
    Connect,
    /// Look a name up
    Resolve,
    /// Send an HTTP request
    Request,
    /// Call a model
    Llm,
    /// Call a tool
    Tool,
}

impl ExplainArgs {
    /// The question; a URL gives host, port and path.
    pub(super) fn case(&self) -> anyhow::Result<Case> {
        let (host, port, path) = self.place()?;
        let action = self.action.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default();
        Ok(Case {
            agent: self.agent.clone(),
            learn: self.learn,
            action,
            host,
            port: self.port.unwrap_or(port),
            address: self.address,
            method: Some(self.method.clone()),
            path: self.path.clone().or(path),
            provider: self.provider.clone(),
            model: self.model.clone(),
            tool: self.tool.clone(),
            estimate: self.estimate.clone(),
            expect: Expect::Allow,
            reason: None,
        })
    }

    fn place(&self) -> anyhow::Result<(String, u16, Option<String>)> {
        if !self.target.contains("://") {
            return Ok((self.target.to_ascii_lowercase(), 443, None));
        }
        let uri: http::Uri = self.target.parse().with_context(|| format!("{:?} is no URL", self.target))?;
        let host = uri.host().with_context(|| format!("{:?} has no host", self.target))?;
        let port = match uri.scheme_str() {
            Some("https" | "wss") => 443,
            Some("http" | "ws") => 80,
            _ => anyhow::bail!("{:?}: write an http or https URL, or a host", self.target),
        };
        Ok((host.to_ascii_lowercase(), uri.port_u16().unwrap_or(port), Some(uri.path().to_owned())))
    }
}
