//! JSON at its edges: characters, encodings, nesting, and what is let through on purpose.

use serde_json::json;

use super::super::*;
use super::{ISSUES, generic, github, refusal};

#[test]
fn control_characters_never_reach_a_type() {
    let escaped = refusal(generic(br#"{"event":"push\u0000"}"#));
    assert_eq!(
        escaped,
        "event: holds the control character U+0000 at byte 4: \"push\\0\""
    );
    let line_feed = refusal(generic(br#"{"event":"a\nb"}"#));
    assert_eq!(
        line_feed,
        "event: holds the control character U+000A at byte 1: \"a\\nb\""
    );
    let c1 = refusal(generic("{\"event\":\"a\u{9b}b\"}".as_bytes()));
    assert_eq!(
        c1,
        "event: holds the control character U+009B at byte 1: \"a\\u{9b}b\""
    );
    // Written raw, they are no JSON.
    assert!(refusal(generic(b"{\"event\":\"a\x00b\"}")).starts_with("body: is not JSON: control character"));
}

#[test]
fn types_are_measured_in_bytes_after_unescaping() {
    let with = |event: &str| generic(json!({ "event": event }).to_string().as_bytes());
    assert_eq!(with(&"é".repeat(60)).unwrap().event_type.len(), 120);
    assert!(refusal(with(&"é".repeat(61))).starts_with("event: is 122 bytes long, at most 120: \"éé"));
    let escapes = format!(r#"{{"event":"{}"}}"#, "\\u0061".repeat(120));
    assert_eq!(generic(escapes.as_bytes()).unwrap().event_type, "a".repeat(120));
    assert_eq!(
        generic(br#"{"\u0065vent":"e"}"#).unwrap().event_type,
        "e",
        "an escaped name is that name"
    );
}

#[test]
fn data_keeps_what_only_its_reader_can_judge() {
    let data =
        r#"{"nul":"\u0000","half":"\ud800","big":1e999,"int":123456789012345678901234567890,"a":1,"a":2}"#;
    let body = format!(r#"{{"event":"e","data":{data}}}"#);
    assert_eq!(generic(body.as_bytes()).unwrap().data.get(), data);
    assert_eq!(github(&ISSUES, data.as_bytes()).unwrap().data.get(), data);
}

#[test]
fn bodies_that_are_no_json_document() {
    for body in [&b""[..], b" \r\n\t", b"\xef\xbb\xbf", b"\xef\xbb\xbf \n"] {
        assert_eq!(refusal(generic(body)), "body: is empty");
    }
    assert_eq!(
        refusal(generic(b"{\"event\":\"e\",\"data\":\"\xff\"}")),
        "body: is not UTF-8 at byte 21"
    );
    let cases: [(&[u8], &str); 6] = [
        (
            br#"{"event":"e""#,
            "body: is not JSON: EOF while parsing an object at line 1 column 12",
        ),
        (
            br#"{"event":"e"} x"#,
            "body: is not JSON: trailing characters at line 1 column 15",
        ),
        (
            br#"{"event":"e",}"#,
            "body: is not JSON: trailing comma at line 1 column 14",
        ),
        (b"event=e", "body: is not JSON: expected value at line 1 column 1"),
        (
            br#"{"event":"e","data":NaN}"#,
            "body: is not JSON: expected value at line 1 column 21",
        ),
        (
            br#"{"event":"e","data":01}"#,
            "body: is not JSON: invalid number at line 1 column 22",
        ),
    ];
    for (body, expected) in cases {
        assert_eq!(refusal(generic(body)), expected);
    }
    let marked = github(&ISSUES, b"\xef\xbb\xbf{\"a\": 1}\r\n").unwrap();
    assert_eq!(
        marked.data.get(),
        "{\"a\": 1}",
        "byte order mark and white space are no part of the data"
    );
}

#[test]
fn nesting_ends_before_readers_do() {
    let nested = |levels: usize| {
        let (open, close) = ("[".repeat(levels - 1), "]".repeat(levels - 1));
        format!(r#"{{"event":"e","data":{open}{close}}}"#)
    };
    let deepest = generic(nested(json::MAX_DEPTH).as_bytes()).unwrap();
    let message = format!(r#"{{"data":{}}}"#, deepest.data.get());
    serde_json::from_str::<serde_json::Value>(&message).expect("the readers downstream take it");
    assert_eq!(
        refusal(generic(nested(101).as_bytes())),
        "body: is nested deeper than 100 levels"
    );
    assert_eq!(
        refusal(generic(nested(100_000).as_bytes())),
        "body: is nested deeper than 100 levels"
    );
    assert!(refusal(generic("[".repeat(200_000).as_bytes())).starts_with("body: is not JSON: EOF"));
    // Many brackets are not depth, in strings or side by side.
    let flat = format!(
        r#"{{"event":"e","data":["\"[[\\","{}",{}]}}"#,
        "[{".repeat(500),
        "[{}],".repeat(500) + "[]"
    );
    generic(flat.as_bytes()).unwrap();
}
