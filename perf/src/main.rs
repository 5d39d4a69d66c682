//! `relayforge-perf`: reads the command line, runs one command, prints what it found.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a command for people and scripts, which read its output"
)]

use std::fmt::Display;
use std::path::Path;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use perf::config::{Cli, Command};
use perf::{database, demo, drain, end_to_end, growth, hot_path, idle, load, summary};
use serde::Serialize;

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
            draw(arguments.files.plots.as_deref(), |folder| report.draw(folder))?;
            tell(arguments.files.json.as_deref(), &report)?;
            Ok(report.is_right())
        }
        Command::Drain(arguments) => {
            let report = drain::run(&arguments).await?;
            draw(arguments.files.plots.as_deref(), |folder| report.draw(folder))?;
            tell(arguments.files.json.as_deref(), &report)?;
            Ok(report.is_right())
        }
        Command::EndToEnd(arguments) => {
            let report = end_to_end::run(&arguments).await?;
            draw(arguments.files.plots.as_deref(), |folder| report.draw(folder))?;
            tell(arguments.files.json.as_deref(), &report)?;
            Ok(report.is_right())
        }
        Command::Growth(arguments) => {
            let report = growth::run(&arguments).await?;
            tell(arguments.json.as_deref(), &report)?;
            Ok(report.is_right())
        }
        Command::HotPath(arguments) => {
            let report = hot_path::run(&arguments)?;
            tell(arguments.json.as_deref(), &report)?;
            Ok(report.is_right())
        }
        Command::Idle(arguments) => {
            let report = idle::run(&arguments).await?;
            print!("{report}");
            Ok(report.is_right())
        }
        Command::Summary(arguments) => {
            let summary = summary::read(&arguments)?;
            print!("{summary}");
            Ok(summary.is_right())
        }
        Command::Database(arguments) => {
            let report = database::run(&arguments).await?;
            if let Some(file) = &arguments.plans {
                std::fs::write(file, report.all_plans())?;
            }
            tell(arguments.json.as_deref(), &report)?;
            Ok(report.is_right())
        }
    }
}

/// Prints a report, and writes it as JSON where that is asked for.
fn tell(file: Option<&Path>, report: &(impl Serialize + Display)) -> anyhow::Result<()> {
    print!("{report}");
    let Some(file) = file else { return Ok(()) };
    let text = serde_json::to_string_pretty(report)?;
    std::fs::write(file, text).with_context(|| format!("{} can't be written", file.display()))
}

/// Draws into a folder, where one is named.
fn draw(folder: Option<&Path>, draw: impl FnOnce(&Path) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let Some(folder) = folder else { return Ok(()) };
    std::fs::create_dir_all(folder)?;
    draw(folder)
}
