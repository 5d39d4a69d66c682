//! The payloads of `perf/fixtures`, as the providers send them, through the normaliser.

use serde_json::Value;

use super::super::*;

struct Fixture {
    kind: SourceKind,
    headers: &'static str,
    body: &'static str,
}

macro_rules! fixture {
    ($kind:ident, $name:literal) => {
        Fixture {
            kind: SourceKind::$kind,
            headers: include_str!(concat!("../../../../perf/fixtures/", $name, ".headers.json")),
            body: include_str!(concat!("../../../../perf/fixtures/", $name, ".json")),
        }
    };
}

const PUSH: Fixture = fixture!(Github, "push");
const PULL_REQUEST: Fixture = fixture!(Github, "pull_request");
const INVOICE_PAID: Fixture = fixture!(Stripe, "invoice.paid");
const PAYMENT_INTENT: Fixture = fixture!(Stripe, "payment_intent.succeeded");
const ORDER: Fixture = fixture!(Generic, "order.created");

impl Fixture {
    /// Through the stored headers, as relay and consumer do; ingest has to have seen the same.
    fn event(&self) -> DomainEvent {
        let sent: Value = serde_json::from_str(self.headers).unwrap();
        let lookup = |name: &str| sent.get(name).and_then(Value::as_str).map(str::as_bytes);
        let stored = stored_headers(lookup);
        let event = normalise(
            self.kind,
            "s",
            &EventHeaders::from_stored(&stored),
            self.body.as_bytes(),
        )
        .unwrap();
        let seen = inspect(
            self.kind,
            &EventHeaders::from_lookup(lookup),
            self.body.as_bytes(),
        )
        .unwrap();
        assert_eq!(seen.event_type, event.event_type);
        assert_eq!(
            seen.provider_event_id.as_deref(),
            event.provider_event_id.as_deref()
        );
        assert_eq!(seen.occurred_at, event.occurred_at);
        event
    }

    fn document(&self) -> Value {
        serde_json::from_str(self.body).unwrap()
    }
}

fn data_of(event: &DomainEvent) -> Value {
    serde_json::from_str(event.data.get()).unwrap()
}

#[test]
fn github_push() {
    let event = PUSH.event();
    assert_eq!(event.event_type, "push");
    assert_eq!(
        event.provider_event_id.as_deref(),
        Some("6c0b1d50-3625-11f0-8f5a-2f1f3f0f7a10")
    );
    assert_eq!(event.occurred_at, None);
    assert_eq!(event.data.get(), PUSH.body, "the whole body, byte for byte");
    assert_eq!(data_of(&event)["commits"].as_array().unwrap().len(), 3);
}

#[test]
fn github_pull_request() {
    let event = PULL_REQUEST.event();
    assert_eq!(event.event_type, "pull_request.opened");
    assert_eq!(
        event.provider_event_id.as_deref(),
        Some("c9d5f3e0-3627-11f0-9d1b-5b2a9c1e4d22")
    );
    assert_eq!(event.data.get(), PULL_REQUEST.body);
    assert_eq!(data_of(&event)["pull_request"]["base"]["repo"]["id"], 884_120_337);
}

#[test]
fn github_pull_request_as_a_form() {
    let form: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("payload", PULL_REQUEST.body)
        .finish();
    let headers = EventHeaders {
        content_type: Some(b"application/x-www-form-urlencoded"),
        github_event: Some(b"pull_request"),
        github_delivery: Some(b"d"),
        event_id: None,
    };
    let event = normalise(SourceKind::Github, "s", &headers, form.as_bytes()).unwrap();
    assert_eq!(event.event_type, "pull_request.opened");
    assert_eq!(
        event.data.get(),
        PULL_REQUEST.body,
        "the document inside the form, byte for byte"
    );
}

#[test]
fn stripe_invoice_paid() {
    let event = INVOICE_PAID.event();
    assert_eq!(event.event_type, "invoice.paid");
    assert_eq!(
        event.provider_event_id.as_deref(),
        Some("evt_1RQfexAMpLeHbrLn0yJ41TzK")
    );
    assert_eq!(
        event.occurred_at.unwrap().to_rfc3339(),
        "2025-05-20T10:01:04+00:00"
    );
    assert_eq!(data_of(&event), INVOICE_PAID.document()["data"]["object"]);
    assert!(
        INVOICE_PAID.body.contains(event.data.get()),
        "byte for byte, indentation too"
    );
}

#[test]
fn stripe_payment_intent_succeeded() {
    let event = PAYMENT_INTENT.event();
    assert_eq!(event.event_type, "payment_intent.succeeded");
    assert_eq!(
        event.provider_event_id.as_deref(),
        Some("evt_3RQexAMpLeHbrLn01dN3QmPb")
    );
    assert_eq!(event.occurred_at.unwrap().timestamp(), 1_747_820_121);
    assert_eq!(data_of(&event), PAYMENT_INTENT.document()["data"]["object"]);
    assert!(PAYMENT_INTENT.body.contains(event.data.get()));
}

#[test]
fn generic_order_created() {
    let event = ORDER.event();
    assert_eq!(event.event_type, "order.created");
    assert_eq!(
        event.provider_event_id.as_deref(),
        Some("shop-evt-01JVRX0M6Q7T6N2E9K3B8A5C4D")
    );
    assert_eq!(event.occurred_at, None);
    assert_eq!(data_of(&event), ORDER.document()["data"]);
    assert!(
        event.data.get().contains(r#"\"nr. 5\""#),
        "escapes stay as written"
    );
}

#[test]
fn no_prefix_and_no_flipped_byte_of_a_payload_panics() {
    for fixture in [PUSH, INVOICE_PAID, ORDER] {
        let headers = EventHeaders {
            github_event: Some(b"push"),
            ..EventHeaders::default()
        };
        let body = fixture.body.as_bytes();
        for length in (0..body.len()).step_by(7) {
            assert!(
                inspect(fixture.kind, &headers, &body[..length]).is_err(),
                "cut at {length}"
            );
        }
        let mut damaged = body.to_vec();
        for at in (0..body.len()).step_by(11) {
            damaged[at] ^= 0x80;
            assert!(
                inspect(fixture.kind, &headers, &damaged).is_err(),
                "no UTF-8 at {at}"
            );
            damaged[at] ^= 0x80 ^ 0x02;
            let _ = normalise(fixture.kind, "s", &headers, &damaged);
            damaged[at] ^= 0x02;
        }
    }
}
