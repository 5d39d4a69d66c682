//! `relayforge-api`: configuration, telemetry, run, exit code.

use std::process::ExitCode;

use api::config::ApiConfig;
use observability::Writing;

/// A webhook is some forty small allocations.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    match observability::read_config::<ApiConfig>() {
        Ok(config) => observability::exit_code::<ApiConfig>(run(config)),
        Err(code) => code,
    }
}

#[tokio::main]
async fn run(config: ApiConfig) -> anyhow::Result<()> {
    // Fails only where there is one already, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let telemetry = observability::init("relayforge-api", &config.telemetry, Writing::Together)?;
    let stop = observability::shutdown::token();
    let ran = match api::server::build(config) {
        Ok(running) => running.serve(stop).await,
        Err(error) => Err(error),
    };
    telemetry.shutdown().await;
    ran
}
