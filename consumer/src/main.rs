//! `relayforge-consumer`: configuration, telemetry, run, exit code.

use std::process::ExitCode;

use anyhow::Context as _;
use consumer::Config;

fn main() -> ExitCode {
    match observability::read_config::<Config>() {
        Ok(config) => observability::exit_code::<Config>(run(config)),
        Err(code) => code,
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    // Fails only where there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let runtime = tokio::runtime::Runtime::new().context("starting the runtime")?;
    let result = runtime.block_on(async {
        let telemetry = observability::init("relayforge-consumer", &config.telemetry)?;
        let result = consumer::run(config, observability::shutdown::token()).await;
        telemetry.shutdown().await;
        anyhow::Ok(result?)
    });
    // A handler that blocks its thread must not hold up the end.
    runtime.shutdown_background();
    result
}
