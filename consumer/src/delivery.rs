//! From message to start: takes deliveries of the work queues, has their jobs started, acknowledges them.
//!
//! The only place that decides what a message is answered. It is acknowledged once its start is committed, whatever the
//! answer was: from then on the lease guards the job, and the message has nothing more to say. It is never read for more
//! than its ids. Which message comes next is in `subscription.rs`; what is started runs in `execute.rs`.

use std::sync::Arc;

use observability::propagation::sane_correlation_id;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use relay::backoff::Backoff;
use relay::envelope::MessageId;
use relay::session::Session;
use relay::topology::Topology;
use sql::jobs::{JobAttempt, Start, start_jobs};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::ConsumerConfig;
use crate::database::{CALL_TIMEOUT, backoff};
use crate::execute::Executor;
use crate::finish::Writer;
use crate::malformed::DeadLetters;
use crate::metrics::metrics;
use crate::subscription::{Receipt, Slot, Slots, Subscription, Taken, acknowledge};
use crate::wake::Wake;

/// Starts asked for in one call.
const BATCH: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ByOutcome {
    outcome: &'static str,
}

metrics! {
    /// What came out of the work queue.
    pub(crate) struct DeliveryMetrics {
        /// Messages by what the database made of their wish to start: started, busy, stale, held, final, poisoned,
        /// unknown, or locked (given back, to be asked for again)
        started("jobs_started"): Family<ByOutcome, Counter> = all_outcomes(),
        /// Messages that name no job and attempt; each has its copy in the dead-letter queue, with the reason
        malformed("messages_malformed"): Counter = Counter::default(),
    }
}

fn all_outcomes() -> Family<ByOutcome, Counter> {
    let family = Family::default();
    for outcome in [
        "started", "busy", "stale", "held", "final", "poisoned", "unknown", "locked",
    ] {
        drop(family.get_or_create(&ByOutcome { outcome }));
    }
    family
}

/// A message that is not acknowledged yet, and the slot that its run would have.
struct Delivery {
    asks: JobAttempt,
    correlation_id: Option<String>,
    slot: Slot,
    receipt: Receipt,
}

/// Takes work in, one session after the other, and holds the runs that came of it.
#[derive(Debug)]
pub(crate) struct Intake {
    writer: Writer,
    executor: Executor,
    metrics: DeliveryMetrics,
    dead_letters: Arc<DeadLetters>,
    config: ConsumerConfig,
    slots: Slots,
    backoff: Backoff,
    runs: JoinSet<()>,
}

impl Intake {
    pub(crate) fn new(
        writer: Writer,
        executor: Executor,
        metrics: DeliveryMetrics,
        dead_letters: DeadLetters,
        config: ConsumerConfig,
    ) -> Self {
        Self {
            writer,
            executor,
            metrics,
            dead_letters: Arc::new(dead_letters),
            slots: Slots::new(&config),
            config,
            backoff: backoff(),
            runs: JoinSet::new(),
        }
    }

    /// Takes messages until the session ends or `stop` is cancelled; then closes the session, which returns what was not
    /// started. Runs go on.
    pub(crate) async fn work(&mut self, session: Session, topology: &Topology, stop: &CancellationToken) {
        match Subscription::open(&session, topology, &self.config).await {
            Ok(mut subscription) => while self.step(&mut subscription, stop).await.is_some() {},
            // The session's own log line says more.
            Err(error) => tracing::warn!(%error, "can't consume"),
        }
        session.close().await;
    }

    /// Waits until the last run has its outcome written.
    pub(crate) async fn drain(&mut self) {
        while self.runs.join_next().await.is_some() {}
    }

    /// Starts what waits, once there is a slot for it. `None` when there is no more to take here.
    async fn step(&mut self, from: &mut Subscription, stop: &CancellationToken) -> Option<()> {
        // Finished runs stay in the set until they are taken out.
        while self.runs.try_join_next().is_some() {}
        let ended = from.ended().clone();
        let first = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            () = ended.cancelled() => return None,
            taken = from.next(&self.slots) => taken?,
        };
        let mut held: Vec<Delivery> = self.sort(first).into_iter().collect();
        while held.len() < BATCH {
            let Some(taken) = from.try_next(&self.slots) else {
                break;
            };
            held.extend(self.sort(taken));
        }
        self.start(held, &ended, stop).await
    }

    /// Reads a message's ids. One that has none would come back for ever: it is set aside.
    fn sort(&mut self, taken: Taken) -> Option<Delivery> {
        let Taken {
            message,
            slot,
            receipt,
        } = taken;
        let properties = message.basic_properties.as_ref();
        let id = properties.and_then(|properties| properties.message_id());
        match id.map_or("", String::as_str).parse::<MessageId>() {
            Ok(MessageId { job_id, attempt }) => Some(Delivery {
                asks: JobAttempt { job_id, attempt },
                correlation_id: properties
                    .and_then(|properties| properties.correlation_id())
                    .filter(|id| sane_correlation_id(id))
                    .cloned(),
                slot,
                receipt,
            }),
            Err(reason) => {
                let (dead_letters, malformed) = (self.dead_letters.clone(), self.metrics.malformed.clone());
                // Beside the work: a broker that takes no messages holds up this one only.
                self.runs.spawn(async move {
                    if dead_letters.take(&message, reason).await {
                        malformed.inc();
                        acknowledge(vec![receipt]).await;
                    } else {
                        receipt.give_back_later().await;
                    }
                });
                None
            }
        }
    }

    /// Has jobs started, for as long as it takes. While the database is away the messages are held, neither
    /// acknowledged nor given back, until it answers or the session ends. `None` if they were not all started.
    async fn start(
        &mut self,
        mut held: Vec<Delivery>,
        ended: &CancellationToken,
        stop: &CancellationToken,
    ) -> Option<()> {
        let mut at_once = held.len();
        while !held.is_empty() {
            let asks: Vec<JobAttempt> = held.iter().take(at_once).map(|delivery| delivery.asks).collect();
            let mut refused = false;
            let (lease, poison) = (self.config.lease(), self.config.poison_starts);
            let call = async |client: &sql::Object| start_jobs(client, &asks, lease, poison).await;
            match self.writer.database.call(CALL_TIMEOUT, call).await {
                Ok(answers) => {
                    self.backoff.reset();
                    let settled = held.drain(..asks.len()).zip(answers);
                    let settled = settled
                        .filter_map(|(delivery, answer)| self.answer(delivery, answer))
                        .collect();
                    acknowledge(settled).await;
                    continue;
                }
                Err(error) if error.is_retryable() => {}
                Err(error) => {
                    tracing::error!(%error, jobs = asks.len(), "jobs can't be started");
                    refused = true;
                }
            }
            tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                () = ended.cancelled() => return None,
                () = tokio::time::sleep(self.backoff.after_failure()) => {}
            }
            // One that can't be started must not hold up the others: each is tried by itself, and goes back.
            if refused && asks.len() == 1 {
                held.remove(0).receipt.give_back().await;
            }
            at_once = if refused { 1 } else { at_once };
        }
        Some(())
    }

    /// Does what a start was answered with; returns what the broker has to forget.
    fn answer(&mut self, delivery: Delivery, answer: Start) -> Option<Receipt> {
        let Delivery {
            asks: JobAttempt { job_id, attempt },
            correlation_id,
            slot,
            receipt,
        } = delivery;
        let outcome = match answer {
            Start::Started(job) => {
                self.executor.launch(*job, slot, &mut self.runs);
                "started"
            }
            Start::Busy => "busy",
            Start::Stale => "stale",
            Start::Held => "held",
            Start::Final => "final",
            Start::Poisoned => "poisoned",
            Start::Unknown => "unknown",
            Start::Locked => "locked",
        };
        self.metrics.started.get_or_create(&ByOutcome { outcome }).inc();
        if outcome == "started" {
            return Some(receipt);
        }
        if outcome == "poisoned" {
            self.writer.tally.dead_lettered(1);
            self.writer.waker.wish(Wake::Now);
        }
        tracing::info!(correlation_id, job.id = %job_id, attempt, outcome, "a message started nothing");
        if outcome == "locked" {
            self.runs.spawn(receipt.give_back_later());
            return None;
        }
        Some(receipt)
    }
}
