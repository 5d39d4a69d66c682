//! Tests of the API over real HTTP against a real PostgreSQL.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]

mod app;
mod configuration;
mod counts;
mod limits;
mod outages;
mod webhooks;
