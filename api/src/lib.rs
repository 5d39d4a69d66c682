//! Takes webhooks in over HTTP: verifies them, batches them, has the database ingest them.
//!
//! Start with `server.rs` (route table, life of the process), then `webhooks.rs` (the order of checks) and `ingest.rs`
//! (the batcher).

pub mod config;
pub mod error;
mod gauges;
pub mod ingest;
pub mod rate_limit;
pub mod registry;
pub mod rejections;
pub mod server;
pub mod signature;
pub mod telemetry;
pub mod traffic;
pub mod webhooks;
