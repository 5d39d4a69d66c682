//! `relayforge-migrate`: brings a database to what this release carries, and exits.
#![expect(clippy::print_stdout, reason = "a command's answer goes to standard output")]

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser;
use sql::migrate::{MigrateConfig, Migrated, migrate};

/// Brings the database to what this release carries: roles, schemas, migrations, functions and views, partitions.
/// Safe to run from many places at once and beside running services. Every setting is an environment variable.
#[derive(Parser)]
#[command(name = "relayforge-migrate", version)]
struct Arguments {
    #[command(flatten)]
    config: MigrateConfig,

    /// Checks the configuration without connecting.
    #[arg(long)]
    check_config: bool,
}

fn main() -> ExitCode {
    if rustls::crypto::ring::default_provider()
        .install_default()
        .is_err()
    {
        eprintln!("relayforge-migrate: a TLS provider is installed already");
    }
    if let Err(error) = load_dotenv() {
        eprintln!("relayforge-migrate: .env can't be read: {error:#}");
        return ExitCode::from(2);
    }
    let arguments = Arguments::parse();
    if let Err(error) = arguments.config.validate() {
        eprintln!("relayforge-migrate: {error}");
        return ExitCode::from(2);
    }
    if arguments.check_config {
        println!("configuration ok");
        return ExitCode::SUCCESS;
    }
    match run(&arguments.config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relayforge-migrate: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// As the services do: `./.env` is for development, and says so itself or is told so by the environment.
#[expect(
    clippy::disallowed_methods,
    reason = "decides whether .env is read, before clap reads the rest"
)]
fn load_dotenv() -> anyhow::Result<()> {
    let path = std::path::Path::new(".env");
    let app_env = std::env::var("APP_ENV").ok();
    if app_env.as_deref().is_some_and(|env| env != "development") || !path.exists() {
        return Ok(());
    }
    let mut development = app_env.is_some();
    for pair in dotenvy::from_path_iter(path).context("no access")? {
        // The library's own message quotes the line, which may hold a password.
        let (name, value) = pair.map_err(|_| anyhow::anyhow!("a line is malformed"))?;
        development |= name == "APP_ENV" && value == "development";
    }
    if development {
        dotenvy::from_path(path).map_err(|_| anyhow::anyhow!("a line is malformed"))?;
    }
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn run(config: &MigrateConfig) -> anyhow::Result<()> {
    match migrate(config).await.context("migrating")? {
        Migrated::NewerCode { database, built_in } => println!(
            "the database has the code of a newer release (epoch {database}, ours is {built_in}); nothing changed"
        ),
        Migrated::Done {
            migrations,
            code,
            partitions,
        } => println!(
            "{migrations} migrations applied, {} code objects changed, {} removed, {partitions} partitions made",
            code.changed.len(),
            code.removed.len()
        ),
    }
    Ok(())
}
