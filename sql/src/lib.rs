//! The database of Relayforge: schema, migrator and one typed wrapper per SQL function. The only crate that contains SQL.
//!
//! Start with `migrate.rs` for how a database comes to be, `ingest.rs`, `outbox.rs` and `jobs.rs` for what services do
//! with it, `event.rs` for what a stored body means.

pub mod activity;
pub mod audit;
mod code_objects;
pub mod config;
mod error;
pub mod event;
pub mod ingest;
pub mod jobs;
pub mod low_water;
pub mod migrate;
pub mod operators;
pub mod outbox;
pub mod pool;
pub mod secret;
pub mod sweeper;
#[cfg(feature = "testing")]
pub mod testing;
pub mod traffic;
pub mod unwritten;
pub mod upkeep;
#[cfg(feature = "volume")]
pub mod volume;
pub mod warm_up;

pub use code_objects::{CodeVersion, Swapped};
pub use deadpool_postgres::{GenericClient, Object, Pool, Transaction};
pub use error::DbError;
pub use pool::DatabaseConfig;
pub use secret::Secret;

/// A text in a result that none of the documented ones matches: a binary and a schema that do not belong together.
fn row_enum(column: &str, value: &str) -> DbError {
    DbError::Bug(format!("column {column} has the unknown value {value:?}"))
}

/// Every statement of the wrappers, with the role that runs it: the catalogue test prepares each as that role.
#[cfg(feature = "testing")]
pub const STATEMENTS: &[(&str, &str)] = &[
    ("relayforge_api", ingest::INGEST_WEBHOOKS),
    ("relayforge_api", ingest::RECORD_REJECTIONS),
    ("relayforge_api", config::LOAD_TENANTS),
    ("relayforge_api", config::LOAD_SOURCES),
    ("relayforge_api", config::LOAD_SECRETS),
    ("relayforge_api", operators::CHECK_IN),
    ("relayforge_api", traffic::RECORD_TRAFFIC),
    ("relayforge_api", config::RECORD_SECRET_USAGE),
    ("relayforge_api", upkeep::CONFIGURE_UPKEEP),
    ("relayforge_api", upkeep::MAINTAIN),
    ("relayforge_api", upkeep::PARTITIONS_END),
    ("relayforge_api", audit::SEAL_AUDIT),
    ("relayforge_api", outbox::WAKE_RELAYS),
    ("relayforge_owner", config::CREATE_TENANT),
    ("relayforge_owner", config::CREATE_SOURCE),
    ("relayforge_owner", config::ADD_SECRET),
    ("relayforge_owner", config::NEW_ID),
    ("relayforge_owner", operators::CREATE_ADMIN_KEY),
    ("relayforge_owner", operators::FIND_EVENTS),
    ("relayforge_owner", operators::JOB_OVERVIEW),
    ("relayforge_relay", operators::CHECK_IN),
    ("relayforge_relay", upkeep::MAINTAIN),
    ("relayforge_relay", upkeep::PARTITIONS_END),
    ("relayforge_relay", outbox::CLAIM_OUTBOX),
    ("relayforge_relay", outbox::SETTLE_OUTBOX),
    ("relayforge_relay", outbox::ABANDON_OUTBOX),
    ("relayforge_relay", outbox::OUTBOX_NEXT_DUE),
    ("relayforge_relay", outbox::COUNT_OUTBOX),
    ("relayforge_relay", outbox::RELAY_SLEEP),
    ("relayforge_relay", outbox::RELAY_WAKE),
    ("relayforge_relay", outbox::WAKE_RELAYS),
    ("relayforge_relay", outbox::REBUILD_BROKER_STEP),
    ("relayforge_relay", jobs::SWEEP_LEASES),
    ("relayforge_consumer", operators::SCHEMA_CODE),
    ("relayforge_consumer", traffic::RECORD_TRAFFIC),
    ("relayforge_consumer", outbox::WAKE_RELAYS),
    ("relayforge_consumer", jobs::START_JOBS),
    ("relayforge_consumer", jobs::COMPLETE_JOBS),
    ("relayforge_consumer", jobs::FAIL_JOBS),
    ("relayforge_consumer", jobs::RENEW_LEASES),
    ("relayforge_consumer", jobs::SWEEP_LEASES),
    ("relayforge_consumer", jobs::HAND_BACK_RUNS),
    ("relayforge_consumer", outbox::REBUILD_BROKER_STEP),
];
