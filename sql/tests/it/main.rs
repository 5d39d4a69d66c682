//! Tests of schema, functions and migrator against a real PostgreSQL.

mod catalogue;
mod migrator;
