//! `relayforge-perf`: reads the command line, runs one command, prints what it found.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command for people and scripts, which read its output"
)]

use std::process::ExitCode;

use clap::Parser as _;
use perf::config::{Cli, Command};
use perf::{database, demo, end_to_end, idle, load};

#[tokio::main]
async fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli).await {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("relayforge-perf: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Whether everything was as it should be.
async fn run(cli: Cli) -> anyhow::Result<bool> {
    perf::client::install_tls();
    match cli.command {
        Command::Demo(arguments) => {
            // Alone it is both; for a script, `--setup` prints variables and nothing else.
            let both = !arguments.setup && !arguments.send;
            if arguments.setup || both {
                let setup = demo::setup(&arguments.target).await?;
                if arguments.setup {
                    print!("{}", setup.variables());
                }
                if both {
                    setup.settle().await;
                }
            }
            if !arguments.send && !both {
                return Ok(true);
            }
            let report = demo::send(&arguments.target).await?;
            print!("{report}");
            Ok(report.is_right())
        }
        Command::Ingest(arguments) => {
            let report = load::ingest(&arguments).await?;
            print!("{report}");
            Ok(report.is_right())
        }
        Command::EndToEnd(arguments) => {
            let report = end_to_end::run(&arguments).await?;
            print!("{report}");
            Ok(report.is_right())
        }
        Command::Idle(arguments) => {
            let report = idle::run(&arguments).await?;
            print!("{report}");
            Ok(report.is_right())
        }
        Command::Database(arguments) => {
            let report = database::run(&arguments).await?;
            if let Some(file) = &arguments.json {
                std::fs::write(file, serde_json::to_string_pretty(&report)?)?;
            }
            if let Some(file) = &arguments.plans {
                std::fs::write(file, report.all_plans())?;
            }
            print!("{report}");
            Ok(report.is_right())
        }
    }
}
