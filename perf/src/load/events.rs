//! The webhooks that load is made of: small, alike, each with an id and a body of its own, and cheap to make, so that the
//! sender takes little of the machine that it measures.

use std::ops::Range;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use ring::hmac;
use sql::event::SourceKind;
use uuid::Uuid;

/// Digits of a number in an id and a body: all have one length, and so have all bodies.
const DIGITS: usize = 10;

/// Digits in a body, before they are replaced.
const PLACE: &str = "##########";

/// Makes the events of one run.
#[derive(Clone)]
pub(crate) struct Events {
    kind: SourceKind,
    run: Arc<str>,
    key: hmac::Key,
    body: Arc<[u8]>,
    places: Arc<[Range<usize>]>,
}

/// One request, but for where it goes.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    /// Headers: its id, its signature, and what the provider adds.
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    /// What is signed.
    pub(crate) body: Bytes,
}

impl Events {
    /// Events of a kind with bodies of `bytes` bytes, or as few as they can have.
    pub(crate) fn new(kind: SourceKind, secret: &str, bytes: usize) -> Self {
        let run: Arc<str> = Uuid::new_v4().simple().to_string()[..12].into();
        let text = |pad: &str| match kind {
            SourceKind::Generic => {
                format!(r#"{{"event":"load.tick","data":{{"number":"{PLACE}","pad":"{pad}"}}}}"#)
            }
            SourceKind::Github => {
                format!(r#"{{"ref":"refs/heads/main","after":"{PLACE}","pad":"{pad}"}}"#)
            }
            SourceKind::Stripe => format!(
                r#"{{"id":"evt_{run}-{PLACE}","object":"event","type":"load.tick","created":1700000000,"data":{{"object":{{"pad":"{pad}"}}}}}}"#
            ),
        };
        let pad = "x".repeat(bytes.saturating_sub(text("").len()));
        let body = text(&pad);
        let places = body.match_indices(PLACE).map(|(at, _)| at..at + DIGITS);
        Self {
            kind,
            run,
            key: hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()),
            places: places.collect(),
            body: body.into_bytes().into(),
        }
    }

    /// The provider's id of event `number`.
    pub(crate) fn id(&self, number: u32) -> String {
        format!("{}{number:0DIGITS$}", self.prefix())
    }

    /// How the ids of all events of this run begin.
    pub(crate) fn prefix(&self) -> String {
        match self.kind {
            SourceKind::Generic | SourceKind::Github => format!("load-{}-", self.run),
            SourceKind::Stripe => format!("evt_{}-", self.run),
        }
    }

    /// Bytes of a body.
    pub(crate) fn body_bytes(&self) -> usize {
        self.body.len()
    }

    /// Event `number`, signed at `now` (unix seconds).
    ///
    /// # Errors
    /// None: ids and signatures are plain ASCII.
    pub(crate) fn event(&self, number: u32, now: i64) -> anyhow::Result<Event> {
        let digits = format!("{number:0DIGITS$}");
        let mut body = self.body.to_vec();
        for place in self.places.iter() {
            body[place.clone()].copy_from_slice(digits.as_bytes());
        }
        let value = |text: &str| HeaderValue::from_str(text).context("no header value");
        let mut headers = Vec::with_capacity(3);
        match self.kind {
            SourceKind::Generic => {
                headers.push((HeaderName::from_static("x-event-id"), value(&self.id(number))?));
                let signature = self.sign(&[&body]);
                headers.push((HeaderName::from_static("x-signature"), value(&signature)?));
            }
            SourceKind::Github => {
                headers.push((
                    HeaderName::from_static("x-github-delivery"),
                    value(&self.id(number))?,
                ));
                headers.push((
                    HeaderName::from_static("x-github-event"),
                    HeaderValue::from_static("push"),
                ));
                let signature = format!("sha256={}", self.sign(&[&body]));
                headers.push((HeaderName::from_static("x-hub-signature-256"), value(&signature)?));
            }
            SourceKind::Stripe => {
                let signature = self.sign(&[now.to_string().as_bytes(), b".", &body]);
                let signature = format!("t={now},v1={signature}");
                headers.push((HeaderName::from_static("stripe-signature"), value(&signature)?));
            }
        }
        Ok(Event {
            headers,
            body: body.into(),
        })
    }

    fn sign(&self, parts: &[&[u8]]) -> String {
        let mut context = hmac::Context::with_key(&self.key);
        parts.iter().for_each(|part| context.update(part));
        hex::encode(context.sign())
    }
}

#[cfg(test)]
mod tests {
    use sql::event::{EventHeaders, inspect};

    use super::*;

    #[test]
    fn events_of_each_kind_are_read_as_they_are_meant_and_are_as_long_as_asked() {
        for kind in SourceKind::ALL {
            let events = Events::new(kind, "secret", 600);
            let (one, other) = (
                events.event(7, 1).unwrap(),
                events.event(4_000_000_000, 1).unwrap(),
            );
            assert_eq!((one.body.len(), other.body.len()), (600, 600), "{kind}");
            assert_ne!(one.body, other.body);
            let lookup = |name: &'static str| {
                let found = one
                    .headers
                    .iter()
                    .find(|(header, _)| header.as_str().eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.as_bytes())
            };
            let headers = EventHeaders::from_lookup(lookup);
            let envelope = inspect(kind, &headers, &one.body).unwrap();
            assert_eq!(envelope.provider_event_id.as_deref(), Some(events.id(7).as_str()));
            assert!(events.id(7).starts_with(&events.prefix()));
        }
    }
}
