//! W3C trace context and correlation ids as they cross HTTP headers, outbox rows and AMQP headers.
//!
//! Owns what is taken from a stranger and how much of it. Does not own where it is stored.

use std::collections::HashMap;

use opentelemetry::{
    Context,
    propagation::{TextMapCompositePropagator, TextMapPropagator as _},
    trace::TraceContextExt as _,
};
use opentelemetry_sdk::propagation::{BaggagePropagator, TraceContextPropagator};
use serde::{Deserialize, Serialize};
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt as _;

/// Bound of the three headers together, in bytes: they are copied into every row and message of a job.
const MAX_CONTEXT_BYTES: usize = 4096;

/// Bound of a correlation id, in bytes.
const MAX_CORRELATION_ID_BYTES: usize = 128;

/// The three W3C headers that tie one job's spans together, from provider to last retry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TraceContext {
    /// Trace id, parent span id and flags.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// What tracing vendors add; means nothing without `traceparent`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tracestate: Option<String>,
    /// Key and value pairs of the caller.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub baggage: Option<String>,
}

impl TraceContext {
    /// Whether there is nothing to pass on.
    pub fn is_empty(&self) -> bool {
        self.traceparent.is_none() && self.tracestate.is_none() && self.baggage.is_none()
    }

    /// Makes `span` a child of this context. To be called before the span is first entered: afterwards, and
    /// while traces are off, it has no effect.
    pub fn set_parent_of(&self, span: &Span) {
        if self.is_empty() {
            return;
        }
        let carrier: HashMap<String, String> = [
            ("traceparent", &self.traceparent),
            ("tracestate", &self.tracestate),
            ("baggage", &self.baggage),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value.clone()?)))
        .collect();
        let parent = propagator().extract_with_context(&Context::new(), &carrier);
        // Err says that traces are off or the span is not recorded: nothing to tie together then.
        let _ = span.set_parent(parent);
    }

    /// The context that makes others children of `span`. Empty when traces are off or `span` is not recorded:
    /// pass on the incoming context then, so that the chain holds for those who do trace.
    pub fn of_span(span: &Span) -> TraceContext {
        let context = span.context();
        if !context.span().span_context().is_valid() {
            return TraceContext::default();
        }
        let mut carrier = HashMap::new();
        propagator().inject_context(&context, &mut carrier);
        let mut take = |name: &str| carrier.remove(name).filter(|value| !value.is_empty());
        TraceContext {
            traceparent: take("traceparent"),
            tracestate: take("tracestate"),
            baggage: take("baggage"),
        }
    }

    /// What of a stranger's headers may be stored and passed on: nothing if they exceed 4 KiB together or hold
    /// anything but printable ASCII; no `tracestate` without a well-formed `traceparent`.
    #[must_use]
    pub fn sanitised(self) -> TraceContext {
        let values = [&self.traceparent, &self.tracestate, &self.baggage];
        let bytes: usize = values
            .iter()
            .filter_map(|value| value.as_ref())
            .map(String::len)
            .sum();
        let printable = |value: &String| value.bytes().all(|byte| byte == b' ' || byte.is_ascii_graphic());
        if bytes > MAX_CONTEXT_BYTES || !values.into_iter().flatten().all(printable) {
            return TraceContext::default();
        }
        let traceparent = self.traceparent.filter(|value| is_traceparent(value));
        let tracestate = self
            .tracestate
            .filter(|value| traceparent.is_some() && !value.is_empty());
        TraceContext {
            traceparent,
            tracestate,
            baggage: self.baggage.filter(|value| !value.is_empty()),
        }
    }
}

fn propagator() -> TextMapCompositePropagator {
    TextMapCompositePropagator::new(vec![
        Box::new(TraceContextPropagator::new()),
        Box::new(BaggagePropagator::new()),
    ])
}

/// `version-traceid-parentid-flags` in lower-case hex; later versions may append parts.
fn is_traceparent(value: &str) -> bool {
    let mut parts = value.split('-');
    let mut hex = |length: usize| {
        parts.next().is_some_and(|part| {
            part.len() == length && part.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
        })
    };
    hex(2) && hex(32) && hex(16) && hex(2)
}

/// Whether a caller's correlation id may be kept: 1 to 128 bytes of visible ASCII.
pub fn sane_correlation_id(id: &str) -> bool {
    (1..=MAX_CORRELATION_ID_BYTES).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

    fn context(traceparent: &str, tracestate: &str, baggage: &str) -> TraceContext {
        TraceContext {
            traceparent: Some(traceparent.into()),
            tracestate: Some(tracestate.into()),
            baggage: Some(baggage.into()),
        }
    }

    #[test]
    fn a_context_of_4_kib_stays_and_one_byte_more_drops_it_whole() {
        let room = MAX_CONTEXT_BYTES - TRACEPARENT.len() - "a=1, b=2".len();
        let fits = context(TRACEPARENT, "a=1, b=2", &"b".repeat(room));
        assert_eq!(fits.clone().sanitised(), fits);
        let over = context(TRACEPARENT, "a=1, b=2", &"b".repeat(room + 1));
        assert!(over.sanitised().is_empty());
    }

    #[test]
    fn anything_but_printable_ascii_drops_the_context_whole() {
        for bad in ["a=ü", "a=\n", "a=\u{0}", "a=\t", "a=\u{7f}"] {
            assert!(context(TRACEPARENT, bad, "k=v").sanitised().is_empty(), "{bad:?}");
        }
    }

    #[test]
    fn a_malformed_traceparent_takes_its_tracestate_with_it() {
        for bad in [
            "",
            "garbage",
            "00-0AF7651916CD43DD8448EB211C80319C-b7ad6b7169203331-01",
            "00-1-2-01",
        ] {
            let kept = context(bad, "a=1", "k=v").sanitised();
            assert_eq!(
                kept,
                TraceContext {
                    baggage: Some("k=v".into()),
                    ..TraceContext::default()
                },
                "{bad}"
            );
        }
    }

    #[test]
    fn a_stored_context_reads_back_and_an_empty_one_is_an_empty_object() {
        let full = context(TRACEPARENT, "a=1", "k=v");
        let json = serde_json::to_string(&full).unwrap();
        assert_eq!(serde_json::from_str::<TraceContext>(&json).unwrap(), full);
        assert_eq!(serde_json::to_string(&TraceContext::default()).unwrap(), "{}");
        assert!(serde_json::from_str::<TraceContext>("{}").unwrap().is_empty());
    }

    #[test]
    fn correlation_ids_are_1_to_128_visible_bytes() {
        for good in ["x", "018f-req:7/é".split('é').next().unwrap(), &"c".repeat(128)] {
            assert!(sane_correlation_id(good), "{good}");
        }
        for bad in ["", "a b", "a\n", "ü", &"c".repeat(129)] {
            assert!(!sane_correlation_id(bad), "{bad:?}");
        }
    }

    #[test]
    fn a_span_that_nothing_records_has_no_context() {
        assert!(TraceContext::of_span(&Span::none()).is_empty());
    }
}
