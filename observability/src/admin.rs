//! Probes and metrics over HTTP: `/healthz`, `/readyz`, `/metrics` on a listener of their own.
//!
//! Owns the answers, which the API reuses on its own server, and who is asked. What is checked, the services
//! say through [`Readiness`]. Metric text comes from `metrics.rs`.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::{App, HttpResponse, HttpServer, Route, guard, web};
use serde::Serialize;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::metrics::{CONTENT_TYPE, Encoder};

/// Open connections that the listener holds at once; probes and scrapers need a handful.
const MAX_CONNECTIONS: usize = 64;

/// How long a slow reader may hold up the end of the listener.
const SHUTDOWN_SECONDS: u64 = 1;

/// Whether this process can do its work, and if not, why. Clones share one state.
#[derive(Clone, Debug)]
pub struct Readiness(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    draining: bool,
    /// What each found: passing, perhaps with a word of warning, or why not.
    checks: BTreeMap<&'static str, Result<Option<String>, String>>,
}

/// The body of `/readyz`.
#[derive(Serialize)]
struct Report {
    status: &'static str,
    checks: BTreeMap<&'static str, String>,
}

impl Readiness {
    /// The checks this process must pass. Each fails, as `starting`, until it is first [`set`](Self::set).
    pub fn new(checks: &[&'static str]) -> Self {
        let checks = checks
            .iter()
            .map(|name| (*name, Err("starting".to_owned())))
            .collect();
        Self(Arc::new(Mutex::new(State {
            draining: false,
            checks,
        })))
    }

    /// Records what `check` found last. The reason is shown to whoever asks: no secrets, no addresses with
    /// passwords.
    pub fn set(&self, check: &'static str, found: Result<(), &str>) {
        self.set_noted(check, found.map(|()| None).map_err(ToOwned::to_owned));
    }

    /// As [`set`](Self::set), for a check that can pass with a warning: the process stays ready, and whoever looks
    /// reads what will go wrong if nobody acts.
    pub fn set_noted(&self, check: &'static str, found: Result<Option<String>, String>) {
        self.lock().checks.insert(check, found);
    }

    /// From now on not ready, whatever the checks say: the first thing to do when asked to end, so that no
    /// new work is sent here.
    pub fn set_draining(&self) {
        self.lock().draining = true;
    }

    /// Whether every check passes and the process is not draining.
    pub fn is_ready(&self) -> bool {
        let state = self.lock();
        !state.draining && state.checks.values().all(Result::is_ok)
    }

    fn report(&self) -> Report {
        let state = self.lock();
        let status = match (state.draining, state.checks.values().all(Result::is_ok)) {
            (true, _) => "draining",
            (false, true) => "ready",
            (false, false) => "not_ready",
        };
        let text = |found: &Result<Option<String>, String>| match found {
            Ok(None) => "ok".to_owned(),
            Ok(Some(warning)) => format!("ok, but {warning}"),
            Err(why) => why.clone(),
        };
        Report {
            status,
            checks: state
                .checks
                .iter()
                .map(|(name, found)| (*name, text(found)))
                .collect(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No code panics while holding it, and a poisoned report is still the latest one.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers `/healthz`: the process runs and serves. Asks nobody else, so that an outage elsewhere never gets
/// this process restarted.
pub fn health_response() -> HttpResponse {
    HttpResponse::Ok().json(serde_json::json!({ "status": "ok" }))
}

/// Answers `/readyz`: 200, or 503 with what is wrong, as
/// `{"status":"ready|not_ready|draining","checks":{"database":"ok",…}}`.
pub fn ready_response(readiness: &Readiness) -> HttpResponse {
    let report = readiness.report();
    let mut response = match report.status {
        "ready" => HttpResponse::Ok(),
        _ => HttpResponse::ServiceUnavailable(),
    };
    response.insert_header(("cache-control", "no-store")).json(report)
}

/// Answers `/metrics`: OpenMetrics text, or 500 when a collector fails (the cause is logged).
pub fn metrics_response(encoder: &Encoder) -> HttpResponse {
    match encoder() {
        Ok(text) => HttpResponse::Ok().content_type(CONTENT_TYPE).body(text),
        Err(error) => {
            tracing::error!(%error, "metrics can't be encoded");
            HttpResponse::InternalServerError().finish()
        }
    }
}

/// A route for `GET`, and for `HEAD`: load balancers probe with either.
pub fn get_or_head() -> Route {
    web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
}

/// A running listener.
#[derive(Debug)]
pub struct AdminServer {
    /// Where it listens: the port is the real one, also when port 0 was asked for.
    pub addr: SocketAddr,
    /// Ends after the token was cancelled; an error says why the listener ended before.
    pub task: JoinHandle<io::Result<()>>,
}

/// Serves the three routes on `addr`, by one thread of its own, until `stop` is cancelled: cancel it last,
/// so that probes see a draining process rather than a refused connection. Call inside tokio.
///
/// # Errors
/// The address and the reason, when it can't be bound.
pub fn serve(
    addr: SocketAddr,
    encoder: Encoder,
    readiness: Readiness,
    stop: CancellationToken,
) -> io::Result<AdminServer> {
    let app = move || {
        App::new()
            .app_data(web::Data::new(encoder.clone()))
            .app_data(web::Data::new(readiness.clone()))
            .route("/healthz", get_or_head().to(async || health_response()))
            .route(
                "/readyz",
                get_or_head().to(async |state: web::Data<Readiness>| ready_response(&state)),
            )
            .route(
                "/metrics",
                get_or_head().to(async |encoder: web::Data<Encoder>| metrics_response(&encoder)),
            )
    };
    let server = HttpServer::new(app)
        .workers(1)
        .max_connections(MAX_CONNECTIONS)
        .client_request_timeout(Duration::from_secs(5))
        .shutdown_timeout(SHUTDOWN_SECONDS)
        .disable_signals()
        .bind(addr)
        .map_err(|error| io::Error::new(error.kind(), format!("can't listen on {addr}: {error}")))?;
    let bound = server.addrs().first().copied().unwrap_or(addr);
    let server = server.run();
    let handle = server.handle();
    tokio::spawn(async move {
        stop.cancelled().await;
        handle.stop(true).await;
    });
    Ok(AdminServer {
        addr: bound,
        task: tokio::spawn(server),
    })
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpStream;

    use super::*;

    async fn get(addr: SocketAddr, path: &str) -> (String, String) {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.to_lowercase(), body.to_owned())
    }

    async fn ready(addr: SocketAddr) -> (String, Value) {
        let (head, body) = get(addr, "/readyz").await;
        assert!(head.contains("content-type: application/json"), "{head}");
        (
            head.split(' ').nth(1).unwrap().to_owned(),
            serde_json::from_str(&body).unwrap(),
        )
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn the_listener_serves_probes_and_metrics_until_it_is_stopped() {
        let readiness = Readiness::new(&["database", "broker"]);
        let stop = CancellationToken::new();
        let encoder = crate::metrics::encoder(crate::metrics::registry());
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let server = serve(any_port, encoder, readiness.clone(), stop.clone()).unwrap();
        let addr = server.addr;
        assert_ne!(addr.port(), 0);

        assert!(get(addr, "/healthz").await.0.starts_with("http/1.1 200"));
        assert!(get(addr, "/nothing").await.0.starts_with("http/1.1 404"));
        let (head, body) = get(addr, "/metrics").await;
        assert!(head.contains(&format!("content-type: {CONTENT_TYPE}")), "{head}");
        assert!(body.ends_with("# EOF\n"), "{body}");

        let starting =
            json!({"status": "not_ready", "checks": {"broker": "starting", "database": "starting"}});
        assert_eq!(ready(addr).await, ("503".into(), starting));
        readiness.set("database", Ok(()));
        readiness.set("broker", Err("connection refused"));
        let half =
            json!({"status": "not_ready", "checks": {"broker": "connection refused", "database": "ok"}});
        assert_eq!(ready(addr).await, ("503".into(), half));
        readiness.set("broker", Ok(()));
        let all = json!({"status": "ready", "checks": {"broker": "ok", "database": "ok"}});
        assert_eq!(ready(addr).await, ("200".into(), all));
        assert!(readiness.is_ready());
        readiness.set_draining();
        let draining = json!({"status": "draining", "checks": {"broker": "ok", "database": "ok"}});
        assert_eq!(ready(addr).await, ("503".into(), draining));
        assert!(!readiness.is_ready());

        let taken = serve(addr, Arc::new(|| Ok(String::new())), readiness, stop.clone()).unwrap_err();
        assert!(taken.to_string().contains(&addr.to_string()), "{taken}");

        stop.cancel();
        tokio::time::timeout(Duration::from_secs(5), server.task)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        assert!(TcpStream::connect(addr).await.is_err());
    }

    #[tokio::test]
    async fn metrics_that_fail_are_a_500() {
        let broken: Encoder = Arc::new(|| Err(std::fmt::Error));
        assert_eq!(metrics_response(&broken).status(), 500);
    }
}
