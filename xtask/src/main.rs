//! The project's own commands. One file per verb; what several verbs share stands below it.
//!
//! Every verb sets up what it needs, shows what it waits for, and is quick when there is nothing to do.

mod bench;
mod build;
mod checkout;
mod demo;
mod fuzz;
mod hosts;
mod lint;
mod pins;
mod progress;
mod report;
mod root;
mod run;
mod services;
mod setup;
mod test;
mod vm;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Build, run, test and measure Caracal. Each verb installs what it misses and asks for sudo only for that step.
#[derive(Debug, Parser)]
#[command(bin_name = "cargo xtask", subcommand_required = true, arg_required_else_help = true)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Build(build::Arguments),
    Run(run::Arguments),
    Demo(demo::Arguments),
    Test(test::Arguments),
    Vm(vm::Arguments),
    Bench(bench::Arguments),
    Fuzz(fuzz::Arguments),
    Services(services::Arguments),
    /// Check the formatting and let no clippy warning pass, in the kernel programs too.
    Lint,
    #[cfg(feature = "bench")]
    #[command(flatten)]
    BenchPart(bench::Part),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().verb {
        Verb::Build(arguments) => build::run(arguments),
        Verb::Run(arguments) => run::run(&arguments),
        Verb::Demo(arguments) => demo::run(&arguments),
        Verb::Test(arguments) => test::run(&arguments),
        Verb::Vm(arguments) => vm::run(&arguments),
        Verb::Bench(arguments) => bench::run(&arguments),
        Verb::Fuzz(arguments) => fuzz::run(&arguments),
        Verb::Services(arguments) => services::run(&arguments),
        Verb::Lint => lint::run(),
        #[cfg(feature = "bench")]
        Verb::BenchPart(part) => part.run(),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
