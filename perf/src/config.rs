//! The command line, and the variables that say where Relayforge is.

use std::path::PathBuf;

use sql::{DatabaseConfig, Secret};

/// Drives a running Relayforge from outside.
#[derive(clap::Parser, Debug)]
#[command(name = "relayforge-perf", version)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(clap::Subcommand, Debug)]
pub enum Command {
    /// Makes the demo tenant with its secrets and keys, then sends one webhook of each kind and shows what became of it.
    Demo(DemoArgs),
    /// Sends a bounded number of webhooks and compares what was accepted with what is stored.
    Ingest(IngestArgs),
}

/// Where Relayforge is, and where the demo tenant's secrets are kept.
#[derive(clap::Args, Debug, Clone)]
pub struct Target {
    /// Base URL of the API.
    #[arg(
        id = "RELAYFORGE_URL",
        long = "RELAYFORGE_URL",
        env = "RELAYFORGE_URL",
        value_name = "URL",
        default_value = "http://127.0.0.1:8080"
    )]
    pub url: String,

    /// The database, as its owner.
    #[command(flatten)]
    pub database: DatabaseConfig,

    /// Key that the demo tenant's secrets are sealed under: base64 of 32 bytes, the API's own.
    #[arg(
        long = "SECRETS__MASTER_KEY",
        env = "SECRETS__MASTER_KEY",
        hide_env_values = true,
        value_name = "BASE64"
    )]
    pub master_key: Secret,

    /// File with the demo tenant's secrets and keys, made if it is not there, readable by its owner only.
    #[arg(long, value_name = "FILE", default_value = ".dev/demo.json")]
    pub state: PathBuf,
}

/// Of `demo`. Without `--setup` and `--send`: both.
#[derive(clap::Args, Debug)]
pub struct DemoArgs {
    /// Only makes the tenant, its secrets, the source `chaos` and the admin keys, as far as they are missing, and
    /// prints them as shell assignments.
    #[arg(long, conflicts_with = "send")]
    pub setup: bool,

    /// Only sends the webhooks. Exit code 1 if one of them did not become what it should.
    #[arg(long)]
    pub send: bool,

    /// Where.
    #[command(flatten)]
    pub target: Target,
}

/// Of `ingest`.
#[derive(clap::Args, Debug)]
pub struct IngestArgs {
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub connections: u32,

    /// Webhooks in all.
    #[arg(long, default_value_t = 1_000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub requests: u32,

    /// Webhooks a second at the most, over all connections; without it each follows its answer at once.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: Option<u32>,

    /// Where.
    #[command(flatten)]
    pub target: Target,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }
}
