//! A message on its way out: what it may hold, and what can become of it.
//!
//! Owns the limits of AMQP and of the client library, checked before either sees the message. What our messages
//! say is the envelope's; how they are sent is in `publisher.rs`.

use std::collections::BTreeMap;
use std::fmt;

use amqprs::{BasicProperties, FieldTable, FieldValue, ShortStr};

use crate::amqp::SHORT_STRING_BYTES;

/// Largest body, in bytes: the lower of the limits that RabbitMQ 3 (128 MiB) and 4 (16 MiB) come with. A
/// larger one would close the channel, and take all that is in flight with it.
pub const MAX_BODY_BYTES: usize = 16 * 1024 * 1024;

/// Largest sum of headers, in bytes: they travel in one frame, of 131072 bytes by default.
const MAX_HEADER_BYTES: usize = 64 * 1024;

/// Header with our own number of a message, which is how a returned one is told from another with the same
/// `message_id` in flight. It means nothing to a receiver.
const PUBLISH_HEADER: &str = "x-relayforge-publish";

/// A message to publish: persistent and mandatory, always.
#[derive(Clone, Debug, Default)]
pub struct Outgoing {
    /// Where to; empty for the default exchange, whose routing key is a queue's name.
    pub exchange: String,
    /// What the exchange routes by.
    pub routing_key: String,
    /// What the receiver sees beside the body.
    pub properties: Properties,
    /// The content, of 16 MiB at most.
    pub body: Vec<u8>,
}

/// The AMQP properties that we use. Each text may have 255 bytes.
#[derive(Clone, Debug, Default)]
pub struct Properties {
    /// Names the message, the same each time it is published.
    pub message_id: String,
    /// Ties the messages of one request together.
    pub correlation_id: Option<String>,
    /// What happened.
    pub message_type: Option<String>,
    /// MIME type of the body.
    pub content_type: Option<String>,
    /// When, in seconds since 1970.
    pub timestamp: Option<u64>,
    /// Anything else; 64 KiB together, names of up to 255 bytes.
    pub headers: BTreeMap<String, HeaderValue>,
}

/// Value of a header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HeaderValue {
    /// UTF-8, of any length.
    Text(String),
    /// A signed number.
    Integer(i64),
}

/// What became of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PublishOutcome {
    /// The broker has it, on disk.
    Confirmed,
    /// The broker could not take it. It does not have it.
    Nacked,
    /// No queue wanted it. The broker does not have it.
    Returned {
        /// AMQP code; 312 is "no route".
        reply_code: u16,
        /// The broker's words.
        reply_text: String,
    },
    /// The connection ended before an answer came: the broker may have it.
    Lost(String),
    /// No answer in time: the broker may have it.
    TimedOut,
    /// It can't be sent as it is, now or later: a bound is passed, and nothing was sent; or the broker has closed the channel
    /// over it.
    Refused(String),
}

impl fmt::Display for PublishOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Confirmed => f.write_str("confirmed"),
            Self::Nacked => f.write_str("nacked by the broker"),
            Self::Returned {
                reply_code,
                reply_text,
            } => {
                write!(f, "returned by the broker: {reply_code} {reply_text}")
            }
            Self::Lost(reason) => write!(f, "no confirm: {reason}"),
            Self::TimedOut => f.write_str("no confirm in time"),
            Self::Refused(reason) => write!(f, "not sendable: {reason}"),
        }
    }
}

/// What the client library would panic on, or the broker close the channel for, comes back to its sender
/// instead.
pub(crate) fn check(message: &Outgoing) -> Result<(), String> {
    let properties = &message.properties;
    let optional = |text: &Option<String>| text.as_ref().map_or(0, String::len);
    for (what, bytes) in [
        ("exchange", message.exchange.len()),
        ("routing key", message.routing_key.len()),
        ("message_id", properties.message_id.len()),
        ("correlation_id", optional(&properties.correlation_id)),
        ("type", optional(&properties.message_type)),
        ("content type", optional(&properties.content_type)),
    ] {
        if bytes > SHORT_STRING_BYTES {
            return Err(format!("{what} of {bytes} bytes, at most {SHORT_STRING_BYTES}"));
        }
    }
    let mut header_bytes = 0;
    for (name, value) in &properties.headers {
        if !(1..=SHORT_STRING_BYTES).contains(&name.len()) {
            return Err(format!(
                "header name of {} bytes, 1 to {SHORT_STRING_BYTES}",
                name.len()
            ));
        }
        header_bytes += name.len()
            + if let HeaderValue::Text(text) = value {
                text.len()
            } else {
                0
            }
            + 16;
    }
    if header_bytes > MAX_HEADER_BYTES {
        return Err(format!(
            "headers of {header_bytes} bytes, at most {MAX_HEADER_BYTES}"
        ));
    }
    if message.body.len() > MAX_BODY_BYTES {
        return Err(format!(
            "body of {} bytes, at most {MAX_BODY_BYTES}",
            message.body.len()
        ));
    }
    Ok(())
}

/// Only after [`check`]: the setters panic past 255 bytes.
pub(crate) fn basic_properties(properties: &Properties, tag: u64) -> BasicProperties {
    let mut headers = FieldTable::new();
    let mut insert = |name: &str, value: FieldValue| {
        if let Ok(name) = ShortStr::try_from(name) {
            headers.insert(name, value);
        }
    };
    for (name, value) in properties
        .headers
        .iter()
        .filter(|(name, _)| *name != PUBLISH_HEADER)
    {
        insert(
            name,
            match value {
                HeaderValue::Text(text) => FieldValue::from(text.as_str()),
                HeaderValue::Integer(number) => FieldValue::l(*number),
            },
        );
    }
    insert(
        PUBLISH_HEADER,
        FieldValue::l(i64::try_from(tag).unwrap_or(i64::MAX)),
    );
    let mut basic = BasicProperties::default();
    basic
        .with_message_id(&properties.message_id)
        .with_persistence(true)
        .with_headers(headers);
    if let Some(id) = &properties.correlation_id {
        basic.with_correlation_id(id);
    }
    if let Some(message_type) = &properties.message_type {
        basic.with_message_type(message_type);
    }
    if let Some(content_type) = &properties.content_type {
        basic.with_content_type(content_type);
    }
    if let Some(timestamp) = properties.timestamp {
        basic.with_timestamp(timestamp);
    }
    basic
}

/// The number that [`basic_properties`] gave the message.
pub(crate) fn publish_tag(properties: &BasicProperties) -> Option<u64> {
    let name = ShortStr::try_from(PUBLISH_HEADER).ok()?;
    match properties.headers()?.get(&name)? {
        FieldValue::l(tag) => u64::try_from(*tag).ok(),
        _ => None,
    }
}
