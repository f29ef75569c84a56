//! The `garrison` command: from argv to a role.

use std::process::ExitCode;

use clap::Parser;
use garrison::cli::{Cli, Command, ControlArgs};
use garrison::telemetry;

mod roles;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let serves = matches!(&cli.command, Command::Control(ControlArgs { task: None, .. }) | Command::Up(_));
    let telemetry = telemetry::init(&cli.log, serves).map_err(anyhow::Error::from);
    let result = telemetry.and_then(|_until_it_ends| roles::run(cli.command));
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
