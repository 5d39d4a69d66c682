//! What is known of each request: correlation id, span, log line, metrics; and the last word on refusals, which become
//! problem documents here, where the correlation id is known.

use std::sync::Arc;
use std::time::Instant;

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::StatusCode;
use actix_web::http::header::{HeaderMap, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, web};
use observability::propagation::{TraceContext, sane_correlation_id};
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use sql::ingest::Ingested;
use tracing::Instrument as _;
use uuid::Uuid;

use crate::error::ApiError;
use crate::server::{AppState, ROUTES};

/// Joins log lines; taken from the request if it is sane, else made.
pub const X_CORRELATION_ID: HeaderName = HeaderName::from_static("x-correlation-id");

/// Route of requests that match none: one label value, whatever the path.
const UNMATCHED: &str = "unmatched";

/// Upper bounds of the latency histogram, in seconds: fine around the 5 and 10 ms goals, coarse to the deadline.
const BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.0075, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0,
];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RequestLabels {
    route: &'static str,
    method: &'static str,
    status: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct RouteLabel {
    route: &'static str,
    method: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabel {
    source: String,
}

/// Metrics of requests and of the jobs that they make.
#[derive(Debug, Clone)]
pub struct RequestMetrics {
    requests: Family<RequestLabels, Counter>,
    duration: Family<RouteLabel, Histogram>,
    jobs_created: Family<SourceLabel, Counter>,
}

impl Default for RequestMetrics {
    fn default() -> Self {
        Self {
            requests: Family::default(),
            duration: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            jobs_created: Family::default(),
        }
    }
}

impl RequestMetrics {
    /// Registers the families under their names; the encoder adds `_total`.
    pub fn register(&self, registry: &mut Registry) {
        registry.register(
            "http_requests",
            "Requests answered, by route pattern, method and status",
            self.requests.clone(),
        );
        registry.register(
            "http_request_duration_seconds",
            "Time from a request's head to its answer, by route pattern and method",
            self.duration.clone(),
        );
        registry.register(
            "jobs_created",
            "Jobs created by new events, by source",
            self.jobs_created.clone(),
        );
    }

    /// Counts a new event. `source` is one of the registry's.
    pub fn job_created(&self, source: &str) {
        self.jobs_created
            .get_or_create(&SourceLabel {
                source: source.to_owned(),
            })
            .inc();
    }

    fn answered(&self, route: &'static str, method: &'static str, status: u16, seconds: f64) {
        self.requests
            .get_or_create(&RequestLabels {
                route,
                method,
                status,
            })
            .inc();
        self.duration
            .get_or_create(&RouteLabel { route, method })
            .observe(seconds);
    }
}

/// What handlers may use of the request's identity.
#[derive(Debug, Clone)]
pub struct RequestContext {
    /// Of the request, or made for it.
    pub correlation_id: Arc<str>,
    incoming: TraceContext,
    span: tracing::Span,
}

impl RequestContext {
    /// Of a request that has passed [`request_telemetry`].
    pub fn of(request: &HttpRequest) -> Self {
        request
            .extensions()
            .get::<Self>()
            .cloned()
            .unwrap_or_else(|| Self {
                correlation_id: Uuid::now_v7().to_string().into(),
                incoming: TraceContext::default(),
                span: tracing::Span::none(),
            })
    }

    /// What jobs of this request carry on: our span, or the caller's context while traces are off.
    pub fn outgoing_trace(&self) -> TraceContext {
        let own = TraceContext::of_span(&self.span);
        if own.is_empty() {
            self.incoming.clone()
        } else {
            own
        }
    }
}

/// What a webhook handler found out, for the log line.
#[derive(Debug, Clone, Default)]
pub struct Findings {
    /// The tenant, if it exists.
    pub tenant_id: Option<Uuid>,
    /// The source, if it exists.
    pub source: Option<String>,
    event_id: Option<Uuid>,
    job_id: Option<Uuid>,
    deduped: Option<bool>,
}

impl Findings {
    /// Takes the ids of an answer.
    pub fn record(&mut self, outcome: &Ingested) {
        match outcome {
            Ingested::Accepted { ids } | Ingested::Duplicate { ids } => {
                self.event_id = Some(ids.event_id);
                self.job_id = ids.job_id;
                self.deduped = Some(matches!(outcome, Ingested::Duplicate { .. }));
            }
            Ingested::Replay { event_id, job_id } => {
                self.event_id = Some(*event_id);
                self.job_id = *job_id;
            }
            _ => {}
        }
    }
}

/// Wraps every request: identity before the handler; metrics, log line and problem document after it.
///
/// # Errors
/// None of its own: a handler's error has become a response when it gets here.
pub async fn request_telemetry(
    request: ServiceRequest,
    next: Next<impl MessageBody + 'static>,
) -> Result<ServiceResponse<BoxBody>, actix_web::Error> {
    let started = Instant::now();
    let state = request.app_data::<web::Data<AppState>>().cloned();
    let method = method_label(&request);
    let correlation_id = correlation_id(request.headers());
    let incoming = incoming_trace(request.headers());
    let span = tracing::info_span!("http request", otel.kind = "server", correlation_id = %correlation_id,
        http.request.method = method);
    incoming.set_parent_of(&span);
    let context = RequestContext {
        correlation_id: Arc::clone(&correlation_id),
        incoming,
        span: span.clone(),
    };
    request.extensions_mut().insert(context);

    let mut response = match next.call(request).instrument(span.clone()).await {
        Ok(response) => response.map_into_boxed_body(),
        // Only our own wrapping could fail here; handlers' errors arrive as responses.
        Err(error) => return Err(error),
    };
    if let Some(problem) = problem_of(response.response()) {
        let rendered = problem.render(&correlation_id);
        response = response.into_response(rendered);
    }
    if let Ok(value) = HeaderValue::from_str(&correlation_id) {
        response.headers_mut().insert(X_CORRELATION_ID, value);
    }
    let route = route_label(response.request());
    if let Some(state) = state {
        state.metrics.answered(
            route,
            method,
            response.status().as_u16(),
            started.elapsed().as_secs_f64(),
        );
    }
    span.in_scope(|| log_line(&response, route, started));
    Ok(response)
}

/// The refusal behind a response, if it is one; also of what the framework refused by itself.
fn problem_of(response: &HttpResponse) -> Option<ApiError> {
    if let Some(error) = response.error() {
        if let Some(problem) = error.as_error::<ApiError>() {
            return Some(problem.clone());
        }
        let status = error.as_response_error().status_code();
        if status.is_server_error() {
            tracing::error!(%error, "a request failed");
            return Some(ApiError::Internal);
        }
        return Some(ApiError::Framework(status.as_u16(), error.to_string()));
    }
    match response.status() {
        StatusCode::NOT_FOUND => Some(ApiError::NotFound),
        _ => None,
    }
}

fn log_line(response: &ServiceResponse<BoxBody>, route: &str, started: Instant) {
    // Probes and scrapes every few seconds would drown what matters.
    if matches!(route, "/healthz" | "/readyz" | "/metrics") && response.status().is_success() {
        return;
    }
    let found = response
        .request()
        .extensions()
        .get::<Findings>()
        .cloned()
        .unwrap_or_default();
    let error = response.response().error();
    let code = error
        .and_then(|error| error.as_error::<ApiError>())
        .map(|problem| problem.verdict().1);
    let duration_ms = started.elapsed().as_secs_f64() * 1000.0;
    let id = |id: Option<Uuid>| id.map(tracing::field::display);
    tracing::info!(
        http.route = route,
        http.response.status_code = response.status().as_u16(),
        duration_ms,
        code,
        source = found.source,
        deduped = found.deduped,
        tenant.id = id(found.tenant_id),
        event.id = id(found.event_id),
        job.id = id(found.job_id),
        "answered"
    );
}

/// The pattern of the request's route: one of the server's table, so that there are as many label values as routes.
fn route_label(request: &HttpRequest) -> &'static str {
    let pattern = request.match_pattern();
    let known = ROUTES
        .into_iter()
        .find(|route| pattern.as_deref() == Some(*route));
    known.unwrap_or(UNMATCHED)
}

fn method_label(request: &ServiceRequest) -> &'static str {
    match request.method().as_str() {
        "GET" => "GET",
        "POST" => "POST",
        "PUT" => "PUT",
        "PATCH" => "PATCH",
        "DELETE" => "DELETE",
        "HEAD" => "HEAD",
        "OPTIONS" => "OPTIONS",
        _ => "other",
    }
}

fn correlation_id(headers: &HeaderMap) -> Arc<str> {
    match headers
        .get(X_CORRELATION_ID)
        .and_then(|value| value.to_str().ok())
    {
        Some(id) if sane_correlation_id(id) => id.into(),
        _ => Uuid::now_v7().to_string().into(),
    }
}

fn incoming_trace(headers: &HeaderMap) -> TraceContext {
    let text = |name: &str| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned)
    };
    TraceContext {
        traceparent: text("traceparent"),
        tracestate: text("tracestate"),
        baggage: text("baggage"),
    }
    .sanitised()
}
