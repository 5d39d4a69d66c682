//! What holds for any input: no panic, ingest and delivery agree, and what comes out can be stored.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::super::*;

/// Bytes that are often nearly right: JSON, forms, headers with odd characters, and noise.
fn body() -> impl Strategy<Value = Vec<u8>> {
    let text = prop_oneof![".{0,130}", "[a-z._]{1,20}", Just("é".repeat(60))];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text.prop_map(Value::from)
    ];
    let value = leaf.prop_recursive(4, 24, 4, |inner| {
        let name = prop_oneof![
            "event",
            "data",
            "object",
            "type",
            "id",
            "created",
            "action",
            "[a-z]{1,3}"
        ];
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((name, inner), 0..5)
                .prop_map(|members| Value::Object(members.into_iter().collect()))
        ]
    });
    let word = || prop_oneof![6 => "[\\PC&&[^ ]]{1,20}", 1 => ".{0,130}"];
    let provider = (word(), value.clone()).prop_map(|(word, object)| {
        json!({ "id": word, "type": word, "created": 1, "action": word, "data": { "object": { "a": object } } })
    });
    let generic = (word(), value.clone()).prop_map(|(event, data)| json!({ "event": event, "data": data }));
    let document = prop_oneof![1 => value, 4 => provider, 2 => generic].prop_map(|value| value.to_string());
    prop_oneof![
        6 => document.clone().prop_map(String::into_bytes),
        2 => document.prop_map(|text| {
            form_urlencoded::Serializer::new(String::new()).append_pair("payload", &text).finish().into_bytes()
        }),
        1 => prop::collection::vec(any::<u8>(), 0..200),
    ]
}

fn header() -> impl Strategy<Value = Option<Vec<u8>>> {
    const CONTENT_TYPES: [&str; 3] = [
        "application/json",
        "application/x-www-form-urlencoded",
        "APPLICATION/x-www-form-urlencoded\t;a=b",
    ];
    prop_oneof![
        3 => Just(None),
        3 => prop::sample::select(&CONTENT_TYPES[..]).prop_map(|value| Some(value.as_bytes().to_vec())),
        3 => "[\\PC&&[^ ]]{1,60}".prop_map(|text| Some(text.into_bytes())),
        1 => ".{0,300}".prop_map(|text| Some(text.into_bytes())),
        1 => prop::collection::vec(1_u8.., 0..600).prop_map(Some),
    ]
}

fn kind() -> impl Strategy<Value = SourceKind> {
    prop::sample::select(&SourceKind::ALL[..])
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_ingested_is_delivered(
        kind in kind(), body in body(), content_type in header(), id in header(), event in header(), delivery in header(),
    ) {
        let lookup = |name: &str| match name {
            "content-type" => content_type.as_deref(),
            "x-event-id" => id.as_deref(),
            "x-github-event" => event.as_deref(),
            "x-github-delivery" => delivery.as_deref(),
            _ => None,
        };
        let seen = inspect(kind, &EventHeaders::from_lookup(lookup), &body);
        let stored = stored_headers(lookup);
        let event = match seen {
            Ok(seen) => {
                let event = normalise(kind, "s", &EventHeaders::from_stored(&stored), &body);
                let event = event.expect("what ingest accepts can be normalised from what it stores");
                prop_assert_eq!(&*seen.event_type, &event.event_type);
                prop_assert_eq!(seen.provider_event_id.as_deref(), event.provider_event_id.as_deref());
                prop_assert_eq!(seen.occurred_at, event.occurred_at);
                event
            }
            Err(error) => {
                prop_assert_eq!(Some(error), normalise(kind, "s", &EventHeaders::from_lookup(lookup), &body).err());
                return Ok(());
            }
        };
        prop_assert!((1..=MAX_EVENT_TYPE_BYTES).contains(&event.event_type.len()));
        prop_assert!(!event.event_type.contains(char::is_control));
        if let Some(id) = &event.provider_event_id {
            prop_assert!((1..=MAX_EVENT_ID_BYTES).contains(&id.len()));
            prop_assert!(!id.contains(char::is_control));
        }
        prop_assert!(serde_json::from_str::<Value>(event.data.get()).is_ok());
    }

    #[test]
    fn errors_are_short_and_printable(kind in kind(), body in body(), event in header()) {
        let headers = EventHeaders { github_event: event.as_deref(), event_id: event.as_deref(), ..EventHeaders::default() };
        if let Err(error) = inspect(kind, &headers, &body) {
            let text = error.to_string();
            prop_assert!(text.len() <= 700, "{}", text);
            prop_assert!(!text.contains(char::is_control), "{}", text);
        }
    }

    #[test]
    fn forms_decode_as_the_standard_says(text in ".{0,60}", noise in "[ -~]{0,40}") {
        let form = form_urlencoded::Serializer::new(String::new()).append_pair("payload", &text).finish();
        prop_assert_eq!(form::payload(form.as_bytes()).unwrap(), text.into_bytes());
        // Badly written forms too, as far as text can tell.
        let form = format!("payload={noise}");
        let (_, expected) = form_urlencoded::parse(form.as_bytes()).next().unwrap();
        if !expected.contains('\u{fffd}') && form::payload(form.as_bytes()).is_ok() {
            prop_assert_eq!(form::payload(form.as_bytes()).unwrap(), expected.as_bytes());
        }
    }
}
