//! `relayforge-consumer`: reads the configuration, starts telemetry, runs until SIGTERM.
#![expect(
    clippy::print_stdout,
    reason = "the answer to --check-config goes to standard output"
)]

use std::process::ExitCode;

use anyhow::Context as _;
use clap::Parser as _;
use consumer::Config;

/// Exit code of a configuration that can't be used, as clap's own.
const WRONG_CONFIGURATION: u8 = 2;

fn main() -> ExitCode {
    match configured() {
        Ok(config) if config.check_config => {
            println!("configuration ok");
            ExitCode::SUCCESS
        }
        Ok(config) => match run(config) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("relayforge-consumer: {error:#}");
                ExitCode::FAILURE
            }
        },
        Err(error) => {
            eprintln!("relayforge-consumer: {error}");
            ExitCode::from(WRONG_CONFIGURATION)
        }
    }
}

fn configured() -> Result<Config, String> {
    observability::load_dotenv().map_err(|error| error.to_string())?;
    let config = Config::parse();
    config.validate().map(|()| config)
}

fn run(config: Config) -> anyhow::Result<()> {
    // Only fails when there is one already, which is as good.
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
