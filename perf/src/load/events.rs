//! The webhooks that load is made of: small, alike, each with an id and a body of its own, and cheap to make, so that the
//! sender takes little of the machine that it measures.

use std::io::Write as _;
use std::ops::Range;
use std::sync::Arc;

use ring::hmac;
use sql::event::SourceKind;
use uuid::Uuid;

/// Digits of a number in an id and a body: all have one length, and so have all bodies.
const DIGITS: usize = 10;

/// Digits in a template, before they are replaced.
const PLACE: &str = "##########";

/// Makes the events of one run.
#[derive(Clone)]
pub(crate) struct Events {
    kind: SourceKind,
    prefix: Arc<str>,
    key: hmac::Key,
    headers: Template,
    body: Template,
    /// What is signed, up to the number: the same of all events, and nearly all there is of it. (Stripe's begins with the
    /// time and is signed anew.)
    signing: hmac::Context,
}

/// Text with places for a number.
#[derive(Clone)]
struct Template {
    text: Arc<[u8]>,
    places: Arc<[Range<usize>]>,
}

/// One request, but for where it goes. Made again and again in the same memory.
#[derive(Debug, Default)]
pub(crate) struct Event {
    /// Its id, its signature, and what the provider adds, as lines of HTTP: `name: value` and what ends a line.
    pub(crate) headers: Vec<u8>,
    /// What is signed.
    pub(crate) body: Vec<u8>,
}

impl Events {
    /// Events of a kind with bodies of `bytes` bytes, or as few as they can have.
    pub(crate) fn new(kind: SourceKind, secret: &str, bytes: usize) -> Self {
        let run = &Uuid::new_v4().simple().to_string()[..12];
        let (prefix, headers) = match kind {
            SourceKind::Generic => {
                let prefix = format!("load-{run}-");
                let headers = format!("x-event-id: {prefix}{PLACE}\r\nx-signature: ");
                (prefix, headers)
            }
            SourceKind::Github => {
                let prefix = format!("load-{run}-");
                let id = format!("x-github-delivery: {prefix}{PLACE}\r\nx-github-event: push\r\n");
                (prefix, format!("{id}x-hub-signature-256: sha256="))
            }
            SourceKind::Stripe => (format!("evt_{run}-"), "stripe-signature: t=".to_owned()),
        };
        // The number comes late where it can: what is before it is hashed once for all events.
        let text = |pad: &str| match kind {
            SourceKind::Generic => {
                format!(r#"{{"event":"load.tick","data":{{"pad":"{pad}","number":"{PLACE}"}}}}"#)
            }
            SourceKind::Github => {
                format!(r#"{{"ref":"refs/heads/main","pad":"{pad}","after":"{PLACE}"}}"#)
            }
            SourceKind::Stripe => format!(
                r#"{{"id":"{prefix}{PLACE}","object":"event","type":"load.tick","created":1700000000,"data":{{"object":{{"pad":"{pad}"}}}}}}"#
            ),
        };
        let pad = "x".repeat(bytes.saturating_sub(text("").len()));
        let body = Template::new(text(&pad));
        let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
        let mut signing = hmac::Context::with_key(&key);
        signing.update(&body.text[..body.first_place()]);
        Self {
            kind,
            prefix: prefix.into(),
            key,
            headers: Template::new(headers),
            body,
            signing,
        }
    }

    /// How the ids of all events of this run begin.
    pub(crate) fn prefix(&self) -> &str {
        &self.prefix
    }

    /// Bytes of a body.
    pub(crate) fn body_bytes(&self) -> usize {
        self.body.text.len()
    }

    /// Makes `event` the one of this number, signed at `now` (unix seconds).
    ///
    /// # Errors
    /// None: memory takes what is written to it.
    pub(crate) fn make(&self, number: u32, now: i64, event: &mut Event) -> anyhow::Result<()> {
        let Event { headers, body } = event;
        let digits = digits(number);
        self.headers.fill(digits, headers);
        self.body.fill(digits, body);
        let signature = if self.kind == SourceKind::Stripe {
            let begin = headers.len();
            write!(headers, "{now}")?;
            let mut signing = hmac::Context::with_key(&self.key);
            signing.update(&headers[begin..]);
            signing.update(b".");
            signing.update(body);
            headers.extend_from_slice(b",v1=");
            signing.sign()
        } else {
            let mut signing = self.signing.clone();
            signing.update(&body[self.body.first_place()..]);
            signing.sign()
        };
        let mut text = [0; 64];
        hex::encode_to_slice(signature, &mut text)?;
        headers.extend_from_slice(&text);
        headers.extend_from_slice(b"\r\n");
        Ok(())
    }
}

impl Template {
    fn new(text: String) -> Self {
        let places = text.match_indices(PLACE).map(|(at, _)| at..at + DIGITS);
        Self {
            places: places.collect(),
            text: text.into_bytes().into(),
        }
    }

    /// Where what differs begins.
    fn first_place(&self) -> usize {
        self.places.first().map_or(self.text.len(), |place| place.start)
    }

    fn fill(&self, digits: [u8; DIGITS], filled: &mut Vec<u8>) {
        filled.clear();
        filled.extend_from_slice(&self.text);
        for place in self.places.iter() {
            filled[place.clone()].copy_from_slice(&digits);
        }
    }
}

/// All of them, with zeros in front. By hand, as it is done for each request and formatting takes many times longer.
fn digits(number: u32) -> [u8; DIGITS] {
    let (mut digits, mut rest) = ([0; DIGITS], number as usize);
    for digit in digits.iter_mut().rev() {
        *digit = b"0123456789"[rest % 10];
        rest /= 10;
    }
    digits
}

impl Event {
    /// Its headers by name.
    pub(crate) fn headers(&self) -> impl Iterator<Item = (&str, &str)> {
        let lines = std::str::from_utf8(&self.headers).unwrap_or_default().lines();
        lines.filter_map(|line| line.split_once(": "))
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
            let [one, other] = [7, 4_000_000_000].map(|number| {
                // What was in the memory before is gone.
                let mut event = Event {
                    headers: b"x-event-id: 1\r\n".to_vec(),
                    body: b"{}".to_vec(),
                };
                events.make(number, 1, &mut event).unwrap();
                event
            });
            assert_eq!((one.body.len(), other.body.len()), (600, 600), "{kind}");
            assert_ne!(one.body, other.body);
            let lookup = |name: &'static str| {
                let found = one
                    .headers()
                    .find(|(header, _)| header.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.as_bytes())
            };
            let headers = EventHeaders::from_lookup(lookup);
            let envelope = inspect(kind, &headers, &one.body).unwrap();
            let id = format!("{}0000000007", events.prefix());
            assert_eq!(envelope.provider_event_id.as_deref(), Some(id.as_str()));
            for event in [one, other] {
                let signature = event.headers().last().unwrap().1;
                let (signed, prefix) = match kind {
                    SourceKind::Generic => (Vec::new(), ""),
                    SourceKind::Github => (Vec::new(), "sha256="),
                    SourceKind::Stripe => (b"1.".to_vec(), "t=1,v1="),
                };
                let tag = hmac::sign(&events.key, &[&signed[..], &event.body].concat());
                assert_eq!(signature, format!("{prefix}{}", hex::encode(tag)));
            }
        }
    }
}
