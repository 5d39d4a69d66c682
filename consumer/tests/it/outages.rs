//! Without the broker, without the database, and back, in one process.

use consumer::registry::Registry;
use observability::AppEnv;
use serde_json::json;
use sql::testing::proxy::Proxy;

use crate::handlers::Gate;
use crate::world::{Consumer, World, wait_until};

fn registry(gate: &Gate) -> Registry {
    Registry::built_in(AppEnv::Development).with(gate.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_broker_ends_no_run_and_its_return_brings_the_next() {
    let world = World::new().await;
    let (broker, gate) = (Proxy::before(world.broker.amqp_url(), 5672).await, Gate::new());
    let config = world.config_at(
        &world.db.url("relayforge_consumer"),
        broker.url(),
        &["--CONSUMER__SLOTS=1"],
    );
    let consumer = Consumer::start(config, registry(&gate)).await;
    let running = world.sent_job("gate", json!({})).await;
    gate.begun().await;
    // Delivered and not started, for there is one slot: the broker will have to deliver it again.
    let waiting = world.sent_job("log", json!({})).await;

    broker.shut(true);
    wait_until("the outage is reported", async || {
        consumer.check("broker").await != "ok"
    })
    .await;
    assert_eq!(consumer.get("/readyz").await.0, 503);
    assert_eq!(consumer.check("database").await, "ok");
    gate.let_through(1);
    assert_eq!(world.until(running, "succeeded").await.attempts, 1);
    broker.shut(false);
    assert_eq!(world.until(waiting, "succeeded").await.attempts, 1);
    consumer.until_ready().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_the_database_is_away_nothing_is_lost_and_nothing_runs_twice() {
    let world = World::new().await;
    let gate = Gate::new();
    let database = Proxy::before(world.db.url("relayforge_consumer").expose(), 5432).await;
    let config = world.config_at(&database.url().parse().unwrap(), world.broker.amqp_url(), &[]);
    let consumer = Consumer::start(config, registry(&gate)).await;
    let running = world.sent_job("gate", json!({})).await;
    gate.begun().await;

    database.shut(true);
    wait_until("the outage is reported", async || {
        consumer.check("database").await != "ok"
    })
    .await;
    assert_eq!(consumer.get("/readyz").await.0, 503);
    let waiting = world.sent_job("log", json!({})).await;
    gate.let_through(1);
    wait_until("the handler has ended", async || gate.inside() == 0).await;
    assert_eq!(world.overview(running).await.status, "processing");
    assert_eq!(world.overview(waiting).await.status, "queued");
    assert_eq!(consumer.check("broker").await, "ok");

    database.shut(false);
    for job_id in [running, waiting] {
        assert_eq!(world.until(job_id, "succeeded").await.attempts, 1);
    }
    consumer.until_ready().await;
    assert_eq!(gate.most_inside(), 1);
    consumer
        .until_metric("jobs_processed_total{status=\"succeeded\"}", 2)
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn it_may_be_started_before_database_and_broker() {
    let world = World::new().await;
    let database = Proxy::before(world.db.url("relayforge_consumer").expose(), 5432).await;
    let broker = Proxy::before(world.broker.amqp_url(), 5672).await;
    database.shut(true);
    broker.shut(true);
    let config = world.config_at(&database.url().parse().unwrap(), broker.url(), &[]);
    let consumer = Consumer::launch(config, Registry::built_in(AppEnv::Development));
    wait_until("the outage is reported", async || {
        consumer.check("schema").await.contains("unavailable")
    })
    .await;
    let job_id = world.sent_job("log", json!({})).await;
    database.shut(false);
    wait_until("the schema is found", async || {
        consumer.check("schema").await == "ok"
    })
    .await;
    broker.shut(false);
    world.until(job_id, "succeeded").await;
}
