//! caracald: see `caracald --help`.

fn main() -> std::process::ExitCode {
    caracal_daemon::cli::main()
}
