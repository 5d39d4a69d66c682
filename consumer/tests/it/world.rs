//! A database and a broker of the test's own, jobs in them, and consumers in this process.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use clap::Parser as _;
use consumer::registry::Registry;
use consumer::{Config, Service};
use observability::{AppEnv, ServiceConfig as _};
use relay::envelope::{MessageId, envelope};
use relay::outgoing::{Outgoing, Properties, PublishOutcome};
use relay::publisher::Publisher;
use relay::session::Session;
use relay::testing::TestBroker;
use serde_json::{Value, json};
use sql::config::{NewSource, create_source};
use sql::event::SourceKind;
use sql::ingest::{Expect, Fingerprint, IngestRules, Ingested, NewWebhook, ingest_webhooks};
use sql::operators::{JobOverview, job_overview};
use sql::outbox::{ClaimedMessage, LowWater, Settlement, Target, claim_outbox, settle_outbox};
use sql::testing::TestDb;
use sql::{DbError, Pool, Secret};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::{JoinHandle, JoinSet};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

/// Bound of everything that is waited for. Only a test that fails takes that long.
const PATIENCE: Duration = Duration::from_secs(20);

/// How often a condition is looked at.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// Waits until something holds; fails the test, naming it, if it takes too long.
pub(crate) async fn wait_until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain: {what}");
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Waits for a future, within bounds.
pub(crate) async fn in_time<T>(what: &str, future: impl Future<Output = T>) -> T {
    let result = tokio::time::timeout(PATIENCE, future).await;
    result.unwrap_or_else(|_| panic!("waited in vain: {what}"))
}

/// What a test runs in. Nothing carries messages from the outbox to the broker unless the test does.
pub(crate) struct World {
    /// Dropped first: what they hold goes next.
    couriers: JoinSet<()>,
    publisher: Publisher,
    _session: Session,
    pub(crate) broker: TestBroker,
    owner: Pool,
    relay: Pool,
    pub(crate) db: TestDb,
}

impl World {
    pub(crate) async fn new() -> Self {
        let (db, broker) = tokio::join!(TestDb::create(), TestBroker::start());
        let session = broker.session().await;
        broker.topology().declare(&session).await.unwrap();
        let publisher = Publisher::start(&session, PATIENCE).await.unwrap();
        Self {
            couriers: JoinSet::new(),
            publisher,
            _session: session,
            broker,
            owner: db.pool("owner"),
            relay: db.pool("relayforge_relay"),
            db,
        }
    }

    /// What a consumer is configured with here: quick retries, any free port.
    pub(crate) fn config(&self, more: &[&str]) -> Config {
        let database = self.db.url("relayforge_consumer");
        self.config_at(&database, self.broker.amqp_url(), more)
    }

    /// The same, with database and broker behind other addresses.
    pub(crate) fn config_at(&self, database: &Secret, amqp_url: &str, more: &[&str]) -> Config {
        let flags = [
            "test".to_owned(),
            "--APP_ENV=development".to_owned(),
            format!("--DATABASE__URL={}", database.expose()),
            format!("--AMQP__URL={amqp_url}"),
            format!("--AMQP__PREFIX={}", self.broker.prefix()),
            "--CONSUMER__LISTEN=127.0.0.1:0".to_owned(),
            "--CONSUMER__BACKOFF_BASE_MS=20".to_owned(),
            "--CONSUMER__BACKOFF_CAP_MS=100".to_owned(),
        ];
        // A flag given twice is an error: the test's own stand in for ours.
        let name = |flag: &str| flag.split('=').next().unwrap_or_default().to_owned();
        let ours = flags
            .iter()
            .filter(|flag| !more.iter().any(|other| name(other) == name(flag)));
        let all = ours.map(String::as_str).chain(more.iter().copied());
        let config = Config::try_parse_from(all).unwrap();
        config.validate().unwrap();
        config
    }

    /// A consumer with default settings and the built-in kinds.
    pub(crate) async fn consumer(&self) -> Consumer {
        Consumer::start(self.config(&[]), Registry::built_in(AppEnv::Development)).await
    }

    /// Makes a job of that kind whose event has `data`, by way of a source of the same name.
    pub(crate) async fn job(&self, kind: &str, data: Value) -> Uuid {
        let client = self.owner.get().await.unwrap();
        let source = NewSource {
            name: kind,
            kind: SourceKind::Generic,
            dedup: "none",
            replay_policy: "absorb",
            job_kind: kind,
            fanout: false,
        };
        match create_source(&client, source).await {
            Ok(()) | Err(DbError::Conflict(_)) => {}
            Err(error) => panic!("{error}"),
        }
        let body = json!({ "event": "thing.happened", "data": data }).to_string();
        let webhook = NewWebhook {
            tenant_id: Uuid::nil(),
            source: kind,
            provider_event_id: None,
            event_type: "thing.happened",
            body: body.as_bytes(),
            fingerprint: Fingerprint::of(Uuid::nil(), kind, None, body.as_bytes()),
            headers: &json!({}),
            signature_timestamp: None,
            secret_id: None,
            correlation_id: "corr-1",
            trace_context: None,
        };
        let day = Duration::from_secs(86_400);
        let rules = IngestRules {
            default_daily_quota: 1_000,
            dedup_window: day,
            hash_window: day,
        };
        match ingest_webhooks(&client, &[webhook], &rules, &mut Expect::Any)
            .await
            .unwrap()[..]
        {
            [Ingested::Accepted { ids }] => ids.job_id.unwrap(),
            ref other => panic!("{other:?}"),
        }
    }

    /// Puts the message of one attempt into the work queue. Its body says nothing: nobody reads it.
    pub(crate) async fn send(&self, job_id: Uuid, attempt: i32) {
        let queue = self.broker.topology().jobs;
        self.send_to(&queue, &MessageId { job_id, attempt }.to_string())
            .await;
    }

    /// The same, by way of the queue of work that comes back.
    pub(crate) async fn send_back(&self, job_id: Uuid, attempt: i32) {
        let queue = self.broker.topology().retries;
        self.send_to(&queue, &MessageId { job_id, attempt }.to_string())
            .await;
    }

    /// Puts a message with that id into a queue.
    pub(crate) async fn send_to(&self, queue: &str, id: &str) {
        let properties = Properties {
            message_id: id.to_owned(),
            correlation_id: Some("corr-1".to_owned()),
            ..Properties::default()
        };
        let message = Outgoing {
            exchange: String::new(),
            routing_key: queue.to_owned(),
            properties,
            body: b"not read".to_vec(),
        };
        assert_eq!(self.publisher.publish(message).await, PublishOutcome::Confirmed);
    }

    /// Makes a job and sends its message.
    pub(crate) async fn sent_job(&self, kind: &str, data: Value) -> Uuid {
        let job_id = self.job(kind, data).await;
        self.send(job_id, 1).await;
        job_id
    }

    /// From now on, carries due work messages from the outbox to the broker, as a relay would.
    pub(crate) fn carry(&mut self) {
        let (pool, publisher, topology) =
            (self.relay.clone(), self.publisher.clone(), self.broker.topology());
        self.couriers.spawn(async move {
            loop {
                let mut client = pool.get().await.unwrap();
                let transaction = client.transaction().await.unwrap();
                let mut settlement = Settlement::default();
                for target in [Target::Jobs, Target::Retries] {
                    let claimed = claim_outbox(&transaction, target, 100, LowWater::START)
                        .await
                        .unwrap();
                    for message in &claimed {
                        let outgoing = envelope(message, target, &topology).unwrap();
                        match publisher.publish(outgoing).await {
                            PublishOutcome::Confirmed => settlement.confirmed.push(message.id),
                            // Its queue is gone, or just going: once more when it is there again.
                            PublishOutcome::Returned { .. } | PublishOutcome::Nacked => {}
                            other => panic!("{other}"),
                        }
                    }
                }
                settle_outbox(&transaction, &settlement, LOOK_EVERY, LOOK_EVERY)
                    .await
                    .unwrap();
                transaction.commit().await.unwrap();
                if settlement.confirmed.is_empty() {
                    tokio::time::sleep(LOOK_EVERY).await;
                }
            }
        });
    }

    /// What waits in the outbox for the dead-letter queue. Looking takes nothing away.
    pub(crate) async fn dead_letters(&self) -> Vec<ClaimedMessage> {
        let mut client = self.relay.get().await.unwrap();
        let transaction = client.transaction().await.unwrap();
        claim_outbox(&transaction, Target::Dlq, 100, LowWater::START)
            .await
            .unwrap()
    }

    pub(crate) async fn overview(&self, job_id: Uuid) -> JobOverview {
        let client = self.owner.get().await.unwrap();
        job_overview(&client, &[job_id]).await.unwrap().pop().unwrap()
    }

    /// Waits until the job has that status, and returns it with what else is known.
    pub(crate) async fn until(&self, job_id: Uuid, status: &str) -> JobOverview {
        let mut last = self.overview(job_id).await;
        let deadline = Instant::now() + PATIENCE;
        while last.status != status {
            assert!(Instant::now() < deadline, "waited in vain for {status}: {last:?}");
            tokio::time::sleep(LOOK_EVERY).await;
            last = self.overview(job_id).await;
        }
        last
    }
}

/// A consumer in this process.
pub(crate) struct Consumer {
    addr: SocketAddr,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Consumer {
    /// Starts it and waits until it is ready.
    pub(crate) async fn start(config: Config, registry: Registry) -> Self {
        let consumer = Self::launch(config, registry);
        consumer.until_ready().await;
        consumer
    }

    /// Starts it.
    pub(crate) fn launch(config: Config, registry: Registry) -> Self {
        let service = Service::bind(config, registry).unwrap();
        let (addr, stop) = (service.admin_addr(), CancellationToken::new());
        let task = tokio::spawn(service.run(stop.clone()));
        Self { addr, stop, task }
    }

    /// Waits until it says that it is ready.
    pub(crate) async fn until_ready(&self) {
        let deadline = Instant::now() + PATIENCE;
        loop {
            let (status, report) = self.get("/readyz").await;
            if status == 200 {
                return;
            }
            assert!(Instant::now() < deadline, "waited in vain: {report}");
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// Ends it as if its process had died.
    pub(crate) async fn kill(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }

    /// Asks it to end.
    pub(crate) fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(self) {
        in_time("the consumer ends", self.task).await.unwrap();
    }

    /// Asks it to end and waits until it has.
    pub(crate) async fn stop(self) {
        self.ask_to_stop();
        self.ended().await;
    }

    /// Status and body of one of its pages.
    pub(crate) async fn get(&self, path: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    /// What a readiness check says.
    pub(crate) async fn check(&self, name: &str) -> String {
        let report: Value = serde_json::from_str(&self.get("/readyz").await.1).unwrap();
        report["checks"][name].as_str().unwrap().to_owned()
    }

    /// The value of a series, by its full name.
    pub(crate) async fn metric(&self, series: &str) -> u64 {
        let text = self.get("/metrics").await.1;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        line.unwrap_or_else(|| panic!("no {series} in\n{text}"))
            .parse()
            .unwrap()
    }

    /// Waits until a series has a value.
    pub(crate) async fn until_metric(&self, series: &str, value: u64) {
        wait_until(&format!("{series} is {value}"), async || {
            self.metric(series).await == value
        })
        .await;
    }
}
