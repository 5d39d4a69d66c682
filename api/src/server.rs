//! The HTTP server: middleware order and the one route table. `run` is the life of the process: start, serve, drain.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix_web::dev::Server;
use actix_web::middleware::from_fn;
use actix_web::{App, HttpResponse, HttpServer, web};
use anyhow::Context as _;
use observability::admin::{Readiness, get_or_head, health_response, metrics_response, ready_response};
use observability::metrics::{Encoder, PartitionHorizon};
use sql::ingest::IngestRules;
use sql::warm_up::{Calls, warm_up};
use sql::{Pool, audit, upkeep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::ApiConfig;
use crate::error::ApiError;
use crate::ingest::Ingest;
use crate::rate_limit::{IngressLimiter, TenantLimiter};
use crate::registry::{self, KeyMaterial, Registry};
use crate::rejections::Rejections;
use crate::telemetry::{RequestMetrics, request_telemetry};
use crate::traffic::Traffic;
use crate::webhooks;

/// How often counts are written.
const WRITE_COUNTS_EVERY: Duration = Duration::from_secs(1);

/// Connections that are not lanes: registry, waker, counts, health.
const SPARE_CONNECTIONS: u16 = 4;

/// Connections that are open before the first webhook comes: for the first lane, for a second beside it, for the waker.
const WARM_CONNECTIONS: usize = 3;

/// What every handler shares.
pub struct AppState {
    /// The configuration.
    pub config: ApiConfig,
    /// Tenants, sources, keys.
    pub registry: Registry,
    /// The limit over all senders.
    pub ingress: IngressLimiter,
    /// The limit of each tenant.
    pub tenants: TenantLimiter,
    /// The way into the database.
    pub ingest: Ingest,
    /// Counts of refusals.
    pub rejections: Arc<Rejections>,
    /// Counts of deliveries.
    pub traffic: Arc<Traffic>,
    /// Request metrics.
    pub metrics: RequestMetrics,
    /// Whether this process can do its work.
    pub readiness: Readiness,
    /// Metrics as text.
    pub encoder: Encoder,
}

/// A server that listens and the tasks behind it.
pub struct Running {
    /// Where it listens: the port is the real one, also when port 0 was asked for.
    pub address: SocketAddr,
    server: Server,
    tasks: TaskTracker,
    stop_tasks: CancellationToken,
    readiness: Readiness,
    drain: Duration,
}

/// Binds the listener and starts what works in the background. The database need not be there yet.
///
/// # Errors
/// If the address can't be bound, or the configuration can't be used.
pub fn build(config: ApiConfig) -> anyhow::Result<Running> {
    let pool = sql::pool::connect(&config.database, "relayforge-api").context("DATABASE__URL")?;
    let listener = TcpListener::bind((config.server.host, config.server.port)).with_context(|| {
        format!(
            "can't listen on {}:{} (SERVER__HOST, SERVER__PORT)",
            config.server.host, config.server.port
        )
    })?;
    let address = listener.local_addr()?;
    let (tasks, stop_tasks) = (TaskTracker::new(), CancellationToken::new());
    let state = web::Data::new(start_tasks(&config, &pool, &tasks, &stop_tasks)?);
    let readiness = state.readiness.clone();
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    let server = HttpServer::new(move || {
        App::new()
            .app_data(state.clone())
            .wrap(from_fn(request_telemetry))
            .configure(routes)
    })
    .workers(workers)
    // The framework counts per worker.
    .max_connections((config.hardening.max_connections as usize).div_ceil(workers))
    .shutdown_timeout(config.server.shutdown_seconds)
    .disable_signals()
    .listen(listener)?
    .run();
    tracing::info!(%address, "listening");
    let drain = Duration::from_millis(config.server.drain_ms);
    Ok(Running {
        address,
        server,
        tasks,
        stop_tasks,
        readiness,
        drain,
    })
}

/// The patterns of the route table.
pub(crate) const ROUTES: [&str; 5] = [
    "/webhooks/{source}",
    "/webhooks/{source}/{tenant}",
    "/healthz",
    "/readyz",
    "/metrics",
];

/// The one route table.
fn routes(service: &mut web::ServiceConfig) {
    let [of_source, of_tenant, health, ready, metrics] = ROUTES;
    let webhook = |pattern| {
        web::resource(pattern)
            .route(web::post().to(webhooks::receive))
            .default_service(web::route().to(webhooks::method_not_allowed))
    };
    service
        .service(webhook(of_source))
        .service(webhook(of_tenant))
        .route(health, get_or_head().to(async || health_response()))
        .route(
            ready,
            get_or_head().to(async |state: web::Data<AppState>| ready_response(&state.readiness)),
        )
        .route(
            metrics,
            get_or_head().to(async |state: web::Data<AppState>| metrics_response(&state.encoder)),
        )
        .default_service(web::route().to(async || Err::<HttpResponse, _>(ApiError::NotFound)));
}

fn start_tasks(
    config: &ApiConfig,
    pool: &Pool,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> anyhow::Result<AppState> {
    let [database, schema] = upkeep::CHECKS;
    let readiness = Readiness::new(&[database, schema, registry::CHECK, upkeep::PARTITIONS]);
    let registry = Registry::default();
    let material = KeyMaterial {
        master_keys: config.master_keys().map_err(anyhow::Error::msg)?,
        webhooks: config.webhooks.clone(),
    };
    tasks.spawn(registry.clone().keep_fresh(
        config.database.clone(),
        pool.clone(),
        material,
        readiness.clone(),
        stop.clone(),
    ));
    let (rejections, traffic) = (Arc::new(Rejections::default()), Arc::new(Traffic::default()));
    tasks.spawn(keep_counts_written(
        Arc::clone(&rejections),
        Arc::clone(&traffic),
        pool.clone(),
        stop.clone(),
    ));
    let horizon = start_upkeep(config, pool, &readiness, tasks, stop);
    let rules = IngestRules {
        default_daily_quota: config.hardening.tenant_daily_quota,
        dedup_window: config.ingest.dedup_window(),
        hash_window: config.ingest.hash_window(),
    };
    let lanes = config.database.max_connections.saturating_sub(SPARE_CONNECTIONS);
    let ingest = Ingest::start(pool.clone(), config.ingest.clone(), rules, lanes, tasks, stop);

    let mut metric_registry = observability::metrics::registry();
    let metrics = RequestMetrics::default();
    metrics.register(&mut metric_registry);
    rejections.register(&mut metric_registry);
    horizon.register(&mut metric_registry);
    metric_registry.register_collector(Box::new(crate::gauges::Gauges {
        registry: registry.clone(),
        ingest: ingest.clone(),
    }));
    Ok(AppState {
        registry,
        ingress: IngressLimiter::new(
            config.hardening.ingress_rate_per_second,
            config.hardening.ingress_burst,
            Instant::now(),
        ),
        tenants: TenantLimiter::default(),
        ingest,
        rejections,
        traffic,
        metrics,
        readiness,
        encoder: observability::metrics::encoder(metric_registry),
        config: config.clone(),
    })
}

fn start_upkeep(
    config: &ApiConfig,
    pool: &Pool,
    readiness: &Readiness,
    tasks: &TaskTracker,
    stop: &CancellationToken,
) -> PartitionHorizon {
    let report = {
        let readiness = readiness.clone();
        move |check, found: Result<(), &str>| readiness.set(check, found)
    };
    tasks.spawn(upkeep::watch(pool.clone(), report, stop.clone()));
    tasks.spawn(warm_up(
        pool.clone(),
        WARM_CONNECTIONS,
        Calls::Ingest,
        stop.clone(),
    ));
    tasks.spawn(audit::keep_sealed(pool.clone(), stop.clone()));
    let horizon = PartitionHorizon::default();
    let report = {
        let (readiness, horizon) = (readiness.clone(), horizon.clone());
        move |left: Duration| {
            readiness.set_noted(upkeep::PARTITIONS, upkeep::check_horizon(left));
            horizon.set(left);
        }
    };
    tasks.spawn(upkeep::keep(
        config.database.clone(),
        Some(config.upkeep_settings()),
        report,
        stop.clone(),
    ));
    horizon
}

/// Writes the counts once a second until `stop`, and once more then.
async fn keep_counts_written(
    rejections: Arc<Rejections>,
    traffic: Arc<Traffic>,
    pool: Pool,
    stop: CancellationToken,
) {
    loop {
        let stopped = tokio::select! {
            () = stop.cancelled() => true,
            () = tokio::time::sleep(WRITE_COUNTS_EVERY) => false,
        };
        if let Err(error) = rejections.write(&pool).await {
            tracing::warn!(%error, "rejections can't be written; they are counted on");
        }
        if let Err(error) = traffic.write(&pool).await {
            tracing::warn!(%error, "traffic can't be written; it is counted on");
        }
        if stopped {
            return;
        }
    }
}

impl Running {
    /// Serves until `stop`, then drains: not ready first, after a while no new requests, then the background.
    ///
    /// # Errors
    /// If the server fails.
    pub async fn serve(self, stop: CancellationToken) -> anyhow::Result<()> {
        let handle = self.server.handle();
        let readiness = self.readiness;
        tokio::spawn(async move {
            stop.cancelled().await;
            readiness.set_draining();
            tracing::info!("draining");
            // The listener has to be there for a probe to see it.
            tokio::time::sleep(self.drain).await;
            handle.stop(true).await;
        });
        self.server.await?;
        self.stop_tasks.cancel();
        self.tasks.close();
        self.tasks.wait().await;
        tracing::info!("ended");
        Ok(())
    }
}
