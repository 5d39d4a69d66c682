//! Senders that behave as providers do: each event again and again until it is answered 2xx. How many are sent, and
//! when, is the test's choice.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use perf::client::{Addressing, Client};
use perf::demo::{CHAOS, TENANT};
use perf::ledger::Accepted;
use perf::scenario::{Delivery, ORDER_CREATED};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::{Value, json};
use sql::event::SourceKind;
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;

use crate::world::World;

/// Events on their way at once.
const SENDERS: usize = 16;

/// A sender's pause before it tries again, and how often it tries: longer than any server stays away.
const RETRY_AFTER: Duration = Duration::from_millis(25);
const MOST_TRIES: u32 = 2_000;

/// How long all that was released may take to be answered.
const ANSWERED_WITHIN: Duration = Duration::from_secs(120);

/// Longest that a mixed job pretends to work, in milliseconds.
const LONGEST_JOB_MS: u64 = 60;

/// What an event is about.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) source: &'static str,
    /// For the job kind `chaos`: what it is to do.
    pub(crate) data: Value,
}

/// Makes the event of a number; what it chooses at random depends on the number alone.
pub(crate) type Mix = fn(u64, &mut StdRng) -> Event;

/// Some of everything: jobs that end at once, that work for a while, and that fail at first.
pub(crate) fn mixed(number: u64, random: &mut StdRng) -> Event {
    let sleep_ms = random.random_range(0..=LONGEST_JOB_MS);
    let (source, data) = match number % 3 {
        0 => ("generic", json!({})),
        1 => (CHAOS, json!({ "sleep_ms": sleep_ms })),
        _ => (
            CHAOS,
            json!({ "sleep_ms": sleep_ms / 4, "fail_until_attempt": 2 }),
        ),
    };
    Event { source, data }
}

/// Senders, and what they have sent.
pub(crate) struct Load {
    pub(crate) shared: Arc<Sending>,
    senders: JoinSet<()>,
}

/// What the senders share.
pub(crate) struct Sending {
    api: String,
    secret: String,
    seed: u64,
    mix: Mix,
    pub(crate) since: DateTime<Utc>,
    permits: Semaphore,
    released: AtomicUsize,
    next: AtomicU64,
    answered: watch::Sender<usize>,
    /// What was answered 2xx, by source.
    pub(crate) accepted: Mutex<BTreeMap<&'static str, Vec<Accepted>>>,
    /// Tries that were not answered 2xx, and answers that say the event was known.
    pub(crate) retries: AtomicU32,
    pub(crate) known: AtomicU32,
}

impl Load {
    /// Starts senders that have nothing to send yet.
    pub(crate) fn start(world: &World, seed: u64, mix: Mix) -> Self {
        let shared = Arc::new(Sending {
            api: world.service("api").url(),
            secret: world.state.generic_secret.clone(),
            seed,
            mix,
            since: Utc::now() - TimeDelta::minutes(1),
            permits: Semaphore::new(0),
            released: AtomicUsize::new(0),
            next: AtomicU64::new(0),
            answered: watch::Sender::new(0),
            accepted: Mutex::default(),
            retries: AtomicU32::new(0),
            known: AtomicU32::new(0),
        });
        let mut senders = JoinSet::new();
        for _ in 0..SENDERS {
            senders.spawn(Arc::clone(&shared).send());
        }
        Self { shared, senders }
    }

    /// Has so many more events sent.
    pub(crate) fn send(&self, events: usize) {
        self.shared.released.fetch_add(events, Ordering::Relaxed);
        self.shared.permits.add_permits(events);
    }

    /// Events that were to be sent so far.
    pub(crate) fn released(&self) -> usize {
        self.shared.released.load(Ordering::Relaxed)
    }

    /// Waits until so many are answered 2xx in all.
    pub(crate) async fn answered(&self, events: usize) {
        self.shared.answered(events).await;
    }

    /// Waits until all that was to be sent is answered 2xx; no more is sent then.
    pub(crate) async fn end(&mut self) {
        let all = self.shared.answered(self.released());
        tokio::select! {
            () = all => {}
            // None ends by itself.
            Some(broken) = self.senders.join_next() => broken.unwrap(),
        }
        self.senders.abort_all();
    }
}

impl Sending {
    async fn answered(&self, events: usize) {
        let mut answered = self.answered.subscribe();
        let all = answered.wait_for(|answered| *answered >= events);
        let all = tokio::time::timeout(ANSWERED_WITHIN, all);
        if all.await.is_err() {
            let answered = *self.answered.borrow();
            panic!("{answered} of {events} are answered after {ANSWERED_WITHIN:?}");
        }
    }

    async fn send(self: Arc<Self>) {
        let client = Client::new(&self.api).unwrap();
        loop {
            self.permits.acquire().await.unwrap().forget();
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let mut random = StdRng::seed_from_u64(self.seed.wrapping_add(number));
            let event = (self.mix)(number, &mut random);
            let accepted = self.send_until_accepted(&client, number, &event).await;
            self.accepted
                .lock()
                .unwrap()
                .entry(event.source)
                .or_default()
                .push(accepted);
            self.answered.send_modify(|answered| *answered += 1);
        }
    }

    async fn send_until_accepted(&self, client: &Client, number: u64, event: &Event) -> Accepted {
        let mut delivery: Delivery = ORDER_CREATED.with_event_id(&format!("fault-{number}"));
        delivery.body = json!({ "event": "fault.test", "data": event.data })
            .to_string()
            .into_bytes();
        let delivery = delivery.signed(SourceKind::Generic, &self.secret);
        for _ in 0..MOST_TRIES {
            if let Ok(answer) = client
                .deliver(event.source, Addressing::Path(TENANT), &delivery)
                .await
            {
                let status = answer.status.as_u16();
                if status == 202 {
                    let known = u32::from(answer.deduped() == Some(true));
                    self.known.fetch_add(known, Ordering::Relaxed);
                    return Accepted {
                        provider_event_id: delivery.event_id,
                        event_id: answer.id("event_id"),
                        job_id: answer.id("job_id"),
                    };
                }
                assert_eq!(status, 503, "{}", answer.body);
                assert!(answer.headers.contains_key("retry-after"), "{}", answer.body);
            }
            self.retries.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(RETRY_AFTER).await;
        }
        panic!("{} was not accepted in {MOST_TRIES} tries", delivery.event_id)
    }
}
