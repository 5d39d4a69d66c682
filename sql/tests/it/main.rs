//! Tests of schema, functions and migrator against a real PostgreSQL.
#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(
    clippy::disallowed_methods,
    reason = "the tests' own switches: CI, UPDATE_SNAPSHOTS"
)]

mod catalogue;
mod ingest;
mod jobs;
mod migrator;
mod outbox;
mod support;
