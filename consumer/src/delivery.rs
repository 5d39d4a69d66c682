//! From message to start: takes deliveries of the work queue, has their jobs started, acknowledges them.
//!
//! The only place that acknowledges or gives back a message. A message is acknowledged once its start is committed,
//! whatever the answer was: from then on the lease guards the job, and the message has nothing more to say. It is
//! never read for more than its ids. What is started runs in `execute.rs`.

use std::sync::Arc;
use std::time::Duration;

use amqprs::channel::{
    BasicAckArguments, BasicConsumeArguments, BasicNackArguments, BasicQosArguments, Channel, ConsumerMessage,
};
use observability::propagation::sane_correlation_id;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use relay::amqp::AmqpError;
use relay::envelope::MessageId;
use relay::session::Session;
use sql::jobs::{JobAttempt, Start, start_jobs};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use crate::config::ConsumerConfig;
use crate::database::{Backoff, CALL_TIMEOUT};
use crate::execute::Executor;
use crate::finish::Writer;
use crate::metrics::metrics;
use crate::wake::Wake;

/// Starts asked for in one call.
const BATCH: usize = 256;

/// Pause before a message is given back whose job somebody else holds.
const LOCKED_PAUSE: Duration = Duration::from_millis(500);

/// Characters that are logged of an id that can't be read.
const EXCERPT_CHARS: usize = 64;

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
        /// Messages that name no job and attempt; they were logged and dropped
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

/// A message that is not acknowledged yet.
#[derive(Debug)]
struct Delivery {
    tag: u64,
    asks: JobAttempt,
    correlation_id: Option<String>,
}

/// A consumer on one session.
struct Subscription {
    channel: Channel,
    inbox: UnboundedReceiver<ConsumerMessage>,
    /// Cancelled when the session ends: what is not acknowledged then is delivered again, to whomever.
    ended: CancellationToken,
}

/// Takes work in, one session after the other, and holds the runs that came of it.
#[derive(Debug)]
pub(crate) struct Intake {
    writer: Writer,
    executor: Executor,
    metrics: DeliveryMetrics,
    config: ConsumerConfig,
    slots: Arc<Semaphore>,
    backoff: Backoff,
    runs: JoinSet<()>,
}

impl Intake {
    pub(crate) fn new(
        writer: Writer,
        executor: Executor,
        metrics: DeliveryMetrics,
        config: ConsumerConfig,
    ) -> Self {
        let slots = Arc::new(Semaphore::new(usize::from(config.slots)));
        let (backoff, runs) = (Backoff::default(), JoinSet::new());
        Self {
            writer,
            executor,
            metrics,
            config,
            slots,
            backoff,
            runs,
        }
    }

    /// Takes messages from `queue` until the session ends or `stop` is cancelled; then closes the session, which
    /// returns what was not started. Runs go on.
    pub(crate) async fn work(&mut self, session: Session, queue: &str, stop: &CancellationToken) {
        match self.subscribe(&session, queue).await {
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

    async fn subscribe(&self, session: &Session, queue: &str) -> Result<Subscription, AmqpError> {
        let lost = |error: amqprs::error::Error| AmqpError::Lost(error.to_string());
        let channel = session.open_channel().await?;
        // The one bound on what waits in this process.
        let qos = BasicQosArguments::new(0, self.config.slots, false);
        channel.basic_qos(qos).await.map_err(lost)?;
        let consume = BasicConsumeArguments::new(queue, "").manual_ack(true).finish();
        let (_, inbox) = channel.basic_consume_rx(consume).await.map_err(lost)?;
        Ok(Subscription {
            channel,
            inbox,
            ended: session.ended(),
        })
    }

    /// Starts what waits, once there is a slot for it. `None` when there is no more to take here.
    async fn step(&mut self, from: &mut Subscription, stop: &CancellationToken) -> Option<()> {
        // Finished runs stay in the set until they are taken out.
        while self.runs.try_join_next().is_some() {}
        let slots = self.slots.clone();
        let (slot, message) = tokio::select! {
            biased;
            () = stop.cancelled() => return None,
            () = from.ended.cancelled() => return None,
            next = async { Some((slots.acquire_owned().await.ok()?, from.inbox.recv().await?)) } => next?,
        };
        let mut taken = vec![slot];
        let mut held = Vec::new();
        self.sort(message, &mut held, from).await;
        while held.len() < BATCH {
            if held.len() == taken.len() {
                let Ok(slot) = self.slots.clone().try_acquire_owned() else {
                    break;
                };
                taken.push(slot);
            }
            let Ok(message) = from.inbox.try_recv() else { break };
            self.sort(message, &mut held, from).await;
        }
        self.start(held, taken, from, stop).await
    }

    /// Reads a message's ids. One that has none would come back for ever: it is dropped, and the log has what can be
    /// said of it.
    async fn sort(&self, message: ConsumerMessage, held: &mut Vec<Delivery>, from: &Subscription) {
        let Some(deliver) = message.deliver else { return };
        let tag = deliver.delivery_tag();
        let properties = message.basic_properties.unwrap_or_default();
        let id = properties.message_id().map_or("", String::as_str);
        let correlation_id = properties.correlation_id().map_or("", String::as_str);
        match id.parse::<MessageId>() {
            Ok(MessageId { job_id, attempt }) => held.push(Delivery {
                tag,
                asks: JobAttempt { job_id, attempt },
                correlation_id: Some(correlation_id.to_owned()).filter(|id| sane_correlation_id(id)),
            }),
            Err(error) => {
                self.metrics.malformed.inc();
                tracing::error!(
                    %error,
                    message.id = excerpt(id),
                    correlation_id = excerpt(correlation_id),
                    message.bytes = message.content.map_or(0, |body| body.len()),
                    message.redelivered = deliver.redelivered(),
                    "dropped a message that names no job and attempt"
                );
                from.ack(tag).await;
            }
        }
    }

    /// Has jobs started, for as long as it takes. While the database is away the messages are held, neither
    /// acknowledged nor given back, until it answers or the session ends. `None` if they were not all started.
    async fn start(
        &mut self,
        mut held: Vec<Delivery>,
        mut slots: Vec<OwnedSemaphorePermit>,
        from: &Subscription,
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
                    for (delivery, answer) in held.drain(..asks.len()).zip(answers) {
                        let is_locked = matches!(answer, Start::Locked);
                        self.answer(&delivery, answer, &mut slots);
                        if is_locked {
                            self.runs.spawn(from.give_back_later(delivery.tag));
                        } else {
                            from.ack(delivery.tag).await;
                        }
                    }
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
                () = from.ended.cancelled() => return None,
                () = self.backoff.pause() => {}
            }
            // One that can't be started must not hold up the others: each is tried by itself, and goes back.
            if refused && asks.len() == 1 {
                from.give_back(held.remove(0).tag).await;
            }
            at_once = if refused { 1 } else { at_once };
        }
        Some(())
    }

    fn answer(&mut self, delivery: &Delivery, answer: Start, slots: &mut Vec<OwnedSemaphorePermit>) {
        let outcome = match answer {
            Start::Started(job) => {
                // There is one for each delivery.
                self.executor.launch(*job, slots.pop(), &mut self.runs);
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
            return;
        }
        let JobAttempt { job_id, attempt } = delivery.asks;
        if outcome == "poisoned" {
            self.writer.tally.dead_lettered(1);
            self.writer.waker.wish(Wake::Now);
        }
        let correlation_id = &delivery.correlation_id;
        tracing::info!(correlation_id, job.id = %job_id, attempt, outcome, "a message started nothing");
    }
}

impl Subscription {
    /// Tells the broker to forget a message. If it can't be told, the session is about to end, and the message comes
    /// again and finds its job started.
    async fn ack(&self, tag: u64) {
        let ack = self.channel.basic_ack(BasicAckArguments::new(tag, false));
        // A connection that nobody reads holds up whoever writes to it.
        let _ = self.ended.run_until_cancelled(ack).await;
    }

    /// Has the broker deliver a message again.
    async fn give_back(&self, tag: u64) {
        give_back(&self.channel, &self.ended, tag).await;
    }

    /// The same after a pause, during which the message counts as one that waits in this process.
    fn give_back_later(&self, tag: u64) -> impl Future<Output = ()> + use<> {
        let (channel, ended) = (self.channel.clone(), self.ended.clone());
        async move {
            let _ = ended.run_until_cancelled(tokio::time::sleep(LOCKED_PAUSE)).await;
            give_back(&channel, &ended, tag).await;
        }
    }
}

async fn give_back(channel: &Channel, ended: &CancellationToken, tag: u64) {
    let nack = channel.basic_nack(BasicNackArguments::new(tag, false, true));
    let _ = ended.run_until_cancelled(nack).await;
}

/// The start of a stranger's text, with everything unprintable escaped.
fn excerpt(text: &str) -> String {
    text.chars()
        .take(EXCERPT_CHARS)
        .flat_map(char::escape_debug)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_excerpt_is_short_and_printable() {
        assert_eq!(excerpt("a\n\u{0}b"), "a\\n\\0b");
        assert_eq!(excerpt(&"x".repeat(500)).len(), EXCERPT_CHARS);
    }
}
