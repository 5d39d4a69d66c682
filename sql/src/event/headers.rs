//! The request headers that belong to an event: which are kept, and which the normaliser reads.
//!
//! It owns the allow-list. It does not read signatures: they prove a request, they are no part of the event, and are
//! never stored. `event/form.rs` comes next.

use serde_json::{Map, Value};

pub(super) const X_EVENT_ID: &str = "X-Event-Id";
pub(super) const X_GITHUB_EVENT: &str = "X-GitHub-Event";
pub(super) const X_GITHUB_DELIVERY: &str = "X-GitHub-Delivery";

/// The headers that are stored with a body, in lower case: what [`EventHeaders`] reads, and what helps to find the
/// sender. Everything else, signatures and credentials above all, is dropped.
pub const STORED_HEADERS: [&str; 6] = [
    "content-type",
    "user-agent",
    "x-event-id",
    "x-github-event",
    "x-github-delivery",
    "x-github-hook-id",
];

/// Longest header value that is stored, in bytes; the rest is cut. Longer than any value that the normaliser accepts.
pub const MAX_STORED_HEADER_BYTES: usize = 512;

/// The few headers that say what an event is. Raw bytes: whether they are text is checked where they are used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct EventHeaders<'a> {
    /// `Content-Type`: tells GitHub's form from its JSON, and is not looked at for other kinds.
    pub content_type: Option<&'a [u8]>,
    /// `X-Event-Id`: the id of a generic event.
    pub event_id: Option<&'a [u8]>,
    /// `X-GitHub-Event`: the type of a GitHub event.
    pub github_event: Option<&'a [u8]>,
    /// `X-GitHub-Delivery`: the id of a GitHub event.
    pub github_delivery: Option<&'a [u8]>,
}

impl<'a> EventHeaders<'a> {
    /// Reads the headers of a request. `lookup` gets lower-case names.
    pub fn from_lookup(lookup: impl Fn(&'static str) -> Option<&'a [u8]>) -> Self {
        Self {
            content_type: lookup("content-type"),
            event_id: lookup("x-event-id"),
            github_event: lookup("x-github-event"),
            github_delivery: lookup("x-github-delivery"),
        }
    }

    /// Reads what [`stored_headers`] made. Anything but an object of strings reads as no headers.
    #[must_use]
    pub fn from_stored(stored: &'a Value) -> Self {
        Self::from_lookup(|name| stored.get(name).and_then(Value::as_str).map(str::as_bytes))
    }

    /// Whether the body is said to be a form.
    pub(super) fn is_form(&self) -> bool {
        let media_type = self
            .content_type
            .and_then(|value| value.split(|byte| *byte == b';').next());
        media_type.is_some_and(|value| {
            value
                .trim_ascii()
                .eq_ignore_ascii_case(b"application/x-www-form-urlencoded")
        })
    }
}

/// The object of [`STORED_HEADERS`] that is stored with a body: lower-case name to text.
///
/// What [`inspect`](super::inspect) accepted reads back the same. In other values, bytes that are no UTF-8 become
/// U+FFFD and control characters (jsonb takes no NUL) become spaces.
pub fn stored_headers<'a>(lookup: impl Fn(&'static str) -> Option<&'a [u8]>) -> Value {
    let present = STORED_HEADERS
        .into_iter()
        .filter_map(|name| Some((name, lookup(name)?)));
    let object: Map<String, Value> = present
        .map(|(name, value)| (name.to_owned(), Value::String(storable(value))))
        .collect();
    Value::Object(object)
}

fn storable(value: &[u8]) -> String {
    let kept = &value[..value.len().min(MAX_STORED_HEADER_BYTES)];
    let text = String::from_utf8_lossy(kept);
    text.chars()
        .map(|character| if character.is_control() { ' ' } else { character })
        .collect()
}
