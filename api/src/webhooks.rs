//! `POST /webhooks/{source}` and `POST /webhooks/{source}/{tenant}`: the order of checks, from body size to the answer.
//! Verification is in `signature.rs`, the event's shape in `sql::event`, the transaction behind `ingest.rs`.

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use actix_web::http::header::{self, HeaderMap, HeaderValue};
use actix_web::{HttpMessage as _, HttpRequest, HttpResponse, web};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use observability::propagation::TraceContext;
use serde::Serialize;
use serde_json::value::RawValue;
use sql::config::{Source, Tenant};
use sql::event::{EventHeaders, inspect, stored_headers};
use sql::ingest::{Fingerprint, Ingested};
use sql::traffic::What;
use tokio::time::timeout;
use uuid::Uuid;

use crate::error::ApiError;
use crate::ingest::Webhook;
use crate::rate_limit::{Admission, Sender};
use crate::registry::Snapshot;
use crate::server::AppState;
use crate::signature::verify;
use crate::telemetry::{Findings, RequestContext};

/// Names the tenant where the path does not.
pub const X_TENANT_ID: &str = "X-Tenant-Id";

/// How long a body may take to arrive.
const BODY_TIMEOUT: Duration = Duration::from_secs(10);

/// Takes a webhook in. Refusals are counted by cause, with the tenant and source found until then.
///
/// # Errors
/// [`ApiError`], in the order of checks: size, ingress limit, tenant, source, secret, signature, freshness, tenant rate,
/// shape, then what the database says.
pub async fn receive(
    request: HttpRequest,
    path: web::Path<WebhookPath>,
    payload: web::Payload,
    state: web::Data<AppState>,
) -> Result<HttpResponse, ApiError> {
    let mut found = Findings::default();
    let result = accept(&request, &path, payload, &state, &mut found).await;
    if let Err(error) = &result {
        let (_, code) = error.verdict();
        state
            .rejections
            .count(code, found.source.as_deref(), found.tenant_id);
    }
    request.extensions_mut().insert(found);
    result
}

/// The parts of the route.
#[derive(Debug, serde::Deserialize)]
pub struct WebhookPath {
    source: String,
    tenant: Option<String>,
}

async fn accept(
    request: &HttpRequest,
    path: &WebhookPath,
    payload: web::Payload,
    state: &AppState,
    found: &mut Findings,
) -> Result<HttpResponse, ApiError> {
    let limit = state.config.hardening.max_body_bytes;
    refuse_announced_size(request.headers(), limit)?;
    let tenant_header = tenant_header(request.headers())?;
    let named = path.tenant.as_deref().or(tenant_header);
    let sender = Sender::new(peer(request), named.unwrap_or_default(), &path.source);
    let admission = state
        .ingress
        .admit(sender, Instant::now())
        .map_err(ingress_limited)?;
    let body = read_body(payload, limit).await?;

    let snapshot = state
        .registry
        .snapshot()
        .ok_or(ApiError::Unavailable("the configuration is not loaded"))?;
    let tenant = resolve_tenant(&snapshot, path.tenant.as_deref(), tenant_header, state)?;
    found.tenant_id = Some(tenant.id);
    if tenant.suspended {
        return Err(ApiError::TenantSuspended);
    }
    let source = snapshot.source(&path.source).ok_or(ApiError::UnknownSource)?;
    found.source = Some(source.name.clone());

    let webhook = verified_webhook(
        request,
        body,
        &snapshot,
        tenant,
        source,
        (sender, admission),
        state,
    )?;
    let (tenant_id, secret_id) = (tenant.id, webhook.secret_id);
    let outcome = state.ingest.submit(webhook).await?;
    found.record(&outcome);
    let what = match outcome {
        Ingested::Accepted { .. } => Some(What::Accepted),
        Ingested::Duplicate { .. } => Some(What::Duplicate),
        _ => None,
    };
    if let Some(what) = what {
        state.traffic.count(tenant_id, &source.name, what, secret_id);
    }
    answer(outcome, source, state)
}

/// 413 before a byte is read, where the sender says how much will come.
fn refuse_announced_size(headers: &HeaderMap, limit: u32) -> Result<(), ApiError> {
    let announced = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok()?.parse::<u64>().ok());
    match announced {
        Some(bytes) if bytes > u64::from(limit) => Err(ApiError::BodyTooLarge { limit }),
        _ => Ok(()),
    }
}

async fn read_body(payload: web::Payload, limit: u32) -> Result<Bytes, ApiError> {
    match timeout(BODY_TIMEOUT, payload.to_bytes_limited(limit as usize)).await {
        Err(_) => Err(ApiError::BodyTimeout {
            seconds: BODY_TIMEOUT.as_secs(),
        }),
        Ok(Err(_)) => Err(ApiError::BodyTooLarge { limit }),
        Ok(Ok(Err(_))) => Err(ApiError::BodyUnreadable),
        Ok(Ok(Ok(body))) => Ok(body),
    }
}

fn peer(request: &HttpRequest) -> IpAddr {
    request
        .peer_addr()
        .map_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED), |address| address.ip())
}

fn tenant_header(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let mut values = headers.get_all(X_TENANT_ID);
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(ApiError::InvalidTenant("X-Tenant-Id was sent more than once"));
    }
    value
        .to_str()
        .map(|text| Some(text.trim()))
        .map_err(|_| ApiError::InvalidTenant("X-Tenant-Id is no text"))
}

/// The tenant of the path or of the header, which must not name two; else the default one.
fn resolve_tenant<'a>(
    snapshot: &'a Snapshot,
    in_path: Option<&str>,
    in_header: Option<&str>,
    state: &AppState,
) -> Result<&'a Tenant, ApiError> {
    let Some(name) = in_path.or(in_header) else {
        return snapshot
            .tenant_by_id(state.config.webhooks.default_tenant_id)
            .ok_or(ApiError::UnknownTenant);
    };
    let tenant = snapshot.tenant(name);
    if let (Some(path), Some(header)) = (in_path, in_header)
        && path != header
        && tenant.map(|t| t.id) != snapshot.tenant(header).map(|t| t.id)
    {
        return Err(ApiError::InvalidTenant(
            "X-Tenant-Id contradicts the tenant in the path",
        ));
    }
    tenant.ok_or(ApiError::UnknownTenant)
}

/// Signature, freshness, the tenant's rate, then the shape: nothing an unsigned caller sends costs a tenant anything.
fn verified_webhook(
    request: &HttpRequest,
    body: Bytes,
    snapshot: &Snapshot,
    tenant: &Tenant,
    source: &Source,
    (sender, admission): (Sender, Admission),
    state: &AppState,
) -> Result<Webhook, ApiError> {
    let headers = request.headers();
    let ring = snapshot
        .keys(tenant.id, &source.name)
        .ok_or(ApiError::SecretMissing)?;
    let tolerance = state.config.webhooks.stripe_tolerance_seconds;
    let now = Instant::now();
    let verified = verify(
        source.kind,
        &ring.keys,
        headers,
        &body,
        Utc::now().timestamp(),
        tolerance,
    )
    .inspect_err(|_| state.ingress.forged(sender, admission, now))?;
    state
        .ingress
        .verified(sender, admission, now)
        .map_err(ingress_limited)?;
    let hardening = &state.config.hardening;
    let rate = tenant.rate_per_second.unwrap_or(hardening.tenant_rate_per_second);
    let burst = tenant.rate_burst.unwrap_or(hardening.tenant_rate_burst);
    state
        .tenants
        .admit(tenant.id, rate, burst, now)
        .map_err(|wait| ApiError::TenantRateLimited {
            retry_after: whole_seconds(wait),
        })?;

    let lookup = |name: &'static str| headers.get(name).map(HeaderValue::as_bytes);
    let event_headers = EventHeaders::from_lookup(lookup);
    let envelope = inspect(source.kind, &event_headers, &body)
        .map_err(ApiError::from)
        .and_then(|envelope| match envelope.provider_event_id {
            None if source.event_id_required => Err(ApiError::EventIdRequired),
            _ => Ok(envelope),
        })
        .inspect_err(|error| {
            let (_, cause) = error.verdict();
            state
                .rejections
                .sample(cause, &source.name, tenant.id, &body, &error.to_string());
        })?;
    let context = RequestContext::of(request);
    let provider_event_id = envelope.provider_event_id.map(std::borrow::Cow::into_owned);
    Ok(Webhook {
        fingerprint: Fingerprint::of(tenant.id, &source.name, provider_event_id.as_deref(), &body),
        tenant_id: tenant.id,
        source: source.name.clone(),
        provider_event_id,
        event_type: envelope.event_type.into_owned(),
        headers: stored_headers(lookup),
        signature_timestamp: verified
            .signed_at
            .and_then(|seconds| DateTime::from_timestamp(seconds, 0)),
        secret_id: ring
            .versions
            .get(verified.key_index)
            .and_then(|version| version.id),
        correlation_id: context.correlation_id.to_string(),
        trace_context: as_json(&context.outgoing_trace()),
        body,
    })
}

fn as_json(trace: &TraceContext) -> Option<Box<RawValue>> {
    if trace.is_empty() {
        return None;
    }
    serde_json::value::to_raw_value(trace).ok()
}

fn answer(outcome: Ingested, source: &Source, state: &AppState) -> Result<HttpResponse, ApiError> {
    match outcome {
        Ingested::Accepted { ids } => {
            state.metrics.job_created(&source.name);
            Ok(accepted(ids.event_id, ids.inbox_id, ids.job_id, true))
        }
        Ingested::Duplicate { ids } => Ok(accepted(ids.event_id, ids.inbox_id, ids.job_id, false)),
        Ingested::Replay { event_id, job_id } => Err(ApiError::Replay { event_id, job_id }),
        Ingested::OverQuota { retry_after_seconds } => Err(ApiError::OverQuota {
            retry_after: u64::from(retry_after_seconds),
        }),
        Ingested::UnknownTenant => Err(ApiError::UnknownTenant),
        Ingested::Suspended => Err(ApiError::TenantSuspended),
        Ingested::UnknownSource => Err(ApiError::UnknownSource),
        Ingested::EventIdRequired => Err(ApiError::EventIdRequired),
    }
}

fn accepted(event_id: Uuid, inbox_id: Uuid, job_id: Option<Uuid>, new: bool) -> HttpResponse {
    HttpResponse::Accepted().json(Acceptance {
        event_id,
        inbox_id,
        job_id,
        job_created: new,
        deduped: !new,
        accepted: true,
        signature_valid: true,
    })
}

/// The body of a 202.
#[derive(Serialize)]
struct Acceptance {
    event_id: Uuid,
    inbox_id: Uuid,
    job_id: Option<Uuid>,
    job_created: bool,
    deduped: bool,
    accepted: bool,
    signature_valid: bool,
}

/// `GET` on a source without a handshake, and every other method.
///
/// # Errors
/// Always [`ApiError::MethodNotAllowed`].
pub async fn method_not_allowed() -> Result<HttpResponse, ApiError> {
    Err(ApiError::MethodNotAllowed { allow: "POST" })
}

fn ingress_limited(wait: Duration) -> ApiError {
    ApiError::IngressLimited {
        retry_after: whole_seconds(wait),
    }
}

fn whole_seconds(wait: Duration) -> u64 {
    wait.as_secs() + u64::from(wait.subsec_nanos() > 0)
}
