//! What measurements need and services do not: a database of their own, filled with as many jobs as are asked for, and
//! what the server knows of its tables, its WAL and its plans. Feature `volume`; `relayforge-perf database` is its user.
//!
//! Nothing here writes to a database that was not made for it: see [`Scratch`].

mod fill;
mod meter;
mod scratch;
mod stored;
mod views;

pub use fill::{fill, filled, make_tenants};
pub use meter::{
    Server, TableActivity, TableSize, TableWal, WalMeter, WalUse, describe_server, flush_statistics,
    table_activity, table_sizes,
};
pub use scratch::{Role, Scratch, checkpoint, hold_snapshot, vacuum_queues};
pub use stored::{StoredJob, count_open_jobs, for_each_stored, for_each_succeeded, is_a_job_open};
pub use views::{Explained, ViewQuery, explain, view_queries};
