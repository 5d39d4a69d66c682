//! The settings of the consumer, and their bounds.
//!
//! Owns `CONSUMER__*`; the other sections belong to the crates that use them. Next: `service.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use observability::{ServiceConfig, TelemetryConfig};
use relay::AmqpConfig;
use sql::DatabaseConfig;
use sql::jobs::RetryPolicy;

/// Connections that a consumer asks for at once: starts, both outcomes, leases, sweeps, wakes.
const CALLS_AT_ONCE: u16 = 6;

/// Runs the jobs that RabbitMQ carries and writes their outcome to PostgreSQL. Every setting is an environment
/// variable.
#[derive(clap::Parser, Debug, Clone)]
#[command(name = "relayforge-consumer", version)]
pub struct Config {
    /// `APP_ENV`, `LOG__*` and `OTEL__*`.
    #[command(flatten)]
    pub telemetry: TelemetryConfig,

    /// `DATABASE__*`.
    #[command(flatten)]
    pub database: DatabaseConfig,

    /// `AMQP__*`.
    #[command(flatten)]
    pub amqp: AmqpConfig,

    /// `CONSUMER__*`.
    #[command(flatten)]
    pub consumer: ConsumerConfig,

    /// Checks the configuration without connecting.
    #[arg(long)]
    pub check_config: bool,
}

impl ServiceConfig for Config {
    const NAME: &'static str = "relayforge-consumer";

    fn validate(&self) -> Result<(), String> {
        self.database.validate()?;
        self.amqp.endpoint().map_err(|error| error.to_string())?;
        if self.database.max_connections < CALLS_AT_ONCE {
            return Err(format!(
                "DATABASE__MAX_CONNECTIONS is {}, but a consumer needs {CALLS_AT_ONCE}",
                self.database.max_connections
            ));
        }
        self.consumer.validate()
    }

    fn check_only(&self) -> bool {
        self.check_config
    }
}

/// How jobs are run.
#[derive(clap::Args, Debug, Clone)]
pub struct ConsumerConfig {
    /// Address of the listener for /healthz, /readyz and /metrics
    #[arg(
        long = "CONSUMER__LISTEN",
        env = "CONSUMER__LISTEN",
        hide_env_values = true,
        default_value = "127.0.0.1:8082"
    )]
    pub listen: SocketAddr,

    /// Jobs that run at once, and messages that may wait for them; 1 to 1000
    #[arg(long = "CONSUMER__SLOTS", env = "CONSUMER__SLOTS", hide_env_values = true,
        default_value_t = 128, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub slots: u16,

    /// How long a run is taken to be alive without a sign of life, in milliseconds. It is renewed at a third of this;
    /// a job whose consumer died is started anew once it has passed
    #[arg(long = "CONSUMER__LEASE_MS", env = "CONSUMER__LEASE_MS", hide_env_values = true,
        default_value_t = 30_000, value_parser = clap::value_parser!(u64).range(1_000..=3_600_000))]
    pub lease_ms: u64,

    /// Attempts that a job has in all, the first included; 1 to 1000
    #[arg(long = "CONSUMER__MAX_ATTEMPTS", env = "CONSUMER__MAX_ATTEMPTS", hide_env_values = true,
        default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub max_attempts: u16,

    /// Wait before the second attempt, in milliseconds, less up to half of it at random; doubles with each further one
    #[arg(long = "CONSUMER__BACKOFF_BASE_MS", env = "CONSUMER__BACKOFF_BASE_MS", hide_env_values = true,
        default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub backoff_base_ms: u64,

    /// Longest wait between two attempts, in milliseconds; not below CONSUMER__BACKOFF_BASE_MS
    #[arg(long = "CONSUMER__BACKOFF_CAP_MS", env = "CONSUMER__BACKOFF_CAP_MS", hide_env_values = true,
        default_value_t = 300_000, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    pub backoff_cap_ms: u64,

    /// Runs in a row that may end without an outcome, because their process died, before the job is given up as
    /// poison; 1 to 1000
    #[arg(long = "CONSUMER__POISON_STARTS", env = "CONSUMER__POISON_STARTS", hide_env_values = true,
        default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub poison_starts: u16,

    /// How long a run may take, in milliseconds; one that takes longer is stopped and tried again, as if it had failed
    #[arg(long = "CONSUMER__JOB_TIMEOUT_MS", env = "CONSUMER__JOB_TIMEOUT_MS", hide_env_values = true,
        default_value_t = 900_000, value_parser = clap::value_parser!(u64).range(1..=86_400_000))]
    pub job_timeout_ms: u64,

    /// How long running jobs are waited for after SIGTERM, in milliseconds; what runs on is stopped and handed back
    #[arg(long = "CONSUMER__SHUTDOWN_MS", env = "CONSUMER__SHUTDOWN_MS", hide_env_values = true,
        default_value_t = 25_000, value_parser = clap::value_parser!(u64).range(0..=600_000))]
    pub shutdown_ms: u64,
}

impl ConsumerConfig {
    fn validate(&self) -> Result<(), String> {
        if self.backoff_cap_ms < self.backoff_base_ms {
            return Err(format!(
                "CONSUMER__BACKOFF_CAP_MS: {} is below CONSUMER__BACKOFF_BASE_MS, {}",
                self.backoff_cap_ms, self.backoff_base_ms
            ));
        }
        Ok(())
    }

    pub(crate) fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    pub(crate) fn job_timeout(&self) -> Duration {
        Duration::from_millis(self.job_timeout_ms)
    }

    /// Runs of jobs that come back (retried, reprocessed, or held before) at once: half of the slots, so that a mass of
    /// them leaves the other half to what is new.
    pub(crate) fn retry_slots(&self) -> u16 {
        (self.slots / 2).max(1)
    }

    pub(crate) fn shutdown(&self) -> Duration {
        Duration::from_millis(self.shutdown_ms)
    }

    pub(crate) fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy {
            max_attempts: self.max_attempts,
            backoff_base: Duration::from_millis(self.backoff_base_ms),
            backoff_cap: Duration::from_millis(self.backoff_cap_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;

    fn parse(flags: &[&str]) -> Result<Config, String> {
        let needed = [
            "test",
            "--DATABASE__URL=postgres://u:hunter2@db/x",
            "--AMQP__URL=amqp://u:hunter2@mq",
        ];
        let config = Config::try_parse_from(needed.iter().chain(flags)).map_err(|error| error.to_string())?;
        config.validate().map(|()| config)
    }

    #[test]
    fn defaults_hold_with_the_two_addresses_alone() {
        let config = parse(&[]).unwrap().consumer;
        assert_eq!(
            (config.slots, config.max_attempts, config.poison_starts),
            (128, 5, 5)
        );
        assert_eq!(config.lease(), Duration::from_secs(30));
        assert_eq!(config.job_timeout(), Duration::from_secs(900));
        assert_eq!(config.retry_slots(), 64);
        assert_eq!(config.retry_policy().backoff_cap, Duration::from_secs(300));
        assert_eq!(config.listen.port(), 8082);
    }

    #[test]
    fn a_wrong_value_is_an_error_that_names_its_variable_and_no_secret() {
        for flag in [
            "--CONSUMER__LISTEN=8082",
            "--CONSUMER__SLOTS=0",
            "--CONSUMER__SLOTS=1001",
            "--CONSUMER__LEASE_MS=999",
            "--CONSUMER__MAX_ATTEMPTS=0",
            "--CONSUMER__BACKOFF_BASE_MS=1s",
            "--CONSUMER__BACKOFF_CAP_MS=999",
            "--CONSUMER__POISON_STARTS=0",
            "--CONSUMER__JOB_TIMEOUT_MS=0",
            "--CONSUMER__SHUTDOWN_MS=-1",
            "--DATABASE__MAX_CONNECTIONS=5",
        ] {
            let error = parse(&[flag]).unwrap_err();
            let variable = flag.trim_start_matches("--").split('=').next().unwrap();
            assert!(error.contains(variable), "{flag}: {error}");
            assert!(!error.contains("hunter2"), "{flag}: {error}");
        }
    }

    #[test]
    fn a_url_that_cannot_be_used_is_named_before_anything_connects() {
        let url = |database: &str, amqp: &str| {
            let flags = [
                "test".to_owned(),
                format!("--DATABASE__URL={database}"),
                format!("--AMQP__URL={amqp}"),
            ];
            Config::try_parse_from(flags).unwrap().validate().unwrap_err()
        };
        assert!(url("nonsense", "amqp://mq").contains("DATABASE__URL"));
        assert!(url("postgres://db/x", "http://mq").contains("AMQP__URL"));
    }
}
