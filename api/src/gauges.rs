//! Gauges that are read when somebody scrapes: cache age, queue length, breaker.

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric as _};
use prometheus_client::metrics::gauge::ConstGauge;
use std::fmt;

use crate::ingest::Ingest;
use crate::registry::Registry;

/// Reads the present state at each scrape.
#[derive(Clone)]
pub(crate) struct Gauges {
    /// Whose age is shown.
    pub(crate) registry: Registry,
    /// Whose queue and breaker are shown.
    pub(crate) ingest: Ingest,
}

impl fmt::Debug for Gauges {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Gauges")
    }
}

impl Collector for Gauges {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let mut gauge = |name, help, value: f64| {
            let gauge = ConstGauge::new(value);
            gauge.encode(encoder.encode_descriptor(name, help, None, gauge.metric_type())?)
        };
        let age = self.registry.age().map_or(f64::INFINITY, |age| age.as_secs_f64());
        gauge(
            "configuration_age_seconds",
            "Time since tenants, sources and secrets were last known to be current.",
            age,
        )?;
        #[expect(clippy::cast_precision_loss, reason = "a queue is far shorter than 2^52")]
        let waiting = self.ingest.waiting() as f64;
        gauge(
            "ingest_queue_items",
            "Webhooks that wait for a database connection.",
            waiting,
        )?;
        gauge(
            "ingest_breaker_open",
            "1 while webhooks are answered 503 because the database is away.",
            f64::from(u8::from(self.ingest.breaker_open())),
        )
    }
}
