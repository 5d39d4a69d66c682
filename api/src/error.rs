//! Every way a request can be refused: one enum, one table of status and code, one rendering (RFC 9457).

use std::borrow::Cow;

use actix_web::http::{StatusCode, header};
use actix_web::{HttpResponse, HttpResponseBuilder, ResponseError};
use serde_json::{Value, json};
use sql::event::EventError;
use uuid::Uuid;

use crate::signature::SignatureError;

/// How long a sender should wait when the cause is ours to mend, in seconds.
const RETRY_AFTER_OUTAGE_SECONDS: u64 = 5;

/// How long a sender should wait when an operator has to act first, in seconds.
const RETRY_AFTER_OPERATOR_SECONDS: u64 = 3600;

/// Why a request is not answered 2xx. What the text says is shown to the sender, so it holds no secret and no payload.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// 413.
    #[error("the body is longer than {limit} bytes")]
    BodyTooLarge {
        /// `HARDENING__MAX_BODY_BYTES`.
        limit: u32,
    },
    /// 408: the body did not come in time.
    #[error("the body did not arrive within {seconds} s")]
    BodyTimeout {
        /// The bound.
        seconds: u64,
    },
    /// 400: the connection broke, or the chunks are malformed.
    #[error("the body could not be read")]
    BodyUnreadable,
    /// 429: too many requests, from this network or from everywhere.
    #[error("too many requests")]
    IngressLimited {
        /// Seconds until it is worth trying.
        retry_after: u64,
    },
    /// 400: two tenants in one request, or a header that is no text.
    #[error("{0}")]
    InvalidTenant(&'static str),
    /// 404.
    #[error("there is no such tenant")]
    UnknownTenant,
    /// 403.
    #[error("the tenant is suspended")]
    TenantSuspended,
    /// 404.
    #[error("there is no such source")]
    UnknownSource,
    /// 503: nothing can be verified.
    #[error("no secret is configured for this tenant and source")]
    SecretMissing,
    /// 401.
    #[error("{0}")]
    Signature(#[from] SignatureError),
    /// 429, after the signature.
    #[error("the tenant sends too fast")]
    TenantRateLimited {
        /// Seconds until it is worth trying.
        retry_after: u64,
    },
    /// 400: signed, but not what the source's shape allows.
    #[error("{0}")]
    InvalidEvent(#[from] EventError),
    /// 400: the source deduplicates by id only.
    #[error("this source needs the provider's event id, and the request has none")]
    EventIdRequired,
    /// 429.
    #[error("the tenant's daily quota is used up")]
    OverQuota {
        /// Seconds until UTC midnight.
        retry_after: u64,
    },
    /// 409.
    #[error("this event is known, and its signature is not newer than the last one")]
    Replay {
        /// The first event.
        event_id: Uuid,
        /// Its job, unless its partition is gone.
        job_id: Option<Uuid>,
    },
    /// 503: database away, queue full, deadline passed. Nothing is stored, or a retry is answered as a duplicate.
    #[error("{0}")]
    Unavailable(&'static str),
    /// 404.
    #[error("there is no such route")]
    NotFound,
    /// 405.
    #[error("this route takes {allow} only")]
    MethodNotAllowed {
        /// The methods it takes.
        allow: &'static str,
    },
    /// 500: a defect of ours; the cause is in the log.
    #[error("an internal error; it is logged under the correlation id")]
    Internal,
    /// What the framework refused before a handler saw it.
    #[error("{1}")]
    Framework(u16, String),
}

impl ApiError {
    /// Status and stable code. The code is also the cause that rejections are counted under.
    pub fn verdict(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BodyTooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "body_too_large"),
            Self::BodyTimeout { .. } => (StatusCode::REQUEST_TIMEOUT, "body_timeout"),
            Self::BodyUnreadable => (StatusCode::BAD_REQUEST, "body_unreadable"),
            Self::IngressLimited { .. } => (StatusCode::TOO_MANY_REQUESTS, "ingress_limited"),
            Self::InvalidTenant(_) => (StatusCode::BAD_REQUEST, "invalid_tenant"),
            Self::UnknownTenant => (StatusCode::NOT_FOUND, "unknown_tenant"),
            Self::TenantSuspended => (StatusCode::FORBIDDEN, "tenant_suspended"),
            Self::UnknownSource => (StatusCode::NOT_FOUND, "unknown_source"),
            Self::SecretMissing => (StatusCode::SERVICE_UNAVAILABLE, "secret_missing"),
            Self::Signature(SignatureError::Missing(_)) => (StatusCode::UNAUTHORIZED, "signature_missing"),
            Self::Signature(SignatureError::Malformed { .. }) => {
                (StatusCode::UNAUTHORIZED, "signature_malformed")
            }
            Self::Signature(SignatureError::Mismatch) => (StatusCode::UNAUTHORIZED, "signature_mismatch"),
            Self::Signature(SignatureError::Stale { .. }) => (StatusCode::UNAUTHORIZED, "signature_stale"),
            Self::TenantRateLimited { .. } => (StatusCode::TOO_MANY_REQUESTS, "tenant_rate_limited"),
            Self::InvalidEvent(_) => (StatusCode::BAD_REQUEST, "invalid_event"),
            Self::EventIdRequired => (StatusCode::BAD_REQUEST, "event_id_required"),
            Self::OverQuota { .. } => (StatusCode::TOO_MANY_REQUESTS, "over_quota"),
            Self::Replay { .. } => (StatusCode::CONFLICT, "replay"),
            Self::Unavailable(_) => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::MethodNotAllowed { .. } => (StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed"),
            Self::Internal => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            Self::Framework(status, _) => (
                StatusCode::from_u16(*status).unwrap_or(StatusCode::BAD_REQUEST),
                "bad_request",
            ),
        }
    }

    fn retry_after(&self) -> Option<u64> {
        match self {
            Self::IngressLimited { retry_after }
            | Self::TenantRateLimited { retry_after }
            | Self::OverQuota { retry_after } => Some((*retry_after).max(1)),
            Self::Unavailable(_) => Some(RETRY_AFTER_OUTAGE_SECONDS),
            Self::TenantSuspended | Self::SecretMissing => Some(RETRY_AFTER_OPERATOR_SECONDS),
            _ => None,
        }
    }

    /// Members beyond those of RFC 9457.
    fn extensions(&self) -> Vec<(&'static str, Value)> {
        match self {
            Self::InvalidEvent(error) => vec![("field", json!(error.field))],
            Self::Replay { event_id, job_id } => {
                vec![("event_id", json!(event_id)), ("job_id", json!(job_id))]
            }
            _ => Vec::new(),
        }
    }

    /// The answer: `application/problem+json`.
    pub fn render(&self, correlation_id: &str) -> HttpResponse {
        let (status, code) = self.verdict();
        let title: Cow<'_, str> = status.canonical_reason().unwrap_or("Error").into();
        let mut problem = json!({
            "type": format!("urn:relayforge:problem:{code}"),
            "title": title,
            "status": status.as_u16(),
            "code": code,
            "detail": self.to_string(),
            "correlation_id": correlation_id,
        });
        for (name, value) in self.extensions() {
            problem[name] = value;
        }
        let mut response = HttpResponseBuilder::new(status);
        response.insert_header((header::CONTENT_TYPE, "application/problem+json"));
        if let Some(seconds) = self.retry_after() {
            response.insert_header((header::RETRY_AFTER, seconds));
        }
        if let Self::MethodNotAllowed { allow } = self {
            response.insert_header((header::ALLOW, *allow));
        }
        // What was not read whole must not be taken for the next request.
        if matches!(
            self,
            Self::BodyTooLarge { .. } | Self::BodyTimeout { .. } | Self::BodyUnreadable
        ) {
            response.force_close();
        }
        response.body(problem.to_string())
    }
}

impl ResponseError for ApiError {
    fn status_code(&self) -> StatusCode {
        self.verdict().0
    }

    /// The correlation id is not known here; `request_telemetry` renders the answer again with it.
    fn error_response(&self) -> HttpResponse {
        self.render("")
    }
}
