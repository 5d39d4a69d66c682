//! `relayforge-relay`: configuration, telemetry, run, exit code.
#![expect(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "there is no log before the configuration is known"
)]

use std::process::ExitCode;

use clap::Parser as _;
use relay::config::Config;

fn main() -> ExitCode {
    if let Err(error) = observability::load_dotenv() {
        eprintln!("relayforge-relay: {error}");
        return ExitCode::from(2);
    }
    let config = Config::parse();
    if let Err(error) = config.validate() {
        eprintln!("relayforge-relay: {error}");
        return ExitCode::from(2);
    }
    if config.check_config {
        println!("configuration ok");
        return ExitCode::SUCCESS;
    }
    match run(config) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("relayforge-relay: {error:#}");
            ExitCode::FAILURE
        }
    }
}

#[tokio::main]
async fn run(config: Config) -> anyhow::Result<()> {
    rustls::crypto::ring::default_provider()
        .install_default()
        .map_err(|_| anyhow::anyhow!("a TLS provider is installed already"))?;
    let telemetry = observability::init("relayforge-relay", &config.telemetry)?;
    let stop = observability::shutdown::token();
    let ran = relay::service::run(config, stop).await;
    telemetry.shutdown().await;
    ran
}
