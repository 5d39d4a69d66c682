//! The one normaliser: from what a provider sent to a [`DomainEvent`], for the API, the relay and the consumer.
//!
//! It owns what a request must look like to be an event, and the limits of the text that becomes columns and AMQP
//! properties. It does not verify signatures, does no I/O and keeps nothing. `event/json.rs` comes next.
//!
//! What is decided here, beside the three shapes:
//! - A body is UTF-8 JSON with an object at the top. A byte order mark and white space around it are passed over, as
//!   RFC 8259 allows; the content type is asked only whether GitHub's body is a form.
//! - `data` is kept as it was written: numbers of any size, repeated keys, `\u0000` and lone surrogates inside it are
//!   grammatical JSON, so they are stored and delivered. A job kind that reads them decides what they mean.
//! - A field that we read may not be there twice: parsers differ on which one counts.
//! - Nesting ends at 100 levels: beyond about 127 no serde_json reader downstream could take it.
//! - Event types and ids hold no control character: PostgreSQL text refuses NUL, and the others forge lines in logs.

mod error;
mod form;
mod headers;
mod json;
mod text;

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::value::RawValue;

pub use error::EventError;
pub use headers::{EventHeaders, MAX_STORED_HEADER_BYTES, STORED_HEADERS, stored_headers};
use headers::{X_EVENT_ID, X_GITHUB_DELIVERY, X_GITHUB_EVENT};
use json::Strangers;

/// Longest event type, in bytes: with tenant and source it has to fit a routing key, an AMQP short string of 255.
pub const MAX_EVENT_TYPE_BYTES: usize = 120;

/// Longest provider event id, in bytes: what an AMQP short string holds.
pub const MAX_EVENT_ID_BYTES: usize = 255;

/// Latest `created` taken, in unix seconds: the end of year 9999, the last that RFC 3339 can write.
const MAX_UNIX_SECONDS: i64 = 253_402_300_799;

/// How a source's requests are signed and shaped. Stored as text, see [`SourceKind::as_str`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceKind {
    /// Anyone with an HMAC: `{"event": "...", "data": ...}`, id in `X-Event-Id`.
    Generic,
    /// GitHub: type and id in headers, the body is the data, as JSON or in a form.
    Github,
    /// Stripe: an event envelope with `id`, `type`, `created` and `data.object`.
    Stripe,
}

impl SourceKind {
    /// Every kind, in the order of the enum.
    pub const ALL: [Self; 3] = [Self::Generic, Self::Github, Self::Stripe];

    /// The kind's name in SQL and configuration: `generic`, `github` or `stripe`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Generic => "generic",
            Self::Github => "github",
            Self::Stripe => "stripe",
        }
    }
}

impl fmt::Display for SourceKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A text that names no [`SourceKind`]. Holds the text, escaped and cut.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a source kind: generic, github or stripe")]
pub struct UnknownSourceKind(String);

impl FromStr for SourceKind {
    type Err = UnknownSourceKind;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        let known = Self::ALL.into_iter().find(|kind| kind.as_str() == name);
        known.ok_or_else(|| UnknownSourceKind(error::quoted(name)))
    }
}

/// One event, whoever sent it.
///
/// Its `Debug` leaves the data out, so that no log line shows a payload.
#[derive(Clone, Serialize)]
pub struct DomainEvent {
    /// Name of the source that received it.
    pub source: String,
    /// What happened, in the provider's words: 1 to [`MAX_EVENT_TYPE_BYTES`] bytes without control characters.
    pub event_type: String,
    /// The provider's id of the event: 1 to [`MAX_EVENT_ID_BYTES`] bytes without control characters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub provider_event_id: Option<String>,
    /// When it happened, where the provider says so (Stripe).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<DateTime<Utc>>,
    /// The event's data as JSON text, byte for byte as sent.
    pub data: Box<RawValue>,
}

impl fmt::Debug for DomainEvent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DomainEvent")
            .field("source", &self.source)
            .field("event_type", &self.event_type)
            .field("provider_event_id", &self.provider_event_id)
            .field("occurred_at", &self.occurred_at)
            .field("data_bytes", &self.data.get().len())
            .finish()
    }
}

/// What ingest has to know of an event. The body is neither copied nor kept; text is borrowed from the request
/// unless it had to be unescaped or put together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventEnvelope<'a> {
    /// As in [`DomainEvent::event_type`].
    pub event_type: Cow<'a, str>,
    /// As in [`DomainEvent::provider_event_id`].
    pub provider_event_id: Option<Cow<'a, str>>,
    /// As in [`DomainEvent::occurred_at`].
    pub occurred_at: Option<DateTime<Utc>>,
}

/// Says what event a request carries, without keeping its data.
///
/// It accepts exactly what [`normalise`] accepts, so that an ingested body can always be normalised later.
///
/// # Errors
/// [`EventError`] names the field that the source's shape does not allow.
pub fn inspect<'a>(
    kind: SourceKind,
    headers: &EventHeaders<'a>,
    body: &'a [u8],
) -> Result<EventEnvelope<'a>, EventError> {
    read(kind, headers, body).map(|(envelope, _)| envelope)
}

/// Makes the full event of a body and the headers that came, or were stored, with it.
///
/// # Errors
/// [`EventError`], for what [`inspect`] refuses too.
pub fn normalise(
    kind: SourceKind,
    source: &str,
    headers: &EventHeaders<'_>,
    body: &[u8],
) -> Result<DomainEvent, EventError> {
    let (envelope, data) = read(kind, headers, body)?;
    Ok(DomainEvent {
        source: source.to_owned(),
        event_type: envelope.event_type.into_owned(),
        provider_event_id: envelope.provider_event_id.map(Cow::into_owned),
        occurred_at: envelope.occurred_at,
        data: data.into_raw()?,
    })
}

/// Where the event's data is in what was read.
enum Data<'a> {
    /// All of the document, which has been found well-formed.
    Document(Cow<'a, str>),
    /// A value inside of it.
    Part(&'a RawValue),
}

impl Data<'_> {
    fn into_raw(self) -> Result<Box<RawValue>, EventError> {
        match self {
            // A second look at the document: serde_json makes a RawValue of a string in no other way.
            Self::Document(text) => {
                RawValue::from_string(text.into_owned()).map_err(|error| EventError::syntax("body", &error))
            }
            Self::Part(value) => Ok(value.to_owned()),
        }
    }
}

type Read<'a> = Result<(EventEnvelope<'a>, Data<'a>), EventError>;

fn read<'a>(kind: SourceKind, headers: &EventHeaders<'a>, body: &'a [u8]) -> Read<'a> {
    match kind {
        SourceKind::Generic => read_generic(headers, body),
        SourceKind::Github => read_github(headers, body),
        SourceKind::Stripe => read_stripe(body),
    }
}

fn read_generic<'a>(headers: &EventHeaders<'a>, body: &'a [u8]) -> Read<'a> {
    let provider_event_id = text::of_header(X_EVENT_ID, headers.event_id, MAX_EVENT_ID_BYTES)?;
    let document = json::text("body", body)?;
    let [event, data] = json::members("body", document, &["event", "data"], Strangers::Refused)?;
    let event_type = text::of_member("event", event, MAX_EVENT_TYPE_BYTES)?;
    let envelope = EventEnvelope {
        event_type,
        provider_event_id: provider_event_id.map(Cow::Borrowed),
        occurred_at: None,
    };
    Ok((envelope, Data::Part(data.unwrap_or(RawValue::NULL))))
}

fn read_github<'a>(headers: &EventHeaders<'a>, body: &'a [u8]) -> Read<'a> {
    let event = text::of_header(X_GITHUB_EVENT, headers.github_event, MAX_EVENT_TYPE_BYTES)?
        .ok_or_else(|| EventError::new(X_GITHUB_EVENT, "is missing"))?;
    let delivery = text::of_header(X_GITHUB_DELIVERY, headers.github_delivery, MAX_EVENT_ID_BYTES)?;
    let (field, document) = if headers.is_form() {
        (
            form::PAYLOAD,
            Cow::Owned(json::text(form::PAYLOAD, &form::payload(body)?)?.to_owned()),
        )
    } else {
        ("body", Cow::Borrowed(json::text("body", body)?))
    };
    let [action] = json::members(field, &document, &["action"], Strangers::Allowed)?;
    let event_type = match action.filter(|value| json::is_string(value)) {
        Some(action) => with_action(event, &json::string("action", action)?)?,
        None => Cow::Borrowed(event),
    };
    let envelope = EventEnvelope {
        event_type,
        provider_event_id: delivery.map(Cow::Borrowed),
        occurred_at: None,
    };
    Ok((envelope, Data::Document(document)))
}

/// `pull_request` and `opened` make `pull_request.opened`; a blank action adds nothing.
fn with_action<'a>(event: &'a str, action: &str) -> Result<Cow<'a, str>, EventError> {
    if action.trim().is_empty() {
        return Ok(Cow::Borrowed(event));
    }
    let event_type = format!("{event}.{action}");
    text::check("action", &event_type, MAX_EVENT_TYPE_BYTES)?;
    Ok(Cow::Owned(event_type))
}

fn read_stripe(body: &[u8]) -> Read<'_> {
    let document = json::text("body", body)?;
    let names = ["id", "type", "created", "data"];
    let [id, event_type, created, data] = json::members("body", document, &names, Strangers::Allowed)?;
    let data = data.ok_or_else(|| EventError::new("data", "is missing"))?;
    let [object] = json::members("data", data.get(), &["object"], Strangers::Allowed)
        .map_err(|error| error.beneath("data"))?;
    let object = object.ok_or_else(|| EventError::new("data.object", "is missing"))?;
    if !json::is_object(object) {
        let found = json::kind_of(object.get());
        return Err(EventError::new(
            "data.object",
            format!("must be an object, is {found}"),
        ));
    }
    let envelope = EventEnvelope {
        event_type: text::of_member("type", event_type, MAX_EVENT_TYPE_BYTES)?,
        provider_event_id: Some(text::of_member("id", id, MAX_EVENT_ID_BYTES)?),
        occurred_at: Some(unix_seconds("created", created)?),
    };
    Ok((envelope, Data::Part(object)))
}

fn unix_seconds(field: &'static str, value: Option<&RawValue>) -> Result<DateTime<Utc>, EventError> {
    let written = value.ok_or_else(|| EventError::new(field, "is missing"))?.get();
    let seconds = written
        .parse::<i64>()
        .ok()
        .filter(|seconds| (0..=MAX_UNIX_SECONDS).contains(seconds));
    seconds
        .and_then(|seconds| DateTime::from_timestamp(seconds, 0))
        .ok_or_else(|| {
            let found = error::quoted(written);
            EventError::new(
                field,
                format!("must be whole unix seconds between 0 and {MAX_UNIX_SECONDS}, is {found}"),
            )
        })
}
