//! The stages of a webhook's life, one at a time, each with all of its work waiting before any of it may go on: how many
//! webhooks share a call is then a matter of the code, and not of the machine.

use std::fmt::Write as _;

use perf::client::Addressing;
use perf::demo::TENANT;
use perf::scenario::Delivery;
use sql::event::SourceKind;
use tokio::task::JoinSet;
use tokio_postgres::Client;
use uuid::Uuid;

use super::{BATCH, BODY_BYTES};
use crate::service::Service;
use crate::world::{PATIENCE, World, eventually};

/// Slots of the consumer: more than there are jobs, so that all of them run at once.
const SLOTS: &str = "1000";

/// How often a process has to be seen without a tick of processor time until it is taken to have nothing to do.
const IDLE_LOOKS: usize = 6;

/// Starts all services, ready.
pub(super) async fn start(world: &mut World) {
    // They wait here for longer than they would put up with.
    let patience = "alter role relayforge_api set lock_timeout = 0;
                    alter role relayforge_api set statement_timeout = 0;
                    alter role relayforge_consumer set lock_timeout = 0";
    world.sql.batch_execute(patience).await.unwrap();
    let batch = BATCH.to_string();
    let of_api = [
        ("INGEST__BATCH_ITEMS", batch.as_str()),
        ("INGEST__DEADLINE_MS", "60000"),
        ("HARDENING__INGRESS_RATE_LIMIT_PER_SECOND", "1000000"),
        ("HARDENING__INGRESS_BURST", "1000000"),
        ("HARDENING__TENANT_RATE_LIMIT_PER_SECOND", "1000000"),
        ("HARDENING__TENANT_RATE_LIMIT_BURST", "1000000"),
    ];
    let of_relay = [
        ("RELAY__BATCH_ITEMS", batch.as_str()),
        ("RELAY__POLL_MS", "60000"),
    ];
    world.start("api", &of_api).await;
    world.start("relay", &of_relay).await;
    world.start("consumer", &[("CONSUMER__SLOTS", SLOTS)]).await;
    for service in world.services() {
        service.answers_ready_with(200).await;
    }
}

/// Sends a webhook that the database has wait, and full batches behind it; then lets all of them in.
pub(super) async fn ingest(world: &World, batches: usize) {
    let gate = shut(world, "webhook_inbox").await;
    let mut sending = JoinSet::new();
    send(world, 1, &mut sending);
    somebody_waits(world, "relayforge.ingest_webhooks(").await;
    send(world, batches * BATCH, &mut sending);
    // One for all looks: making a client takes longer than asking.
    let http = reqwest::Client::new();
    let metrics = format!("{}/metrics", world.service("api").url());
    let waiting = format!("ingest_queue_items {}.0", batches * BATCH);
    eventually("all webhooks wait behind the first", PATIENCE, async || {
        let text = http.get(&metrics).send().await.unwrap().text().await.unwrap();
        text.lines().any(|line| line == waiting).then_some(())
    })
    .await;
    open(gate).await;
    while let Some(sent) = sending.join_next().await {
        sent.unwrap();
    }
}

/// Lets the frozen relay publish all that is in the outbox.
pub(super) async fn publish(world: &World) {
    world.service("relay").signal("CONT").await;
    is_empty(world, "outbox_messages").await;
}

/// Lets the frozen consumer run so many jobs, which lie in its queue: its first start waits until it has taken in all others,
/// and its first outcome until all others are there.
pub(super) async fn execute(world: &World, jobs: usize) {
    let consumer = world.service("consumer");
    let starts = shut(world, "open_jobs").await;
    consumer.signal("CONT").await;
    somebody_waits(world, "relayforge.start_jobs(").await;
    has_nothing_to_do(consumer).await;
    let outcomes = shut(world, "jobs").await;
    open(starts).await;
    let running = "select count(*) from store.open_jobs where run_id is not null";
    eventually("all jobs run", PATIENCE, async || {
        (usize::try_from(world.count(running).await) == Ok(jobs)).then_some(())
    })
    .await;
    somebody_waits(world, "relayforge.complete_jobs(").await;
    has_nothing_to_do(consumer).await;
    open(outcomes).await;
    is_empty(world, "open_jobs").await;
}

/// Has everybody who writes to a table wait until the gate is opened.
async fn shut(world: &World, table: &str) -> Client {
    let gate = world.db.owner().await;
    let lock = format!("begin; lock table store.{table} in exclusive mode");
    gate.batch_execute(&lock).await.unwrap();
    gate
}

async fn open(gate: Client) {
    gate.batch_execute("commit").await.unwrap();
}

async fn somebody_waits(world: &World, call: &str) {
    let waiting =
        "select count(*) from pg_stat_activity where wait_event_type = 'Lock' and position($1 in query) > 0";
    eventually(&format!("{call}…) waits"), PATIENCE, async || {
        let row = world.sql.query_one(waiting, &[&call]).await.unwrap();
        (row.get::<_, i64>(0) == 1).then_some(())
    })
    .await;
}

/// Waits until a table is empty.
pub(super) async fn is_empty(world: &World, table: &str) {
    let row = format!("select from store.{table} limit 1");
    eventually(&format!("{table} is empty"), PATIENCE, async || {
        let found = world.sql.query_opt(&row, &[]).await.unwrap();
        found.is_none().then_some(())
    })
    .await;
}

async fn has_nothing_to_do(service: &Service) {
    let stat = format!("/proc/{}/stat", service.pid());
    let ticks = || {
        let stat = std::fs::read_to_string(&stat).unwrap();
        // After the name, which may hold anything: user and system time are the 12th and 13th.
        let fields = stat.rsplit(") ").next().unwrap().split(' ').skip(11).take(2);
        fields.map(str::to_owned).collect::<Vec<_>>()
    };
    let (mut last, mut idle) = (ticks(), 0);
    let what = format!("relayforge-{} has nothing to do", service.name());
    eventually(&what, PATIENCE, async || {
        let now = ticks();
        idle = if now == last { idle + 1 } else { 0 };
        last = now;
        (idle == IDLE_LOOKS).then_some(())
    })
    .await;
}

/// Sends so many at once, on a connection each.
fn send(world: &World, count: usize, sending: &mut JoinSet<()>) {
    let client = world.client();
    for _ in 0..count {
        let (client, delivery) = (client.clone(), webhook(world));
        sending.spawn(async move {
            let answer = client.deliver("generic", Addressing::Path(TENANT), &delivery);
            assert_eq!(answer.await.unwrap().status, 202);
        });
    }
}

fn webhook(world: &World) -> Delivery {
    let id = Uuid::new_v4().simple().to_string();
    let mut body = format!(r#"{{"event":"order.created","data":{{"id":"{id}","pad":""#);
    // Without a pattern: what can be compressed takes less room than a real one.
    while body.len() < BODY_BYTES {
        let _ = write!(body, "{}", Uuid::new_v4().simple());
    }
    body.truncate(BODY_BYTES - 3);
    body.push_str("\"}}");
    let delivery = Delivery {
        headers: Vec::new(),
        body: body.into_bytes(),
        event_id: id.clone(),
    };
    delivery
        .with_header("content-type", "application/json")
        .with_header("X-Event-Id", &id)
        .signed(SourceKind::Generic, world.state.secret(SourceKind::Generic))
}
