//! What lies on the broker for a job: the CloudEvents body, and what its properties and headers repeat of it.

use amqprs::channel::{BasicGetArguments, BasicNackArguments};
use amqprs::{BasicProperties, FieldTable, FieldValue};
use chrono::{DateTime, SecondsFormat, Utc};
use perf::client::Answer;
use perf::demo::TENANT;
use serde_json::{Value, json};
use sql::event::SourceKind;

use crate::delivery::{BAGGAGE, Case, TRACEPARENT, TRACESTATE, correlation_id};
use crate::world::{PATIENCE, World, eventually};

/// A message as it lies on the queue.
pub(crate) struct Message {
    exchange: String,
    routing_key: String,
    pub(crate) properties: BasicProperties,
    body: Vec<u8>,
}

/// Reads all messages of the work queue and puts them back.
pub(crate) async fn look_at_queue(world: &World, count: usize) -> Vec<Message> {
    let session = world.broker.session().await;
    let queue = world.broker.topology().jobs;
    let mut messages: Vec<Message> = Vec::new();
    let mut last_tag = 0;
    eventually(&format!("{count} messages on {queue}"), PATIENCE, async || {
        while let Some((got, properties, body)) = session
            .control()
            .basic_get(BasicGetArguments::new(&queue))
            .await
            .unwrap()
        {
            last_tag = got.delivery_tag();
            let (exchange, routing_key) = (got.exchange().clone(), got.routing_key().clone());
            messages.push(Message {
                exchange,
                routing_key,
                properties,
                body,
            });
        }
        (messages.len() >= count).then_some(())
    })
    .await;
    assert_eq!(messages.len(), count, "a message for each job, and no other");
    session
        .control()
        .basic_nack(BasicNackArguments::new(last_tag, true, true))
        .await
        .unwrap();
    session.close().await;
    messages
}

pub(crate) fn check_message(world: &World, case: &Case, answer: &Answer, message: &Message) {
    let (name, event_id, job_id) = (
        case.name,
        answer.id("event_id").unwrap(),
        answer.id("job_id").unwrap(),
    );
    let time = match case.kind {
        SourceKind::Stripe => {
            let payload: Value = serde_json::from_slice(&case.delivery.body).unwrap();
            DateTime::from_timestamp(payload["created"].as_i64().unwrap(), 0).unwrap()
        }
        _ => {
            let (seconds, nanos) = event_id.get_timestamp().unwrap().to_unix();
            DateTime::from_timestamp(i64::try_from(seconds).unwrap(), nanos).unwrap()
        }
    };
    let body: Value = serde_json::from_slice(&message.body).unwrap();
    assert_eq!(
        body,
        json!({
            "specversion": "1.0",
            "id": event_id,
            "source": format!("/webhooks/{}/{TENANT}", case.kind),
            "type": case.event_type,
            "time": time.to_rfc3339_opts(SecondsFormat::Millis, true),
            "subject": case.delivery.event_id,
            "datacontenttype": "application/json",
            "jobid": job_id,
            "tenantid": world.tenant_id,
            "correlationid": correlation_id(answer),
            "attempt": 1,
            "traceparent": TRACEPARENT,
            "data": case.data,
        }),
        "{name}"
    );
    check_properties(world, case, answer, message, time);
}

/// What the broker and its tools see, without reading the body.
fn check_properties(world: &World, case: &Case, answer: &Answer, message: &Message, time: DateTime<Utc>) {
    let (name, job_id) = (case.name, answer.id("job_id").unwrap());
    assert_eq!(message.exchange, "", "{name}");
    assert_eq!(message.routing_key, world.broker.topology().jobs, "{name}");
    let properties = &message.properties;
    let text = |value: Option<&String>| value.map_or("", String::as_str).to_owned();
    assert_eq!(text(properties.message_id()), format!("{job_id}:1"), "{name}");
    assert_eq!(
        text(properties.correlation_id()),
        correlation_id(answer),
        "{name}"
    );
    assert_eq!(text(properties.message_type()), case.event_type, "{name}");
    assert_eq!(
        text(properties.content_type()),
        "application/cloudevents+json",
        "{name}"
    );
    assert_eq!(properties.delivery_mode(), Some(2), "{name}: persistent");
    assert_eq!(
        properties.timestamp(),
        u64::try_from(time.timestamp()).ok(),
        "{name}"
    );
    let headers = properties.headers().unwrap();
    for (header, value) in [
        ("jobid", job_id.to_string()),
        ("tenantid", world.tenant_id.to_string()),
        ("traceparent", TRACEPARENT.to_owned()),
        ("tracestate", TRACESTATE.to_owned()),
        ("baggage", BAGGAGE.to_owned()),
    ] {
        assert_eq!(
            field(headers, header),
            Some(&FieldValue::from(value)),
            "{name}: {header}"
        );
    }
    assert_eq!(field(headers, "attempt"), Some(&FieldValue::l(1)), "{name}");
}

fn field<'a>(table: &'a FieldTable, name: &str) -> Option<&'a FieldValue> {
    table.get(&name.try_into().unwrap())
}
