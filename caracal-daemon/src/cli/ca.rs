//! `ca show` and `ca export`.

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::control::Control;
use crate::config::Config;
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
        CaVerb::Export { out: None } => std::io::stdout().write_all(pem.as_bytes())?,
        CaVerb::Show { json } => show(pem, *json)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn show(pem: &str, json: bool) -> anyhow::Result<()> {
    use sha2::Digest;
    let (_, block) = x509_parser::pem::parse_x509_pem(pem.as_bytes())?;
    let (_, certificate) = X509Certificate::from_der(&block.contents)?;
    let digest = sha2::Sha256::digest(&block.contents);
    let fingerprint = digest.iter().map(|byte| format!("{byte:02X}")).collect::<Vec<_>>().join(":");
    let (subject, validity) = (certificate.subject().to_string(), certificate.validity());
    if json {
        let value = serde_json::json!({
            "subject": subject, "not_before": validity.not_before.to_string(), "not_after": validity.not_after.to_string(),
            "sha256": fingerprint,
        });
        println!("{value}");
    } else {
        println!(
            "subject     {subject}\nnot before  {}\nnot after   {}\nSHA-256     {fingerprint}",
            validity.not_before, validity.not_after
        );
    }
    Ok(())
}
