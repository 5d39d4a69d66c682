//! Tests of the relay against a real RabbitMQ (and PostgreSQL), in one binary because linking is what costs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, in its helper functions too"
)]

mod publisher;
mod service;
mod session;
mod world;
