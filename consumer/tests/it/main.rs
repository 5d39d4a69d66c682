//! Tests of the consumer against a real PostgreSQL and a real RabbitMQ, in one binary because linking is what costs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test fails by panicking, in what it is made of too"
)]

mod binary;
mod example;
mod handlers;
mod leases;
mod messages;
mod outages;
mod outcomes;
mod shutdown;
mod world;
