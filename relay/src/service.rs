//! The relay's loops: lanes that run cycles, and the one that sleeps for all of them.
//!
//! The protocol of going to sleep: commit that we sleep (`relay_sleep`), look once more in a new transaction, and only
//! then wait. Whoever commits a message after that look finds the sleeper's row and notifies.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use observability::admin::{self, Readiness};
use sql::jobs::{Swept, sweep_leases};
use sql::outbox::{
    LowWater, OUTBOX_CHANNEL, Target, outbox_next_due, rebuild_broker, relay_sleep, relay_wake, wake_relays,
};
use sql::pool::Listener;
use sql::{DbError, Pool, sweeper, upkeep};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::backoff::Backoff;
use crate::config::Config;
use crate::cycle::{Cycle, Drain};
use crate::kept::{KeptPublisher, keep};
use crate::metrics::RelayMetrics;
use crate::supervisor::{Repair, Supervisor};

/// Connections beside the lanes of fresh work: one lane each for retries, events and copies, the sleeper, the rest.
pub(crate) const OTHER_CONNECTIONS: u16 = 5;

/// Pauses after the database or the broker failed a cycle, or the sleeper.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);

/// Pause after something was due that may be another relay's, still our own lanes', or the broker's not to take; longer each
/// time in a row, up to the poll.
const PAUSE_WHEN_DUE: Duration = Duration::from_millis(100);

/// How long the sleeper waits for all lanes; one that hangs on its broker must not hold up the others' wake-up.
const PATIENCE: Duration = Duration::from_millis(50);

/// Who has looked, and when everybody should again.
#[derive(Debug, Default)]
struct Rounds {
    /// Rises when lanes should look.
    round: u64,
    /// Lanes that have found nothing in this round.
    idle: usize,
}

/// What all lanes and the sleeper share.
#[derive(Clone)]
struct Shared {
    pool: Pool,
    rounds: watch::Sender<Rounds>,
    stop: CancellationToken,
}

impl Shared {
    /// Has every lane look, idle or not.
    fn next_round(&self) {
        self.rounds.send_modify(|rounds| {
            rounds.round += 1;
            rounds.idle = 0;
        });
    }
}

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
        for _ in 0..count {
            lanes.spawn(run_lane(Arc::clone(&drain), shared.clone(), publisher.clone()));
        }
    }
}

/// What a broker that has lost a work queue is mended with.
pub fn repair(pool: Pool) -> Repair {
    Repair::new(move || {
        let pool = pool.clone();
        async move {
            let rebuilt = async { rebuild_broker(&pool.get().await?).await };
            let messages = rebuilt.await.map_err(|error: DbError| error.to_string())?;
            tracing::warn!(messages, "the messages of all open jobs are in the outbox");
            Ok(())
        }
    })
}

/// Takes jobs over whose lease has run out, and has their messages published.
async fn sweep(shared: Shared, metrics: RelayMetrics) {
    let call = |limit, not_within| {
        let pool = shared.pool.clone();
        async move {
            let client = pool.get().await?;
            let swept = sweep_leases(&client, limit, not_within).await?;
            if swept != Swept::default() {
                // Other relays are told too, and may be quicker. One that is not polls.
                let _ = wake_relays(&client, None).await;
            }
            Ok(swept)
        }
    };
    let report = |swept: Swept| {
        metrics.jobs_rescued(swept.rescued);
        shared.next_round();
    };
    shared
        .stop
        .run_until_cancelled(sweeper::keep(sweeper::LONGEST_PERIOD, call, report))
        .await;
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

/// Runs cycles as long as they find something, then waits for the next round.
async fn run_lane(drain: Arc<Drain>, shared: Shared, mut publisher: KeptPublisher) {
    let mut rounds = shared.rounds.subscribe();
    let mut backoff = Backoff::new(FIRST_PAUSE, LAST_PAUSE);
    loop {
        let seen = rounds.borrow_and_update().round;
        let turn = tokio::select! {
            biased;
            () = shared.stop.cancelled() => return,
            // Before the claim: while the broker is away or confirms nothing, nothing is claimed.
            turn = publisher.turn() => turn,
        };
        let Some(turn) = turn else { return };
        let ran = drain.run_cycle(&shared.pool, &turn).await;
        drop(turn);
        match ran {
            Ok(Cycle::Settled(_)) => backoff.reset(),
            Ok(Cycle::Idle) => {
                backoff.reset();
                shared.rounds.send_modify(|rounds| {
                    if rounds.round == seen {
                        rounds.idle += 1;
                    }
                });
                tokio::select! {
                    () = shared.stop.cancelled() => return,
                    // Its sender is in `shared`: it can't fail.
                    _ = rounds.wait_for(|rounds| rounds.round != seen) => {}
                }
            }
            Err(error) => {
                tracing::warn!(outbox.target = drain.target().as_str(), %error, "a cycle failed");
                pause(backoff.after_failure(), &shared.stop).await;
            }
        }
    }
}

/// Sleeps for all lanes until the relay stops.
async fn sleep_for_all(shared: Shared, config: Config) {
    let relay_id = Uuid::new_v4();
    let mut backoff = Backoff::new(FIRST_PAUSE, LAST_PAUSE);
    while !shared.stop.is_cancelled() {
        let began = Instant::now();
        let failed = tokio::select! {
            () = shared.stop.cancelled() => break,
            failed = sleep_and_wake(&shared, &config, relay_id) => failed,
        };
        tracing::warn!(error = %failed, "the outbox can't be watched; trying again");
        if began.elapsed() > LAST_PAUSE {
            backoff.reset();
        }
        pause(backoff.after_failure(), &shared.stop).await;
        // For whatever was missed meanwhile.
        shared.next_round();
    }
    if let Ok(client) = shared.pool.get().await {
        let _ = relay_wake(&client, relay_id).await;
    }
}

/// Says that the relay sleeps, looks once more, waits until something is due or a writer notifies; again and again.
/// Returns when the database fails.
async fn sleep_and_wake(shared: &Shared, config: &Config, relay_id: Uuid) -> DbError {
    let lanes = usize::from(config.relay.inflight) + Target::ALL.len() - 1;
    let mut listener = match Listener::connect(&config.database, OUTBOX_CHANNEL).await {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    let mut rounds = shared.rounds.subscribe();
    let mut looks = Looks::default();
    let mut due = Backoff::new(PAUSE_WHEN_DUE, config.relay.poll());
    loop {
        // While all lanes work there is nothing to sleep for. The sender is in `shared`: waiting can't fail.
        let _ = rounds.wait_for(|rounds| rounds.idle > 0).await.map(drop);
        let _ = tokio::time::timeout(PATIENCE, rounds.wait_for(|rounds| rounds.idle == lanes))
            .await
            .map(drop);
        let wait = match looks.say_and_look(shared, relay_id, config.relay.poll()).await {
            Ok(Some(wait)) => {
                due.reset();
                wait
            }
            Ok(None) => {
                shared.next_round();
                due.after_failure()
            }
            Err(error) => return error,
        };
        tokio::select! {
            notified = listener.next() => match notified {
                Some(_) => shared.next_round(),
                None => return DbError::Unavailable("the listening connection was lost".to_owned()),
            },
            // What falls due now is found by the next look.
            () = tokio::time::sleep(wait) => {}
        }
    }
}

/// Looks at the outbox, and what the database's clock said then.
#[derive(Default)]
struct Looks {
    clock: Option<(DateTime<Utc>, Instant)>,
}

impl Looks {
    /// Commits that we sleep for `poll`, then looks. Returns how long there is nothing to do, or none if something is
    /// due. Two round trips.
    async fn say_and_look(
        &mut self,
        shared: &Shared,
        relay_id: Uuid,
        poll: Duration,
    ) -> Result<Option<Duration>, DbError> {
        let client = shared.pool.get().await?;
        let now = match self.clock {
            // The database's clock, as of its last word: ours may be hours off.
            Some((then, at)) => then + at.elapsed(),
            None => outbox_next_due(&client, LowWater::START.at).await?.now,
        };
        let wakes_at = now + poll;
        relay_sleep(&client, relay_id, wakes_at).await?;
        let found = outbox_next_due(&client, LowWater::START.at).await?;
        self.clock = Some((found.now, Instant::now()));
        let until = found.due.map_or(wakes_at, |due| due.min(wakes_at));
        Ok((until - found.now).to_std().ok().filter(|wait| !wait.is_zero()))
    }
}

async fn pause(length: Duration, stop: &CancellationToken) {
    tokio::select! {
        () = stop.cancelled() => {}
        () = tokio::time::sleep(length) => {}
    }
}
