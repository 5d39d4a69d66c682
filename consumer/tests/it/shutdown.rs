//! The end that was asked for: what runs is finished, what waits goes back.

use consumer::registry::Registry;
use relay::envelope::MessageId;
use serde_json::json;
use sql::testing::proxy::Proxy;

use crate::handlers::Gate;
use crate::world::{Consumer, World, wait_until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn running_jobs_are_finished_and_waiting_messages_go_back() {
    let world = World::new().await;
    let gate = Gate::new();
    let config = world.config(&["--CONSUMER__SLOTS=1"]);
    let consumer = Consumer::start(config, Registry::default().with(gate.clone())).await;
    let running = world.sent_job("gate", json!({})).await;
    gate.begun().await;
    let waiting = world.sent_job("gate", json!({})).await;

    consumer.ask_to_stop();
    wait_until("it drains", async || {
        consumer.get("/readyz").await.1.contains("draining")
    })
    .await;
    // Before the running job has ended: another consumer can have it meanwhile.
    let queue = world.broker.topology().jobs;
    let mut back = None;
    wait_until("the waiting message is back", async || {
        back = world.broker.get(&queue).await;
        back.is_some()
    })
    .await;
    let id = MessageId {
        job_id: waiting,
        attempt: 1,
    }
    .to_string();
    assert_eq!(back.unwrap().message_id(), id);
    assert_eq!(gate.inside(), 1);
    gate.let_through(1);
    consumer.ended().await;
    assert_eq!(world.overview(running).await.status, "succeeded");
    assert_eq!(world.overview(waiting).await.status, "queued");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_does_not_end_in_time_is_handed_back_at_once() {
    let mut world = World::new().await;
    world.carry();
    let (closed, open) = (Gate::new(), Gate::new());
    // Longer than anything here waits: it is not the lease that brings the job back.
    let config = world.config(&["--CONSUMER__LEASE_MS=3600000", "--CONSUMER__SHUTDOWN_MS=100"]);
    let consumer = Consumer::start(config.clone(), Registry::default().with(closed.clone())).await;
    let job_id = world.job("gate", json!({})).await;
    closed.begun().await;
    consumer.stop().await;
    assert_eq!(world.overview(job_id).await.status, "retrying");
    wait_until("the abandoned handler is gone", async || closed.inside() == 0).await;

    open.let_through(1);
    let _rescuer = Consumer::start(config, Registry::default().with(open)).await;
    assert_eq!(world.until(job_id, "succeeded").await.attempts, 2);
}

/// The database can't be told: the lease runs out, and the end is not held up for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_cannot_be_handed_back_is_left_to_its_lease() {
    let mut world = World::new().await;
    let (closed, open) = (Gate::new(), Gate::new());
    let database = Proxy::before(world.db.url("relayforge_consumer").expose(), 5432).await;
    let more = ["--CONSUMER__LEASE_MS=1000", "--CONSUMER__SHUTDOWN_MS=100"];
    let config = world.config_at(&database.url().parse().unwrap(), world.broker.amqp_url(), &more);
    let consumer = Consumer::start(config, Registry::default().with(closed.clone())).await;
    let job_id = world.sent_job("gate", json!({})).await;
    closed.begun().await;
    database.stall(true);
    consumer.stop().await;
    assert_eq!(world.overview(job_id).await.status, "processing");
    world.carry();
    open.let_through(1);
    let _rescuer = Consumer::start(world.config(&more), Registry::default().with(open)).await;
    assert_eq!(world.until(job_id, "succeeded").await.attempts, 2);
}
