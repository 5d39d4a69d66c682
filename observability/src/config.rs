//! The settings of logs and traces, and the `.env` file of development.
//!
//! Does not own any service's settings: they flatten [`TelemetryConfig`] into theirs. Next: `logging.rs`.

use std::path::Path;
use std::process::ExitCode;

use clap::builder::BoolishValueParser;
use tracing_subscriber::EnvFilter;

/// Our own lines from `info` up. The exporter's stack is off because its lines would feed the exporter;
/// the clients of broker and database repeat what we log ourselves, with less context.
pub(crate) const DEFAULT_FILTER: &str = "info,opentelemetry=off,tonic=off,h2=off,hyper=off,reqwest=off,\
     amqprs=off,tokio_postgres=warn,refinery=warn,refinery_core=warn";

/// Exit code of a configuration that can't be used, as clap's own.
const WRONG_CONFIGURATION: u8 = 2;

/// Where a process runs: decides whether development secrets and the `chaos` job kind are allowed.
#[derive(clap::ValueEnum, Clone, Copy, Debug, PartialEq, Eq)]
pub enum AppEnv {
    /// Refuses development secrets and test-only job kinds.
    Production,
    /// Reads `./.env`; allows what helps to try things out.
    Development,
}

/// Logs and traces of one process.
#[derive(clap::Args, Clone, Debug)]
pub struct TelemetryConfig {
    /// Where the process runs. In production a development secret refuses to start
    #[arg(
        long = "APP_ENV",
        env = "APP_ENV",
        hide_env_values = true,
        default_value = "production",
        value_enum
    )]
    pub app_env: AppEnv,

    /// Which log lines are written: `level` or `target=level`, joined by commas, on top of the default. Span fields
    /// such as `correlation_id` are kept at every level; client libraries, whose chatter holds payloads, stay at warn
    #[arg(long = "LOG__FILTER", env = "LOG__FILTER", hide_env_values = true,
        default_value = DEFAULT_FILTER, value_parser = checked_filter)]
    pub log_filter: String,

    /// Whether spans are sent to an OpenTelemetry collector (true or false)
    #[arg(long = "OTEL__ENABLED", env = "OTEL__ENABLED", hide_env_values = true, default_value = "false",
        action = clap::ArgAction::Set, value_parser = BoolishValueParser::new())]
    pub otel_enabled: bool,

    /// OTLP/gRPC address of the collector, `http://host:port`; a dead collector never stops the service
    #[arg(long = "OTEL__EXPORTER_OTLP_ENDPOINT", env = "OTEL__EXPORTER_OTLP_ENDPOINT", hide_env_values = true,
        default_value = "http://127.0.0.1:4317", value_parser = checked_endpoint)]
    pub otel_endpoint: String,

    /// How long one export, and the flush at shutdown, may take, in milliseconds
    #[arg(long = "OTEL__EXPORTER_OTLP_TIMEOUT_MS", env = "OTEL__EXPORTER_OTLP_TIMEOUT_MS", hide_env_values = true,
        default_value_t = 5000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub otel_timeout_ms: u64,
}

/// Parses a filter; the error says which part is wrong and what would be right.
///
/// A bare word that is no level is refused although `EnvFilter` takes it for a target: `LOG__FILTER=inof`
/// would silence the whole service.
pub(crate) fn parse_filter(filter: &str) -> Result<EnvFilter, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    for directive in filter.split(',').map(str::trim) {
        let is_level = LEVELS.iter().any(|level| level.eq_ignore_ascii_case(directive));
        if !is_level && !directive.contains('=') && !directive.contains('[') {
            return Err(format!(
                "`{directive}` is neither a level ({}) nor `target=level`",
                LEVELS.join(", ")
            ));
        }
    }
    EnvFilter::builder()
        .parse(filter)
        .map_err(|error| format!("`{filter}`: {error}"))
}

fn checked_filter(filter: &str) -> Result<String, String> {
    parse_filter(filter).map(|_| filter.to_owned())
}

fn checked_endpoint(endpoint: &str) -> Result<String, String> {
    match endpoint.strip_prefix("http://") {
        Some(rest) if !rest.trim_matches('/').is_empty() => Ok(endpoint.to_owned()),
        _ => {
            Err("expected http://host:port (run a collector next to the service where TLS is needed)".into())
        }
    }
}

/// Why `./.env` could not be taken over. Never shows a value: the file holds secrets.
#[derive(Debug, thiserror::Error)]
pub enum DotenvError {
    /// The file is there but could not be read.
    #[error(".env cannot be read: {0}")]
    Unreadable(#[source] std::io::Error),
    /// A line is not `NAME=value`.
    #[error(".env: a line is not NAME=value{0}")]
    Malformed(String),
}

/// Takes `./.env` into the process's environment, in development only; what is set already stays.
///
/// Development is what `APP_ENV` says, in the environment or else in the file itself. To be called first in
/// `main`, before any thread exists.
///
/// # Errors
/// [`DotenvError`] when the file is there and can't be read or parsed. A missing file is no error.
#[expect(
    clippy::disallowed_methods,
    reason = "decides whether .env is read, before clap reads the rest"
)]
pub fn load_dotenv() -> Result<(), DotenvError> {
    let app_env = std::env::var("APP_ENV").ok();
    let path = Path::new(".env");
    if app_env.as_deref().is_some_and(|env| env != "development") || !path.exists() {
        return Ok(());
    }
    let pairs = dotenv_pairs(path)?;
    let in_file = pairs
        .iter()
        .any(|(name, value)| name == "APP_ENV" && value == "development");
    if app_env.is_some() || in_file {
        // The one way to set a variable without `unsafe`; it leaves alone what is set already.
        dotenvy::from_path(path).map_err(|error| unreadable(error, &pairs))?;
    }
    Ok(())
}

fn dotenv_pairs(path: &Path) -> Result<Vec<(String, String)>, DotenvError> {
    let mut pairs = Vec::new();
    for pair in dotenvy::from_path_iter(path).map_err(|error| unreadable(error, &[]))? {
        pairs.push(pair.map_err(|error| unreadable(error, &pairs))?);
    }
    Ok(pairs)
}

/// `dotenvy` quotes the bad line in its message; we name the good line before it instead.
fn unreadable(error: dotenvy::Error, before: &[(String, String)]) -> DotenvError {
    match error {
        dotenvy::Error::Io(error) => DotenvError::Unreadable(error),
        _ => DotenvError::Malformed(
            before
                .last()
                .map(|(name, _)| format!(" (the one after {name})"))
                .unwrap_or_default(),
        ),
    }
}

/// The configuration of a service's command line.
pub trait ServiceConfig: clap::Parser {
    /// The executable, as its messages name it.
    const NAME: &'static str;

    /// Checks what no single variable shows, before anything connects.
    ///
    /// # Errors
    /// Names the variable and what is wrong with it; never a secret's value.
    fn validate(&self) -> Result<(), String>;

    /// Whether checking is all that was asked for.
    fn check_only(&self) -> bool;
}

/// Reads `.env` where it counts, the environment and the command line, and checks them. First thing in a sync `main`.
///
/// # Errors
/// The exit code to end with at once: 2 when something is wrong, which is said on standard error, or 0 after
/// `--check-config`. `--help` and values that don't parse end the process by themselves, with 0 and 2.
#[expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "there is no log before the configuration is known"
)]
pub fn read_config<C: ServiceConfig>() -> Result<C, ExitCode> {
    let wrong = |reason: String| {
        eprintln!("{}: {reason}", C::NAME);
        ExitCode::from(WRONG_CONFIGURATION)
    };
    load_dotenv().map_err(|error| wrong(error.to_string()))?;
    let config = C::parse();
    config.validate().map_err(wrong)?;
    if config.check_only() {
        println!("configuration ok");
        return Err(ExitCode::SUCCESS);
    }
    Ok(config)
}

/// The exit code of a service that ran: 1 with the reason on standard error, if there is one.
#[expect(clippy::print_stderr, reason = "the log has ended")]
pub fn exit_code<C: ServiceConfig>(ran: Result<(), impl std::fmt::Display>) -> ExitCode {
    match ran {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{}: {error:#}", C::NAME);
            ExitCode::FAILURE
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser, Debug)]
    struct Cli {
        #[command(flatten)]
        telemetry: TelemetryConfig,
    }

    #[test]
    fn defaults_hold_without_any_variable() {
        let config = Cli::try_parse_from(["test"]).unwrap().telemetry;
        assert_eq!(config.app_env, AppEnv::Production);
        assert!(!config.otel_enabled);
        assert_eq!(config.otel_timeout_ms, 5000);
        parse_filter(&config.log_filter).unwrap();
    }

    #[test]
    fn a_wrong_value_is_an_error_that_names_its_variable() {
        for (variable, value) in [
            ("LOG__FILTER", "info,relay=loud"),
            ("LOG__FILTER", "inof"),
            ("LOG__FILTER", ""),
            ("APP_ENV", "staging"),
            ("OTEL__ENABLED", "maybe"),
            ("OTEL__EXPORTER_OTLP_ENDPOINT", "collector:4317"),
            ("OTEL__EXPORTER_OTLP_ENDPOINT", "https://collector:4317"),
            ("OTEL__EXPORTER_OTLP_TIMEOUT_MS", "5s"),
            ("OTEL__EXPORTER_OTLP_TIMEOUT_MS", "0"),
        ] {
            let flag = format!("--{variable}={value}");
            let error = Cli::try_parse_from(["test", &flag]).unwrap_err().to_string();
            assert!(error.contains(variable), "{flag}: {error}");
        }
    }

    #[test]
    fn filters_people_write_are_accepted() {
        for filter in [
            "info",
            "WARN",
            "off",
            "info,relay=debug",
            "relay::publisher=trace",
            "[job{id=1}]=debug",
        ] {
            parse_filter(filter).unwrap();
        }
    }

    #[test]
    fn a_malformed_dotenv_is_named_without_its_content() {
        let path = std::env::temp_dir().join(format!("observability-dotenv-{}", std::process::id()));
        std::fs::write(&path, "GOOD=1\nSECRET is 'hunter2\n").unwrap();
        let error = dotenv_pairs(&path).unwrap_err().to_string();
        std::fs::remove_file(&path).unwrap();
        assert!(error.contains("after GOOD"), "{error}");
        assert!(!error.contains("hunter2"), "{error}");
    }
}
