//! One consumer process: its parts, in what order they start, and in what order they end.
//!
//! Owns no work itself. Start with `delivery.rs` for what a message goes through.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use observability::admin::{self, AdminServer, Readiness};
use observability::metrics;
use prometheus_client::registry::Registry as MetricRegistry;
use relay::amqp::AmqpError;
use relay::supervisor::Supervisor;
use sql::DbError;
use sql::jobs::{Run, hand_back_runs};
use sql::operators::check_schema;
use sql::traffic::Traffic;
use tokio::task::JoinSet;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::config::Config;
use crate::database::{CALL_TIMEOUT, Database, backoff};
use crate::delivery::{DeliveryMetrics, Intake};
use crate::execute::{Executor, RunMetrics};
use crate::finish::{Finisher, Writer};
use crate::leases::Leases;
use crate::malformed::DeadLetters;
use crate::outcome::Tally;
use crate::registry::Registry;
use crate::sweeper::{SweepMetrics, Sweeper};
use crate::wake::{Wake, Waker};

/// What the broker and `pg_stat_activity` list this process as.
const NAME: &str = "relayforge-consumer";

/// The same, for the connection that malformed messages are set aside on.
const COPIES_NAME: &str = "relayforge-consumer copies";

/// Bound of each of the last calls, after all else has ended.
const LAST_CALL: Duration = Duration::from_secs(1);

/// How often ended runs are added to the rollup per minute.
const WRITE_TRAFFIC_EVERY: Duration = Duration::from_secs(1);

/// Why a consumer can't run. A database or broker that is away is no reason: it waits for them.
#[derive(Debug, thiserror::Error)]
pub enum ServiceError {
    /// The listener's address can't be bound.
    #[error("CONSUMER__LISTEN: {0}")]
    Listen(#[from] io::Error),
    /// `AMQP__URL` can't be used.
    #[error(transparent)]
    Broker(#[from] AmqpError),
    /// `DATABASE__URL` can't be used.
    #[error("DATABASE__URL: {0}")]
    Database(#[from] DbError),
}

/// A consumer that answers probes and has not taken any work yet.
#[derive(Debug)]
pub struct Service {
    config: Config,
    registry: Registry,
    readiness: Readiness,
    database: Database,
    supervisor: Supervisor,
    /// Of the connection for malformed messages, until the service runs.
    copies: Option<Supervisor>,
    counts: Counts,
    traffic: Arc<Traffic>,
    admin: AdminServer,
    /// Ends the listener, also when the service is dropped without having run.
    admin_stop: DropGuard,
}

#[derive(Debug)]
struct Counts {
    tally: Tally,
    leases: Leases,
    runs: RunMetrics,
    sweeps: SweepMetrics,
    deliveries: DeliveryMetrics,
}

impl Counts {
    fn registered(registry: &mut MetricRegistry) -> Self {
        let counts = Self {
            tally: Tally::new(),
            leases: Leases::new(),
            runs: RunMetrics::new(),
            sweeps: SweepMetrics::new(),
            deliveries: DeliveryMetrics::new(),
        };
        counts.tally.register(registry);
        counts.leases.metrics.register(registry);
        counts.runs.register(registry);
        counts.sweeps.register(registry);
        counts.deliveries.register(registry);
        counts
    }
}

impl Service {
    /// Binds the listener; connects nowhere yet. Call inside tokio.
    ///
    /// # Errors
    /// [`ServiceError`], whose text names the setting.
    pub fn bind(config: Config, registry: Registry) -> Result<Self, ServiceError> {
        let readiness = Readiness::new(&["database", "schema", "broker"]);
        let pool = sql::pool::connect(&config.database, NAME)?;
        let repair = relay::rescue::repair(pool.clone());
        let supervisor = Supervisor::new(&config.amqp, NAME, readiness.clone(), Some(repair))?;
        let copies = Some(Supervisor::new(
            &config.amqp,
            COPIES_NAME,
            Readiness::new(&[]),
            None,
        )?);
        let mut metric_registry = metrics::registry();
        let counts = Counts::registered(&mut metric_registry);
        let stop = CancellationToken::new();
        let encoder = metrics::encoder(metric_registry);
        let admin = admin::serve(config.consumer.listen, encoder, readiness.clone(), stop.clone())?;
        tracing::info!(address = %admin.addr, "listening");
        Ok(Self {
            registry,
            database: Database::new(pool, readiness.clone()),
            readiness,
            supervisor,
            copies,
            counts,
            traffic: Arc::default(),
            admin,
            admin_stop: stop.drop_guard(),
            config,
        })
    }

    /// Where the listener is.
    pub fn admin_addr(&self) -> SocketAddr {
        self.admin.addr
    }

    /// Runs jobs until `stop` is cancelled. Then, in this order: it reports that it drains, takes no more messages,
    /// gives back those it has not started, waits for the running jobs for at most `CONSUMER__SHUTDOWN_MS`, and ends.
    /// What runs on is stopped and handed back, so that another consumer starts it at once; if the database can't be told,
    /// it is when the lease has run out.
    ///
    /// Dropping the future abandons all at once, as if the process had died.
    pub async fn run(mut self, stop: CancellationToken) {
        // Cancelled once the probes say so: until then, work is sent here and may as well be taken.
        let draining = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn({
            let (readiness, draining) = (self.readiness.clone(), draining.clone());
            async move {
                stop.cancelled().await;
                readiness.set_draining();
                draining.cancel();
            }
        });
        let waker = Waker::default();
        let patience = self.config.consumer.shutdown();
        let (database, leases) = (self.database.clone(), self.counts.leases.clone());
        let deadline = async {
            draining.cancelled().await;
            tokio::time::sleep(patience).await;
            leases.runs()
        };
        tokio::select! {
            () = self.work(&waker, &mut tasks, &draining) => tracing::info!("all runs have ended"),
            // Their handlers are stopped by now: the future that held them is gone.
            runs = deadline => hand_back(&runs, &database, &waker).await,
        }
        // What the last failures wrote; a relay that is not told polls.
        let _ = tokio::time::timeout(LAST_CALL, waker.fulfil(&database)).await;
        let _ = tokio::time::timeout(LAST_CALL, write_traffic(&self.traffic, &database)).await;
        tasks.shutdown().await;
        drop(self.admin_stop);
        if let Ok(Err(error)) = self.admin.task.await {
            tracing::error!(%error, "the listener had ended");
        }
    }

    async fn work(&mut self, waker: &Waker, tasks: &mut JoinSet<()>, draining: &CancellationToken) {
        tasks.spawn(self.database.warm_up(draining.clone()));
        if !schema_is_there(&self.database, &self.readiness, draining).await {
            return;
        }
        let Some(copies) = self.copies.take() else { return };
        let mut intake = self.start(DeadLetters::new(copies), waker, tasks);
        let topology = self.supervisor.topology().clone();
        while let Some(session) = self.supervisor.connect(draining).await {
            intake.work(session, &topology, draining).await;
        }
        intake.drain().await;
    }

    /// Starts what runs beside the intake.
    fn start(&self, dead_letters: DeadLetters, waker: &Waker, tasks: &mut JoinSet<()>) -> Intake {
        let (settings, counts, database) = (&self.config.consumer, &self.counts, &self.database);
        let writer = Writer {
            database: database.clone(),
            policy: settings.retry_policy(),
            waker: waker.clone(),
            tally: counts.tally.clone(),
        };
        let sweeper = Sweeper {
            database: database.clone(),
            waker: waker.clone(),
            tally: counts.tally.clone(),
            metrics: counts.sweeps.clone(),
        };
        let executor = Executor {
            registry: self.registry.clone(),
            leases: counts.leases.clone(),
            finisher: Finisher::start(&writer, settings.slots, tasks),
            metrics: counts.runs.clone(),
            timeout: settings.job_timeout(),
            traffic: Arc::clone(&self.traffic),
        };
        tasks.spawn(keep_traffic_written(Arc::clone(&self.traffic), database.clone()));
        tasks.spawn(sweeper.work(settings.lease()));
        tasks.spawn(counts.leases.clone().keep(database.clone(), settings.lease()));
        tasks.spawn(waker.clone().work(database.clone()));
        Intake::new(
            writer,
            executor,
            counts.deliveries.clone(),
            dead_letters,
            settings.clone(),
        )
    }
}

/// Puts the jobs of runs that will not be finished in the outbox again.
async fn hand_back(runs: &[Run], database: &Database, waker: &Waker) {
    let call = async |client: &sql::Object| hand_back_runs(client, runs).await;
    match database.call(LAST_CALL, call).await {
        Ok(jobs) => {
            tracing::warn!(
                runs = runs.len(),
                handed_back = jobs.len(),
                "handed back what still ran"
            );
            waker.wish(Wake::Now);
        }
        Err(error) => {
            tracing::warn!(%error, runs = runs.len(), "abandoned what still ran: its leases run out");
        }
    }
}

async fn keep_traffic_written(traffic: Arc<Traffic>, database: Database) {
    loop {
        tokio::time::sleep(WRITE_TRAFFIC_EVERY).await;
        write_traffic(&traffic, &database).await;
    }
}

/// What can't be written is counted on.
async fn write_traffic(traffic: &Traffic, database: &Database) {
    if traffic.is_empty() {
        return;
    }
    let write = async |client: &sql::Object| traffic.write(client).await;
    if let Err(error) = database.call(CALL_TIMEOUT, write).await
        && !error.is_retryable()
    {
        tracing::error!(%error, "traffic can't be written");
    }
}

/// Waits until the database has what this binary calls. `false` once `stop` is cancelled.
async fn schema_is_there(database: &Database, readiness: &Readiness, stop: &CancellationToken) -> bool {
    let mut backoff = backoff();
    loop {
        let check = async |client: &sql::Object| check_schema(client).await;
        match database.call(CALL_TIMEOUT, check).await {
            Ok(()) => {
                readiness.set("schema", Ok(()));
                return true;
            }
            Err(error) => {
                let reason = error.to_string();
                readiness.set("schema", Err(&reason));
                tracing::warn!(%error, "can't start before the schema is there");
            }
        }
        if stop
            .run_until_cancelled(tokio::time::sleep(backoff.after_failure()))
            .await
            .is_none()
        {
            return false;
        }
    }
}
