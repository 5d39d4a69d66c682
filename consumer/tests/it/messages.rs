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
async fn a_malformed_message_is_set_aside_with_the_reason_and_the_next_one_works() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    let topology = world.broker.topology();
    let zero = format!("{}:0", Uuid::from_u128(1));
    world.send_to(&topology.jobs, "no-id\u{7f}").await;
    world.send_to(&topology.retries, &zero).await;
    send_without_properties(&world.broker.session().await, &topology.jobs).await;
    let job_id = world.sent_job("log", json!({})).await;
    world.until(job_id, "succeeded").await;
    consumer.until_metric("messages_malformed_total", 3).await;
    consumer.stop().await;
    for queue in topology.work_queues() {
        assert!(world.broker.get(queue).await.is_none());
    }
    let mut copies = world.broker.drain(&topology.dlq).await;
    copies.sort_by_key(|copy| copy.message_id().to_owned());
    let ids: Vec<&str> = copies.iter().map(|copy| copy.message_id()).collect();
    assert_eq!(ids, ["", &zero, "no-id\u{7f}"]);
    for copy in &copies {
        assert_eq!(copy.header("x-relayforge-cause").as_deref(), Some("malformed"));
        let reason = copy.header("x-relayforge-error").unwrap();
        assert!(reason.contains("<job id>:<attempt>"), "{reason}");
    }
    assert_eq!(copies[0].body, b"{}", "as it came");
    assert_eq!(
        copies[1].properties.correlation_id().map(String::as_str),
        Some("corr-1")
    );
}

/// Its queue was deleted while the connection for copies was there, which so finds it gone, and declares it when it is made
/// anew. Meanwhile work goes on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_message_that_cannot_be_set_aside_comes_again_and_holds_up_nobody() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    let topology = world.broker.topology();
    // The connection is made for the first one.
    world.send_to(&topology.jobs, "rubbish").await;
    consumer.until_metric("messages_malformed_total", 1).await;
    let session = world.broker.session().await;
    let delete = amqprs::channel::QueueDeleteArguments::new(&topology.dlq);
    session.control().queue_delete(delete).await.unwrap();
    world.send_to(&topology.jobs, "nonsense").await;
    let job_id = world.sent_job("log", json!({})).await;
    world.until(job_id, "succeeded").await;
    consumer.until_metric("messages_malformed_total", 2).await;
    assert_eq!(
        world.broker.get(&topology.dlq).await.unwrap().message_id(),
        "nonsense"
    );
}

/// What was delivered and finds no slot goes to whoever has one, and receipts that are outstanding then stay good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_wait_for_a_busy_consumer_go_to_an_idle_one() {
    let world = World::new().await;
    let (busy, closed) = gated(&world, &["--CONSUMER__SLOTS=2"]).await;
    let (mut long, mut short) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        long.push(world.sent_job("gate", json!({})).await);
        closed.begun().await;
    }
    for _ in 0..2 {
        short.push(world.sent_job("gate", json!({})).await);
    }
    let back = world.job("gate", json!({})).await;
    world.send_back(back, 1).await;
    short.push(back);
    let (idle, open) = gated(&world, &[]).await;
    open.let_through(short.len());
    for job_id in short {
        assert_eq!(world.until(job_id, "succeeded").await.attempts, 1);
    }
    assert_eq!(closed.inside(), 2);
    idle.stop().await;
    // The busy one takes work again once it has a slot.
    closed.let_through(long.len() + 2);
    long.push(world.sent_job("gate", json!({})).await);
    let back = world.job("gate", json!({})).await;
    world.send_back(back, 1).await;
    long.push(back);
    for job_id in long {
        assert_eq!(world.until(job_id, "succeeded").await.attempts, 1);
    }
    busy.stop().await;
    for queue in world.broker.topology().work_queues() {
        assert!(world.broker.get(queue).await.is_none());
    }
}

/// Half of the slots are for what is new, however much comes back.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mass_of_retries_does_not_hold_up_what_is_new() {
    let world = World::new().await;
    let mut old = Vec::new();
    for _ in 0..40 {
        let job_id = world.job("gate", json!({})).await;
        world.send_back(job_id, 1).await;
        old.push(job_id);
    }
    let (_consumer, gate) = gated(&world, &["--CONSUMER__SLOTS=4"]).await;
    for _ in 0..2 {
        assert!(old.contains(&gate.begun().await.0));
    }
    for _ in 0..2 {
        let fresh = world.sent_job("gate", json!({})).await;
        assert_eq!(gate.begun().await, (fresh, 1));
    }
    assert_eq!(gate.inside(), 4);
    gate.let_through(42);
    for job_id in old {
        assert_eq!(world.until(job_id, "succeeded").await.attempts, 1);
    }
    assert_eq!(gate.most_inside(), 4);
}

/// And what comes back is not starved by a mass of what is new: where both wait, they take turns.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mass_of_new_work_does_not_starve_retries() {
    let world = World::new().await;
    let (consumer, gate) = gated(&world, &["--CONSUMER__SLOTS=1"]).await;
    let mut fresh = Vec::new();
    for _ in 0..60 {
        fresh.push(world.sent_job("gate", json!({})).await);
    }
    let old = world.job("gate", json!({})).await;
    world.send_back(old, 1).await;
    let mut begun = 0;
    while gate.begun().await.0 != old {
        begun += 1;
        assert!(begun < 50, "chance decides each time: this is never");
        gate.let_through(1);
    }
    gate.let_through(70);
    for job_id in fresh {
        world.until(job_id, "succeeded").await;
    }
    consumer.stop().await;
}

/// Nobody has told us: the consumer finds its queue gone when it declares it anew, and has all open jobs sent again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_was_deleted_is_declared_and_filled_again() {
    let mut world = World::new().await;
    let mut jobs = Vec::new();
    for _ in 0..20 {
        jobs.push(world.sent_job("log", json!({})).await);
    }
    // What was published has left the outbox.
    let owner = world.db.owner().await;
    owner
        .execute("delete from store.outbox_messages", &[])
        .await
        .unwrap();
    let session = world.broker.session().await;
    let queue = world.broker.topology().jobs;
    let delete = amqprs::channel::QueueDeleteArguments::new(&queue);
    session.control().queue_delete(delete).await.unwrap();
    world.carry();
    let consumer = world.consumer().await;
    for job_id in &jobs {
        assert_eq!(world.until(*job_id, "succeeded").await.attempts, 1);
    }
    // And while it runs.
    let delete = amqprs::channel::QueueDeleteArguments::new(&queue);
    session.control().queue_delete(delete).await.unwrap();
    wait_until("it is there again", async || {
        let session = world.broker.session().await;
        let passive = amqprs::channel::QueueDeclareArguments::new(&queue)
            .passive(true)
            .finish();
        session.control().queue_declare(passive).await.is_ok()
    })
    .await;
    consumer.until_ready().await;
    let late = world.job("log", json!({})).await;
    world.until(late, "succeeded").await;
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
