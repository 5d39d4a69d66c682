//! What becomes of a job, by what its handler does.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use consumer::outcome::Outcome;
use consumer::registry::{JobContext, JobFuture, JobHandler, Registry};
use observability::AppEnv;
use serde_json::json;
use sql::outbox::{OUTBOX_CHANNEL, relay_sleep};
use sql::pool::Listener;
use uuid::Uuid;

use crate::handlers::Gate;
use crate::world::{Consumer, World, in_time};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_succeeds_and_is_counted() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    let job_id = world.sent_job("log", json!({ "n": 1 })).await;
    let job = world.until(job_id, "succeeded").await;
    assert_eq!((job.attempts, job.last_error), (1, None));
    assert!(job.finished_at.is_some());
    consumer
        .until_metric("jobs_processed_total{status=\"succeeded\"}", 1)
        .await;
    consumer.until_metric("jobs_running", 0).await;
    assert_eq!(
        consumer.metric("jobs_started_total{outcome=\"started\"}").await,
        1
    );
    assert_eq!(consumer.metric("job_processing_duration_seconds_count").await, 1);
    assert_eq!(consumer.metric("leases_lost_total").await, 0);
    consumer.stop().await;
    assert!(world.broker.get(&world.broker.topology().jobs).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failure_is_retried_through_the_outbox_until_it_succeeds() {
    let mut world = World::new().await;
    world.carry();
    let consumer = world.consumer().await;
    let job_id = world.job("chaos", json!({ "fail_until_attempt": 3 })).await;
    assert_eq!(world.until(job_id, "succeeded").await.attempts, 3);
    consumer
        .until_metric("jobs_processed_total{status=\"succeeded\"}", 1)
        .await;
    assert_eq!(
        consumer.metric("jobs_processed_total{status=\"retried\"}").await,
        2
    );
    assert_eq!(consumer.metric("job_retries_total").await, 2);
    assert_eq!(consumer.metric("dlq_messages_total").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permanent_failure_is_given_up_at_once_with_a_copy_for_the_dead_letter_queue() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    let job_id = world.sent_job("chaos", json!({ "permanent": true })).await;
    let job = world.until(job_id, "dead_lettered").await;
    assert_eq!(job.attempts, 1);
    assert_eq!(
        job.last_error.as_deref(),
        Some("chaos: permanent failure in attempt 1")
    );
    let copies = world.dead_letters().await;
    assert_eq!(
        copies.iter().map(|copy| copy.job_id).collect::<Vec<_>>(),
        [job_id]
    );
    assert_eq!(copies[0].cause.as_deref(), Some("permanent"));
    consumer
        .until_metric("jobs_processed_total{status=\"dead_lettered\"}", 1)
        .await;
    assert_eq!(consumer.metric("dlq_messages_total").await, 1);
    assert_eq!(consumer.metric("job_retries_total").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_panic_is_a_retry_and_the_last_one_gives_up_with_its_text() {
    let mut world = World::new().await;
    world.carry();
    let config = world.config(&["--CONSUMER__MAX_ATTEMPTS=2"]);
    let consumer = Consumer::start(config, Registry::built_in(AppEnv::Development)).await;
    let once = world
        .job("chaos", json!({ "panic": true, "fail_until_attempt": 2 }))
        .await;
    let always = world.job("chaos", json!({ "panic": true })).await;
    assert_eq!(world.until(once, "succeeded").await.attempts, 2);
    let job = world.until(always, "dead_lettered").await;
    assert_eq!(job.attempts, 2);
    assert_eq!(
        job.last_error.as_deref(),
        Some("the handler panicked: chaos: panic in attempt 2")
    );
    assert_eq!(world.dead_letters().await[0].cause.as_deref(), Some("exhausted"));
    consumer.until_metric("job_retries_total", 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_run_that_takes_too_long_is_stopped_and_tried_again() {
    let mut world = World::new().await;
    world.carry();
    let gate = Gate::new();
    let more = ["--CONSUMER__JOB_TIMEOUT_MS=300", "--CONSUMER__MAX_ATTEMPTS=2"];
    let consumer = Consumer::start(world.config(&more), Registry::default().with(gate.clone())).await;
    let slow = world.job("gate", json!({})).await;
    for attempt in 1..=2 {
        assert_eq!(gate.begun().await, (slow, attempt));
    }
    let job = world.until(slow, "dead_lettered").await;
    let error = job.last_error.unwrap();
    assert!(
        error.contains("CONSUMER__JOB_TIMEOUT_MS") && error.contains("300 ms"),
        "{error}"
    );
    assert_eq!((job.attempts, gate.inside(), gate.most_inside()), (2, 0, 1));
    consumer.until_metric("job_retries_total", 1).await;
}

/// A handler that does not yield can't be stopped: its job is retried at once, its slot is not free before it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_run_that_blocks_its_thread_keeps_its_slot_until_it_ends() {
    const BLOCKED: Duration = Duration::from_secs(3);
    #[derive(Clone, Default)]
    struct Blocking {
        inside: Arc<AtomicUsize>,
        most_inside: Arc<AtomicUsize>,
    }
    impl JobHandler for Blocking {
        fn kind(&self) -> &'static str {
            "blocking"
        }
        fn run(&self, job: JobContext) -> JobFuture<'_> {
            Box::pin(async move {
                let now = self.inside.fetch_add(1, Ordering::SeqCst) + 1;
                self.most_inside.fetch_max(now, Ordering::SeqCst);
                if job.event.data.get().contains("blocks") {
                    // A worker thread that sleeps is woken, and drives timers and sockets in place of this one.
                    let runtime = tokio::runtime::Handle::current();
                    std::thread::spawn(move || runtime.spawn(async {}));
                    #[expect(clippy::disallowed_methods, reason = "the handler that this is about")]
                    std::thread::sleep(BLOCKED);
                }
                self.inside.fetch_sub(1, Ordering::SeqCst);
                Outcome::Succeeded
            })
        }
    }
    let (world, blocking) = (World::new().await, Blocking::default());
    let more = ["--CONSUMER__SLOTS=1", "--CONSUMER__JOB_TIMEOUT_MS=300"];
    let _consumer = Consumer::start(world.config(&more), Registry::default().with(blocking.clone())).await;
    let blocked = world.sent_job("blocking", json!({ "blocks": true })).await;
    world.until(blocked, "retrying").await;
    assert_eq!(blocking.inside.load(Ordering::SeqCst), 1);
    let next = world.sent_job("blocking", json!({})).await;
    world.until(next, "succeeded").await;
    assert_eq!(blocking.most_inside.load(Ordering::SeqCst), 1);
}

/// A handler that was told to come back later is obeyed: the broker's `Retry-After`, for example.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handlers_retry_after_is_honoured() {
    struct Busy;
    impl JobHandler for Busy {
        fn kind(&self) -> &'static str {
            "busy"
        }
        fn run(&self, _: JobContext) -> JobFuture<'_> {
            Box::pin(async {
                Outcome::Retry {
                    error: "503 from warehouse.example".to_owned(),
                    after: Some(Duration::from_secs(600)),
                }
            })
        }
    }
    let world = World::new().await;
    let _consumer = Consumer::start(world.config(&[]), Registry::default().with(Busy)).await;
    let before = chrono::Utc::now();
    let job_id = world.sent_job("busy", json!({})).await;
    world.until(job_id, "retrying").await;
    let row = world
        .db
        .owner()
        .await
        .query_one(
            "select next_attempt_at from store.outbox_messages where attempt = 2",
            &[],
        )
        .await
        .unwrap();
    let wait = row.get::<_, chrono::DateTime<chrono::Utc>>(0) - before;
    assert!((600..620).contains(&wait.num_seconds()), "{wait}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn in_production_chaos_is_refused_and_an_unknown_kind_is_named() {
    let world = World::new().await;
    let config = world.config(&["--APP_ENV=production"]);
    let registry = Registry::built_in(config.telemetry.app_env);
    let _consumer = Consumer::start(config, registry).await;
    let chaos = world.sent_job("chaos", json!({ "exit": 1 })).await;
    let unknown = world.sent_job("send-mail", json!({})).await;
    for (job_id, text) in [(chaos, "APP_ENV=development"), (unknown, "\"send-mail\"")] {
        let job = world.until(job_id, "dead_lettered").await;
        assert_eq!(job.attempts, 1);
        assert!(job.last_error.as_deref().unwrap().contains(text), "{job:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_relay_that_sleeps_is_woken_for_what_a_failure_wrote() {
    let world = World::new().await;
    let _consumer = world.consumer().await;
    let mut listener = Listener::connect(&world.db.config("relayforge_relay"), OUTBOX_CHANNEL)
        .await
        .unwrap();
    let relay = world.db.pool("relayforge_relay").get().await.unwrap();
    let retried = json!({ "fail_until_attempt": 2 });
    let given_up = json!({ "permanent": true });
    for (data, status) in [(retried, "retrying"), (given_up, "dead_lettered")] {
        let in_an_hour = chrono::Utc::now() + chrono::TimeDelta::hours(1);
        relay_sleep(&relay, Uuid::from_u128(1), in_an_hour).await.unwrap();
        let job_id = world.sent_job("chaos", data).await;
        world.until(job_id, status).await;
        in_time("the relay is woken", listener.next()).await.unwrap();
    }
}

/// An operator looks at a job in a transaction that stays open: that job's outcome waits, nobody else's does.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_somebody_holds_keeps_only_itself_waiting() {
    let world = World::new().await;
    let consumer = world.consumer().await;
    let held = world.job("log", json!({})).await;
    let psql = world.db.owner().await;
    let running = world.sent_job("chaos", json!({ "sleep_ms": 1000 })).await;
    world.until(running, "processing").await;
    psql.batch_execute(&format!(
        "begin; select from store.open_jobs where job_id in ('{held}', '{running}') for update"
    ))
    .await
    .unwrap();
    world.send(held, 1).await;
    consumer
        .until_metric("jobs_started_total{outcome=\"locked\"}", 1)
        .await;
    for _ in 0..3 {
        let other = world.sent_job("log", json!({})).await;
        world.until(other, "succeeded").await;
    }
    assert_eq!(world.overview(running).await.status, "processing");
    psql.batch_execute("rollback").await.unwrap();
    for job in [held, running] {
        assert_eq!(world.until(job, "succeeded").await.attempts, 1);
    }
    consumer.stop().await;
}
