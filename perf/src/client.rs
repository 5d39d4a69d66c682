//! Sending a delivery over real HTTP and reading its answer.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use reqwest::StatusCode;
use reqwest::header::HeaderMap;
use serde_json::Value;
use uuid::Uuid;

use crate::scenario::Delivery;

/// Longest wait for an answer: beyond it, a provider has given up too (GitHub after 10 s).
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// Installs the TLS provider, once a process: without one the HTTP client does not start.
pub fn install_tls() {
    // An error says that there is one already.
    let _ = rustls::crypto::ring::default_provider().install_default();
}

/// How a delivery names its tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Addressing<'a> {
    /// `X-Tenant-Id`.
    Header(&'a str),
    /// `/webhooks/{source}/{tenant}`.
    Path(&'a str),
    /// Not at all: the default tenant.
    Default,
}

/// Sends over one connection, which it keeps.
#[derive(Debug, Clone)]
pub struct Client {
    http: reqwest::Client,
    base: String,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    /// HTTP status.
    pub status: StatusCode,
    /// All headers.
    pub headers: HeaderMap,
    /// The body; null if it is no JSON.
    pub body: Value,
    /// From the first byte sent to the last one read.
    pub elapsed: Duration,
}

impl Answer {
    /// An id of the body.
    pub fn id(&self, member: &str) -> Option<Uuid> {
        self.body[member].as_str()?.parse().ok()
    }

    /// Whether the event was accepted and is known as one that came before; none if it was not accepted.
    pub fn deduped(&self) -> Option<bool> {
        self.body["deduped"].as_bool()
    }

    /// The stable code of a problem document.
    pub fn code(&self) -> Option<&str> {
        self.body["code"].as_str()
    }
}

impl Client {
    /// A sender to the API at `base`. Connects when it first sends.
    ///
    /// # Errors
    /// If [`install_tls`] was not called.
    pub fn new(base: &str) -> anyhow::Result<Self> {
        let http = reqwest::Client::builder()
            .pool_max_idle_per_host(1)
            .timeout(ANSWER_TIMEOUT)
            .no_proxy()
            .build()
            .context("the HTTP client does not start")?;
        Ok(Self {
            http,
            base: base.trim_end_matches('/').to_owned(),
        })
    }

    /// Sends a webhook and reads the whole answer.
    ///
    /// # Errors
    /// If there was no answer: refused, broken off, or none within ten seconds.
    pub async fn deliver(
        &self,
        source: &str,
        tenant: Addressing<'_>,
        delivery: &Delivery,
    ) -> anyhow::Result<Answer> {
        let url = match tenant {
            Addressing::Path(tenant) => format!("{}/webhooks/{source}/{tenant}", self.base),
            Addressing::Header(_) | Addressing::Default => format!("{}/webhooks/{source}", self.base),
        };
        let mut request = self.http.post(&url).body(delivery.body.clone());
        if let Addressing::Header(tenant) = tenant {
            request = request.header("X-Tenant-Id", tenant);
        }
        for (name, value) in &delivery.headers {
            request = request.header(name, value);
        }
        self.send(request).await.with_context(|| format!("POST {url}"))
    }

    /// Asks for a path.
    ///
    /// # Errors
    /// As of [`Client::deliver`].
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        let url = format!("{}{path}", self.base);
        self.send(self.http.get(&url))
            .await
            .with_context(|| format!("GET {url}"))
    }

    async fn send(&self, request: reqwest::RequestBuilder) -> anyhow::Result<Answer> {
        let began = Instant::now();
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        let body = response.bytes().await?;
        Ok(Answer {
            status,
            headers,
            body: serde_json::from_slice(&body).unwrap_or_default(),
            elapsed: began.elapsed(),
        })
    }
}
