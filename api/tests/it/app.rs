//! An API in this process, on a free port and a database of its own; and a client that signs as providers do.

use std::net::SocketAddr;
use std::str::FromStr as _;
use std::time::{Duration, Instant};

use api::config::ApiConfig;
use clap::Parser as _;
use observability::ServiceConfig as _;
use reqwest::{RequestBuilder, Response, StatusCode};
use ring::hmac;
use serde_json::Value;
use sql::secret::{MasterKeys, SecretOwner};
use sql::testing::TestDb;
use sql::{Object, Pool, Secret};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) const GENERIC_SECRET: &str = "development-generic";
pub(crate) const GITHUB_SECRET: &str = "development-github";
pub(crate) const STRIPE_SECRET: &str = "whsec_development";
const MASTER_KEY: &str = "ZGV2ZWxvcG1lbnQtbWFzdGVyLWtleS0wMTIzNDU2Nzg=";

/// A running API. Dropped, it ends.
pub(crate) struct App {
    pub(crate) db: TestDb,
    pub(crate) address: SocketAddr,
    pub(crate) http: reqwest::Client,
    owner: Pool,
    stop: CancellationToken,
    served: Option<JoinHandle<anyhow::Result<()>>>,
}

impl App {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// With some settings of its own; limits are out of the way unless they are set.
    pub(crate) async fn start_with(settings: &[(&str, &str)]) -> Self {
        let db = TestDb::create().await;
        let url = db.url("relayforge_api");
        Self::start_at(db, url.expose(), settings)
    }

    /// With the database behind another address.
    pub(crate) fn start_at(db: TestDb, database_url: &str, settings: &[(&str, &str)]) -> Self {
        let defaults = [
            ("APP_ENV", "development"),
            ("SERVER__PORT", "0"),
            ("SERVER__SHUTDOWN_SECONDS", "5"),
            ("DATABASE__URL", database_url),
            ("SECRETS__MASTER_KEY", MASTER_KEY),
            ("WEBHOOKS__GENERIC_HMAC_SECRET", GENERIC_SECRET),
            ("WEBHOOKS__GITHUB_SECRET", GITHUB_SECRET),
            ("WEBHOOKS__STRIPE_ENDPOINT_SECRET", STRIPE_SECRET),
            ("HARDENING__INGRESS_RATE_LIMIT_PER_SECOND", "1000000"),
            ("HARDENING__INGRESS_BURST", "1000000"),
            ("HARDENING__TENANT_RATE_LIMIT_PER_SECOND", "1000000"),
            ("HARDENING__TENANT_RATE_LIMIT_BURST", "1000000"),
        ];
        let mut arguments = vec!["test".to_owned()];
        for (name, value) in defaults
            .iter()
            .filter(|(name, _)| settings.iter().all(|(n, _)| n != name))
            .chain(settings)
        {
            arguments.push(format!("--{name}={value}"));
        }
        let config = ApiConfig::try_parse_from(arguments).unwrap();
        config.validate().unwrap();
        let running = api::server::build(config).unwrap();
        let (address, stop) = (running.address, CancellationToken::new());
        let served = tokio::spawn(running.serve(stop.clone()));
        // Tests without TLS still need a provider: the client asks for one when it is made.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let owner = db.pool("owner");
        Self {
            db,
            address,
            http: reqwest::Client::new(),
            owner,
            stop,
            served: Some(served),
        }
    }

    pub(crate) async fn ready(self) -> Self {
        let deadline = Instant::now() + Duration::from_secs(15);
        loop {
            let response = self.get("/readyz").await;
            if response.status() == StatusCode::OK {
                return self;
            }
            assert!(
                Instant::now() < deadline,
                "not ready: {}",
                response.text().await.unwrap()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends it as SIGTERM does, and returns what it says.
    pub(crate) async fn end(&mut self) -> anyhow::Result<()> {
        self.stop.cancel();
        self.served.take().unwrap().await.unwrap()
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    pub(crate) async fn get(&self, path: &str) -> Response {
        self.http.get(self.url(path)).send().await.unwrap()
    }

    pub(crate) fn post(&self, path: &str, body: impl Into<reqwest::Body>) -> RequestBuilder {
        self.http.post(self.url(path)).body(body)
    }

    /// A generic webhook of the default tenant, signed.
    pub(crate) fn generic(&self, id: &str) -> RequestBuilder {
        self.generic_for("", GENERIC_SECRET, id)
    }

    /// A generic webhook of a tenant (`/slug`), signed with that secret.
    pub(crate) fn generic_for(&self, tenant: &str, secret: &str, id: &str) -> RequestBuilder {
        let body = br#"{"event":"order.created","data":{"n":1}}"#;
        self.post(&format!("/webhooks/generic{tenant}"), body.to_vec())
            .header("X-Event-Id", id)
            .header("X-Signature", sign(secret, body))
    }

    /// A Stripe webhook of the default tenant, signed at that second.
    pub(crate) fn stripe(&self, id: &str, signed_at: i64) -> RequestBuilder {
        let body = format!(
            r#"{{"id":"{id}","type":"invoice.paid","created":1700000000,"data":{{"object":{{"id":"in_1"}}}}}}"#
        );
        let signature = sign(STRIPE_SECRET, format!("{signed_at}.{body}").as_bytes());
        self.post("/webhooks/stripe", body)
            .header("Stripe-Signature", format!("t={signed_at},v1={signature}"))
    }

    pub(crate) async fn owner(&self) -> Object {
        self.owner.get().await.unwrap()
    }

    /// A tenant with a secret of its own for source `generic`, stored and sealed.
    pub(crate) async fn tenant(&self, slug: &str, secret: &str) -> Uuid {
        let id = sql::config::create_tenant(&self.owner().await, slug, slug, None)
            .await
            .unwrap();
        self.add_secret(id, secret).await;
        id
    }

    pub(crate) async fn add_secret(&self, tenant_id: Uuid, secret: &str) -> Uuid {
        let client = self.owner().await;
        let id = sql::config::new_id(&client).await.unwrap();
        let keys = MasterKeys::new(&Secret::from_str(MASTER_KEY).unwrap(), []).unwrap();
        let owner = SecretOwner {
            tenant_id,
            source: "generic",
            id,
        };
        let sealed = keys.seal(owner, &Secret::from_str(secret).unwrap()).unwrap();
        let stored = sql::config::StoredSecret {
            id,
            tenant_id,
            source: "generic".to_owned(),
            sealed,
        };
        sql::config::add_secret(&client, &stored).await.unwrap();
        id
    }

    pub(crate) async fn execute(&self, statement: &str) {
        self.owner().await.batch_execute(statement).await.unwrap();
    }

    pub(crate) async fn count(&self, query: &str) -> i64 {
        self.owner().await.query_one(query, &[]).await.unwrap().get(0)
    }
}

impl Drop for App {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

pub(crate) fn sign(secret: &str, message: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.as_bytes());
    hex::encode(hmac::sign(&key, message))
}

/// Status and JSON of an answer.
pub(crate) async fn answer(request: RequestBuilder) -> (StatusCode, Value) {
    let response = request.send().await.unwrap();
    (response.status(), response.json().await.unwrap())
}

/// Checks that an answer is a problem document of that status and code, and returns it.
pub(crate) async fn problem(request: RequestBuilder, status: u16, code: &str) -> Value {
    let response = request.send().await.unwrap();
    let (got, headers) = (response.status(), response.headers().clone());
    let body: Value = response.json().await.unwrap();
    assert_eq!(
        (got.as_u16(), body["code"].as_str()),
        (status, Some(code)),
        "{body}"
    );
    assert_eq!(headers["content-type"], "application/problem+json");
    assert_eq!(body["status"], status);
    assert_eq!(body["type"], format!("urn:relayforge:problem:{code}"));
    assert!(body["title"].is_string() && body["detail"].is_string(), "{body}");
    assert_eq!(
        body["correlation_id"].as_str(),
        headers["x-correlation-id"].to_str().ok()
    );
    if matches!(status, 429 | 503 | 403) {
        assert!(headers["retry-after"].to_str().unwrap().parse::<u64>().unwrap() > 0);
    }
    body
}

pub(crate) async fn wait_until(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(15);
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
