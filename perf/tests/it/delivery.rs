//! One webhook of each provider, from the request to the finished job: the answer, the rows, and the message on the
//! broker.

use chrono::{DateTime, Utc};
use perf::client::{Addressing, Answer};
use perf::demo::TENANT;
use perf::scenario::{
    Delivery, Fixture, INVOICE_PAID, ORDER_CREATED, PAYMENT_INTENT_SUCCEEDED, PULL_REQUEST, PUSH,
};
use serde_json::{Value, json};
use sql::event::SourceKind;
use uuid::Uuid;

use crate::message::{check_message, look_at_queue};
use crate::world::World;

pub(crate) const TRACEPARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
pub(crate) const TRACESTATE: &str = "shop=1";
pub(crate) const BAGGAGE: &str = "tier=gold";

/// A request and what is to become of it.
pub(crate) struct Case {
    pub(crate) name: &'static str,
    pub(crate) kind: SourceKind,
    tenant: fn(&World) -> String,
    in_header: bool,
    pub(crate) delivery: Delivery,
    pub(crate) event_type: &'static str,
    /// The event's data: the payload, or the part of it that is.
    pub(crate) data: Value,
    correlation_id: Option<&'static str>,
}

fn case(name: &'static str, fixture: Fixture) -> Case {
    let delivery = fixture.fresh();
    let payload: Value = serde_json::from_slice(&delivery.body).unwrap();
    let data = match fixture.kind {
        SourceKind::Generic => payload["data"].clone(),
        SourceKind::Github => payload,
        SourceKind::Stripe => payload["data"]["object"].clone(),
    };
    Case {
        name,
        kind: fixture.kind,
        tenant: |_| TENANT.to_owned(),
        in_header: false,
        delivery,
        event_type: fixture.event_type,
        data,
        correlation_id: Some(name),
    }
}

/// GitHub's other content type: the same JSON as the field `payload` of a form.
fn push_as_form() -> Case {
    let mut case = case("push-as-form", PUSH);
    let payload = std::str::from_utf8(&case.delivery.body).unwrap();
    let form = form_urlencoded::Serializer::new(String::new())
        .append_pair("payload", payload)
        .finish();
    case.delivery
        .set_header("content-type", "application/x-www-form-urlencoded");
    case.delivery.body = form.into_bytes();
    case
}

fn cases() -> Vec<Case> {
    vec![
        Case {
            in_header: true,
            ..case("order-to-slug-in-header", ORDER_CREATED)
        },
        Case {
            tenant: |world| world.tenant_id.to_string(),
            ..case("order-to-id-in-path", ORDER_CREATED)
        },
        Case {
            in_header: true,
            tenant: |world| world.tenant_id.to_string(),
            ..case("push", PUSH)
        },
        push_as_form(),
        Case {
            correlation_id: None,
            ..case("pull-request", PULL_REQUEST)
        },
        case("invoice", INVOICE_PAID),
        case("payment-intent", PAYMENT_INTENT_SUCCEEDED),
    ]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_provider() {
    let mut world = World::new().await;
    world.start("api", &[]).await;
    world.start("relay", &[]).await;
    for name in ["api", "relay"] {
        world.service(name).answers_ready_with(200).await;
    }
    let cases = cases();
    let mut answers = Vec::new();
    for (number, case) in cases.iter().enumerate() {
        answers.push(send(&world, case, number == 0).await);
    }
    for (case, answer) in cases.iter().zip(&answers) {
        check_answer(case, answer);
        check_inbox(&world, case, answer).await;
        check_job(&world, case, answer).await;
    }

    // No consumer runs yet: all messages lie on the queue.
    let messages = look_at_queue(&world, cases.len()).await;
    for (case, answer) in cases.iter().zip(&answers) {
        let id = format!("{}:1", answer.id("job_id").unwrap());
        let message = messages
            .iter()
            .find(|message| message.properties.message_id() == Some(&id));
        check_message(
            &world,
            case,
            answer,
            message.unwrap_or_else(|| panic!("{}: no message {id}", case.name)),
        );
    }

    world.start("consumer", &[]).await;
    for answer in &answers {
        world.succeeds(answer.id("job_id").unwrap()).await;
    }
    assert_eq!(world.count("select count(*) from store.open_jobs").await, 0);
    assert_eq!(world.count("select count(*) from store.outbox_messages").await, 0);
    assert_eq!(
        world.count("select count(*) from store.jobs").await,
        i64::try_from(cases.len()).unwrap()
    );
}

async fn send(world: &World, case: &Case, upper_case_hex: bool) -> Answer {
    let mut delivery = case
        .delivery
        .clone()
        .signed(case.kind, world.state.secret(case.kind));
    if upper_case_hex {
        let (_, signature) = delivery
            .headers
            .iter()
            .find(|(name, _)| name == "X-Signature")
            .unwrap()
            .clone();
        delivery.set_header("X-Signature", &signature.to_uppercase());
    }
    for (name, value) in [
        ("traceparent", TRACEPARENT),
        ("tracestate", TRACESTATE),
        ("baggage", BAGGAGE),
    ] {
        delivery.set_header(name, value);
    }
    if let Some(correlation_id) = case.correlation_id {
        delivery.set_header("X-Correlation-Id", correlation_id);
    }
    let tenant = (case.tenant)(world);
    let addressing = if case.in_header {
        Addressing::Header(&tenant)
    } else {
        Addressing::Path(&tenant)
    };
    world
        .client()
        .deliver(case.kind.as_str(), addressing, &delivery)
        .await
        .unwrap()
}

pub(crate) fn correlation_id(answer: &Answer) -> &str {
    answer.headers["x-correlation-id"].to_str().unwrap()
}

fn check_answer(case: &Case, answer: &Answer) {
    assert_eq!(answer.status, 202, "{}: {}", case.name, answer.body);
    assert_eq!(
        answer.headers["content-type"], "application/json",
        "{}",
        case.name
    );
    let (event_id, job_id) = (answer.id("event_id").unwrap(), answer.id("job_id").unwrap());
    assert_ne!(event_id, job_id);
    for id in [event_id, job_id] {
        assert_eq!(id.get_version_num(), 7, "{}: {id}", case.name);
    }
    assert_eq!(
        answer.body,
        json!({
            "event_id": event_id,
            "inbox_id": event_id,
            "job_id": job_id,
            "job_created": true,
            "deduped": false,
            "accepted": true,
            "signature_valid": true,
        }),
        "{}",
        case.name
    );
    match case.correlation_id {
        Some(sent) => assert_eq!(correlation_id(answer), sent),
        None => assert!(
            Uuid::try_parse(correlation_id(answer)).is_ok(),
            "{}",
            correlation_id(answer)
        ),
    }
}

async fn check_inbox(world: &World, case: &Case, answer: &Answer) {
    let (name, event_id) = (case.name, answer.id("event_id").unwrap());
    let inbox = world
        .sql
        .query_one(
            "select i.event_id, i.tenant_id, i.source, i.provider_event_id, i.event_type, i.body,
                    i.body_sha256 = sha256(i.body) as hash_fits, i.headers, i.correlation_id, i.trace_context,
                    i.signature_timestamp, s.source as secret_source
               from store.webhook_inbox i
               left join store.tenant_provider_secrets s on s.id = i.secret_id and s.tenant_id = i.tenant_id
              where i.id = $1",
            &[&event_id],
        )
        .await
        .unwrap();
    let text = |column| inbox.get::<_, Option<String>>(column);
    assert_eq!(inbox.get::<_, Vec<u8>>("body"), case.delivery.body, "{name}");
    assert!(inbox.get::<_, bool>("hash_fits"), "{name}");
    assert_eq!(inbox.get::<_, Uuid>("event_id"), event_id, "{name}");
    assert_eq!(inbox.get::<_, Uuid>("tenant_id"), world.tenant_id, "{name}");
    assert_eq!(text("source").as_deref(), Some(case.kind.as_str()), "{name}");
    assert_eq!(
        text("secret_source").as_deref(),
        Some(case.kind.as_str()),
        "{name}"
    );
    assert_eq!(
        text("provider_event_id").as_ref(),
        Some(&case.delivery.event_id),
        "{name}"
    );
    assert_eq!(text("event_type").as_deref(), Some(case.event_type), "{name}");
    assert_eq!(
        text("correlation_id").as_deref(),
        Some(correlation_id(answer)),
        "{name}"
    );
    let trace = json!({ "traceparent": TRACEPARENT, "tracestate": TRACESTATE, "baggage": BAGGAGE });
    assert_eq!(
        inbox.get::<_, Option<Value>>("trace_context"),
        Some(trace),
        "{name}"
    );
    let signed_at: Option<DateTime<Utc>> = inbox.get("signature_timestamp");
    assert_eq!(signed_at.is_some(), case.kind == SourceKind::Stripe, "{name}");

    let stored: Value = inbox.get("headers");
    for (header, value) in stored.as_object().unwrap() {
        let sent = case.delivery.headers.iter().find(|(other, _)| other == header);
        assert_eq!(
            value.as_str(),
            sent.map(|(_, value)| value.as_str()),
            "{name}: {header}"
        );
        assert!(!header.contains("signature"), "{name}: {header} is stored");
    }
}

async fn check_job(world: &World, case: &Case, answer: &Answer) {
    let (name, event_id) = (case.name, answer.id("event_id").unwrap());
    let job = world
        .sql
        .query_one(
            "select j.id, j.tenant_id, j.source, j.kind, j.event_type, j.dedup_key, j.correlation_id
               from store.jobs j where j.event_id = $1",
            &[&event_id],
        )
        .await
        .unwrap();
    assert_eq!(Some(job.get::<_, Uuid>("id")), answer.id("job_id"), "{name}");
    assert_eq!(job.get::<_, Uuid>("tenant_id"), world.tenant_id, "{name}");
    let expected = [
        ("source", case.kind.as_str().to_owned()),
        ("kind", "log".to_owned()),
        ("event_type", case.event_type.to_owned()),
        ("dedup_key", format!("provider:{}", case.delivery.event_id)),
        ("correlation_id", correlation_id(answer).to_owned()),
    ];
    for (column, value) in expected {
        assert_eq!(job.get::<_, String>(column), value, "{name}: {column}");
    }
}
