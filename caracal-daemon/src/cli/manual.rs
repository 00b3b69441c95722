//! `completions` and `man`: what clap knows, in the forms that shells and readers want.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::Cli;

/// Print shell completions.
///
/// For instance `caracald completions bash > ~/.local/share/bash-completion/completions/caracald`.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// Which shell.
    shell: Shell,
}

/// Write the manual pages into a directory.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Where to.
    directory: PathBuf,
}

/// Prints the completions.
///
/// # Errors
/// When nobody reads them.
pub fn completions(args: &CompletionsArgs) -> anyhow::Result<ExitCode> {
    // Into memory first: it panics where it cannot write.
    let mut text = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "caracald", &mut text);
    super::output::Output.write_all(&text)?;
    Ok(ExitCode::SUCCESS)
}

/// Writes `caracald.1` and a page for every verb.
///
/// # Errors
/// When the directory cannot be written.
pub fn man(args: &ManArgs) -> anyhow::Result<ExitCode> {
    std::fs::create_dir_all(&args.directory)?;
    clap_mangen::generate_to(Cli::command(), &args.directory)?;
    println!("wrote the pages to {}", args.directory.display());
    Ok(ExitCode::SUCCESS)
}
