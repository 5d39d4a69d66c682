//! What every service shows of itself: logs, traces, metrics, probes, and the end of its life.
//!
//! Owns the formats (bunyan lines, OpenMetrics text, readiness JSON) and the settings that steer them.
//! Does not own any metric of a service: each is registered by the type that counts it. Start with
//! `config.rs`, then `logging.rs`.

mod config;
mod lines;
mod logging;

pub mod admin;
pub mod metrics;
pub mod propagation;
pub mod shutdown;

pub use config::{AppEnv, DotenvError, ServiceConfig, TelemetryConfig, exit_code, load_dotenv, read_config};
pub use logging::{Telemetry, TelemetryError, Writing, init};
