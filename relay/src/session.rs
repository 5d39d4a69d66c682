//! One connection to the broker, and its end.
//!
//! Owns connecting, and knowing at once that the connection is lost. Repairs nothing: whatever fails on a
//! connection ends all of it, because the client library leaves channels and connections that failed half
//! alive. The next one is made by `supervisor.rs`; what runs on it is in `topology.rs` and `publisher.rs`, and
//! in the consumer.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use amqprs::callbacks::{ChannelCallback, ConnectionCallback};
use amqprs::channel::Channel;
use amqprs::connection::Connection;
use amqprs::error::Error as ClientError;
use amqprs::{Ack, BasicProperties, Cancel, Close, CloseChannel, Nack, Return};
use async_trait::async_trait;
use tokio::runtime::{Builder, Handle, Runtime};
use tokio_util::sync::CancellationToken;

use crate::amqp::{AmqpError, Endpoint};

/// Bound of TCP, TLS and login together. RabbitMQ holds a wrong password back for 3 s.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// Bound of one step afterwards: opening a channel, declaring the topology.
pub(crate) const STEP_TIMEOUT: Duration = Duration::from_secs(10);

/// Bound of a polite goodbye.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Smallest frame the broker must allow, in bytes: message headers must fit one frame, and the client
/// library can't split them. RabbitMQ's default is 131072.
const MIN_FRAME_BYTES: u32 = 131_072;

/// The reason of an end that nobody needs to look into.
pub(crate) const CLOSED_HERE: &str = "closed by this side";

/// What a publisher wants to hear from its channel. Called by the task that reads the connection: no waiting.
pub(crate) trait Confirms: Send + Sync + 'static {
    fn ack(&self, tag: u64, multiple: bool);
    fn nack(&self, tag: u64, multiple: bool);
    fn returned(&self, properties: &BasicProperties, reply_code: u16, reply_text: &str);
}

/// The end of a session: once, with the first reason given.
#[derive(Debug, Default)]
pub(crate) struct End {
    token: CancellationToken,
    reason: OnceLock<String>,
    refusal: AtomicBool,
}

/// AMQP reply codes with which a broker closes a channel over what one message is: too large, or not as it must be.
const REFUSALS: [u16; 2] = [311, 406];

impl End {
    pub(crate) fn come(&self, reason: impl Into<String>) {
        self.announce(reason);
        self.token.cancel();
    }

    /// Whether the broker has closed the channel over one of the messages in flight.
    pub(crate) fn is_refusal(&self) -> bool {
        self.refusal.load(Ordering::SeqCst)
    }

    /// Gives the reason before the end comes; the first one given stays.
    fn announce(&self, reason: impl Into<String>) {
        let _ = self.reason.set(reason.into());
    }

    pub(crate) async fn reached(&self) {
        self.token.cancelled().await;
    }

    pub(crate) fn is_reached(&self) -> bool {
        self.token.is_cancelled()
    }

    pub(crate) fn reason(&self) -> Option<String> {
        self.reason.get().cloned()
    }
}

/// Ends the session when it is dropped. Sits in the callback objects: that the client library drops them is
/// the one sign that came in every way a connection or channel was seen to die.
struct EndOnDrop(Arc<End>);

impl Drop for EndOnDrop {
    fn drop(&mut self) {
        self.0.come("the connection broke");
    }
}

/// A runtime whose end ends every task on it, from anywhere.
struct OwnRuntime(Option<Runtime>);

impl Drop for OwnRuntime {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

/// One live connection. Whatever goes wrong on it, a closed channel or a cancelled consumer included, ends
/// all of it; [`Session::lost`] tells. Dropping it, inside tokio, ends it too.
///
/// The client library's tasks run on a runtime of their own with one thread. Nothing else can stop them: a
/// task that writes to a peer which has stopped reading would keep itself and its socket for good.
pub struct Session {
    connection: Connection,
    control: Channel,
    runtime: Handle,
    end: Arc<End>,
}

impl Session {
    /// Connects and logs in, within 10 s. The broker lists the connection as `name`.
    ///
    /// # Errors
    /// [`AmqpError`]: nobody there, wrong password, refused, too slow.
    pub async fn connect(endpoint: &Endpoint, name: &str) -> Result<Self, AmqpError> {
        let arguments = endpoint.arguments(name)?;
        let unreachable = |reason: String| AmqpError::Unreachable {
            address: endpoint.address(),
            reason,
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(1)
            .thread_name("amqp")
            .enable_all()
            .build();
        let runtime = runtime.map_err(|error| unreachable(error.to_string()))?;
        let handle = runtime.handle().clone();
        let end = Arc::new(End::default());
        // From here on, whatever returns early drops the guard, and the runtime with all on it goes.
        let runtime = OwnRuntime(Some(runtime));

        let opening = handle.spawn(async move { Connection::open(&arguments).await });
        let connection = match tokio::time::timeout(CONNECT_TIMEOUT, opening).await {
            Ok(Ok(Ok(connection))) => connection,
            Ok(Ok(Err(error))) => return Err(connect_error(endpoint, error)),
            Ok(Err(error)) => return Err(unreachable(error.to_string())),
            Err(_) => return Err(AmqpError::TimedOut(CONNECT_TIMEOUT.as_millis())),
        };
        if connection.frame_max() < MIN_FRAME_BYTES {
            let text = format!(
                "its frame_max is {}, expected {MIN_FRAME_BYTES} or more",
                connection.frame_max()
            );
            return Err(AmqpError::Refused(text));
        }
        let lost = |error: ClientError| AmqpError::Lost(error.to_string());
        connection
            .register_callback(ConnectionEvents {
                end: EndOnDrop(end.clone()),
            })
            .await
            .map_err(lost)?;
        let control = open_channel(&handle, &connection, &end, None).await?;

        let ended = end.clone();
        tokio::spawn(async move {
            ended.reached().await;
            drop(runtime);
        });
        Ok(Self {
            connection,
            control,
            runtime: handle,
            end,
        })
    }

    /// The channel for declarations and the like, for one caller at a time. No time-out and no `select!`
    /// around its calls: one that is cut off half-way gives its answer to the next.
    pub fn control(&self) -> &Channel {
        &self.control
    }

    /// A channel more. When it closes, for whatever reason, the session ends.
    ///
    /// # Errors
    /// [`AmqpError::Lost`] or [`AmqpError::TimedOut`]; the session has ended then.
    pub async fn open_channel(&self) -> Result<Channel, AmqpError> {
        open_channel(&self.runtime, &self.connection, &self.end, None).await
    }

    pub(crate) async fn open_confirm_channel(
        &self,
        confirms: Arc<dyn Confirms>,
    ) -> Result<Channel, AmqpError> {
        open_channel(&self.runtime, &self.connection, &self.end, Some(confirms)).await
    }

    pub(crate) fn end(&self) -> &Arc<End> {
        &self.end
    }

    /// Waits until the session has ended, and says why.
    pub async fn lost(&self) -> String {
        self.end.reached().await;
        self.end.reason().unwrap_or_default()
    }

    /// Why it ended, if it has.
    pub fn end_reason(&self) -> Option<String> {
        self.end.reason()
    }

    /// A token that is cancelled when the session ends.
    pub fn ended(&self) -> CancellationToken {
        self.end.token.child_token()
    }

    /// Ends it with a goodbye to the broker, which takes 2 s at most.
    pub async fn close(self) {
        self.end.announce(CLOSED_HERE);
        let _ = tokio::time::timeout(CLOSE_TIMEOUT, self.connection.clone().close()).await;
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        self.end.come(CLOSED_HERE);
    }
}

impl std::fmt::Debug for Session {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Session")
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

async fn open_channel(
    runtime: &Handle,
    connection: &Connection,
    end: &Arc<End>,
    confirms: Option<Arc<dyn Confirms>>,
) -> Result<Channel, AmqpError> {
    let connection = connection.clone();
    let events = ChannelEvents {
        end: EndOnDrop(end.clone()),
        confirms,
    };
    let opening = runtime.spawn(async move {
        let channel = connection.open_channel(None).await?;
        channel.register_callback(events).await?;
        Ok::<_, ClientError>(channel)
    });
    let lost = |text: String| AmqpError::Lost(end.reason().unwrap_or(text));
    match tokio::time::timeout(STEP_TIMEOUT, opening).await {
        Ok(Ok(Ok(channel))) => Ok(channel),
        Ok(Ok(Err(error))) => Err(lost(error.to_string())),
        Ok(Err(error)) => Err(lost(error.to_string())),
        Err(_) => {
            end.come("the broker did not open a channel in time");
            Err(AmqpError::TimedOut(STEP_TIMEOUT.as_millis()))
        }
    }
}

/// Sorts the client library's texts: it has one error for all that goes wrong on the wire.
fn connect_error(endpoint: &Endpoint, error: ClientError) -> AmqpError {
    let address = endpoint.address();
    match error {
        ClientError::NetworkError(text)
            if ["reset by peer", "peer shutdown", "interrupted"]
                .iter()
                .any(|cut| text.contains(cut)) =>
        {
            AmqpError::Login { address }
        }
        ClientError::NetworkError(reason) => AmqpError::Unreachable { address, reason },
        other => AmqpError::Refused(other.to_string()),
    }
}

struct ConnectionEvents {
    end: EndOnDrop,
}

#[async_trait]
impl ConnectionCallback for ConnectionEvents {
    async fn close(&mut self, _: &Connection, close: Close) -> Result<(), ClientError> {
        self.end.0.come(format!(
            "closed by the broker: {} {}",
            close.reply_code(),
            close.reply_text()
        ));
        Ok(())
    }

    // Never called: the client library does not tell the broker that it could.
    async fn blocked(&mut self, _: &Connection, _: String) {}
    async fn unblocked(&mut self, _: &Connection) {}
    async fn secret_updated(&mut self, _: &Connection) {}
}

struct ChannelEvents {
    end: EndOnDrop,
    confirms: Option<Arc<dyn Confirms>>,
}

#[async_trait]
impl ChannelCallback for ChannelEvents {
    async fn close(&mut self, _: &Channel, close: CloseChannel) -> Result<(), ClientError> {
        if self.confirms.is_some() && REFUSALS.contains(&close.reply_code()) {
            self.end.0.refusal.store(true, Ordering::SeqCst);
        }
        self.end.0.come(format!(
            "channel closed by the broker: {} {}",
            close.reply_code(),
            close.reply_text()
        ));
        Ok(())
    }

    async fn cancel(&mut self, _: &Channel, cancel: Cancel) -> Result<(), ClientError> {
        self.end.0.come(format!(
            "consumer {} cancelled by the broker",
            cancel.consumer_tag()
        ));
        Ok(())
    }

    async fn flow(&mut self, _: &Channel, active: bool) -> Result<bool, ClientError> {
        Ok(active)
    }

    async fn publish_ack(&mut self, _: &Channel, ack: Ack) {
        if let Some(confirms) = &self.confirms {
            confirms.ack(ack.delivery_tag(), ack.mutiple());
        }
    }

    async fn publish_nack(&mut self, _: &Channel, nack: Nack) {
        if let Some(confirms) = &self.confirms {
            confirms.nack(nack.delivery_tag(), nack.multiple());
        }
    }

    async fn publish_return(&mut self, _: &Channel, ret: Return, properties: BasicProperties, _: Vec<u8>) {
        if let Some(confirms) = &self.confirms {
            confirms.returned(&properties, ret.reply_code(), ret.reply_text());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_end_keeps_its_first_reason() {
        let end = Arc::new(End::default());
        end.come("first");
        drop(EndOnDrop(end.clone()));
        assert_eq!(end.reason().as_deref(), Some("first"));
        assert!(end.is_reached());
    }
}
