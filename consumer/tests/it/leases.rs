//! What holds when a process dies, freezes or is cut off: the lease, and who takes over.

use std::time::Duration;

use consumer::registry::Registry;
use serde_json::json;
use sql::testing::proxy::Proxy;

use crate::handlers::Gate;
use crate::world::{Consumer, World, wait_until};

/// The shortest lease there is, so that tests need not wait long for its end.
const SHORT_LEASE: &str = "--CONSUMER__LEASE_MS=1000";

async fn gated(world: &World, more: &[&str]) -> (Consumer, Gate) {
    let gate = Gate::new();
    (
        Consumer::start(world.config(more), Registry::default().with(gate.clone())).await,
        gate,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_whose_consumer_died_is_rescued_by_another_and_finished_once() {
    let mut world = World::new().await;
    world.carry();
    let (victim, closed) = gated(&world, &[SHORT_LEASE]).await;
    let job_id = world.job("gate", json!({})).await;
    assert_eq!(closed.begun().await, (job_id, 1));
    victim.kill().await;
    wait_until("the dead consumer's handler is gone", async || {
        closed.inside() == 0
    })
    .await;

    let (rescuer, gate) = gated(&world, &[SHORT_LEASE]).await;
    gate.let_through(1);
    assert_eq!(gate.begun().await, (job_id, 2));
    assert_eq!(world.until(job_id, "succeeded").await.attempts, 2);
    assert_eq!(rescuer.metric("jobs_rescued_total").await, 1);
    assert_eq!(rescuer.metric("jobs_started_total{outcome=\"started\"}").await, 1);
    assert_eq!(rescuer.metric("leases_lost_total").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_outlives_its_lease_keeps_it() {
    let world = World::new().await;
    let lease = Duration::from_secs(2);
    let (consumer, gate) = gated(&world, &["--CONSUMER__LEASE_MS=2000"]).await;
    let (watcher, _) = gated(&world, &[SHORT_LEASE]).await;
    let job_id = world.sent_job("gate", json!({})).await;
    gate.begun().await;
    // Not waiting for anything: the time that passes is the test.
    tokio::time::sleep(lease * 2).await;
    assert_eq!(gate.inside(), 1);
    gate.let_through(1);
    assert_eq!(world.until(job_id, "succeeded").await.attempts, 1);
    for consumer in [consumer, watcher] {
        assert_eq!(consumer.metric("jobs_rescued_total").await, 0);
        assert_eq!(consumer.metric("leases_lost_total").await, 0);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_lost_its_job_is_stopped_and_counts_for_nothing() {
    let world = World::new().await;
    let database = Proxy::before(world.db.url("relayforge_consumer").expose(), 5432).await;
    let config = world.config_at(
        &database.url().parse().unwrap(),
        world.broker.amqp_url(),
        &[SHORT_LEASE],
    );
    let closed = Gate::new();
    let cut_off = Consumer::start(config, Registry::default().with(closed.clone())).await;
    let job_id = world.sent_job("gate", json!({})).await;
    closed.begun().await;
    database.shut(true);

    let (_rescuer, gate) = gated(&world, &[SHORT_LEASE]).await;
    world.until(job_id, "retrying").await;
    database.shut(false);
    wait_until("the lost run's handler is stopped", async || closed.inside() == 0).await;
    cut_off.until_metric("leases_lost_total", 1).await;
    cut_off.until_metric("jobs_running", 0).await;
    // Either of them may get the message of the next attempt.
    gate.let_through(1);
    closed.let_through(1);
    world.send(job_id, 2).await;
    assert_eq!(world.until(job_id, "succeeded").await.attempts, 2);
    assert_eq!(world.dead_letters().await.len(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_takes_its_process_down_each_time_is_given_up_as_poison() {
    let world = World::new().await;
    let (victim, gate) = gated(&world, &[SHORT_LEASE, "--CONSUMER__POISON_STARTS=1"]).await;
    let job_id = world.sent_job("gate", json!({})).await;
    gate.begun().await;
    victim.kill().await;
    let (sweeper, _) = gated(&world, &[SHORT_LEASE]).await;
    let job = world.until(job_id, "dead_lettered").await;
    assert_eq!(job.attempts, 1);
    assert_eq!(world.dead_letters().await[0].cause.as_deref(), Some("poison"));
    sweeper.until_metric("dlq_messages_total", 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_would_start_once_too_often_gives_the_job_up() {
    let world = World::new().await;
    let (victim, gate) = gated(&world, &[SHORT_LEASE]).await;
    let job_id = world.sent_job("gate", json!({})).await;
    gate.begun().await;
    victim.kill().await;
    let (sweeper, _) = gated(&world, &[SHORT_LEASE]).await;
    world.until(job_id, "retrying").await;
    sweeper.stop().await;

    let (strict, gate) = gated(&world, &[SHORT_LEASE, "--CONSUMER__POISON_STARTS=1"]).await;
    world.send(job_id, 2).await;
    world.until(job_id, "dead_lettered").await;
    strict
        .until_metric("jobs_started_total{outcome=\"poisoned\"}", 1)
        .await;
    assert_eq!(strict.metric("dlq_messages_total").await, 1);
    assert_eq!(gate.inside(), 0);
}
