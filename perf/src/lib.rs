//! Drives a running Relayforge from outside: the demo of `./dev up`, load, and the webhooks that both and the end-to-end
//! tests send. And measures what it costs: idle, and the database by itself.
//!
//! Start with `scenario.rs` for what is sent and `client.rs` for how; then `demo.rs`, or `load.rs`, which `drain.rs`,
//! `end_to_end.rs` and `growth.rs` send with. `idle.rs`, `hot_path.rs` and `database.rs` stand by themselves; `summary.rs` reads
//! what the others have written. Errors are `anyhow` here, other than in the libraries of the services: every one of them ends
//! as a line for the person who called.

mod backlog;
pub mod client;
pub mod config;
pub mod database;
pub mod demo;
pub mod drain;
pub mod end_to_end;
pub mod growth;
pub mod hot_path;
pub mod idle;
pub mod ledger;
pub mod load;
pub mod plots;
mod processes;
mod progress;
pub mod report;
pub mod scenario;
pub mod summary;
