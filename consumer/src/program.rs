//! A whole consumer process, for our own binary and for those of teams with job kinds of their own.
//!
//! Owns the order of what every such process does; what it runs is `service.rs`, what a kind is `registry.rs`.

use std::process::ExitCode;

use observability::TelemetryError;

use crate::config::Config;
use crate::registry::Registry;
use crate::service::{Service, ServiceError};

/// Runs a consumer with the built-in job kinds and those that `kinds` adds, until SIGTERM or SIGINT: all of a program's
/// `main`. Configuration, log lines, probes and metrics are those of `relayforge-consumer`.
///
/// `kinds` is called once, inside tokio, when TLS and the log are there: it may make clients and spawn tasks.
pub fn main(kinds: impl FnOnce(Registry) -> Registry) -> ExitCode {
    match observability::read_config::<Config>() {
        Ok(config) => observability::exit_code::<Config>(run(config, kinds)),
        Err(code) => code,
    }
}

/// Why a program ended before it was asked to.
#[derive(Debug, thiserror::Error)]
enum ProgramError {
    #[error("starting the runtime: {0}")]
    Runtime(#[source] std::io::Error),
    #[error(transparent)]
    Telemetry(#[from] TelemetryError),
    #[error(transparent)]
    Service(#[from] ServiceError),
}

fn run(config: Config, kinds: impl FnOnce(Registry) -> Registry) -> Result<(), ProgramError> {
    // Fails only where there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().map_err(ProgramError::Runtime)?;
    let result = runtime.block_on(async {
        // A line may be what a job was there for (kind `log`): it is written before the job is said to have succeeded.
        let telemetry = observability::init(
            "relayforge-consumer",
            &config.telemetry,
            observability::Writing::AtOnce,
        )?;
        let registry = kinds(Registry::built_in(config.telemetry.app_env));
        let result = match Service::bind(config, registry) {
            Ok(service) => {
                service.run(observability::shutdown::token()).await;
                Ok(())
            }
            Err(error) => Err(error.into()),
        };
        telemetry.shutdown().await;
        result
    });
    // A handler that blocks its thread must not hold up the end.
    runtime.shutdown_background();
    result
}
