//! What a message says: the CloudEvents body, the AMQP properties and headers, and where it goes. The contract with
//! every consumer, ours and others'.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, SecondsFormat, Utc};
use observability::propagation::TraceContext;
use serde::Serialize;
use serde_json::value::RawValue;
use sql::event::{EventHeaders, UnknownSourceKind, normalise};
use sql::outbox::{ClaimedMessage, StoredEvent, Target};
use uuid::Uuid;

use crate::outgoing::{HeaderValue, Outgoing, Properties};
use crate::topology::Topology;

/// Content type of every message: CloudEvents 1.0 in structured JSON form.
pub const CONTENT_TYPE: &str = "application/cloudevents+json";

/// Names one attempt of one job: `<job id>:<attempt>`. The AMQP `message_id` of work messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct MessageId {
    /// The job.
    pub job_id: Uuid,
    /// The attempt, from 1.
    pub attempt: i32,
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.job_id, self.attempt)
    }
}

/// A text that names no attempt of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a message id is <job id>:<attempt>")]
pub struct InvalidMessageId;

impl FromStr for MessageId {
    type Err = InvalidMessageId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (job_id, attempt) = text.split_once(':').ok_or(InvalidMessageId)?;
        let job_id = Uuid::try_parse(job_id).map_err(|_| InvalidMessageId)?;
        match attempt.parse() {
            Ok(attempt @ 1..) => Ok(Self { job_id, attempt }),
            _ => Err(InvalidMessageId),
        }
    }
}

/// The body: CloudEvents 1.0, with our extensions.
#[derive(Serialize)]
struct CloudEvent<'a> {
    specversion: &'static str,
    id: Uuid,
    source: String,
    #[serde(rename = "type")]
    event_type: &'a str,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    subject: Option<&'a str>,
    datacontenttype: &'static str,
    jobid: Uuid,
    tenantid: Uuid,
    correlationid: &'a str,
    attempt: i16,
    #[serde(skip_serializing_if = "Option::is_none")]
    traceparent: Option<&'a str>,
    data: &'a RawValue,
}

/// Why no message was made of an outbox row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmade {
    /// None ever will be: the event is gone, or its stored bytes are no event.
    #[error("{0}")]
    Never(String),
    /// A newer release knows how: the message waits for a relay of it.
    #[error("{0}; a relay of the release that made it can publish it")]
    Newer(UnknownSourceKind),
}

/// Makes the message of an outbox row.
///
/// # Errors
/// [`Unmade`]
pub fn envelope(claimed: &ClaimedMessage, target: Target, topology: &Topology) -> Result<Outgoing, Unmade> {
    let event = claimed
        .event
        .as_ref()
        .ok_or_else(|| Unmade::Never("the event is gone: its inbox partition was dropped".to_owned()))?;
    let headers = EventHeaders::from_stored(&event.headers);
    let kind = event.source_kind.clone().map_err(Unmade::Newer)?;
    let domain = normalise(kind, &event.source, &headers, &event.body)
        .map_err(|error| Unmade::Never(format!("the stored body is no event: {error}")))?;
    let trace = trace_context(event);
    let time = domain
        .occurred_at
        .unwrap_or_else(|| received_at(claimed.event_id));
    let body = serde_json::to_vec(&CloudEvent {
        specversion: "1.0",
        id: claimed.event_id,
        source: format!("/webhooks/{}/{}", event.source, event.tenant_slug),
        event_type: &event.event_type,
        time: time.to_rfc3339_opts(SecondsFormat::Millis, true),
        subject: event.provider_event_id.as_deref(),
        datacontenttype: "application/json",
        jobid: claimed.job_id,
        tenantid: event.tenant_id,
        correlationid: &event.correlation_id,
        attempt: claimed.attempt,
        traceparent: trace.traceparent.as_deref(),
        data: &domain.data,
    })
    .map_err(|error| Unmade::Never(format!("no JSON can be made of it: {error}")))?;
    let (exchange, routing_key) = route(event, target, topology);
    Ok(Outgoing {
        exchange,
        routing_key,
        properties: Properties {
            message_id: message_id(claimed, target),
            correlation_id: Some(event.correlation_id.clone()),
            message_type: Some(event.event_type.clone()),
            content_type: Some(CONTENT_TYPE.to_owned()),
            timestamp: u64::try_from(time.timestamp()).ok(),
            headers: amqp_headers(claimed, event, trace),
        },
        body,
    })
}

fn message_id(claimed: &ClaimedMessage, target: Target) -> String {
    match target {
        // To strangers it is the event that counts: the same id, however often it is published.
        Target::Events => claimed.event_id.to_string(),
        Target::Jobs | Target::Retries | Target::Dlq => MessageId {
            job_id: claimed.job_id,
            attempt: i32::from(claimed.attempt),
        }
        .to_string(),
    }
}

fn route(event: &StoredEvent, target: Target, topology: &Topology) -> (String, String) {
    match target {
        Target::Jobs => (String::new(), topology.jobs.clone()),
        Target::Retries => (String::new(), topology.retries.clone()),
        Target::Dlq => (String::new(), topology.dlq.clone()),
        Target::Events => (
            topology.events.clone(),
            format!("{}.{}.{}", event.tenant_slug, event.source, event.event_type),
        ),
    }
}

fn amqp_headers(
    claimed: &ClaimedMessage,
    event: &StoredEvent,
    trace: TraceContext,
) -> BTreeMap<String, HeaderValue> {
    let text = |name: &str, value: Option<String>| Some((name.to_owned(), HeaderValue::Text(value?)));
    [
        text("jobid", Some(claimed.job_id.to_string())),
        text("tenantid", Some(event.tenant_id.to_string())),
        Some((
            "attempt".to_owned(),
            HeaderValue::Integer(i64::from(claimed.attempt)),
        )),
        text("traceparent", trace.traceparent),
        text("tracestate", trace.tracestate),
        text("baggage", trace.baggage),
        text("x-relayforge-cause", claimed.cause.clone()),
        text("x-relayforge-error", claimed.error.clone()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn trace_context(event: &StoredEvent) -> TraceContext {
    let stored = event
        .trace_context
        .clone()
        .and_then(|value| serde_json::from_value(value).ok());
    stored.unwrap_or_default()
}

/// When the first delivery came, which its id says.
fn received_at(event_id: Uuid) -> DateTime<Utc> {
    let (seconds, nanos) = event_id
        .get_timestamp()
        .map(|at| at.to_unix())
        .unwrap_or_default();
    i64::try_from(seconds)
        .ok()
        .and_then(|seconds| DateTime::from_timestamp(seconds, nanos))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use sql::event::SourceKind;

    use super::*;

    fn claimed(body: &str) -> ClaimedMessage {
        let event_id: Uuid = "019370b0-1c00-7000-8000-000000000001".parse().unwrap();
        ClaimedMessage {
            refused_since: None,
            id: Uuid::from_u128(1),
            job_id: Uuid::from_u128(2),
            attempt: 3,
            next_attempt_at: Utc::now(),
            attempts: 0,
            event_id,
            event: Some(StoredEvent {
                tenant_id: Uuid::from_u128(4),
                tenant_slug: "acme".to_owned(),
                source: "shop".to_owned(),
                source_kind: Ok(SourceKind::Generic),
                event_type: "order.created".to_owned(),
                provider_event_id: Some("ord-1".to_owned()),
                correlation_id: "corr-1".to_owned(),
                headers: json!({ "x-event-id": "ord-1" }),
                body: body.as_bytes().to_vec(),
                trace_context: Some(
                    json!({ "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01" }),
                ),
            }),
            cause: None,
            error: None,
        }
    }

    #[test]
    fn a_message_id_reads_back_and_nothing_else_does() {
        let id = MessageId {
            job_id: Uuid::from_u128(7),
            attempt: 2,
        };
        assert_eq!(id.to_string().parse(), Ok(id));
        for text in [
            "",
            "x",
            "00000000-0000-0000-0000-000000000007",
            "00000000-0000-0000-0000-000000000007:0",
            "7:1",
        ] {
            assert_eq!(text.parse::<MessageId>(), Err(InvalidMessageId), "{text}");
        }
    }

    #[test]
    fn the_body_is_a_cloud_event_and_the_data_is_untouched() {
        let claimed = claimed(r#"{"event":"order.created","data":{"n":1e999,"s":"\u0000"}}"#);
        let message = envelope(&claimed, Target::Jobs, &Topology::new("rf")).unwrap();
        let text = std::str::from_utf8(&message.body).unwrap();
        assert!(text.ends_with(r#""data":{"n":1e999,"s":"\u0000"}}"#), "{text}");
        let without_data: Value = serde_json::from_str(&text.replace("1e999", "1")).unwrap();
        assert_eq!(
            without_data,
            json!({
                "specversion": "1.0",
                "id": "019370b0-1c00-7000-8000-000000000001",
                "source": "/webhooks/shop/acme",
                "type": "order.created",
                "time": "2024-11-28T02:53:29.984Z",
                "subject": "ord-1",
                "datacontenttype": "application/json",
                "jobid": "00000000-0000-0000-0000-000000000002",
                "tenantid": "00000000-0000-0000-0000-000000000004",
                "correlationid": "corr-1",
                "attempt": 3,
                "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
                "data": { "n": 1, "s": "\u{0}" },
            })
        );
        assert_eq!(
            (message.exchange.as_str(), message.routing_key.as_str()),
            ("", "rf.jobs")
        );
        assert_eq!(
            message.properties.message_id,
            "00000000-0000-0000-0000-000000000002:3"
        );
    }

    #[test]
    fn events_go_to_the_topic_exchange_under_their_own_id() {
        let claimed = claimed(r#"{"event":"order.created"}"#);
        let message = envelope(&claimed, Target::Events, &Topology::new("rf")).unwrap();
        assert_eq!(message.exchange, "rf.events");
        assert_eq!(message.routing_key, "acme.shop.order.created");
        assert_eq!(message.properties.message_id, claimed.event_id.to_string());
    }

    #[test]
    fn what_is_given_up_says_why() {
        let mut claimed = claimed(r#"{"event":"order.created"}"#);
        claimed.cause = Some("exhausted".to_owned());
        claimed.error = Some("no answer".to_owned());
        let message = envelope(&claimed, Target::Dlq, &Topology::new("rf")).unwrap();
        assert_eq!(message.routing_key, "rf.jobs.dlq");
        let header = |name: &str| message.properties.headers.get(name).cloned();
        assert_eq!(
            header("x-relayforge-cause"),
            Some(HeaderValue::Text("exhausted".to_owned()))
        );
        assert_eq!(
            header("x-relayforge-error"),
            Some(HeaderValue::Text("no answer".to_owned()))
        );
    }

    #[test]
    fn an_event_that_is_gone_or_no_event_makes_no_message_and_a_newer_one_waits() {
        let unmade = |claimed: &ClaimedMessage| {
            envelope(claimed, Target::Jobs, &Topology::new("rf")).expect_err("a message was made")
        };
        let gone = ClaimedMessage {
            event: None,
            ..claimed("{}")
        };
        for (never, why) in [(claimed("{"), "no event"), (gone, "gone")] {
            let error = unmade(&never);
            assert!(matches!(error, Unmade::Never(_)), "{error:?}");
            assert!(error.to_string().contains(why), "{error}");
        }
        let mut newer = claimed("{}");
        newer.event.as_mut().unwrap().source_kind = "paypal".parse();
        let error = unmade(&newer);
        assert!(matches!(error, Unmade::Newer(_)), "{error:?}");
        assert!(error.to_string().contains("paypal"), "{error}");
    }
}
