//! The command line, and the variables that say where Relayforge is.

use std::path::PathBuf;

use sql::event::SourceKind;
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
    /// Sends webhooks for a while, and compares what was accepted with what is stored. Exit code 1 if an answer was wrong, or
    /// something is missing or doubled.
    Ingest(IngestArgs),
    /// Measures how fast relay and consumer take away a backlog. Freezes the relay's process until there is one.
    Drain(DrainArgs),
    /// Measures how long a webhook takes from its request to its job's end. Exit code 1 if the goal is missed or a job is.
    EndToEnd(EndToEndArgs),
    /// Measures what ingest loses as jobs pile up, in databases that it makes and drops, each with an API of its own. Exit
    /// code 1 if the goal is missed.
    Growth(GrowthArgs),
    /// Measures what a webhook costs the API's processor before the database is asked. Exit code 1 if the goal is missed.
    HotPath(HotPathArgs),
    /// Measures what the services cost while nobody asks anything of them: CPU time, and queries to the database. Exit code
    /// 1 if a goal is missed.
    Idle(IdleArgs),
    /// Measures the database by itself, empty and with millions of jobs, in databases that it makes and drops. Exit code
    /// 1 if a goal is missed.
    Database(DatabaseArgs),
    /// Reads what `./dev measure` has measured, and says which goals are met. Exit code 1 if one is missed, or a measurement
    /// has failed.
    Summary(SummaryArgs),
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
#[derive(clap::Args, Debug, Clone)]
pub struct IngestArgs {
    /// What is sent.
    #[command(flatten)]
    pub load: LoadArgs,

    /// Webhooks a second, due at fixed times whether or not the server keeps up; latency counts from there. Without it each
    /// connection sends its next one when it has its answer.
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rate: Option<u32>,

    /// What is written.
    #[command(flatten)]
    pub files: Files,

    /// The processes that are measured meanwhile.
    #[command(flatten)]
    pub pids: Pids,

    /// Where.
    #[command(flatten)]
    pub target: Target,
}

/// Where what was found is written, beside standard output.
#[derive(clap::Args, Debug, Clone)]
pub struct Files {
    /// Also draws what it found into this folder, as SVG.
    #[arg(long, value_name = "FOLDER")]
    pub plots: Option<PathBuf>,

    /// Also writes the figures there, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// The sender's side of any load.
#[derive(clap::Args, Debug, Clone)]
pub struct SenderArgs {
    /// Connections, each with one request at a time.
    #[arg(long, default_value_t = 64, value_parser = clap::value_parser!(u32).range(1..=1024))]
    pub connections: u32,

    /// Bytes of each body; a few more where a body of that source can't be so small.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub payload_bytes: u32,
}

/// How much load, and of what.
#[derive(clap::Args, Debug, Clone)]
pub struct LoadArgs {
    /// Who sends.
    #[command(flatten)]
    pub sender: SenderArgs,

    /// How long to measure, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub duration: u32,

    /// How long to send before that, in seconds; what is sent then is checked like all else, but counts for no figure.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(0..=600))]
    pub warmup: u32,

    /// Webhooks in all, at the most; an end before `--duration`, not after it.
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(1..=20_000_000))]
    pub requests: u32,

    /// Whose signature and payload: generic, github or stripe.
    #[arg(long, default_value = "generic")]
    pub source: SourceKind,

    /// Tenants that take turns. One is the demo tenant; more are made, with its secrets, and stay.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub tenants: u32,

    /// Requests of a hundred that send an event once more, which has to be answered as a duplicate.
    #[arg(long, default_value_t = 0, value_name = "PERCENT", value_parser = clap::value_parser!(u32).range(0..=99))]
    pub duplicates: u32,
}

impl LoadArgs {
    /// So many generic webhooks of the demo tenant, as fast as they are answered.
    pub(crate) fn fixed(requests: u32, sender: &SenderArgs) -> Self {
        Self {
            sender: sender.clone(),
            duration: 600,
            warmup: 0,
            requests,
            source: SourceKind::Generic,
            tenants: 1,
            duplicates: 0,
        }
    }
}

/// Of `drain`.
#[derive(clap::Args, Debug)]
pub struct DrainArgs {
    /// Jobs that wait before the relay goes on.
    #[arg(long, default_value_t = 300_000, value_parser = clap::value_parser!(u32).range(1..=5_000_000))]
    pub jobs: u32,

    /// How long they may take to go, in seconds.
    #[arg(long, default_value_t = 600, value_parser = clap::value_parser!(u32).range(1..=3_600))]
    pub within: u32,

    /// Who sends.
    #[command(flatten)]
    pub sender: SenderArgs,

    /// What is written.
    #[command(flatten)]
    pub files: Files,

    /// The processes; relay and consumer have to be among them.
    #[command(flatten)]
    pub pids: Pids,

    /// Where.
    #[command(flatten)]
    pub target: Target,
}

/// Of `end-to-end`.
#[derive(clap::Args, Debug)]
pub struct EndToEndArgs {
    /// What is sent at each rate. `--warmup` begins with everybody asleep.
    #[command(flatten)]
    pub load: LoadArgs,

    /// Webhooks a second, due at fixed times; several, joined by commas, are measured one after the other. Above 100 the
    /// tenant's rate limit has to be raised first.
    #[arg(long = "rate", default_value = "20", value_delimiter = ',', value_name = "RATES",
        value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rates: Vec<u32>,

    /// What 99 of 100 jobs have to stay under, in milliseconds.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=600_000))]
    pub goal_ms: u32,

    /// What is written.
    #[command(flatten)]
    pub files: Files,

    /// The processes that are measured meanwhile.
    #[command(flatten)]
    pub pids: Pids,

    /// Where.
    #[command(flatten)]
    pub target: Target,
}

/// Of `growth`.
#[derive(clap::Args, Debug)]
pub struct GrowthArgs {
    /// Jobs that each database has; the first is what the others are compared with. 10,000,000 are 11 GB.
    #[arg(long, value_delimiter = ',', default_value = "0,1000000,10000000", value_name = "JOBS",
        value_parser = clap::value_parser!(u32).range(0..=100_000_000))]
    pub sizes: Vec<u32>,

    /// Turns that each has.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    pub turns: u32,

    /// How long a turn is, in seconds.
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub duration: u32,

    /// How long to send before that, in seconds.
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(0..=600))]
    pub warmup: u32,

    /// Who sends.
    #[command(flatten)]
    pub sender: SenderArgs,

    /// The API's program; without it, that beside this one.
    #[arg(long, value_name = "FILE")]
    pub api: Option<PathBuf>,

    /// Leaves the databases there for the next time. Webhooks that were sent stay in them.
    #[arg(long)]
    pub keep: bool,

    /// Also writes the figures there, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// PostgreSQL URL of a superuser, on the server that is measured; nothing of the database it names is touched.
    #[arg(
        long = "database-url",
        env = "MIGRATE__DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub database_url: Secret,

    /// Key that secrets are sealed under: base64 of 32 bytes.
    #[arg(
        long = "SECRETS__MASTER_KEY",
        env = "SECRETS__MASTER_KEY",
        hide_env_values = true,
        value_name = "BASE64"
    )]
    pub master_key: Secret,
}

/// Of `hot-path`.
#[derive(clap::Args, Debug)]
pub struct HotPathArgs {
    /// Measures nothing and does the work of so many webhooks: for profilers.
    #[arg(long)]
    pub count: Option<u32>,

    /// Bytes of their bodies.
    #[arg(long, default_value_t = 600, requires = "count", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub payload_bytes: u32,

    /// Also writes the figures there, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
}

/// Of `idle`.
#[derive(clap::Args, Debug)]
pub struct IdleArgs {
    /// How long to measure, in seconds.
    #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=86_400))]
    pub seconds: u32,

    /// The processes.
    #[command(flatten)]
    pub pids: Pids,

    /// The database, as a superuser: statements of all roles are counted.
    #[command(flatten)]
    pub database: DatabaseConfig,
}

/// The processes whose CPU time and memory are measured: those of `.dev/env`. One whose variable is empty is left out.
#[derive(clap::Args, Debug, Clone, Default)]
pub struct Pids {
    /// The API's process.
    #[arg(long = "API_PID", env = "API_PID", value_name = "PID", default_value = "")]
    pub api_pid: String,

    /// The relay's process.
    #[arg(long = "RELAY_PID", env = "RELAY_PID", value_name = "PID", default_value = "")]
    pub relay_pid: String,

    /// The consumer's process.
    #[arg(
        long = "CONSUMER_PID",
        env = "CONSUMER_PID",
        value_name = "PID",
        default_value = ""
    )]
    pub consumer_pid: String,

    /// PostgreSQL's first process; counted with all its backends.
    #[arg(
        long = "POSTGRES_PID",
        env = "POSTGRES_PID",
        value_name = "PID",
        default_value = ""
    )]
    pub postgres_pid: String,

    /// RabbitMQ's process; counted with its children.
    #[arg(
        long = "RABBITMQ_PID",
        env = "RABBITMQ_PID",
        value_name = "PID",
        default_value = ""
    )]
    pub rabbitmq_pid: String,
}

/// Of `database`.
#[derive(clap::Args, Debug)]
pub struct DatabaseArgs {
    /// PostgreSQL URL of a superuser, on the server that is measured; nothing of the database it names is touched.
    #[arg(
        long = "database-url",
        env = "MIGRATE__DATABASE_URL",
        hide_env_values = true,
        value_name = "URL"
    )]
    pub database_url: Secret,

    /// Jobs of the last 30 days that the full database has. 10,000,000 are 11 GB.
    #[arg(long, default_value_t = 10_000_000, value_parser = clap::value_parser!(u32).range(1_000..=100_000_000))]
    pub jobs: u32,

    /// Measures only these.
    #[arg(long, value_delimiter = ',', value_name = "MEASUREMENTS")]
    pub only: Vec<Measurement>,

    /// Leaves the full database there, and says its name.
    #[arg(long)]
    pub keep: bool,

    /// Uses a full database that was kept, and keeps it. Jobs that went through it since it was filled stay in it.
    #[arg(long, value_name = "NAME")]
    pub reuse: Option<String>,

    /// Also measures ingest with this change, which the schema's owner makes on the full database: what does an index cost?
    #[arg(long, value_name = "SQL", requires = "undo")]
    pub with: Option<String>,

    /// Takes back what `--with` does.
    #[arg(long, value_name = "SQL", requires = "with")]
    pub undo: Option<String>,

    /// Webhooks for each figure of ingest.
    #[arg(long, default_value_t = 20_000, value_parser = clap::value_parser!(u32).range(5..=10_000_000))]
    pub webhooks: u32,

    /// Jobs for the shares of HOT updates and the bytes a job.
    #[arg(long, default_value_t = 50_000, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    pub lifecycles: u32,

    /// Messages written before they are claimed, beside a snapshot and without.
    #[arg(long, default_value_t = 250_000, value_parser = clap::value_parser!(u32).range(1_000..=10_000_000))]
    pub messages: u32,

    /// Jobs that go through the full database before dead rows are counted.
    #[arg(long, default_value_t = 1_000_000, value_parser = clap::value_parser!(u32).range(1..=100_000_000))]
    pub through: u32,

    /// Also writes the figures there, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Also writes the plan of each question to a view there; those of slow ones are in the report anyway.
    #[arg(long, value_name = "FILE")]
    pub plans: Option<PathBuf>,
}

/// What can be measured.
#[derive(clap::ValueEnum, Debug, Clone, Copy, PartialEq, Eq)]
pub enum Measurement {
    /// Answers of the views, full.
    Views,
    /// Cost of a webhook, empty and full.
    Ingest,
    /// HOT updates and bytes a job, empty.
    Lifecycle,
    /// Dead rows after very many jobs, full.
    Through,
    /// Ingest and claims beside an old snapshot, both.
    Claims,
}

/// Of `summary`.
#[derive(clap::Args, Debug)]
pub struct SummaryArgs {
    /// The folder with what each measurement has written. Links to pictures are from the folder above it.
    #[arg(long, value_name = "FOLDER")]
    pub results: PathBuf,

    /// When it was measured.
    #[arg(long, default_value = "unknown")]
    pub date: String,

    /// What was measured.
    #[arg(long, default_value = "unknown")]
    pub commit: String,

    /// PostgreSQL's version.
    #[arg(long, value_name = "VERSION", default_value = "unknown")]
    pub postgres: String,

    /// RabbitMQ's version.
    #[arg(long, value_name = "VERSION", default_value = "unknown")]
    pub rabbitmq: String,
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
