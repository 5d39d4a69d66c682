//! Load on ingest: new events and some that come again, over a fixed number of connections, in a closed loop or at a rate;
//! each answer checked, and the answers compared with the rows afterwards.
//!
//! `load/plan.rs` says which request is next and when it is due, `load/alarm.rs` waits for that, `load/events.rs` makes it,
//! `load/sender.rs` sends it over `load/wire.rs`, `load/tally.rs` judges the answer, `load/check.rs` compares with what is
//! stored. [`ingest`] is all of it.

mod alarm;
mod answer;
mod check;
mod deadline;
mod events;
mod plan;
mod report;
mod sender;
mod tally;
mod usage;
mod wire;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use sql::DbError;

pub(crate) use self::events::{Event, Events};
use self::plan::Plan;
pub use self::report::Report;
pub(crate) use self::report::usage_table;
use self::sender::Shared;
#[cfg(test)]
pub(crate) use self::tally::Promise;
use self::tally::Tally;
pub use self::usage::Usage;
pub(crate) use self::usage::watch;
use crate::config::{IngestArgs, LoadArgs, Pids, Target};
use crate::demo::{State, TENANT, load_tenants};
use crate::ledger::Comparison;
use crate::progress::Progress;

/// How far the database's clock may be behind ours.
const CLOCK_SKEW: chrono::TimeDelta = chrono::TimeDelta::minutes(5);

/// How often the progress bar is told.
const PROGRESS_EVERY: Duration = Duration::from_millis(250);

/// What a run has sent and seen.
pub(crate) struct Sent {
    pub(crate) tally: Tally,
    /// When the first request was due, by our clock.
    pub(crate) began_at: DateTime<Utc>,
    /// Of the window.
    pub(crate) usage: Vec<Usage>,
    /// How long the window was: shorter than asked for where the requests ran out.
    pub(crate) window: Duration,
    events: Events,
}

/// Sends generic events of the demo tenant, or whatever the arguments say, and checks that nothing was lost or doubled.
///
/// # Errors
/// If the demo was never set up, or the database does not answer.
pub async fn ingest(arguments: &IngestArgs) -> anyhow::Result<Report> {
    let sent = send(
        &arguments.load,
        arguments.rate,
        &arguments.target,
        &arguments.pids,
    )
    .await?;
    let rows = sent.check(&arguments.target).await?;
    Ok(Report::new(arguments, sent, rows))
}

/// Sends what the arguments say.
///
/// # Errors
/// If the demo was never set up, or a process that is measured ends.
pub(crate) async fn send(
    load: &LoadArgs,
    rate: Option<u32>,
    target: &Target,
    pids: &Pids,
) -> anyhow::Result<Sent> {
    let state = State::load(&target.state)?;
    let tenants = if load.tenants == 1 {
        vec![TENANT.to_owned()]
    } else {
        load_tenants(target, &state, load.tenants).await?
    };
    let source = load.source.as_str();
    let paths = tenants
        .iter()
        .map(|tenant| format!("/webhooks/{source}/{tenant}"));
    let payload_bytes = usize::try_from(load.sender.payload_bytes)?;
    let events = Events::new(load.source, state.secret(load.source), payload_bytes);
    let [warmup, window] = [load.warmup, load.duration].map(|seconds| Duration::from_secs(seconds.into()));
    let shared = Arc::new(Shared {
        base: target.url.parse().context("RELAYFORGE_URL")?,
        paths: paths.collect(),
        events: events.clone(),
        duplicates: load.duplicates,
        answered: AtomicU32::new(0),
        plan: Plan::new(rate, warmup, window, load.requests),
    });
    let (plan, began_at) = (&shared.plan, Utc::now());
    let progress = Progress::new("sending", warmup + window);
    let (finished, usage) = tokio::sync::oneshot::channel::<()>();
    let watched = usage::watch(pids, plan.warm(), plan.ends(), usage);
    let sending = async {
        let tally = sender::send(Arc::clone(&shared), load.sender.connections.min(load.requests)).await;
        drop(finished);
        Ok::<_, anyhow::Error>((tally?, Instant::now()))
    };
    let telling = async {
        loop {
            tokio::time::sleep(PROGRESS_EVERY).await;
            progress.at(
                plan.began().elapsed(),
                shared.answered.load(Ordering::Relaxed).into(),
            );
        }
    };
    let both = async { tokio::try_join!(sending, watched) };
    let ((tally, ended), usage) = tokio::select! {
        done = both => done?,
        never = telling => never,
    };
    Ok(Sent {
        tally,
        began_at,
        usage,
        window: ended.min(plan.ends()).saturating_duration_since(plan.warm()),
        events,
    })
}

impl Sent {
    /// As if nothing had been sent yet.
    #[cfg(test)]
    pub(crate) fn nothing(began_at: DateTime<Utc>) -> Self {
        Self {
            tally: Tally::default(),
            began_at,
            usage: Vec::new(),
            window: Duration::ZERO,
            events: Events::new(sql::event::SourceKind::Generic, "secret", 0),
        }
    }

    /// Compares what was promised with what is stored.
    ///
    /// # Errors
    /// If the database does not answer.
    pub(crate) async fn check(&self, target: &Target) -> anyhow::Result<Comparison> {
        let pool = sql::pool::connect(&target.database, "relayforge-perf")?;
        let client = pool.get().await.map_err(DbError::from)?;
        let since = self.began_at - CLOCK_SKEW;
        Ok(check::check(&client, &self.events, since, &self.tally.promises).await?)
    }
}
