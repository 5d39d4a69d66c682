//! Messages that name no job and attempt: they would come back for ever, so they go to the dead-letter queue, with the
//! reason.
//!
//! Owns the copy and the connection that it is published on: of its own, because a broker with a memory or disk alarm
//! reads nothing more of a connection that publishes, acknowledgements included; and made when it is first needed, because
//! nearly nobody ever does.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use amqprs::channel::ConsumerMessage;
use observability::propagation::sane_correlation_id;
use relay::envelope::InvalidMessageId;
use relay::kept::{KeptPublisher, Turn, keep};
use relay::outgoing::{HeaderValue, Outgoing, Properties, PublishOutcome};
use relay::supervisor::Supervisor;
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long the broker may take to confirm a copy.
const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);

/// Characters that are logged of an id that can't be read.
const EXCERPT_CHARS: usize = 64;

/// Publishes to the dead-letter queue.
#[derive(Debug)]
pub(crate) struct DeadLetters {
    connection: Mutex<Connection>,
    /// The queue's name.
    dlq: String,
    stop: CancellationToken,
    _end: DropGuard,
}

/// One of the two is there.
#[derive(Debug)]
struct Connection {
    unused: Option<Box<Supervisor>>,
    open: Option<KeptPublisher>,
}

impl DeadLetters {
    /// Connects nowhere yet.
    pub(crate) fn new(supervisor: Supervisor) -> Self {
        let stop = CancellationToken::new();
        Self {
            dlq: supervisor.topology().dlq.clone(),
            connection: Mutex::new(Connection {
                unused: Some(Box::new(supervisor)),
                open: None,
            }),
            _end: stop.clone().drop_guard(),
            stop,
        }
    }

    /// Has a copy of the message stored; waits for a broker for as long as it takes. `false` if it was not, and the
    /// message is to come again.
    pub(crate) async fn take(&self, message: &ConsumerMessage, reason: InvalidMessageId) -> bool {
        let copy = self.copy(message, reason);
        let (id, bytes) = (excerpt(&copy.properties.message_id), copy.body.len());
        let Some(turn) = self.turn().await else {
            return false;
        };
        match turn.publisher.publish(copy).await {
            PublishOutcome::Confirmed => {
                tracing::error!(%reason, message.id = id, message.bytes = bytes,
                    "a message that names no job and attempt is in the dead-letter queue");
                true
            }
            PublishOutcome::Refused(refusal) => {
                tracing::error!(%reason, refusal, message.id = id, message.bytes = bytes,
                    "dropped a message that names no job and attempt");
                true
            }
            other => {
                tracing::warn!(%reason, message.id = id, outcome = %other, "a malformed message can't be set aside yet");
                // Only a new session declares the queue.
                if matches!(other, PublishOutcome::Returned { .. }) {
                    turn.publisher.give_up("the dead-letter queue is gone");
                }
                false
            }
        }
    }

    async fn turn(&self) -> Option<Turn> {
        let publisher = {
            let mut connection = self.connection.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(supervisor) = connection.unused.take() {
                connection.open = Some(keep(*supervisor, CONFIRM_TIMEOUT, self.stop.clone()).0);
            }
            connection.open.clone()
        };
        publisher?.turn().await
    }

    fn copy(&self, message: &ConsumerMessage, reason: InvalidMessageId) -> Outgoing {
        let properties = message.basic_properties.clone().unwrap_or_default();
        let text = |text: Option<&String>| text.cloned();
        let header = |name: &str, value: &str| (name.to_owned(), HeaderValue::Text(value.to_owned()));
        Outgoing {
            exchange: String::new(),
            routing_key: self.dlq.clone(),
            properties: Properties {
                message_id: text(properties.message_id()).unwrap_or_default(),
                correlation_id: text(properties.correlation_id()).filter(|id| sane_correlation_id(id)),
                message_type: text(properties.message_type()),
                content_type: text(properties.content_type()),
                timestamp: properties.timestamp(),
                headers: BTreeMap::from([
                    header("x-relayforge-cause", "malformed"),
                    header("x-relayforge-error", &reason.to_string()),
                ]),
            },
            body: message.content.clone().unwrap_or_default(),
        }
    }
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
