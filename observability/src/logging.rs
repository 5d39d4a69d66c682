//! The process's log and trace output: bunyan lines on stdout, spans to a collector.
//!
//! Does not own what is logged, nor the trace context that travels in messages (`propagation.rs`).

use std::time::Duration;

use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::{Resource, trace::SdkTracerProvider};
use tracing::{Event, Level, Metadata, Subscriber, level_filters::LevelFilter};
use tracing_bunyan_formatter::{BunyanFormattingLayer, JsonStorageLayer};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{FilterExt as _, FilterFn, filter_fn},
    fmt::{MakeWriter, writer::BoxMakeWriter},
    layer::{Context, SubscriberExt as _},
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

use crate::config::{DEFAULT_FILTER, TelemetryConfig, parse_filter};
use crate::lines::Lines;

/// Crates whose spans are never ours, and whose chatter is never logged: it would only repeat the exporter's and the
/// clients' inner life, payloads included.
const FOREIGN: [&str; 9] = [
    "opentelemetry",
    "tonic",
    "h2",
    "hyper",
    "tower",
    "reqwest",
    "amqprs",
    "tokio_postgres",
    "actix",
];

/// How long a process that ends waits for the reader of its log.
const LINES_FLUSHED_WITHIN: Duration = Duration::from_secs(1);

/// Why telemetry could not start.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    /// The filter does not parse; the text says which part.
    #[error("LOG__FILTER is wrong: {0}")]
    Filter(String),
    /// The exporter refused its address or settings. A collector that is down is no error.
    #[error("OTEL__EXPORTER_OTLP_ENDPOINT is wrong: {0}")]
    Exporter(#[from] opentelemetry_otlp::ExporterBuildError),
    /// No thread could be started for the log.
    #[error("the log can't be written: {0}")]
    Log(#[from] std::io::Error),
    /// Something in this process has set up logging already.
    #[error("logging is set up already: {0}")]
    AlreadySet(#[from] tracing_subscriber::util::TryInitError),
}

/// How lines come to standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Writing {
    /// Each is written before whoever logs it goes on: a process that is killed takes none with it.
    AtOnce,
    /// Those of a few milliseconds are one write, which a service with thousands of them a second needs; a process that is
    /// killed takes those with it.
    Together,
}

/// Keeps the exporter alive; hand it to [`Telemetry::shutdown`] at the end, or the last spans are lost.
#[must_use = "spans that wait are lost unless `shutdown` is awaited"]
#[derive(Debug)]
pub struct Telemetry {
    lines: Option<Lines>,
    spans: Option<SdkTracerProvider>,
    flush_timeout: Duration,
}

/// Starts logs, panic logs and, where enabled, traces, for the whole process. Call inside a multi-threaded
/// tokio runtime: the exporter runs on it.
///
/// Each event is one bunyan JSON line with the fields of all its spans. Spans themselves write no line: at
/// thousands of webhooks a second, a start and an end line each would be most of the log.
///
/// # Errors
/// [`TelemetryError`], whose text names the variable to correct.
pub fn init(
    service: &'static str,
    config: &TelemetryConfig,
    writing: Writing,
) -> Result<Telemetry, TelemetryError> {
    // On top of the default, so that `debug` does not bring back what is off for a reason.
    let filter = format!("{DEFAULT_FILTER},{}", config.log_filter);
    let filter = parse_filter(&filter).map_err(TelemetryError::Filter)?;
    let flush_timeout = Duration::from_millis(config.otel_timeout_ms);
    let spans = config
        .otel_enabled
        .then(|| tracer_provider(service, config))
        .transpose()?;

    let (lines, writer) = match writing {
        Writing::AtOnce => (None, BoxMakeWriter::new(std::io::stdout)),
        Writing::Together => {
            let lines = Lines::start(std::io::stdout())?;
            let writer = lines.clone();
            (Some(lines), BoxMakeWriter::new(move || writer.clone()))
        }
    };
    let mut layers: Vec<Box<dyn Layer<Registry> + Send + Sync>> =
        vec![log_layer(service, filter, writer).boxed()];
    if let Some(provider) = &spans {
        let tracer = provider.tracer("relayforge");
        let wanted = filter_fn(|meta| is_our_span(meta) || (meta.is_event() && *meta.level() <= Level::WARN));
        layers.push(
            tracing_opentelemetry::layer()
                .with_tracer(tracer)
                .with_filter(wanted.with_max_level_hint(LevelFilter::INFO))
                .boxed(),
        );
    }
    tracing_subscriber::registry().with(layers).try_init()?;
    log_panics(lines.clone());
    Ok(Telemetry {
        lines,
        spans,
        flush_timeout,
    })
}

impl Telemetry {
    /// Sends what spans wait, for at most `OTEL__EXPORTER_OTLP_TIMEOUT_MS`, and writes what lines do.
    pub async fn shutdown(mut self) {
        if let Some(spans) = self.spans.take() {
            self.send_spans(spans).await;
        }
        if let Some(lines) = &self.lines {
            lines.flush(LINES_FLUSHED_WITHIN);
        }
    }

    async fn send_spans(&self, provider: SdkTracerProvider) {
        let timeout = self.flush_timeout;
        // Blocks its thread, and the exporter needs the runtime's others meanwhile.
        let flush = tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(timeout));
        match tokio::time::timeout(timeout + Duration::from_secs(1), flush).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::warn!(%error, "the last spans were not sent"),
            Ok(Err(error)) => tracing::warn!(%error, "the last spans were not sent"),
            Err(_) => tracing::warn!("the last spans were not sent in time"),
        }
    }
}

fn tracer_provider(
    service: &'static str,
    config: &TelemetryConfig,
) -> Result<SdkTracerProvider, TelemetryError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(&config.otel_endpoint)
        .with_timeout(Duration::from_millis(config.otel_timeout_ms))
        .build()?;
    let resource = Resource::builder().with_service_name(service).build();
    // The SDK's default sampler follows the parent and keeps every root; its queue holds 2048 spans and
    // drops the newest beyond, so that a dead collector costs neither memory nor time.
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

/// Lines by `filter`; spans by [`is_our_span`] whatever the filter says, else `LOG__FILTER=warn` would take
/// `correlation_id` off the very lines one looks for.
fn log_layer<S, W>(service: &str, filter: EnvFilter, writer: W) -> impl Layer<S> + Send + Sync
where
    S: Subscriber + for<'a> LookupSpan<'a> + Send + Sync,
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    let spans: FilterFn = FilterFn::new(is_our_span as fn(&Metadata<'_>) -> bool);
    let bunyan = BunyanFormattingLayer::new(service.to_owned(), writer);
    JsonStorageLayer.and_then(EventsOnly(bunyan)).with_filter(
        filter
            .or(spans.with_max_level_hint(LevelFilter::INFO))
            .and(filter_fn(holds_no_payload)),
    )
}

/// Below `warn`, the clients of database and broker write what passes through them: bodies, parameters, secrets. No
/// filter lets that through.
fn holds_no_payload(meta: &Metadata<'_>) -> bool {
    *meta.level() <= Level::WARN || !is_foreign(meta.target())
}

fn is_foreign(target: &str) -> bool {
    FOREIGN.iter().any(|name| target.starts_with(name))
}

fn is_our_span(meta: &Metadata<'_>) -> bool {
    meta.is_span() && *meta.level() <= Level::INFO && !is_foreign(meta.target())
}

/// Passes events on and keeps span starts and ends to itself.
struct EventsOnly<L>(L);

impl<S: Subscriber, L: Layer<S>> Layer<S> for EventsOnly<L> {
    fn on_event(&self, event: &Event<'_>, context: Context<'_, S>) {
        self.0.on_event(event, context);
    }
}

/// A panic becomes one error line like any other, instead of text on stderr that no log reader parses.
fn log_panics(lines: Option<Lines>) {
    std::panic::set_hook(Box::new(move |info| {
        let location = info.location().map(ToString::to_string).unwrap_or_default();
        let reason = info.payload_as_str().unwrap_or("not a text");
        tracing::error!(panic.location = location, panic.reason = reason, "panicked");
        // It may be the last thing that this process does.
        if let Some(lines) = &lines {
            lines.flush(LINES_FLUSHED_WITHIN);
        }
    }));
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::{Arc, Mutex};

    use serde_json::Value;

    use super::*;
    use crate::config::AppEnv;
    use crate::propagation::TraceContext;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(filter: &str, run: impl FnOnce()) -> Vec<Value> {
        let lines = Lines::default();
        let writer = lines.clone();
        let layer = log_layer("test", parse_filter(filter).unwrap(), move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), run);
        let bytes = lines.0.lock().unwrap().clone();
        let text = String::from_utf8(bytes).unwrap();
        text.lines()
            .map(|line| serde_json::from_str(line).unwrap())
            .collect()
    }

    #[test]
    fn no_filter_lets_the_clients_write_what_passes_through_them() {
        for filter in ["trace", "debug", "trace,tokio_postgres=trace,amqprs=trace"] {
            let lines = logged(filter, || {
                tracing::debug!(target: "tokio_postgres::prepare", "parameters: hunter2");
                tracing::info!(target: "amqprs::frame", "body: hunter2");
                tracing::warn!(target: "tokio_postgres", "a warning");
                tracing::debug!(target: "api::ingest", "ours");
            });
            let said: Vec<&str> = lines.iter().map(|line| line["msg"].as_str().unwrap()).collect();
            assert_eq!(said.len(), 2, "{filter}: {said:?}");
            assert!(!said.iter().any(|line| line.contains("hunter2")), "{said:?}");
        }
    }

    #[test]
    fn a_line_is_bunyan_and_carries_the_fields_of_all_its_spans() {
        let lines = logged(DEFAULT_FILTER, || {
            let outer = tracing::info_span!("request", correlation_id = "c-1");
            let _outer = outer.enter();
            let _inner = tracing::info_span!("job", job.id = 7).entered();
            tracing::info!(tenant.id = "t", "done");
        });
        assert_eq!(lines.len(), 1, "spans write no lines: {lines:?}");
        let line = &lines[0];
        assert_eq!(
            (&line["name"], &line["v"], &line["level"]),
            (&"test".into(), &0.into(), &30.into())
        );
        assert!(line["time"].is_string() && line["pid"].is_number() && line["hostname"].is_string());
        assert!(line["msg"].as_str().unwrap().ends_with("done"));
        assert_eq!(line["correlation_id"], "c-1");
        assert_eq!(line["job.id"], 7);
        assert_eq!(line["tenant.id"], "t");
    }

    #[test]
    fn a_filter_above_info_keeps_the_correlation_id() {
        let lines = logged("warn", || {
            let _span = tracing::info_span!("request", correlation_id = "c-2").entered();
            tracing::info!("not wanted");
            tracing::warn!("wanted");
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
        assert_eq!(lines[0]["correlation_id"], "c-2");
    }

    #[test]
    fn the_default_filter_silences_the_noisy_clients() {
        let lines = logged(DEFAULT_FILTER, || {
            tracing::error!(target: "h2::codec", "no");
            tracing::error!(target: "amqprs::net", "no");
            tracing::info!(target: "tokio_postgres::connection", "no");
            tracing::warn!(target: "tokio_postgres::connection", "yes");
        });
        assert_eq!(lines.len(), 1, "{lines:?}");
    }

    /// The only test that sets the global subscriber.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_dead_collector_costs_bounded_time_and_the_trace_goes_on() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let config = TelemetryConfig {
            app_env: AppEnv::Development,
            log_filter: "off".into(),
            otel_enabled: true,
            otel_endpoint: format!("http://{closed}"),
            otel_timeout_ms: 1000,
        };
        let telemetry = init("test", &config, Writing::AtOnce).unwrap();

        let incoming = TraceContext {
            traceparent: Some("00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01".into()),
            tracestate: Some("vendor=1".into()),
            baggage: Some("tenant=acme".into()),
        };
        let span = tracing::info_span!("request");
        incoming.set_parent_of(&span);
        let child = span.in_scope(|| tracing::info_span!("child"));
        let outgoing = TraceContext::of_span(&child);
        let traceparent = outgoing.traceparent.unwrap();
        assert!(
            traceparent.starts_with("00-0af7651916cd43dd8448eb211c80319c-"),
            "{traceparent}"
        );
        assert!(
            !traceparent.contains("b7ad6b7169203331"),
            "a new span id: {traceparent}"
        );
        assert_eq!(outgoing.tracestate.as_deref(), Some("vendor=1"));
        assert_eq!(outgoing.baggage.as_deref(), Some("tenant=acme"));
        drop((child, span));

        assert!(matches!(
            init("test", &config, Writing::AtOnce),
            Err(TelemetryError::AlreadySet(_))
        ));
        tokio::time::timeout(Duration::from_secs(3), telemetry.shutdown())
            .await
            .unwrap();
    }

    #[test]
    fn a_wrong_filter_names_its_variable() {
        let config = TelemetryConfig {
            app_env: AppEnv::Production,
            log_filter: "info,relay=loud".into(),
            otel_enabled: false,
            otel_endpoint: "http://127.0.0.1:4317".into(),
            otel_timeout_ms: 1000,
        };
        let error = init("test", &config, Writing::AtOnce).unwrap_err().to_string();
        assert!(
            error.contains("LOG__FILTER") && error.contains("relay=loud"),
            "{error}"
        );
    }
}
