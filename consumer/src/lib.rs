//! Runs the jobs that RabbitMQ carries and writes their outcome back through SQL.
//!
//! A library too: `program.rs` is all that a program with job kinds of its own needs (`docs/handlers.md`).
//!
//! Start with `service.rs` for the parts and their order, then follow a message: `delivery.rs`, `execute.rs`,
//! `registry.rs` and `jobs/`, `outcome.rs`, `finish.rs`. What holds when a process dies is in `leases.rs` and
//! `sweeper.rs`.

mod config;
mod database;
mod delivery;
mod execute;
mod finish;
pub mod jobs;
mod leases;
mod malformed;
mod metrics;
pub mod outcome;
mod program;
pub mod registry;
mod service;
mod subscription;
mod sweeper;
mod unsettled;
mod wake;

pub use config::{Config, ConsumerConfig};
pub use outcome::Outcome;
pub use program::main;
pub use registry::{JobContext, JobHandler, Registry};
pub use service::{Service, ServiceError};
