//! Runs the jobs that RabbitMQ carries and writes their outcome back through SQL.
//!
//! Start with `service.rs` for the parts and their order, then follow a message: `delivery.rs`, `execute.rs`,
//! `registry.rs` and `jobs/`, `outcome.rs`, `finish.rs`. What holds when a process dies is in `leases.rs` and
//! `sweeper.rs`.

mod config;
mod database;
mod delivery;
mod execute;
mod finish;
pub mod jobs;
mod leases;
mod malformed;
mod metrics;
pub mod outcome;
pub mod registry;
mod service;
mod subscription;
mod sweeper;
mod wake;

pub use config::{Config, ConsumerConfig};
pub use service::{Service, ServiceError};
use tokio_util::sync::CancellationToken;

/// Runs a consumer with the built-in job kinds until `stop` is cancelled and what it runs has ended.
///
/// # Errors
/// [`ServiceError`]: a setting can't be used. Once it runs, it waits for whatever is away.
pub async fn run(config: Config, stop: CancellationToken) -> Result<(), ServiceError> {
    let registry = registry::Registry::built_in(config.telemetry.app_env);
    Service::bind(config, registry)?.run(stop).await;
    Ok(())
}
