//! The connections of a run, on a thread of their own with a runtime of one thread: what is measured shares the machine with
//! them, and has to find them cheap.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Instant;

use anyhow::Context as _;
use chrono::Utc;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use url::Url;

use super::events::Events;
use super::plan::Plan;
use super::tally::{Expected, Promise, Tally};
use super::wire::Wire;

/// What all connections of a run share.
pub(super) struct Shared {
    pub(super) base: Url,
    /// One for each tenant.
    pub(super) paths: Vec<String>,
    pub(super) events: Events,
    pub(super) plan: Plan,
    /// Requests of a hundred that send an event once more.
    pub(super) duplicates: u32,
    /// Requests that were answered so far, for the progress bar.
    pub(super) answered: AtomicU32,
}

/// Sends until the plan ends, and returns what was seen.
///
/// # Errors
/// If the thread can't be started, or the URL can't be used.
pub(super) async fn send(shared: Arc<Shared>, connections: u32) -> anyhow::Result<Tally> {
    let (done, tally) = oneshot::channel();
    std::thread::Builder::new()
        .name("load".to_owned())
        .spawn(move || {
            let _ = done.send(send_here(&shared, connections));
        })?;
    tally.await.context("the load thread died")?
}

fn send_here(shared: &Arc<Shared>, connections: u32) -> anyhow::Result<Tally> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let mut running = JoinSet::new();
        for _ in 0..connections {
            let wire = Wire::new(&shared.base)?;
            running.spawn(run_connection(Arc::clone(shared), wire));
        }
        let mut all = Tally::default();
        while let Some(one) = running.join_next().await {
            all.join(one??);
        }
        Ok(all)
    })
}

async fn run_connection(shared: Arc<Shared>, mut wire: Wire) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let mut last: Option<Promise> = None;
    while let Some(turn) = shared.plan.take() {
        if turn.due > Instant::now() {
            tokio::time::sleep_until(turn.due.into()).await;
        }
        let expected = match last {
            Some(last) if turn.number % 100 < shared.duplicates => Expected::Duplicate(last),
            _ => Expected::New(turn.number),
        };
        let (Expected::New(number) | Expected::Duplicate(Promise { number, .. })) = expected;
        let event = shared.events.event(number, Utc::now().timestamp())?;
        let answer = wire.post(shared.path(number), event).await;
        shared.answered.fetch_add(1, Ordering::Relaxed);
        last = tally.add(&shared.plan, turn.due, expected, answer).or(last);
    }
    Ok(tally)
}

impl Shared {
    /// The tenant of an event: always the same for one number.
    fn path(&self, number: u32) -> &str {
        let paths = u32::try_from(self.paths.len()).unwrap_or(u32::MAX);
        let index = usize::try_from(number % paths.max(1)).unwrap_or_default();
        self.paths.get(index).map_or("", String::as_str)
    }
}
