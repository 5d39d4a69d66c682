//! What a service does for its database as long as it runs: watches that it is there and has our schema, and makes
//! partitions ahead of time. Loops only; the calls are in `operators.rs`.

use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::operators::{check_schema, ensure_partitions, ping};
use crate::{DbError, Pool};

/// How often the database is asked whether it is there and has our schema.
const WATCH_EVERY: Duration = Duration::from_secs(2);

/// How often partitions are made; they are made 14 days ahead.
const PARTITIONS_EVERY: Duration = Duration::from_secs(3600);

/// Pause before partitions are tried again after a failure.
const PARTITIONS_RETRY: Duration = Duration::from_secs(30);

/// The readiness checks that [`watch`] reports.
pub const CHECKS: [&str; 2] = ["database", "schema"];

/// How inbox, jobs and their log are partitioned. The same for all services of a database.
#[derive(clap::Args, Debug, Clone)]
pub struct PartitionConfig {
    /// How long a partition is, `day` or `week`.
    #[arg(long = "PARTITION__INTERVAL", env = "PARTITION__INTERVAL", hide_env_values = true,
          default_value = "day", value_parser = ["day", "week"])]
    pub partition_interval: String,
}

/// Reports under the names of [`CHECKS`] whether the database answers and has our schema, every two seconds until
/// `stop`.
pub async fn watch(pool: Pool, report: impl Fn(&'static str, Result<(), &str>), stop: CancellationToken) {
    let [database, schema] = CHECKS;
    loop {
        let checked = async {
            ping(&pool).await?;
            check_schema(&pool.get().await?).await
        };
        match checked.await {
            Ok(()) => {
                report(database, Ok(()));
                report(schema, Ok(()));
            }
            Err(DbError::Conflict(why)) => {
                report(database, Ok(()));
                report(schema, Err(&why));
            }
            Err(error) => {
                tracing::warn!(%error, "the database does not answer");
                report(database, Err("does not answer"));
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(WATCH_EVERY) => {}
        }
    }
}

/// Makes missing partitions now and every hour until `stop`.
pub async fn keep_partitions(pool: Pool, config: PartitionConfig, stop: CancellationToken) {
    loop {
        let ensured = async { ensure_partitions(&pool.get().await?, &config.partition_interval).await };
        let pause = match ensured.await {
            Ok(made) => {
                if made > 0 {
                    tracing::info!(made, "partitions made");
                }
                PARTITIONS_EVERY
            }
            Err(error) => {
                tracing::warn!(%error, "partitions can't be made yet");
                PARTITIONS_RETRY
            }
        };
        tokio::select! {
            () = stop.cancelled() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}
