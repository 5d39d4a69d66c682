//! The connections of a run, on a thread of their own with a runtime of one thread: what is measured shares the machine with
//! them, and has to find them cheap.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::Context as _;
use chrono::Utc;
use tokio::runtime::LocalOptions;
use tokio::sync::{Mutex, oneshot};
use tokio::task::JoinSet;
use url::Url;

use super::alarm::Alarm;
use super::events::{Event, Events};
use super::plan::{Plan, Turn};
use super::tally::{Expected, Promise, Tally};
use super::wire::{ANSWER_TIMEOUT, Wire};

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
        .build_local(LocalOptions::default())?;
    runtime.block_on(async {
        let desk = Rc::new(Desk::new(Arc::clone(shared))?);
        let mut running = JoinSet::new();
        for _ in 0..connections {
            let wire = Wire::new(&shared.base, ANSWER_TIMEOUT)?;
            running.spawn_local(run_connection(Rc::clone(&desk), wire));
        }
        while let Some(one) = running.join_next().await {
            one??;
        }
        Ok(desk.tally.take())
    })
}

async fn run_connection(desk: Rc<Desk>, mut wire: Wire) -> anyhow::Result<()> {
    let shared = &desk.shared;
    let mut last: Option<Promise> = None;
    while let Some(turn) = desk.next_turn().await? {
        let expected = match last {
            Some(last) if turn.number % 100 < shared.duplicates => Expected::Duplicate(last),
            _ => Expected::New(turn.number),
        };
        let (Expected::New(number) | Expected::Duplicate(Promise { number, .. })) = expected;
        {
            let mut event = desk.event.borrow_mut();
            shared.events.make(number, Utc::now().timestamp(), &mut event)?;
            wire.write(shared.path(number), &event)?;
        }
        let answer = wire.exchange().await;
        shared.answered.fetch_add(1, Ordering::Relaxed);
        let mut tally = desk.tally.borrow_mut();
        last = tally.add(&shared.plan, turn.due, expected, answer).or(last);
    }
    Ok(())
}

/// What the connections share on their thread. One of each is still in the processor's cache when the next connection has
/// its answer; one for each connection would not be.
struct Desk {
    shared: Arc<Shared>,
    /// Of an open loop. Whoever has it takes the next turn and waits for it; the other free connections stand in line.
    alarm: Option<Mutex<Alarm>>,
    event: RefCell<Event>,
    tally: RefCell<Tally>,
}

impl Desk {
    /// Needs a runtime.
    fn new(shared: Arc<Shared>) -> anyhow::Result<Self> {
        let alarm = shared.plan.is_open().then(Alarm::new).transpose()?;
        Ok(Self {
            shared,
            alarm: alarm.map(Mutex::new),
            event: RefCell::default(),
            tally: RefCell::default(),
        })
    }

    /// The next turn, when it is due.
    async fn next_turn(&self) -> anyhow::Result<Option<Turn>> {
        let Some(alarm) = &self.alarm else {
            return Ok(self.shared.plan.take());
        };
        let mut alarm = alarm.lock().await;
        let turn = self.shared.plan.take();
        if let Some(turn) = turn {
            alarm.wait_until(turn.due).await?;
        }
        Ok(turn)
    }
}

impl Shared {
    /// The tenant of an event: always the same for one number.
    fn path(&self, number: u32) -> &str {
        let paths = u32::try_from(self.paths.len()).unwrap_or(u32::MAX);
        let index = usize::try_from(number % paths.max(1)).unwrap_or_default();
        self.paths.get(index).map_or("", String::as_str)
    }
}
