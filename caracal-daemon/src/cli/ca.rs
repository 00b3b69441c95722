//! `ca show` and `ca export`.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};

use super::control::Control;
use crate::config::Config;
use crate::keeper::authority::{self, CertificateFacts};
use crate::keeper::control::Request;

/// Show or export the local CA's certificate.
///
/// `caracald run` makes its command trust it, and `attach` says what a running process needs. By hand: export it, and add it to the
/// system's store or name it in NODE_EXTRA_CA_CERTS, SSL_CERT_FILE, REQUESTS_CA_BUNDLE.
#[derive(Debug, Args)]
pub struct CaArgs {
    #[command(subcommand)]
    verb: CaVerb,
}

#[derive(Debug, Subcommand)]
enum CaVerb {
    /// Show subject, validity and fingerprint.
    Show {
        /// As JSON.
        #[arg(long)]
        json: bool,
    },
    /// Print the certificate as PEM, or write it to a file. The key never leaves the keeper.
    Export {
        /// Where to.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
}

/// Runs the verb.
///
/// # Errors
/// When the daemon is not running, or the file cannot be written.
pub fn run(args: &CaArgs, config: &Config) -> anyhow::Result<ExitCode> {
    let answer = Control::connect(config)?.ask(&Request::CaCertificate)?;
    let pem = answer.as_str().unwrap_or_default();
    match &args.verb {
        CaVerb::Export { out: Some(path) } => std::fs::write(path, pem)?,
        CaVerb::Export { out: None } => print!("{pem}"),
        CaVerb::Show { json } => show(pem, *json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(pem: &str, json: bool) -> anyhow::Result<()> {
    let facts = authority::show(pem)?;
    if json {
        println!("{}", serde_json::to_string(&facts)?);
    } else {
        let CertificateFacts { subject, not_before, not_after, sha256 } = facts;
        println!("subject     {subject}\nnot before  {not_before}\nnot after   {not_after}\nSHA-256     {sha256}");
    }
    Ok(())
}
