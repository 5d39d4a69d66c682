//! End-to-end tests: real processes, real HTTP, a real PostgreSQL and a real RabbitMQ. One binary because linking is
//! what costs.
//!
//! `world.rs` starts what a test needs and stops it; `service.rs` is one process; the other files are the tests.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::print_stdout,
    reason = "a test fails by panicking, in its support functions too, and what it prints is its report"
)]

mod binaries;
mod costs;
mod database;
mod delivery;
mod demo;
mod environment;
mod faults;
mod graceful;
mod instructions;
mod limits;
mod measure;
mod message;
mod outages;
mod python;
mod refusals;
mod service;
mod world;
