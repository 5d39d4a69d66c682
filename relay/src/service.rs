//! The relay's parts, in what order they start, and in what order they end.
//!
//! Owns no work itself: that is the lanes' (`lanes.rs`), and one task sleeps for all of them (`sleeper.rs`).

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use observability::admin::{self, Readiness};
use sql::outbox::Target;
use sql::upkeep;
use sql::warm_up::{Calls, warm_up};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::cycle::Drain;
use crate::kept::{KeptPublisher, keep};
use crate::lanes::{Shared, run_first_lane, run_further_lane};
use crate::metrics::RelayMetrics;
use crate::rescue::{repair, sweep};
use crate::sleeper::sleep_for_all;
use crate::supervisor::Supervisor;

/// Connections beside the lanes of fresh work: one lane each for retries, events and copies, the sleeper, the rest.
pub(crate) const OTHER_CONNECTIONS: u16 = 5;

/// Connections that are open before the first message comes: for the first lane of each target, and the sleeper.
const WARM_CONNECTIONS: usize = Target::ALL.len() + 1;

/// Runs the relay until `stop`, then ends what is in flight and returns.
///
/// # Errors
/// If the configuration can't be used or the listener can't be bound. A database or broker that is away is no error.
pub async fn run(config: Config, stop: CancellationToken) -> anyhow::Result<()> {
    let [database, schema] = upkeep::CHECKS;
    let readiness = Readiness::new(&[database, schema, upkeep::PARTITIONS, "broker"]);
    let metrics = RelayMetrics::default();
    let admin_stop = CancellationToken::new();
    let encoder = metrics.encoder(observability::metrics::registry());
    let admin = admin::serve(
        config.relay.listen,
        encoder,
        readiness.clone(),
        admin_stop.clone(),
    )
    .with_context(|| format!("RELAY__LISTEN {}", config.relay.listen))?;
    tracing::info!(address = %admin.addr, "probes and metrics");
    let pool = sql::pool::connect(&config.database, "relayforge-relay").context("DATABASE__URL")?;

    let publishers_stop = CancellationToken::new();
    let broker_readiness = readiness.clone();
    let supervisor = |name, readiness, repair| Supervisor::new(&config.amqp, name, readiness, repair);
    let timeout = config.relay.confirm_timeout();
    let (work, work_task) = keep(
        supervisor("relayforge-relay", broker_readiness, Some(repair(pool.clone())))?,
        timeout,
        publishers_stop.clone(),
    );
    // On a connection of their own: a stranger's queue that slows the broker down slows this one only.
    let (events, events_task) = keep(
        supervisor("relayforge-relay events", Readiness::new(&[]), None)?,
        timeout,
        publishers_stop.clone(),
    );

    let shared = Shared {
        pool: pool.clone(),
        rounds: watch::Sender::default(),
        stop: stop.clone(),
    };
    let lanes = TaskTracker::new();
    start_lanes(&config, &shared, &lanes, &work, &events, &metrics);
    let upkeep_tasks = start_upkeep(&config, &shared, &readiness, &metrics);
    lanes.spawn(sleep_for_all(shared, config));

    stop.cancelled().await;
    readiness.set_draining();
    tracing::info!("draining");
    lanes.close();
    lanes.wait().await;
    upkeep_tasks.close();
    upkeep_tasks.wait().await;
    publishers_stop.cancel();
    let _ = tokio::join!(work_task, events_task);
    admin_stop.cancel();
    admin.task.await.context("the probe listener")??;
    tracing::info!("ended");
    Ok(())
}

fn start_lanes(
    config: &Config,
    shared: &Shared,
    lanes: &TaskTracker,
    work: &KeptPublisher,
    events: &KeptPublisher,
    metrics: &RelayMetrics,
) {
    let topology = crate::topology::Topology::new(&config.amqp.prefix);
    for target in Target::ALL {
        let drain = Arc::new(Drain::new(
            target,
            topology.clone(),
            config.relay.batch_items,
            config.relay.claim_timeout(),
            metrics.clone(),
        ));
        let (count, publisher) = match target {
            Target::Jobs => (config.relay.inflight, work),
            Target::Retries | Target::Dlq => (1, work),
            Target::Events => (1, events),
        };
        for _ in 1..count {
            lanes.spawn(run_further_lane(
                Arc::clone(&drain),
                shared.clone(),
                publisher.clone(),
            ));
        }
        lanes.spawn(run_first_lane(drain, shared.clone(), publisher.clone()));
    }
}

fn start_upkeep(
    config: &Config,
    shared: &Shared,
    readiness: &Readiness,
    metrics: &RelayMetrics,
) -> TaskTracker {
    let tasks = TaskTracker::new();
    let Shared { pool, stop, .. } = shared;
    tasks.spawn(sweep(shared.clone(), metrics.clone()));
    let report = {
        let readiness = readiness.clone();
        move |check, found: Result<(), &str>| readiness.set(check, found)
    };
    tasks.spawn(upkeep::watch(pool.clone(), report, stop.clone()));
    tasks.spawn(warm_up(
        pool.clone(),
        WARM_CONNECTIONS,
        Calls::Relay,
        stop.clone(),
    ));
    let report = {
        let (readiness, horizon) = (readiness.clone(), metrics.horizon.clone());
        move |left: Duration| {
            readiness.set_noted(upkeep::PARTITIONS, upkeep::check_horizon(left));
            horizon.set(left);
        }
    };
    tasks.spawn(upkeep::keep(config.database.clone(), None, report, stop.clone()));
    tasks.spawn(metrics.clone().keep_counting(pool.clone(), stop.clone()));
    tasks
}
