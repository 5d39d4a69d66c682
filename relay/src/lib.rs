//! The way from the outbox to RabbitMQ, and the message contract that consumers read.
//!
//! Start with `service.rs` (the parts), `lanes.rs` and `sleeper.rs` (the loops) and `cycle.rs` (one batch), then `envelope.rs`
//! (what a message says). RabbitMQ is
//! reached through `amqp.rs`, `session.rs`, `supervisor.rs`, `topology.rs`, `publisher.rs` and `kept.rs`.

pub mod amqp;
pub mod backoff;
pub mod config;
pub mod cycle;
pub mod envelope;
pub mod kept;
mod lanes;
pub mod metrics;
pub mod outgoing;
pub mod publisher;
pub mod rescue;
pub mod service;
pub mod session;
mod sleeper;
pub mod supervisor;
#[cfg(feature = "testing")]
pub mod testing;
pub mod topology;

pub use amqp::AmqpConfig;
