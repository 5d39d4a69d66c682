//! Everything the API can be told, from the environment. The only place that knows the variables' names.

use std::net::IpAddr;
use std::time::Duration;

use clap::Parser;
use observability::{AppEnv, ServiceConfig, TelemetryConfig};
use sql::secret::MasterKeys;
use sql::upkeep::UpkeepSettings;
use sql::{DatabaseConfig, Secret};
use uuid::Uuid;

/// Takes webhooks in over HTTP and turns each into exactly one job. Every setting is an environment variable.
#[derive(Parser, Debug, Clone)]
#[command(name = "relayforge-api", version)]
pub struct ApiConfig {
    /// Checks the configuration without connecting to anything.
    #[arg(long)]
    pub check_config: bool,

    /// The listener.
    #[command(flatten)]
    pub server: ServerConfig,
    /// The database.
    #[command(flatten)]
    pub database: DatabaseConfig,
    /// Signing secrets of the default tenant.
    #[command(flatten)]
    pub webhooks: WebhooksConfig,
    /// Limits against floods.
    #[command(flatten)]
    pub hardening: HardeningConfig,
    /// Batching and deduplication.
    #[command(flatten)]
    pub ingest: IngestConfig,
    /// How long things are kept.
    #[command(flatten)]
    pub retention: RetentionConfig,
    /// Keys of the secrets at rest.
    #[command(flatten)]
    pub secrets: SecretsConfig,
    /// Logs and traces.
    #[command(flatten)]
    pub telemetry: TelemetryConfig,
}

/// Where to listen.
#[derive(clap::Args, Debug, Clone)]
pub struct ServerConfig {
    /// Address to listen on.
    #[arg(
        long = "SERVER__HOST",
        env = "SERVER__HOST",
        hide_env_values = true,
        default_value = "127.0.0.1"
    )]
    pub host: IpAddr,

    /// Port to listen on; 0 takes a free one.
    #[arg(
        long = "SERVER__PORT",
        env = "SERVER__PORT",
        hide_env_values = true,
        default_value_t = 8080
    )]
    pub port: u16,

    /// How long to go on serving after SIGTERM while /readyz says draining, so that load balancers notice, in
    /// milliseconds.
    #[arg(long = "SERVER__DRAIN_MS", env = "SERVER__DRAIN_MS", hide_env_values = true,
          default_value_t = 500, value_parser = clap::value_parser!(u64).range(0..=60_000))]
    pub drain_ms: u64,

    /// How long requests in flight may take to end after that, in seconds.
    #[arg(long = "SERVER__SHUTDOWN_SECONDS", env = "SERVER__SHUTDOWN_SECONDS", hide_env_values = true,
          default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=300))]
    pub shutdown_seconds: u64,
}

/// Secrets from the environment: the fallback of the default tenant, and of no other.
#[derive(clap::Args, Debug, Clone)]
pub struct WebhooksConfig {
    /// Secret of source `github` for the default tenant.
    #[arg(
        long = "WEBHOOKS__GITHUB_SECRET",
        env = "WEBHOOKS__GITHUB_SECRET",
        hide_env_values = true
    )]
    pub github_secret: Option<Secret>,

    /// Secret of source `generic` for the default tenant.
    #[arg(
        long = "WEBHOOKS__GENERIC_HMAC_SECRET",
        env = "WEBHOOKS__GENERIC_HMAC_SECRET",
        hide_env_values = true
    )]
    pub generic_hmac_secret: Option<Secret>,

    /// Endpoint secret (`whsec_…`, whole) of source `stripe` for the default tenant.
    #[arg(
        long = "WEBHOOKS__STRIPE_ENDPOINT_SECRET",
        env = "WEBHOOKS__STRIPE_ENDPOINT_SECRET",
        hide_env_values = true
    )]
    pub stripe_endpoint_secret: Option<Secret>,

    /// How far a signature's timestamp may be from now, in seconds, in both directions.
    #[arg(long = "WEBHOOKS__STRIPE_SIGNATURE_TOLERANCE_SECONDS", env = "WEBHOOKS__STRIPE_SIGNATURE_TOLERANCE_SECONDS",
          hide_env_values = true, default_value_t = 300, value_parser = clap::value_parser!(u64).range(1..=86_400))]
    pub stripe_tolerance_seconds: u64,

    /// Tenant of requests that name none.
    #[arg(
        long = "TENANT__DEFAULT_ID",
        env = "TENANT__DEFAULT_ID",
        hide_env_values = true,
        default_value = "00000000-0000-0000-0000-000000000000"
    )]
    pub default_tenant_id: Uuid,
}

/// Limits against floods.
#[derive(clap::Args, Debug, Clone)]
pub struct HardeningConfig {
    /// Requests per second that are looked at, over all senders.
    #[arg(long = "HARDENING__INGRESS_RATE_LIMIT_PER_SECOND", env = "HARDENING__INGRESS_RATE_LIMIT_PER_SECOND",
          hide_env_values = true, default_value_t = 200, value_parser = clap::value_parser!(u32).range(4..))]
    pub ingress_rate_per_second: u32,

    /// Requests at once that are looked at, over all senders.
    #[arg(long = "HARDENING__INGRESS_BURST", env = "HARDENING__INGRESS_BURST",
          hide_env_values = true, default_value_t = 400, value_parser = clap::value_parser!(u32).range(4..))]
    pub ingress_burst: u32,

    /// Largest body, in bytes.
    #[arg(long = "HARDENING__MAX_BODY_BYTES", env = "HARDENING__MAX_BODY_BYTES",
          hide_env_values = true, default_value_t = 262_144, value_parser = clap::value_parser!(u32).range(1..=4_194_304))]
    pub max_body_bytes: u32,

    /// Connections open at once; further ones wait to be accepted.
    #[arg(id = "HARDENING__MAX_CONNECTIONS", long = "HARDENING__MAX_CONNECTIONS", env = "HARDENING__MAX_CONNECTIONS",
          hide_env_values = true, default_value_t = 4096, value_parser = clap::value_parser!(u32).range(16..=65_536))]
    pub max_connections: u32,

    /// Signed requests per second of a tenant that has no limit of its own.
    #[arg(long = "HARDENING__TENANT_RATE_LIMIT_PER_SECOND", env = "HARDENING__TENANT_RATE_LIMIT_PER_SECOND",
          hide_env_values = true, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub tenant_rate_per_second: u32,

    /// Signed requests at once of a tenant that has no limit of its own.
    #[arg(long = "HARDENING__TENANT_RATE_LIMIT_BURST", env = "HARDENING__TENANT_RATE_LIMIT_BURST",
          hide_env_values = true, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub tenant_rate_burst: u32,

    /// New events per UTC day of a tenant that has no quota of its own.
    #[arg(long = "HARDENING__TENANT_DAILY_QUOTA", env = "HARDENING__TENANT_DAILY_QUOTA",
          hide_env_values = true, default_value_t = 100_000, value_parser = clap::value_parser!(i64).range(0..))]
    pub tenant_daily_quota: i64,
}

/// Batching and deduplication.
#[derive(clap::Args, Debug, Clone)]
pub struct IngestConfig {
    /// Longest time from a request's last byte to its answer, in milliseconds; 503 beyond.
    #[arg(long = "INGEST__DEADLINE_MS", env = "INGEST__DEADLINE_MS",
          hide_env_values = true, default_value_t = 2000, value_parser = clap::value_parser!(u64).range(100..=60_000))]
    pub deadline_ms: u64,

    /// Webhooks in one transaction at the most.
    #[arg(long = "INGEST__BATCH_ITEMS", env = "INGEST__BATCH_ITEMS",
          hide_env_values = true, default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..=4096))]
    pub batch_items: u32,

    /// Bodies in one transaction at the most, in bytes (one webhook always fits).
    #[arg(long = "INGEST__BATCH_BYTES", env = "INGEST__BATCH_BYTES",
          hide_env_values = true, default_value_t = 4_194_304, value_parser = clap::value_parser!(u32).range(1024..))]
    pub batch_bytes: u32,

    /// Webhooks that wait for a connection at the most; 503 beyond.
    #[arg(long = "INGEST__QUEUE_ITEMS", env = "INGEST__QUEUE_ITEMS",
          hide_env_values = true, default_value_t = 8192, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    pub queue_items: u32,

    /// Bodies that wait for a connection at the most, in bytes; 503 beyond.
    #[arg(long = "INGEST__QUEUE_BYTES", env = "INGEST__QUEUE_BYTES",
          hide_env_values = true, default_value_t = 67_108_864, value_parser = clap::value_parser!(u32).range(1024..))]
    pub queue_bytes: u32,

    /// How long an event is known by its provider's id, in days. Not above RETENTION__JOBS_DAYS.
    #[arg(long = "DEDUP__WINDOW_DAYS", env = "DEDUP__WINDOW_DAYS",
          hide_env_values = true, default_value_t = 7, value_parser = clap::value_parser!(u16).range(1..=365))]
    pub dedup_window_days: u16,

    /// How long an event without such an id is known by the hash of its body, in seconds.
    #[arg(long = "DEDUP__HASH_WINDOW_SECONDS", env = "DEDUP__HASH_WINDOW_SECONDS",
          hide_env_values = true, default_value_t = 86_400, value_parser = clap::value_parser!(u32).range(1..=31_536_000))]
    pub hash_window_seconds: u32,
}

/// How long things are kept. The API notes it in the database, where upkeep reads it, whoever runs that.
#[derive(clap::Args, Debug, Clone)]
pub struct RetentionConfig {
    /// How long deliveries are kept at least, in days: to the end of their partition. A job that is still open a day
    /// before is given up as expired.
    #[arg(long = "RETENTION__INBOX_DAYS", env = "RETENTION__INBOX_DAYS",
          hide_env_values = true, default_value_t = 14, value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub inbox_days: u16,

    /// How long jobs and their log are kept at least, in days. Above RETENTION__INBOX_DAYS.
    #[arg(long = "RETENTION__JOBS_DAYS", env = "RETENTION__JOBS_DAYS",
          hide_env_values = true, default_value_t = 30, value_parser = clap::value_parser!(u16).range(2..=3650))]
    pub jobs_days: u16,

    /// How long a new partition of inbox, jobs and their log is, `day` or `week`.
    #[arg(long = "PARTITION__INTERVAL", env = "PARTITION__INTERVAL", hide_env_values = true,
          default_value = "day", value_parser = ["day", "week"])]
    pub partition_interval: String,
}

/// Partitions of one table that may be live: every query plans over all of them. 14 days are made ahead, and one that
/// began before the first day kept and one after the last.
const MAX_PARTITIONS: u16 = 120;
const DAYS_AHEAD: u16 = 14;

/// Keys of the secrets at rest.
#[derive(clap::Args, Debug, Clone)]
pub struct SecretsConfig {
    /// Key that tenants' secrets are sealed under: base64 of 32 bytes. Required in production.
    #[arg(
        long = "SECRETS__MASTER_KEY",
        env = "SECRETS__MASTER_KEY",
        hide_env_values = true
    )]
    pub master_key: Option<Secret>,

    /// Earlier keys, which still open what they have sealed; separated by commas.
    #[arg(
        long = "SECRETS__PREVIOUS_MASTER_KEYS",
        env = "SECRETS__PREVIOUS_MASTER_KEYS",
        hide_env_values = true
    )]
    pub previous_master_keys: Option<Secret>,
}

/// What development secrets begin with; in production none may.
const DEVELOPMENT_MARK: &str = "development";

impl ServiceConfig for ApiConfig {
    const NAME: &'static str = "relayforge-api";

    fn validate(&self) -> Result<(), String> {
        self.database.validate()?;
        self.validate_retention()?;
        if self.ingest.queue_bytes < self.hardening.max_body_bytes {
            return Err(format!(
                "INGEST__QUEUE_BYTES ({}) is below HARDENING__MAX_BODY_BYTES ({}): a body of that size would never be taken",
                self.ingest.queue_bytes, self.hardening.max_body_bytes
            ));
        }
        self.master_keys()?;
        if self.telemetry.app_env == AppEnv::Production {
            self.refuse_development_secrets()?;
        }
        Ok(())
    }

    fn check_only(&self) -> bool {
        self.check_config
    }
}

impl ApiConfig {
    fn validate_retention(&self) -> Result<(), String> {
        let RetentionConfig {
            inbox_days,
            jobs_days,
            partition_interval,
        } = &self.retention;
        if jobs_days <= inbox_days {
            return Err(format!(
                "RETENTION__JOBS_DAYS ({jobs_days}) is not above RETENTION__INBOX_DAYS ({inbox_days}): jobs outlive \
                 their events"
            ));
        }
        for (variable, value, seconds) in [
            (
                "DEDUP__WINDOW_DAYS",
                u32::from(self.ingest.dedup_window_days),
                86_400 * u32::from(self.ingest.dedup_window_days),
            ),
            (
                "DEDUP__HASH_WINDOW_SECONDS",
                self.ingest.hash_window_seconds,
                self.ingest.hash_window_seconds,
            ),
        ] {
            if seconds > 86_400 * u32::from(*jobs_days) {
                return Err(format!(
                    "{variable} ({value}) is above RETENTION__JOBS_DAYS ({jobs_days}): a duplicate would be answered \
                     with a job that is gone"
                ));
            }
        }
        let length = if partition_interval == "week" { 7 } else { 1 };
        let partitions = (jobs_days + DAYS_AHEAD) / length + 2;
        if partitions > MAX_PARTITIONS {
            return Err(format!(
                "RETENTION__JOBS_DAYS ({jobs_days}) makes {partitions} partitions of a {partition_interval} \
                 (PARTITION__INTERVAL), and {MAX_PARTITIONS} may be live"
            ));
        }
        Ok(())
    }

    /// What upkeep is told.
    pub fn upkeep_settings(&self) -> UpkeepSettings {
        UpkeepSettings {
            partition_interval: self.retention.partition_interval.clone(),
            inbox_days: self.retention.inbox_days,
            jobs_days: self.retention.jobs_days,
            dedup_window: self.ingest.dedup_window(),
            hash_window: self.ingest.hash_window(),
            default_daily_quota: self.hardening.tenant_daily_quota,
        }
    }

    /// The keys that open tenants' secrets; none without `SECRETS__MASTER_KEY`.
    ///
    /// # Errors
    /// Names the variable that does not hold a key.
    pub fn master_keys(&self) -> Result<Option<MasterKeys>, String> {
        let Some(current) = &self.secrets.master_key else {
            return match &self.secrets.previous_master_keys {
                Some(_) => Err("SECRETS__PREVIOUS_MASTER_KEYS is set without SECRETS__MASTER_KEY".to_owned()),
                None => Ok(None),
            };
        };
        MasterKeys::new(current, []).map_err(|error| format!("SECRETS__MASTER_KEY: {error}"))?;
        let previous = self
            .secrets
            .previous_master_keys
            .as_ref()
            .map(Secret::expose)
            .unwrap_or_default();
        MasterKeys::new(
            current,
            previous.split(',').map(str::trim).filter(|key| !key.is_empty()),
        )
        .map(Some)
        .map_err(|error| format!("SECRETS__PREVIOUS_MASTER_KEYS: {error}"))
    }

    fn refuse_development_secrets(&self) -> Result<(), String> {
        let Some(master_key) = &self.secrets.master_key else {
            return Err("SECRETS__MASTER_KEY is required in production (APP_ENV)".to_owned());
        };
        // base64 of the mark's first nine bytes: it falls on a boundary of three.
        let secrets = [
            ("SECRETS__MASTER_KEY", Some(master_key), "ZGV2ZWxvcG1l"),
            (
                "WEBHOOKS__GITHUB_SECRET",
                self.webhooks.github_secret.as_ref(),
                DEVELOPMENT_MARK,
            ),
            (
                "WEBHOOKS__GENERIC_HMAC_SECRET",
                self.webhooks.generic_hmac_secret.as_ref(),
                DEVELOPMENT_MARK,
            ),
            (
                "WEBHOOKS__STRIPE_ENDPOINT_SECRET",
                self.webhooks.stripe_endpoint_secret.as_ref(),
                DEVELOPMENT_MARK,
            ),
        ];
        for (variable, secret, mark) in secrets {
            if secret.is_some_and(|secret| secret.expose().starts_with(mark)) {
                return Err(format!(
                    "{variable} is a development secret, and APP_ENV is production"
                ));
            }
        }
        Ok(())
    }
}

impl IngestConfig {
    /// Longest time from a request's last byte to its answer.
    pub fn deadline(&self) -> Duration {
        Duration::from_millis(self.deadline_ms)
    }

    /// How long an event is known by its provider's id.
    pub fn dedup_window(&self) -> Duration {
        Duration::from_secs(86_400 * u64::from(self.dedup_window_days))
    }

    /// How long an event is known by the hash of its body.
    pub fn hash_window(&self) -> Duration {
        Duration::from_secs(u64::from(self.hash_window_seconds))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(pairs: &[(&str, &str)]) -> Result<ApiConfig, String> {
        let mut arguments = vec!["relayforge-api".to_owned()];
        let defaults = [
            ("DATABASE__URL", "postgres://api@localhost/relayforge"),
            ("APP_ENV", "development"),
        ];
        for (name, value) in defaults
            .iter()
            .filter(|(name, _)| pairs.iter().all(|(n, _)| n != name))
            .chain(pairs)
        {
            arguments.extend([format!("--{name}"), (*value).to_owned()]);
        }
        let config = ApiConfig::try_parse_from(arguments).map_err(|error| error.to_string())?;
        config.validate().map(|()| config)
    }

    #[test]
    fn a_wrong_value_is_named_with_its_variable_and_never_shown_if_secret() {
        for (name, value) in [
            ("SERVER__PORT", "http"),
            ("HARDENING__MAX_BODY_BYTES", "0"),
            ("TENANT__DEFAULT_ID", "acme"),
            ("DEDUP__WINDOW_DAYS", "31"),
            ("DATABASE__URL", "mysql://hunter2@localhost"),
            ("SECRETS__MASTER_KEY", "hunter2"),
            ("PARTITION__INTERVAL", "month"),
            ("RETENTION__JOBS_DAYS", "14"),
            ("RETENTION__JOBS_DAYS", "105"),
            ("RETENTION__INBOX_DAYS", "30"),
            ("DEDUP__HASH_WINDOW_SECONDS", "2592001"),
            ("INGEST__QUEUE_BYTES", "1024"),
            ("APP_ENV", "staging"),
        ] {
            let error = parse(&[(name, value)]).unwrap_err();
            assert!(error.contains(name), "{name}: {error}");
            assert!(!error.contains("hunter2"), "{error}");
        }
    }

    #[test]
    fn production_wants_a_master_key_and_no_development_secret() {
        let key = (
            "SECRETS__MASTER_KEY",
            "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
        );
        let development_key = (
            "SECRETS__MASTER_KEY",
            "ZGV2ZWxvcG1lbnQtbWFzdGVyLWtleS0wMTIzNDU2Nzg=",
        );
        let production = ("APP_ENV", "production");
        assert!(parse(&[production]).unwrap_err().contains("SECRETS__MASTER_KEY"));
        assert!(parse(&[production, key]).is_ok());
        assert!(
            parse(&[production, development_key])
                .unwrap_err()
                .contains("SECRETS__MASTER_KEY")
        );
        assert!(parse(&[development_key]).is_ok());
        let error = parse(&[production, key, ("WEBHOOKS__GITHUB_SECRET", "development-github")]).unwrap_err();
        assert!(error.contains("WEBHOOKS__GITHUB_SECRET"), "{error}");
    }
}
