//! The two work queues of one session, and the slots that bound what is taken from them.
//!
//! Owns which message is taken next, so that neither queue starves the other: a run of what comes back needs one of the
//! retry slots too, which are half of all, and where both queues have something they take turns. What becomes of a message
//! is decided in `delivery.rs`, which acknowledges it through its receipt.

use std::sync::Arc;
use std::time::Duration;

use amqprs::channel::{
    BasicAckArguments, BasicConsumeArguments, BasicNackArguments, BasicQosArguments, Channel, ConsumerMessage,
};
use relay::amqp::AmqpError;
use relay::session::Session;
use relay::topology::Topology;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::config::ConsumerConfig;

/// Pause before a message is given back whose job somebody else holds.
const LOCKED_PAUSE: Duration = Duration::from_millis(500);

/// How many runs there may be at once, and how many of what comes back. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Slots {
    all: Arc<Semaphore>,
    retries: Arc<Semaphore>,
}

/// Leave to run one job; given back when dropped.
#[derive(Debug)]
pub(crate) struct Slot {
    _any: OwnedSemaphorePermit,
    _retry: Option<OwnedSemaphorePermit>,
}

/// A message and a slot for what it asks for.
pub(crate) struct Taken {
    pub(crate) message: ConsumerMessage,
    pub(crate) slot: Slot,
    pub(crate) receipt: Receipt,
}

/// Answers the broker for one message. Dropped without an answer, the message comes again when the session has ended.
pub(crate) struct Receipt {
    channel: Channel,
    /// Cancelled when the session ends: what is not acknowledged then is delivered again, to whomever.
    ended: CancellationToken,
    tag: u64,
}

/// A consumer of one queue, on a channel of its own.
struct Queue {
    channel: Channel,
    inbox: UnboundedReceiver<ConsumerMessage>,
}

/// The consumers of one session.
pub(crate) struct Subscription {
    fresh: Queue,
    retries: Queue,
    /// Whose turn it is, where both have something.
    retries_next: bool,
    ended: CancellationToken,
}

impl Slots {
    pub(crate) fn new(config: &ConsumerConfig) -> Self {
        let slots = |count: u16| Arc::new(Semaphore::new(usize::from(count)));
        Self {
            all: slots(config.slots),
            retries: slots(config.retry_slots()),
        }
    }
}

impl Subscription {
    /// Consumes both queues. What waits in this process is bounded by the prefetch: as much as could run.
    ///
    /// # Errors
    /// [`AmqpError::Lost`]: the session has ended.
    pub(crate) async fn open(
        session: &Session,
        topology: &Topology,
        config: &ConsumerConfig,
    ) -> Result<Self, AmqpError> {
        Ok(Self {
            fresh: Queue::open(session, &topology.jobs, config.slots).await?,
            retries: Queue::open(session, &topology.retries, config.retry_slots()).await?,
            retries_next: false,
            ended: session.ended(),
        })
    }

    /// A token that is cancelled when the session ends.
    pub(crate) fn ended(&self) -> &CancellationToken {
        &self.ended
    }

    /// The next message, once there is one and a slot for it. `None` at the end of the session. Dropping the future loses
    /// nothing.
    pub(crate) async fn next(&mut self, slots: &Slots) -> Option<Taken> {
        loop {
            let any = slots.all.clone().acquire_owned().await.ok()?;
            let retry = async {
                let slot = slots.retries.clone().acquire_owned().await.ok()?;
                Some((slot, self.retries.inbox.recv().await?))
            };
            // Not biased: where both have something, chance decides.
            let (queue, slot, message) = tokio::select! {
                message = self.fresh.inbox.recv() => (&self.fresh, None, message?),
                taken = retry => {
                    let (slot, message) = taken?;
                    (&self.retries, Some(slot), message)
                }
            };
            if let Some(taken) = queue.taken(message, any, slot, &self.ended) {
                return Some(taken);
            }
        }
    }

    /// A message that is there already, if there is a slot for it. The queues take turns.
    pub(crate) fn try_next(&mut self, slots: &Slots) -> Option<Taken> {
        let any = slots.all.clone().try_acquire_owned().ok()?;
        self.retries_next = !self.retries_next;
        let order = [!self.retries_next, self.retries_next];
        for is_retry in order {
            let (queue, slot) = if is_retry {
                let Ok(slot) = slots.retries.clone().try_acquire_owned() else {
                    continue;
                };
                (&mut self.retries, Some(slot))
            } else {
                (&mut self.fresh, None)
            };
            if let Ok(message) = queue.inbox.try_recv() {
                return queue.taken(message, any, slot, &self.ended);
            }
        }
        None
    }
}

impl Queue {
    async fn open(session: &Session, queue: &str, prefetch: u16) -> Result<Self, AmqpError> {
        let lost = |error: amqprs::error::Error| AmqpError::Lost(error.to_string());
        let channel = session.open_channel().await?;
        let qos = BasicQosArguments::new(0, prefetch, false);
        channel.basic_qos(qos).await.map_err(lost)?;
        let consume = BasicConsumeArguments::new(queue, "").manual_ack(true).finish();
        let (_, inbox) = channel.basic_consume_rx(consume).await.map_err(lost)?;
        Ok(Self { channel, inbox })
    }

    fn taken(
        &self,
        message: ConsumerMessage,
        any: OwnedSemaphorePermit,
        retry: Option<OwnedSemaphorePermit>,
        ended: &CancellationToken,
    ) -> Option<Taken> {
        let receipt = Receipt {
            channel: self.channel.clone(),
            ended: ended.clone(),
            tag: message.deliver.as_ref()?.delivery_tag(),
        };
        let slot = Slot {
            _any: any,
            _retry: retry,
        };
        Some(Taken {
            message,
            slot,
            receipt,
        })
    }
}

impl Receipt {
    /// Tells the broker to forget the message. If it can't be told, the session is about to end, and the message comes
    /// again and finds its job started.
    pub(crate) async fn ack(&self) {
        let ack = self.channel.basic_ack(BasicAckArguments::new(self.tag, false));
        // A connection that nobody reads holds up whoever writes to it.
        let _ = self.ended.run_until_cancelled(ack).await;
    }

    /// Has the broker deliver the message again.
    pub(crate) async fn give_back(&self) {
        let nack = self
            .channel
            .basic_nack(BasicNackArguments::new(self.tag, false, true));
        let _ = self.ended.run_until_cancelled(nack).await;
    }

    /// The same after a pause, during which the message counts as one that waits in this process.
    pub(crate) async fn give_back_later(self) {
        let _ = self
            .ended
            .run_until_cancelled(tokio::time::sleep(LOCKED_PAUSE))
            .await;
        self.give_back().await;
    }
}
