//! Tests of the normaliser: names, errors, envelopes and stored headers here; the three shapes in `tests/shapes.rs`,
//! JSON at its edges in `tests/documents.rs`, real payloads in `tests/fixtures.rs`, any input in `tests/properties.rs`.

mod documents;
mod fixtures;
mod properties;
mod shapes;

use serde_json::json;

use super::*;

const NO_HEADERS: EventHeaders<'static> = EventHeaders {
    content_type: None,
    event_id: None,
    github_event: None,
    github_delivery: None,
};
const ISSUES: EventHeaders<'static> = EventHeaders {
    github_event: Some(b"issues"),
    github_delivery: Some(b"d-1"),
    ..NO_HEADERS
};
const ISSUES_FORM: EventHeaders<'static> = EventHeaders {
    content_type: Some(b"Application/X-WWW-Form-URLEncoded ; charset=utf-8"),
    ..ISSUES
};

fn generic(body: &[u8]) -> Result<DomainEvent, EventError> {
    normalise(SourceKind::Generic, "shop", &NO_HEADERS, body)
}

fn github(headers: &EventHeaders<'_>, body: &[u8]) -> Result<DomainEvent, EventError> {
    normalise(SourceKind::Github, "code", headers, body)
}

fn stripe(body: &[u8]) -> Result<DomainEvent, EventError> {
    normalise(SourceKind::Stripe, "money", &NO_HEADERS, body)
}

fn refusal<T: fmt::Debug>(result: Result<T, EventError>) -> String {
    result.unwrap_err().to_string()
}

#[test]
fn source_kinds_are_named_as_in_sql() {
    for kind in SourceKind::ALL {
        assert_eq!(kind.as_str().parse(), Ok(kind));
    }
    assert_eq!(
        SourceKind::ALL.map(SourceKind::as_str),
        ["generic", "github", "stripe"]
    );
    let error = "GitHub\n".parse::<SourceKind>().unwrap_err();
    assert_eq!(
        error.to_string(),
        r#""GitHub\n" is not a source kind: generic, github or stripe"#
    );
}

#[test]
fn errors_and_debug_never_show_the_payload() {
    let name = "s".repeat(5_000);
    let error = generic(format!(r#"{{"event":"e","{name}\n":1}}"#).as_bytes()).unwrap_err();
    assert_eq!(error.field, format!("{}…", "s".repeat(40)));
    let error = generic(r#"{"event":"e","\u001b[31m":1}"#.as_bytes()).unwrap_err();
    assert_eq!(error.field, r"\u{1b}[31m");
    let event = generic(br#"{"event":"e","data":{"card":"4242"}}"#).unwrap();
    assert!(!format!("{event:?}").contains("4242"));
    assert!(format!("{event:?}").contains("data_bytes: 15"));
}

#[test]
fn events_serialise_without_touching_the_data() {
    let event = generic(br#"{"event":"e","data":{"n": 1.10}}"#).unwrap();
    let text = serde_json::to_string(&event).unwrap();
    assert_eq!(text, r#"{"source":"shop","event_type":"e","data":{"n": 1.10}}"#);
}

#[test]
fn envelopes_borrow_from_the_request() {
    let envelope = inspect(
        SourceKind::Generic,
        &NO_HEADERS,
        br#"{"event":"order.created","data":{}}"#,
    )
    .unwrap();
    assert!(matches!(envelope.event_type, Cow::Borrowed(_)));
    let envelope = inspect(SourceKind::Github, &ISSUES, br#"{"ref":"refs/heads/main"}"#).unwrap();
    assert!(matches!(envelope.event_type, Cow::Borrowed(_)));
    assert!(matches!(envelope.provider_event_id, Some(Cow::Borrowed(_))));
}

#[test]
fn only_listed_headers_are_stored() {
    let sent = |name: &str| -> Option<&'static [u8]> {
        match name {
            "content-type" => Some(b"application/json"),
            "user-agent" => Some(b"shop\t\xff\x1b"),
            "x-event-id" => Some(b"id-1"),
            "authorization" | "x-signature" | "x-hub-signature-256" | "stripe-signature" => Some(b"secret"),
            _ => None,
        }
    };
    let stored = stored_headers(sent);
    let expected =
        json!({ "content-type": "application/json", "user-agent": "shop \u{fffd} ", "x-event-id": "id-1" });
    assert_eq!(stored, expected);
    assert_eq!(
        EventHeaders::from_stored(&stored),
        EventHeaders::from_lookup(sent)
    );
    assert!(
        STORED_HEADERS
            .iter()
            .all(|name| !name.contains("signature") && name.to_lowercase() == *name)
    );

    let long = vec![b'u'; 10_000];
    let stored = stored_headers(|name| (name == "user-agent").then_some(&long[..]));
    assert_eq!(
        stored["user-agent"].as_str().unwrap().len(),
        MAX_STORED_HEADER_BYTES
    );
    assert_eq!(EventHeaders::from_stored(&json!(["x-event-id"])), NO_HEADERS);
}
