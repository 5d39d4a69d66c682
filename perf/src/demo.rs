//! The demo: a tenant of its own with secrets and keys, one webhook of each provider, a duplicate and a forgery, and a
//! table of what became of each.
//!
//! `demo/state.rs` keeps the secrets between runs, `demo/setup.rs` brings the database to what it says,
//! `demo/send.rs` sends and judges.

mod send;
mod setup;
mod state;

pub use send::{Report, send};
pub(crate) use setup::load_tenants;
pub use setup::{Setup, setup};
pub use state::State;

/// Slug of the demo tenant.
pub const TENANT: &str = "demo";

/// The source whose events tell the consumer how to fail. Signed with the generic secret.
pub const CHAOS: &str = "chaos";
