//! `relayforge-relay`: configuration, telemetry, run, exit code.

use std::process::ExitCode;

use observability::Writing;
use relay::config::Config;

/// A message is some hundred small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match observability::read_config::<Config>() {
        Ok(config) => observability::exit_code::<Config>(run(config)),
        Err(code) => code,
    }
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
    // Fails only where there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let telemetry = observability::init("relayforge-relay", &config.telemetry, Writing::AtOnce)?;
    let stop = observability::shutdown::token();
    let ran = relay::service::run(config, stop).await;
    telemetry.shutdown().await;
    ran
}
