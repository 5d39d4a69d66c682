//! Everything the relay can be told, from the environment. `AMQP__*` is in `amqp.rs`.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Parser;
use observability::{ServiceConfig, TelemetryConfig};
use sql::DatabaseConfig;

use crate::AmqpConfig;

/// The database ends a claiming session of ours that is idle for this long (its role says so), in milliseconds.
const SESSION_IDLE_LIMIT_MS: u64 = 15_000;

/// Drains the outbox to RabbitMQ with publisher confirms. Every setting is an environment variable.
#[derive(Parser, Debug, Clone)]
#[command(name = "relayforge-relay", version)]
pub struct Config {
    /// Checks the configuration without connecting to anything.
    #[arg(long)]
    pub check_config: bool,

    /// The relay itself.
    #[command(flatten)]
    pub relay: RelayConfig,
    /// The broker.
    #[command(flatten)]
    pub amqp: AmqpConfig,
    /// The database.
    #[command(flatten)]
    pub database: DatabaseConfig,
    /// Logs and traces.
    #[command(flatten)]
    pub telemetry: TelemetryConfig,
}

/// How the outbox is drained.
#[derive(clap::Args, Debug, Clone)]
pub struct RelayConfig {
    /// Address of /healthz, /readyz and /metrics; port 0 takes a free one.
    #[arg(
        long = "RELAY__LISTEN",
        env = "RELAY__LISTEN",
        hide_env_values = true,
        default_value = "127.0.0.1:8081"
    )]
    pub listen: SocketAddr,

    /// Longest sleep between looks at the outbox, in milliseconds. Writers wake it earlier.
    #[arg(long = "RELAY__POLL_MS", env = "RELAY__POLL_MS", hide_env_values = true,
          default_value_t = 1000, value_parser = clap::value_parser!(u64).range(50..=60_000))]
    pub poll_ms: u64,

    /// Batches of work messages in flight at once, each on a connection.
    #[arg(long = "RELAY__INFLIGHT", env = "RELAY__INFLIGHT", hide_env_values = true,
          default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    pub inflight: u16,

    /// Messages in one batch.
    #[arg(long = "RELAY__BATCH_ITEMS", env = "RELAY__BATCH_ITEMS", hide_env_values = true,
          default_value_t = 500, value_parser = clap::value_parser!(u16).range(1..=5000))]
    pub batch_items: u16,

    /// How long the broker may take to confirm a message, in milliseconds; the connection is made anew beyond.
    #[arg(long = "RELAY__CONFIRM_TIMEOUT_MS", env = "RELAY__CONFIRM_TIMEOUT_MS", hide_env_values = true,
          default_value_t = 10_000, value_parser = clap::value_parser!(u64).range(100..=14_000))]
    pub confirm_timeout_ms: u64,
}

impl ServiceConfig for Config {
    const NAME: &'static str = "relayforge-relay";

    fn validate(&self) -> Result<(), String> {
        self.database.validate()?;
        self.amqp.endpoint().map_err(|error| error.to_string())?;
        let needed = self.relay.inflight + crate::service::OTHER_CONNECTIONS;
        if self.database.max_connections < needed {
            return Err(format!(
                "DATABASE__MAX_CONNECTIONS is {}, but RELAY__INFLIGHT {} needs {needed}",
                self.database.max_connections, self.relay.inflight
            ));
        }
        Ok(())
    }

    fn check_only(&self) -> bool {
        self.check_config
    }
}

impl RelayConfig {
    /// How long the broker may take to confirm a message.
    pub fn confirm_timeout(&self) -> Duration {
        Duration::from_millis(self.confirm_timeout_ms)
    }

    /// How long a claim may be held: between the confirm time-out and the database's patience.
    pub fn claim_timeout(&self) -> Duration {
        Duration::from_millis(u64::midpoint(self.confirm_timeout_ms, SESSION_IDLE_LIMIT_MS))
    }

    /// Longest sleep between looks.
    pub fn poll(&self) -> Duration {
        Duration::from_millis(self.poll_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<Config, String> {
        let mut arguments = vec!["relayforge-relay".to_owned()];
        let defaults = [
            ("DATABASE__URL", "postgres://relay@localhost/relayforge"),
            ("AMQP__URL", "amqp://localhost"),
        ];
        for (name, value) in defaults
            .iter()
            .filter(|(name, _)| pairs.iter().all(|(n, _)| n != name))
            .chain(pairs)
        {
            arguments.extend([format!("--{name}"), (*value).to_owned()]);
        }
        let config = Config::try_parse_from(arguments).map_err(|error| error.to_string())?;
        config.validate().map(|()| config)
    }

    #[test]
    fn a_wrong_value_is_named_with_its_variable() {
        for (name, value) in [
            ("RELAY__LISTEN", "8081"),
            ("RELAY__INFLIGHT", "0"),
            ("RELAY__CONFIRM_TIMEOUT_MS", "60000"),
            ("DATABASE__MAX_CONNECTIONS", "8"),
            ("DATABASE__URL", "nonsense://hunter2"),
            ("AMQP__URL", "http://hunter2@localhost"),
            ("AMQP__PREFIX", "Not Allowed"),
        ] {
            let error = parse(&[(name, value)]).unwrap_err();
            assert!(error.contains(name), "{name}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
        assert!(parse(&[]).is_ok());
    }
}
