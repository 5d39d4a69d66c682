//! What providers send: real payloads with their headers, made new by a fresh event id, and signed as the provider signs.
//!
//! Owns the fixtures and the three signature schemes from the sender's side. `client.rs` sends them.

use ring::hmac;
use serde_json::{Map, Value};
use sql::event::SourceKind;
use uuid::Uuid;

/// A payload as a provider really sends it.
#[derive(Debug, Clone, Copy)]
pub struct Fixture {
    /// What happened, as the DomainEvent will say it.
    pub event_type: &'static str,
    /// Who sends it; also the name of the source.
    pub kind: SourceKind,
    body: &'static str,
    headers: &'static str,
}

macro_rules! fixture {
    ($event_type:literal, $kind:ident, $file:literal) => {
        Fixture {
            event_type: $event_type,
            kind: SourceKind::$kind,
            body: include_str!(concat!("../fixtures/", $file, ".json")),
            headers: include_str!(concat!("../fixtures/", $file, ".headers.json")),
        }
    };
}

/// An order of a shop that speaks the generic scheme.
pub const ORDER_CREATED: Fixture = fixture!("order.created", Generic, "order.created");
/// GitHub: three commits on a branch.
pub const PUSH: Fixture = fixture!("push", Github, "push");
/// GitHub: a pull request is opened.
pub const PULL_REQUEST: Fixture = fixture!("pull_request.opened", Github, "pull_request");
/// Stripe: a subscription's invoice.
pub const INVOICE_PAID: Fixture = fixture!("invoice.paid", Stripe, "invoice.paid");
/// Stripe: the payment of an order.
pub const PAYMENT_INTENT_SUCCEEDED: Fixture =
    fixture!("payment_intent.succeeded", Stripe, "payment_intent.succeeded");

/// A request, but for where it goes.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Headers in the order they are sent.
    pub headers: Vec<(String, String)>,
    /// The bytes that are signed.
    pub body: Vec<u8>,
    /// The provider's id of the event.
    pub event_id: String,
}

impl Fixture {
    /// The recorded request, without a signature.
    pub fn recorded(&self) -> Delivery {
        let headers: Map<String, Value> = serde_json::from_str(self.headers).unwrap_or_default();
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let headers: Vec<(String, String)> = headers
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), text(value)?)))
            .collect();
        let event_id = match id_header(self.kind) {
            Some(header) => headers
                .iter()
                .find(|(name, _)| name == header)
                .map(|(_, id)| id.clone()),
            None => serde_json::from_str::<Value>(self.body)
                .ok()
                .and_then(|body| text(&body["id"])),
        };
        Delivery {
            headers,
            body: self.body.as_bytes().to_vec(),
            event_id: event_id.unwrap_or_default(),
        }
    }

    /// The same event under a new id, of the form that the provider gives its ids.
    pub fn fresh(&self) -> Delivery {
        let random = Uuid::new_v4();
        self.with_event_id(&match self.kind {
            SourceKind::Generic => format!("shop-evt-{}", random.simple()),
            SourceKind::Github => random.to_string(),
            SourceKind::Stripe => format!("evt_{}", random.simple()),
        })
    }

    /// The same event under another id; every other byte stays.
    pub fn with_event_id(&self, id: &str) -> Delivery {
        let mut delivery = self.recorded();
        match id_header(self.kind) {
            Some(header) => delivery.set_header(header, id),
            None => delivery.body = self.body.replace(&delivery.event_id, id).into_bytes(),
        }
        id.clone_into(&mut delivery.event_id);
        delivery
    }
}

/// Where the provider puts the id of an event; none where it is in the body.
fn id_header(kind: SourceKind) -> Option<&'static str> {
    match kind {
        SourceKind::Generic => Some("x-event-id"),
        SourceKind::Github => Some("x-github-delivery"),
        SourceKind::Stripe => None,
    }
}

impl Delivery {
    /// Sets a header, in place of an earlier value.
    pub fn set_header(&mut self, name: &str, value: &str) {
        self.headers
            .retain(|(other, _)| !other.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.to_owned()));
    }

    /// The same with a further header.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: &str) -> Self {
        self.set_header(name, value);
        self
    }

    /// The same, signed now.
    #[must_use]
    pub fn signed(self, kind: SourceKind, secret: &str) -> Self {
        self.signed_at(kind, secret, chrono::Utc::now().timestamp())
    }

    /// The same, signed at `now` (unix seconds; of no matter to schemes without a timestamp).
    #[must_use]
    pub fn signed_at(mut self, kind: SourceKind, secret: &str, now: i64) -> Self {
        let (name, value) = match kind {
            SourceKind::Generic => ("X-Signature", hmac_hex(secret, &[&self.body])),
            SourceKind::Github => (
                "X-Hub-Signature-256",
                format!("sha256={}", hmac_hex(secret, &[&self.body])),
            ),
            SourceKind::Stripe => {
                let signature = hmac_hex(secret, &[now.to_string().as_bytes(), b".", &self.body]);
                ("Stripe-Signature", format!("t={now},v1={signature}"))
            }
        };
        self.set_header(name, &value);
        self
    }
}

fn hmac_hex(secret: &str, parts: &[&[u8]]) -> String {
    let mut context = hmac::Context::with_key(&hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes()));
    for part in parts {
        context.update(part);
    }
    hex::encode(context.sign())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: [Fixture; 5] = [
        ORDER_CREATED,
        PUSH,
        PULL_REQUEST,
        INVOICE_PAID,
        PAYMENT_INTENT_SUCCEEDED,
    ];

    #[test]
    fn a_fresh_event_differs_from_the_recorded_one_in_its_id_alone() {
        for fixture in ALL {
            let (recorded, fresh) = (fixture.recorded(), fixture.fresh());
            assert!(!recorded.event_id.is_empty(), "{fixture:?}");
            assert_ne!(recorded.event_id, fresh.event_id);
            let restored = String::from_utf8(fresh.body)
                .unwrap()
                .replace(&fresh.event_id, &recorded.event_id);
            assert_eq!(restored.as_bytes(), recorded.body);
            assert_eq!(fresh.headers.len(), recorded.headers.len());
            serde_json::from_slice::<Value>(&recorded.body).unwrap();
        }
    }

    /// RFC 4231, test case 2, in each provider's words.
    #[test]
    fn signatures_are_what_the_providers_make() {
        const DIGEST: &str = "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843";
        let delivery = Delivery {
            headers: Vec::new(),
            body: b"what do ya want for nothing?".to_vec(),
            event_id: String::new(),
        };
        let header = |kind| delivery.clone().signed_at(kind, "Jefe", 1).headers.remove(0);
        assert_eq!(
            header(SourceKind::Generic),
            ("X-Signature".to_owned(), DIGEST.to_owned())
        );
        assert_eq!(
            header(SourceKind::Github),
            ("X-Hub-Signature-256".to_owned(), format!("sha256={DIGEST}"))
        );
        let (name, value) = header(SourceKind::Stripe);
        assert_eq!(name, "Stripe-Signature");
        assert!(
            value.starts_with("t=1,v1=") && value.len() == "t=1,v1=".len() + 64,
            "{value}"
        );
    }
}
