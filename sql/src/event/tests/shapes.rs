//! The three shapes: what becomes of each field, and the words of each refusal.

use serde_json::json;

use super::super::*;
use super::{ISSUES, ISSUES_FORM, NO_HEADERS, generic, github, refusal, stripe};

#[test]
fn generic_events_carry_any_data_and_no_time() {
    let event = generic(br#" {"data": [1, {"a": 1.50}] , "event":"order.created"} "#).unwrap();
    assert_eq!(
        (event.source.as_str(), event.event_type.as_str()),
        ("shop", "order.created")
    );
    assert_eq!((event.provider_event_id, event.occurred_at), (None, None));
    assert_eq!(event.data.get(), r#"[1, {"a": 1.50}]"#, "the bytes as sent");

    for data in ["true", "0", "\"\"", "null", "{}", "[]"] {
        let body = format!(r#"{{"event":"e","data":{data}}}"#);
        assert_eq!(generic(body.as_bytes()).unwrap().data.get(), data);
    }
    assert_eq!(
        generic(br#"{"event":"e"}"#).unwrap().data.get(),
        "null",
        "absent data is null"
    );
}

#[test]
fn generic_ids_come_from_the_header() {
    let with = |id: &'static [u8]| {
        let headers = EventHeaders {
            event_id: Some(id),
            ..NO_HEADERS
        };
        inspect(SourceKind::Generic, &headers, br#"{"event":"e"}"#).map(|e| e.provider_event_id)
    };
    assert_eq!(with(b"abc-1"), Ok(Some("abc-1".into())));
    assert_eq!(with("Łódź".as_bytes()), Ok(Some("Łódź".into())));
    assert_eq!(with(&[b'x'; 255]).unwrap().unwrap().len(), 255);
    let too_long = with(&[b'x'; 256]).unwrap_err();
    assert_eq!(too_long.field, "X-Event-Id");
    assert!(
        too_long
            .detail
            .starts_with("is 256 bytes long, at most 255: \"xxx"),
        "{too_long}"
    );
    assert_eq!(refusal(with(b"")), "X-Event-Id: is empty");
    assert_eq!(refusal(with(b"\xff\xfe")), "X-Event-Id: is not UTF-8");
    let tab = refusal(with(b"a\tb"));
    assert_eq!(
        tab,
        "X-Event-Id: holds the control character U+0009 at byte 1: \"a\\tb\""
    );
}

#[test]
fn generic_refusals_name_the_field() {
    let cases: [(&[u8], &str); 13] = [
        (br#"{}"#, "event: is missing"),
        (br#"{"event":""}"#, "event: is empty"),
        (br#"{"event":"  "}"#, "event: is empty"),
        (br#"{"event":null}"#, "event: must be a string, is null"),
        (br#"{"event":7}"#, "event: must be a string, is a number"),
        (br#"{"event":["e"]}"#, "event: must be a string, is an array"),
        (
            br#"{"event":"e","kind":1}"#,
            "kind: is not a member of the schema; event and data are",
        ),
        (
            br#"{"event":"e","Data":1}"#,
            "Data: is not a member of the schema; event and data are",
        ),
        (br#"{"event":"e","event":"f"}"#, "event: is there more than once"),
        (
            br#"{"event":"e","data":1,"data":1}"#,
            "data: is there more than once",
        ),
        (br#"[{"event":"e"}]"#, "body: must be a JSON object, is an array"),
        (br#""e""#, "body: must be a JSON object, is a string"),
        (
            br#"{"event":"a\ud800"}"#,
            "event: holds an escape that is no character",
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(
            refusal(generic(body)),
            expected,
            "{}",
            String::from_utf8_lossy(body)
        );
    }
}

#[test]
fn github_types_carry_the_action() {
    let event_type = |body: &str| github(&ISSUES, body.as_bytes()).map(|event| event.event_type);
    assert_eq!(event_type(r#"{"action":"opened"}"#).unwrap(), "issues.opened");
    assert_eq!(
        event_type(r#"{"action":"op\u0065ned"}"#).unwrap(),
        "issues.opened"
    );
    for body in [
        "{}",
        r#"{"action":null}"#,
        r#"{"action":{"x":1}}"#,
        r#"{"action":""}"#,
        r#"{"a":{"action":"b"}}"#,
    ] {
        assert_eq!(event_type(body).unwrap(), "issues", "{body}");
    }
    assert_eq!(
        refusal(event_type(r#"{"action":"a","action":"b"}"#)),
        "action: is there more than once"
    );
    let long = json!({ "action": "x".repeat(120) }).to_string();
    assert!(refusal(event_type(&long)).starts_with("action: is 127 bytes long, at most 120: \"issues.xx"));
    assert!(
        refusal(event_type(r#"{"action":"a\u0000"}"#))
            .starts_with("action: holds the control character U+0000")
    );
    assert_eq!(
        refusal(event_type("[]")),
        "body: must be a JSON object, is an array"
    );
}

#[test]
fn github_wants_its_event_header_and_takes_its_delivery() {
    let event = github(&ISSUES, b"{}").unwrap();
    assert_eq!(event.provider_event_id.as_deref(), Some("d-1"));
    let without = EventHeaders {
        github_delivery: None,
        ..ISSUES
    };
    assert_eq!(github(&without, b"{}").unwrap().provider_event_id, None);
    let without = EventHeaders {
        github_event: None,
        ..ISSUES
    };
    assert_eq!(refusal(github(&without, b"{}")), "X-GitHub-Event: is missing");
}

#[test]
fn github_forms_carry_the_same_document() {
    let form = |body: &[u8]| github(&ISSUES_FORM, body);
    let event =
        form(b"a=%7B%7D&payload=%7B%22action%22%3A+%22opened%22,%22c%22:%22%C3%A9%2b%22%7d&b").unwrap();
    assert_eq!(event.event_type, "issues.opened");
    assert_eq!(event.data.get(), r#"{"action": "opened","c":"é+"}"#);
    assert_eq!(
        form(b"p%61yload={}").unwrap().data.get(),
        "{}",
        "an escaped name is that name"
    );
    assert_eq!(
        form(br#"payload={"rate":"5%","odd":"%2"}"#).unwrap().data.get(),
        r#"{"rate":"5%","odd":"%2"}"#
    );

    assert_eq!(refusal(form(b"")), "payload: is missing in the form");
    assert_eq!(
        refusal(form(br#"{"action":"opened"}"#)),
        "payload: is missing in the form"
    );
    assert_eq!(refusal(form(b"payload=")), "payload: is empty");
    assert_eq!(
        refusal(form(b"payload={}&payload={}")),
        "payload: is there more than once"
    );
    assert_eq!(
        refusal(form(b"payload=%7B%22a%22%3A%22%FF%22%7D")),
        "payload: is not UTF-8 at byte 6"
    );
    assert_eq!(
        refusal(form(b"payload=[]")),
        "payload: must be a JSON object, is an array"
    );
    assert!(refusal(form(b"payload=%7B")).starts_with("payload: is not JSON: EOF"));
}

#[test]
fn stripe_refusals_name_the_field() {
    let valid =
        json!({ "id": "evt_1", "type": "invoice.paid", "created": 1_747_735_264, "data": { "object": {} } });
    let event = stripe(valid.to_string().as_bytes()).unwrap();
    assert_eq!(
        event.occurred_at.unwrap().to_rfc3339(),
        "2025-05-20T10:01:04+00:00"
    );

    let refused_with = |name: &str, value: serde_json::Value| {
        let mut body = valid.clone();
        body[name] = value;
        refusal(stripe(body.to_string().as_bytes()))
    };
    assert_eq!(refused_with("id", json!("")), "id: is empty");
    assert_eq!(refused_with("id", json!(1)), "id: must be a string, is a number");
    assert!(refused_with("id", json!("x".repeat(256))).starts_with("id: is 256 bytes long"));
    assert_eq!(
        refused_with("type", json!(null)),
        "type: must be a string, is null"
    );
    assert_eq!(
        refused_with("data", json!(null)),
        "data: must be a JSON object, is null"
    );
    assert_eq!(refused_with("data", json!({})), "data.object: is missing");
    assert_eq!(
        refused_with("data", json!({ "object": [] })),
        "data.object: must be an object, is an array"
    );
    for created in [
        json!(-1),
        json!(1.5),
        json!("1747735264"),
        json!(253_402_300_800_i64),
        json!(u64::MAX),
        json!(1e300),
    ] {
        let detail = refused_with("created", created.clone());
        assert!(
            detail.starts_with("created: must be whole unix seconds"),
            "{created}: {detail}"
        );
    }
    for name in ["id", "type", "created", "data"] {
        let mut body = valid.clone();
        body.as_object_mut().unwrap().remove(name);
        assert_eq!(
            refusal(stripe(body.to_string().as_bytes())),
            format!("{name}: is missing")
        );
    }
    let twice = br#"{"id":"e","type":"t","created":1,"data":{"object":{},"object":{}}}"#;
    assert_eq!(refusal(stripe(twice)), "data.object: is there more than once");
}
