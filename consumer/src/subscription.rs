//! The two work queues of one session, and the slots that bound what is taken from them.
//!
//! Owns which message is taken next, so that neither queue starves the other: a run of what comes back needs one of the
//! retry slots too, which are half of all, and where both queues have something they take turns. What waits here for a slot
//! that does not come free goes back, for others to have it. What becomes of a message is decided in `delivery.rs`, which
//! acknowledges it through its receipt.

use std::sync::Arc;
use std::time::Duration;

use amqprs::channel::{
    BasicAckArguments, BasicCancelArguments, BasicConsumeArguments, BasicNackArguments, BasicQosArguments,
    Channel, ConsumerMessage,
};
use relay::amqp::AmqpError;
use relay::session::Session;
use relay::topology::Topology;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

use crate::config::ConsumerConfig;
use crate::unsettled::Unsettled;

/// Pause before a message is given back whose job somebody else holds.
const LOCKED_PAUSE: Duration = Duration::from_millis(500);

/// How long what was delivered may wait here while no slot comes free. Other consumers may be idle meanwhile.
const SLOT_PATIENCE: Duration = Duration::from_secs(1);

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
    unsettled: Unsettled,
    /// Cancelled when the session ends: what is not acknowledged then is delivered again, to whomever.
    ended: CancellationToken,
    tag: u64,
}

/// A consumer of one queue, on a channel of its own.
struct Queue {
    channel: Channel,
    name: String,
    consumer_tag: String,
    inbox: UnboundedReceiver<ConsumerMessage>,
    unsettled: Unsettled,
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

    /// The next message, once there is one and a slot for it. `None` at the end of the session, which is to end where the
    /// future is dropped: it may be in the middle of a call.
    pub(crate) async fn next(&mut self, slots: &Slots) -> Option<Taken> {
        loop {
            let any = self.any_slot(slots).await?;
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

    /// A slot, once one is free. If that takes long, what waits here goes back and nothing is consumed until then: a quorum
    /// queue delivers first what was given back, to whoever still consumes and has room.
    async fn any_slot(&mut self, slots: &Slots) -> Option<OwnedSemaphorePermit> {
        let free = slots.all.clone().acquire_owned();
        tokio::pin!(free);
        if let Ok(slot) = tokio::time::timeout(SLOT_PATIENCE, &mut free).await {
            return slot.ok();
        }
        for queue in [&mut self.fresh, &mut self.retries] {
            queue.let_go().await.ok()?;
        }
        let slot = free.await.ok()?;
        for queue in [&mut self.fresh, &mut self.retries] {
            queue.consume().await.ok()?;
        }
        Some(slot)
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

fn lost(error: amqprs::error::Error) -> AmqpError {
    AmqpError::Lost(error.to_string())
}

async fn consume(
    channel: &Channel,
    queue: &str,
) -> Result<(String, UnboundedReceiver<ConsumerMessage>), AmqpError> {
    let consume = BasicConsumeArguments::new(queue, "").manual_ack(true).finish();
    channel.basic_consume_rx(consume).await.map_err(lost)
}

impl Queue {
    async fn open(session: &Session, queue: &str, prefetch: u16) -> Result<Self, AmqpError> {
        let channel = session.open_channel().await?;
        let qos = BasicQosArguments::new(0, prefetch, false);
        channel.basic_qos(qos).await.map_err(lost)?;
        let (consumer_tag, inbox) = consume(&channel, queue).await?;
        Ok(Self {
            channel,
            name: queue.to_owned(),
            consumer_tag,
            inbox,
            unsettled: Unsettled::default(),
        })
    }

    /// Consumes again, after [`Queue::let_go`].
    async fn consume(&mut self) -> Result<(), AmqpError> {
        (self.consumer_tag, self.inbox) = consume(&self.channel, &self.name).await?;
        Ok(())
    }

    /// Stops consuming, and gives back what waits here. Receipts stay good: the channel does.
    async fn let_go(&mut self) -> Result<(), AmqpError> {
        let cancel = BasicCancelArguments::new(&self.consumer_tag);
        self.channel.basic_cancel(cancel).await.map_err(lost)?;
        // What was on its way comes before the broker's answer; then the inbox ends.
        while let Some(message) = self.inbox.recv().await {
            if let Some(deliver) = message.deliver {
                let back = BasicNackArguments::new(deliver.delivery_tag(), false, true);
                self.channel.basic_nack(back).await.map_err(lost)?;
            }
        }
        Ok(())
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
            unsettled: self.unsettled.clone(),
            ended: ended.clone(),
            tag: message.deliver.as_ref()?.delivery_tag(),
        };
        self.unsettled.add(receipt.tag);
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

/// Tells the broker to forget these messages, with as few words as will do: each one costs it as much as delivering a message.
/// If it can't be told, the session is about to end, and they come again and find their jobs started.
pub(crate) async fn acknowledge(mut receipts: Vec<Receipt>) {
    while let Some(first) = receipts.first() {
        let channel = first.unsettled.clone();
        let (mine, others): (Vec<Receipt>, Vec<Receipt>) = receipts
            .into_iter()
            .partition(|receipt| receipt.unsettled.is(&channel));
        receipts = others;
        acknowledge_on_one_channel(mine).await;
    }
}

async fn acknowledge_on_one_channel(mut receipts: Vec<Receipt>) {
    receipts.sort_unstable_by_key(|receipt| receipt.tag);
    let tags: Vec<u64> = receipts.iter().map(|receipt| receipt.tag).collect();
    let Some(first) = receipts.first() else {
        return;
    };
    let (at_once, alone) = tags.split_at(first.unsettled.settled_at_once(&tags));
    if let Some(last) = at_once.last() {
        first.ack(*last, true, at_once).await;
    }
    for tag in alone {
        first.ack(*tag, false, &[*tag]).await;
    }
}

impl Receipt {
    /// Sends one acknowledgement, which settles these.
    async fn ack(&self, tag: u64, up_to: bool, settles: &[u64]) {
        let ack = self.channel.basic_ack(BasicAckArguments::new(tag, up_to));
        // A connection that nobody reads holds up whoever writes to it.
        let _ = self.ended.run_until_cancelled(ack).await;
        self.unsettled.settle(settles);
    }

    /// Has the broker deliver the message again.
    pub(crate) async fn give_back(&self) {
        let nack = self
            .channel
            .basic_nack(BasicNackArguments::new(self.tag, false, true));
        let _ = self.ended.run_until_cancelled(nack).await;
        self.unsettled.settle(&[self.tag]);
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
