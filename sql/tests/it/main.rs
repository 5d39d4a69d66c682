//! Tests of schema, functions and migrator against a real PostgreSQL.

mod catalogue;
mod ingest;
mod jobs;
mod migrator;
mod outbox;
mod support;
