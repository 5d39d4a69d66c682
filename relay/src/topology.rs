//! Our names on the broker, and their declaration.
//!
//! Owns which queues and exchange exist and with which arguments. What is sent there, and when, is for
//! `publisher.rs` and those who use it.

use amqprs::channel::{Channel, ExchangeDeclareArguments, QueueDeclareArguments};
use amqprs::{FieldTable, FieldValue, ShortStr};

use crate::amqp::AmqpError;
use crate::session::Session;

/// Deliveries after which the broker would give up on a message: never, in practice. Poison is counted in
/// SQL, because the broker's counter also rises when a healthy consumer restarts.
const DELIVERY_LIMIT: i32 = 1_000_000;

/// Messages kept in the queue of given-up jobs, the oldest dropped first. Each is a copy: the row stays.
const DLQ_MESSAGES: i32 = 100_000;

/// The names below one `AMQP__PREFIX`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Topology {
    /// The queue of fresh jobs to run, published to through the default exchange.
    pub jobs: String,
    /// The queue of jobs that come back: retried, reprocessed, or held before. Apart, so that a mass of them delays nothing
    /// new.
    pub retries: String,
    /// The queue with copies of jobs that were given up.
    pub dlq: String,
    /// The topic exchange for whoever wants the events too.
    pub events: String,
    /// The name of no queue: what is sent there comes back.
    pub nobody: String,
}

impl Topology {
    /// The names below `prefix`.
    pub fn new(prefix: &str) -> Self {
        Self {
            jobs: format!("{prefix}.jobs"),
            retries: format!("{prefix}.jobs.retries"),
            dlq: format!("{prefix}.jobs.dlq"),
            events: format!("{prefix}.events"),
            nobody: format!("{prefix}.nobody"),
        }
    }

    /// The queues that hold work.
    pub fn work_queues(&self) -> [&str; 2] {
        [&self.jobs, &self.retries]
    }

    /// Whether the queues that hold work are there. Where one is not, the session is lost by asking.
    ///
    /// # Errors
    /// [`AmqpError::Topology`] when the broker answers anything but yes or no.
    pub async fn has_work_queues(&self, session: &Session) -> Result<bool, AmqpError> {
        if self.look_for_work_queues(session.control()).await.is_ok() {
            return Ok(true);
        }
        if session.lost().await.contains("NOT_FOUND") {
            Ok(false)
        } else {
            Err(refused(session, "queue", &self.jobs))
        }
    }

    /// Fails, and the broker closes the channel, where one of the queues that hold work is missing.
    pub(crate) async fn look_for_work_queues(&self, channel: &Channel) -> Result<(), amqprs::error::Error> {
        for queue in self.work_queues() {
            let ask = QueueDeclareArguments::new(queue).passive(true).finish();
            channel.queue_declare(ask).await?;
        }
        Ok(())
    }

    /// Makes sure that the queues and the exchange exist as this version wants them. Changes nothing that
    /// is there already.
    ///
    /// # Errors
    /// [`AmqpError::Topology`], naming the object, when the broker refuses one: it exists with other settings
    /// or as another kind, or we may not make it. The session is lost then.
    pub async fn declare(&self, session: &Session) -> Result<(), AmqpError> {
        for queue in self.work_queues() {
            declare_queue(session, queue, &[]).await?;
        }
        self.declare_others(session).await
    }

    /// The same, without the queues that hold work.
    ///
    /// # Errors
    /// As of [`Topology::declare`].
    pub async fn declare_others(&self, session: &Session) -> Result<(), AmqpError> {
        // Quorum like the jobs queue, so that on a cluster it is there whenever that one is; a classic queue
        // would go with its one node.
        let length = ("x-max-length", FieldValue::I(DLQ_MESSAGES));
        let overflow = ("x-overflow", FieldValue::from("drop-head"));
        declare_queue(session, &self.dlq, &[length, overflow]).await?;
        let exchange = ExchangeDeclareArguments::new(&self.events, "topic")
            .durable(true)
            .finish();
        let declared = session.control().exchange_declare(exchange).await;
        declared.map_err(|_| refused(session, "exchange", &self.events))
    }
}

async fn declare_queue(
    session: &Session,
    queue: &str,
    bounds: &[(&str, FieldValue)],
) -> Result<(), AmqpError> {
    let mut arguments = FieldTable::new();
    let always = [
        ("x-queue-type", FieldValue::from("quorum")),
        ("x-delivery-limit", FieldValue::I(DELIVERY_LIMIT)),
    ];
    for (name, value) in always.iter().chain(bounds) {
        if let Ok(name) = ShortStr::try_from(*name) {
            arguments.insert(name, value.clone());
        }
    }
    let declare = QueueDeclareArguments::new(queue)
        .durable(true)
        .arguments(arguments)
        .finish();
    let declared = session.control().queue_declare(declare).await;
    declared.map(drop).map_err(|_| refused(session, "queue", queue))
}

/// The client library's error only says that the channel is closed; the broker's own words came with the
/// close itself.
fn refused(session: &Session, kind: &str, name: &str) -> AmqpError {
    let reason = session.end_reason().unwrap_or_else(|| "no answer".to_owned());
    let advice = if reason.contains("PRECONDITION_FAILED") {
        ". It exists with other settings: remove it once it is empty, or choose another AMQP__PREFIX"
    } else {
        ""
    };
    AmqpError::Topology {
        object: format!("{kind} {name}"),
        reason: format!("{reason}{advice}"),
    }
}
