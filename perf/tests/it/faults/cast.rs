//! Who takes part: one API, two relays, three consumers, each under a name of its own.

use std::sync::Arc;
use std::time::Duration;

use super::protocol::Protocol;
use super::wire::{Trap, wire};
use crate::world::World;

/// Kinds and names.
pub(crate) const CAST: [(&str, &str); 6] = [
    ("api", "api"),
    ("relay", "relay-1"),
    ("relay", "relay-2"),
    ("consumer", "consumer-1"),
    ("consumer", "consumer-2"),
    ("consumer", "consumer-3"),
];

/// The lease where consumers die or freeze, so that what they ran is taken over soon. Elsewhere it is as usual: a
/// consumer that gets no processor for two seconds would lose its jobs, which is not what is tested there.
pub(crate) const LEASE: Duration = Duration::from_millis(2_000);
pub(crate) const SHORT_LEASE: (&str, &str) = ("CONSUMER__LEASE_MS", "2000");

/// Settings of all kinds: limits that are not what is tested here; pauses that are short; and as many runs in a row as
/// there are kills may end without an outcome, with the job no poison for that.
pub(crate) const SETTINGS: [(&str, &str); 8] = [
    ("APP_ENV", "development"),
    ("HARDENING__INGRESS_RATE_LIMIT_PER_SECOND", "1000000"),
    ("HARDENING__INGRESS_BURST", "1000000"),
    ("HARDENING__TENANT_RATE_LIMIT_PER_SECOND", "1000000"),
    ("HARDENING__TENANT_RATE_LIMIT_BURST", "1000000"),
    ("CONSUMER__POISON_STARTS", "1000"),
    ("CONSUMER__BACKOFF_BASE_MS", "50"),
    ("RELAY__POLL_MS", "1000"),
];

/// Starts all, and waits until they are ready. With a trap, each reaches its servers by wires that look at it.
pub(crate) async fn start(world: &mut World, trap: Option<&Arc<Trap>>, more: &[(&str, &str)]) {
    for (kind, name) in CAST {
        start_one(world, kind, name, trap, more).await;
    }
    for service in world.services() {
        service.answers_ready_with(200).await;
    }
}

/// Starts one of them.
pub(crate) async fn start_one(
    world: &mut World,
    kind: &'static str,
    name: &'static str,
    trap: Option<&Arc<Trap>>,
    more: &[(&str, &str)],
) {
    let (mut database, mut broker) = (world.database_url(kind), world.amqp_url.clone());
    if let Some(trap) = trap {
        database = wire(trap, name, Protocol::Postgres, &database).await;
        broker = wire(trap, name, Protocol::Amqp, &broker).await;
    }
    let places = [("DATABASE__URL", database.as_str()), ("AMQP__URL", &broker)];
    let settings: Vec<_> = SETTINGS.iter().chain(&places).chain(more).copied().collect();
    world.start_as(kind, name, &settings).await;
}
