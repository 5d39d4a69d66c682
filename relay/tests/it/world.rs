//! A database and a broker of the test's own, events in the outbox, and relays in this process.

use std::time::{Duration, Instant};

use amqprs::channel::{QueueBindArguments, QueueDeclareArguments};
use amqprs::{FieldTable, FieldValue};
use clap::Parser as _;
use observability::ServiceConfig as _;
use relay::config::Config;
use relay::session::Session;
use relay::supervisor::Repair;
use relay::testing::TestBroker;
use serde_json::{Value, json};
use sql::Pool;
use sql::config::{NewSource, create_source};
use sql::event::SourceKind;
use sql::ingest::{Expect, Fingerprint, IngestRules, Ingested, NewWebhook, ingest_webhooks};
use sql::outbox::wake_relays;
use sql::testing::TestDb;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

pub(crate) struct World {
    pub(crate) broker: TestBroker,
    owner: Pool,
    pub(crate) db: TestDb,
}

/// A relay in this process; it ends as on SIGTERM when told, and hard when dropped.
pub(crate) struct Relay {
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl World {
    pub(crate) async fn new() -> Self {
        let (db, broker) = tokio::join!(TestDb::create(), TestBroker::start());
        Self {
            broker,
            owner: db.pool("owner"),
            db,
        }
    }

    pub(crate) fn relay(&self, settings: &[&str]) -> Relay {
        self.relay_at(
            self.db.url("relayforge_relay").expose(),
            self.broker.amqp_url(),
            settings,
        )
    }

    pub(crate) fn relay_at(&self, database_url: &str, amqp_url: &str, settings: &[&str]) -> Relay {
        let ours = [
            format!("--DATABASE__URL={database_url}"),
            format!("--AMQP__URL={amqp_url}"),
            format!("--AMQP__PREFIX={}", self.broker.prefix()),
            "--RELAY__LISTEN=127.0.0.1:0".to_owned(),
        ];
        let arguments = ["test"]
            .into_iter()
            .chain(ours.iter().map(String::as_str))
            .chain(settings.iter().copied());
        let config = Config::try_parse_from(arguments).unwrap();
        config.validate().unwrap();
        let stop = CancellationToken::new();
        Relay {
            task: tokio::spawn(relay::service::run(config, stop.clone())),
            stop,
        }
    }

    /// A source that also goes to the topic exchange.
    pub(crate) async fn loud_source(&self) {
        let source = NewSource {
            name: "loud",
            kind: SourceKind::Generic,
            dedup: "event_id",
            replay_policy: "absorb",
            job_kind: "log",
            fanout: true,
        };
        create_source(&self.owner.get().await.unwrap(), source)
            .await
            .unwrap();
    }

    /// New events of a source, in one transaction; then wakes the relays, as the API does. Returns the job ids.
    pub(crate) async fn ingest(&self, source: &str, ids: std::ops::Range<u32>) -> Vec<Uuid> {
        let (headers, trace) = (
            json!({}),
            serde_json::value::to_raw_value(&json!({ "traceparent": TRACEPARENT })).unwrap(),
        );
        const BODY: &[u8] = br#"{"event":"order.created","data":{"n":1}}"#;
        let ids: Vec<String> = ids.map(|id| format!("{source}-{id}")).collect();
        let rows: Vec<NewWebhook<'_>> = ids
            .iter()
            .map(|id| NewWebhook {
                tenant_id: Uuid::nil(),
                source,
                provider_event_id: Some(id),
                event_type: "order.created",
                body: BODY,
                fingerprint: Fingerprint::of(Uuid::nil(), source, Some(id), BODY),
                headers: &headers,
                signature_timestamp: None,
                secret_id: None,
                correlation_id: "corr-1",
                trace_context: Some(&trace),
            })
            .collect();
        let day = Duration::from_secs(86_400);
        let rules = IngestRules {
            default_daily_quota: 1_000_000,
            dedup_window: day,
            hash_window: day,
        };
        let client = self.owner.get().await.unwrap();
        let outcomes = ingest_webhooks(&client, &rows, &rules, &mut Expect::New)
            .await
            .unwrap();
        wake_relays(&client, None).await.unwrap();
        outcomes
            .iter()
            .map(|outcome| match outcome {
                Ingested::Accepted { ids } => ids.job_id.unwrap(),
                other => panic!("{other:?}"),
            })
            .collect()
    }

    /// Declares the topology, as a relay that ran before has done.
    pub(crate) async fn declare(&self) {
        let session = self.broker.session().await;
        self.broker.topology().declare(&session).await.unwrap();
        session.close().await;
    }

    /// A stranger's queue that takes one event and refuses all others; it goes with the session.
    pub(crate) async fn bind_full_queue(&self, session: &Session) -> String {
        let (queue, exchange) = (
            format!("{}.full", self.broker.prefix()),
            self.broker.topology().events,
        );
        let mut limits = FieldTable::new();
        limits.insert("x-max-length".try_into().unwrap(), FieldValue::I(1));
        limits.insert(
            "x-overflow".try_into().unwrap(),
            FieldValue::from("reject-publish"),
        );
        let declare = QueueDeclareArguments::new(&queue)
            .exclusive(true)
            .arguments(limits)
            .finish();
        session.control().queue_declare(declare).await.unwrap();
        let bind = QueueBindArguments::new(&queue, &exchange, "#").finish();
        session.control().queue_bind(bind).await.unwrap();
        queue
    }

    pub(crate) async fn count(&self, query: &str) -> i64 {
        self.owner
            .get()
            .await
            .unwrap()
            .query_one(query, &[])
            .await
            .unwrap()
            .get(0)
    }

    pub(crate) async fn execute(&self, statement: &str) {
        self.owner
            .get()
            .await
            .unwrap()
            .batch_execute(statement)
            .await
            .unwrap();
    }

    pub(crate) async fn outbox_is_empty(&self) {
        wait_until("the outbox is empty", async || {
            self.count("select count(*) from store.outbox_messages").await == 0
        })
        .await;
    }

    pub(crate) async fn relay_sleeps(&self) {
        wait_until("a relay sleeps", async || {
            self.count("select count(*) from store.relay_sleepers").await == 1
        })
        .await;
    }

    /// Message ids on the jobs queue, sorted; the queue is empty afterwards.
    pub(crate) async fn message_ids(&self) -> Vec<String> {
        let messages = self.broker.drain(&self.broker.topology().jobs).await;
        let mut ids: Vec<String> = messages
            .iter()
            .map(|message| message.message_id().to_owned())
            .collect();
        ids.sort();
        ids
    }
}

pub(crate) const TRACEPARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

impl Relay {
    pub(crate) async fn end(mut self) {
        self.stop.cancel();
        (&mut self.task).await.unwrap().unwrap();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// For sessions without a database.
pub(crate) fn nothing_to_repair() -> Option<Repair> {
    Some(Repair::new(|| async { Ok(()) }))
}

pub(crate) async fn wait_until(what: &str, holds: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !holds().await {
        assert!(Instant::now() < deadline, "waited in vain until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

pub(crate) fn work_messages(jobs: &[Uuid]) -> Vec<String> {
    let mut ids: Vec<String> = jobs.iter().map(|job| format!("{job}:1")).collect();
    ids.sort();
    ids
}

/// A JSON body.
pub(crate) fn body(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes).unwrap()
}
