//! Tests of schema, functions and migrator against a real PostgreSQL.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(
    clippy::disallowed_methods,
    reason = "the tests' own switches: CI, UPDATE_SNAPSHOTS"
)]

mod access;
mod audit;
mod catalogue;
mod config;
mod erasure;
mod ingest;
mod ingest_races;
mod jobs;
mod lifecycle_model;
mod migrator;
mod outbox;
mod partitions;
mod plans;
mod policies;
mod quota;
mod races;
mod rejections;
mod replay;
mod stage;
mod standby;
mod statements;
mod support;
mod upgrade;
mod upkeep;
mod verbs;
mod views;
mod warm_up;
