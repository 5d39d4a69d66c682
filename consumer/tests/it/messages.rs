//! What a message does: it starts a run or it does not, and never comes back.

use consumer::registry::Registry;
use relay::session::Session;
use serde_json::json;
use uuid::Uuid;

use crate::handlers::Gate;
use crate::world::{Consumer, World, wait_until};

async fn gated(world: &World, more: &[&str]) -> (Consumer, Gate) {
    let gate = Gate::new();
    (
        Consumer::start(world.config(more), Registry::default().with(gate.clone())).await,
        gate,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_comes_twice_starts_one_run() {
    let world = World::new().await;
    let (consumer, gate) = gated(&world, &[]).await;
    let job_id = world.sent_job("gate", json!({})).await;
    assert_eq!(gate.begun().await, (job_id, 1));
    world.send(job_id, 1).await;
    consumer
        .until_metric("jobs_started_total{outcome=\"busy\"}", 1)
        .await;
    gate.let_through(2);
    assert_eq!(world.until(job_id, "succeeded").await.attempts, 1);
    assert_eq!(gate.most_inside(), 1);
    consumer.stop().await;
    assert!(world.broker.get(&world.broker.topology().jobs).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_can_start_nothing_is_acknowledged_by_name() {
    let world = World::new().await;
    let (consumer, gate) = gated(&world, &[]).await;
    gate.let_through(1);
    let job_id = world.sent_job("gate", json!({})).await;
    world.until(job_id, "succeeded").await;
    let waiting = world.job("gate", json!({})).await;
    world.send(job_id, 1).await;
    world.send(waiting, 7).await;
    world.send(Uuid::from_u128(1), 1).await;
    for outcome in ["final", "stale", "unknown", "started"] {
        consumer
            .until_metric(&format!("jobs_started_total{{outcome=\"{outcome}\"}}"), 1)
            .await;
    }
    assert_eq!(world.overview(waiting).await.status, "queued");
    consumer.stop().await;
    assert!(world.broker.get(&world.broker.topology().jobs).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_message_is_dropped_and_the_next_one_works() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    world.send_id("no-id\u{7f}").await;
    world.send_id(&format!("{}:0", Uuid::from_u128(1))).await;
    send_without_properties(&world.broker.session().await, &world.broker.topology().jobs).await;
    let job_id = world.sent_job("log", json!({})).await;
    world.until(job_id, "succeeded").await;
    consumer.until_metric("messages_malformed_total", 3).await;
    consumer.stop().await;
    assert!(world.broker.get(&world.broker.topology().jobs).await.is_none());
}

async fn send_without_properties(session: &Session, queue: &str) {
    let to = amqprs::channel::BasicPublishArguments::new("", queue);
    let properties = amqprs::BasicProperties::default();
    session
        .control()
        .basic_publish(properties, b"{}".to_vec(), to)
        .await
        .unwrap();
    // The answer to a call comes after what was sent before it has been taken.
    let passive = amqprs::channel::QueueDeclareArguments::new(queue)
        .passive(true)
        .finish();
    session.control().queue_declare(passive).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_is_started_than_there_are_slots_and_all_of_it_is_done() {
    let world = World::new().await;
    let (consumer, gate) = gated(&world, &["--CONSUMER__SLOTS=2"]).await;
    let mut jobs = Vec::new();
    for _ in 0..7 {
        jobs.push(world.sent_job("gate", json!({})).await);
    }
    gate.begun().await;
    gate.begun().await;
    assert_eq!(
        consumer.metric("jobs_started_total{outcome=\"started\"}").await,
        2
    );
    assert_eq!(consumer.metric("jobs_running").await, 2);
    gate.let_through(jobs.len());
    for job_id in jobs {
        assert_eq!(world.until(job_id, "succeeded").await.attempts, 1);
    }
    assert_eq!(gate.most_inside(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backlog_larger_than_the_slots_is_finished_once_each() {
    let world = World::new().await;
    let mut jobs = Vec::new();
    for _ in 0..200 {
        jobs.push(world.sent_job("log", json!({})).await);
    }
    let consumer = world.consumer().await;
    consumer
        .until_metric("jobs_processed_total{status=\"succeeded\"}", 200)
        .await;
    for job_id in jobs {
        assert_eq!(world.overview(job_id).await.attempts, 1);
    }
    assert_eq!(
        consumer.metric("jobs_started_total{outcome=\"started\"}").await,
        200
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_consumer_that_may_not_start_jobs_gives_them_back() {
    let world = World::new().await;
    // A role that may look at the schema and start nothing.
    let wrong_role = world.config_at(&world.db.url("relayforge_relay"), world.broker.amqp_url(), &[]);
    let wrong = Consumer::launch(wrong_role, Registry::default());
    let job_id = world.sent_job("gate", json!({})).await;
    wait_until("the refusal is reported", async || {
        wrong.check("database").await.contains("start_jobs")
    })
    .await;
    let (_right, gate) = gated(&world, &[]).await;
    gate.let_through(1);
    assert_eq!(world.until(job_id, "succeeded").await.attempts, 1);
}
