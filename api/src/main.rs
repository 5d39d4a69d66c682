//! `relayforge-api`: configuration, telemetry, run, exit code.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "there is no log before the configuration is known"
)]

use std::process::ExitCode;

use api::config::ApiConfig;
use clap::Parser as _;

fn main() -> ExitCode {
    if let Err(error) = observability::load_dotenv() {
        eprintln!("relayforge-api: {error}");
        return ExitCode::from(2);
    }
    let config = ApiConfig::parse();
    if let Err(error) = config.validate() {
        eprintln!("relayforge-api: {error}");
        return ExitCode::from(2);
    }
    if config.check_config {
        println!("configuration ok");
        return ExitCode::SUCCESS;
    }
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relayforge-api: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(config: ApiConfig) -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider is installed already"))?;
    let telemetry = observability::init("relayforge-api", &config.telemetry)?;
    let stop = observability::shutdown::token();
    let served = api::server::build(config)?.serve(stop).await;
    telemetry.shutdown().await;
    served
}
