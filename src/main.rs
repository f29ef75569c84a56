//! The `garrison` command: from argv to a role.

use std::process::ExitCode;

use clap::Parser;
use garrison::cli::Cli;
use garrison::telemetry;

mod roles;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = telemetry::init(&cli.log).map_err(anyhow::Error::from).and_then(|()| roles::run(cli.command));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Logs may be filtered; why the program ends must not be.
            #[expect(clippy::print_stderr, reason = "the last word of a command that failed belongs to its user")]
            {
                eprintln!("garrison: {error:#}");
            }
            ExitCode::FAILURE
        }
    }
}
