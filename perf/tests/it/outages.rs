//! A server that is away or frozen: what is answered meanwhile, and that everything recovers without a restart.

use std::time::Duration;

use perf::client::Answer;
use perf::scenario::{Delivery, ORDER_CREATED};
use sql::event::SourceKind;
use sql::testing::proxy::Proxy;
use uuid::Uuid;

use crate::world::{PATIENCE, World, eventually, eventually_or};

/// `INGEST__DEADLINE_MS` of these tests, and what a busy machine may add to it.
const DEADLINE_MS: u64 = 1_000;
const SLACK: Duration = Duration::from_millis(700);

const WAITING: &str = "select count(*) from store.outbox_messages where target = 'jobs'";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broker_away() {
    let mut world = World::new().await;
    let proxy = Proxy::before(world.broker.amqp_url(), 5672).await;
    proxy.shut(true);
    proxy.url().clone_into(&mut world.amqp_url);
    world.start("api", &[]).await;
    world
        .start("relay", &[("RELAY__CONFIRM_TIMEOUT_MS", "1000")])
        .await;
    world.start("consumer", &[]).await;

    // Away from the start.
    world.service("api").answers_ready_with(200).await;
    let first = accepted(&world, 1).await;
    for name in ["relay", "consumer"] {
        let answer = world.service(name).answers_ready_with(503).await;
        assert_ne!(answer.body["checks"]["broker"], "ok", "{name}: {}", answer.body);
    }
    assert_eq!(world.count(WAITING).await, 1);
    proxy.shut(false);
    succeed(&world, &first).await;

    // Lost while it was in use.
    world.service("relay").answers_ready_with(200).await;
    proxy.shut(true);
    world.service("relay").answers_ready_with(503).await;
    let lost = accepted(&world, 20).await;
    assert_eq!(world.count(WAITING).await, 20, "all of it waits in the outbox");
    assert_eq!(
        world.service("api").readyz().await.unwrap().status,
        200,
        "the API does not need the broker"
    );
    proxy.shut(false);
    succeed(&world, &lost).await;

    // Frozen: no connection breaks, and no confirm comes.
    world.service("relay").answers_ready_with(200).await;
    proxy.stall(true);
    let frozen = accepted(&world, 5).await;
    world.service("relay").answers_ready_with(503).await;
    assert_eq!(world.service("api").readyz().await.unwrap().status, 200);
    proxy.stall(false);
    succeed(&world, &frozen).await;
    for name in ["relay", "consumer"] {
        world.service(name).answers_ready_with(200).await;
    }
    assert_eq!(world.count("select count(*) from store.jobs").await, 26);
}

/// Sends new events, which must be accepted; returns their jobs.
async fn accepted(world: &World, count: usize) -> Vec<Uuid> {
    let mut jobs = Vec::new();
    for _ in 0..count {
        let answer = world.deliver(SourceKind::Generic, ORDER_CREATED.fresh()).await;
        assert_eq!(
            (answer.status.as_u16(), answer.deduped()),
            (202, Some(false)),
            "{}",
            answer.body
        );
        jobs.push(answer.id("job_id").unwrap());
    }
    jobs
}

/// Each in its first attempt, however often its message was published.
async fn succeed(world: &World, jobs: &[Uuid]) {
    for job in jobs {
        world.succeeds(*job).await;
    }
    eventually("the outbox is empty", PATIENCE, async || {
        (world.count(WAITING).await == 0).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_away() {
    let mut world = World::new().await;
    let proxy = Proxy::before(world.db.url("owner").expose(), 5432).await;
    world.database_proxy = Some(proxy.url().to_owned());
    world
        .start("api", &[("INGEST__DEADLINE_MS", &DEADLINE_MS.to_string())])
        .await;
    world.start("relay", &[]).await;
    world.start("consumer", &[]).await;
    world.service("api").answers_ready_with(200).await;
    let jobs = accepted(&world, 3).await;
    succeed(&world, &jobs).await;

    for frozen in [false, true] {
        if frozen {
            proxy.stall(true);
        } else {
            proxy.shut(true);
        }
        let order = ORDER_CREATED.fresh();
        // The first may find it out; those after it are told by the breaker.
        for _ in 0..5 {
            check_unavailable(&world.deliver(SourceKind::Generic, order.clone()).await);
        }
        for name in ["api", "relay", "consumer"] {
            let answer = world.service(name).answers_ready_with(503).await;
            assert_ne!(answer.body["checks"]["database"], "ok", "{name}: {}", answer.body);
        }
        // The breaker is open now: nobody queues for the database, so a crowd does not wait out the deadline.
        let crowd = (0..20).map(|_| world.deliver(SourceKind::Generic, ORDER_CREATED.fresh()));
        let answers = futures_util::future::join_all(crowd).await;
        answers.iter().for_each(check_unavailable);
        let quickest = answers.iter().map(|answer| answer.elapsed).min().unwrap();
        assert!(
            quickest < Duration::from_millis(DEADLINE_MS / 2),
            "{quickest:?} with the breaker open"
        );

        if frozen {
            proxy.stall(false);
        } else {
            proxy.shut(false);
        }
        comes_back(&world, &order).await;
        for name in ["api", "relay", "consumer"] {
            world.service(name).answers_ready_with(200).await;
        }
    }
}

#[track_caller]
fn check_unavailable(answer: &Answer) {
    assert_eq!(
        (answer.status.as_u16(), answer.code()),
        (503, Some("unavailable")),
        "{}",
        answer.body
    );
    assert!(answer.headers.contains_key("retry-after"));
    let bound = Duration::from_millis(DEADLINE_MS) + SLACK;
    assert!(answer.elapsed < bound, "{:?}", answer.elapsed);
}

/// The provider's retries are accepted in the end, and whatever became of the refused tries, there is one job.
async fn comes_back(world: &World, order: &Delivery) {
    let mut last = String::new();
    let answer = eventually_or(
        "a retry is accepted",
        PATIENCE,
        &mut last,
        async |last: &mut String| {
            let answer = world.deliver(SourceKind::Generic, order.clone()).await;
            *last = answer.body.to_string();
            (answer.status == 202).then_some(answer)
        },
    )
    .await;
    let job_id = answer.id("job_id").unwrap();
    world.succeeds(job_id).await;
    let key = format!("provider:{}", order.event_id);
    let jobs = world
        .sql
        .query("select id from store.jobs where dedup_key = $1", &[&key])
        .await
        .unwrap();
    assert_eq!(jobs.iter().map(|row| row.get(0)).collect::<Vec<Uuid>>(), [job_id]);
}
