//! SIGTERM: not ready first, then what has begun is ended, then exit code 0. Nothing is lost.

use std::time::Duration;

use perf::client::{Addressing, Client};
use perf::demo::{CHAOS, TENANT};
use perf::scenario::{Delivery, ORDER_CREATED};
use serde_json::json;
use sql::event::SourceKind;
use sql::testing::proxy::Proxy;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::world::{PATIENCE, World, eventually, eventually_or};

/// The bound of a process that has something to end; far below what `./dev` and orchestrators allow.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// Asks over the one connection that `client` keeps, as a load balancer's probe does.
async fn is_draining(client: &Client) {
    let mut last = String::new();
    eventually_or(
        "/readyz says draining",
        PATIENCE,
        &mut last,
        async |last: &mut String| {
            let answer = client.get("/readyz").await;
            *last = format!("{answer:?}");
            answer
                .ok()
                .filter(|answer| answer.status == 503 && answer.body["status"] == "draining")
        },
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_api_answers_what_it_has_begun() {
    let mut world = World::started().await;
    let probe = world.client();
    assert_eq!(probe.get("/readyz").await.unwrap().status, 200);

    // A webhook of which the last byte is still to come.
    let order = ORDER_CREATED
        .fresh()
        .signed(SourceKind::Generic, &world.state.generic_secret);
    let mut request = format!("POST /webhooks/generic/{TENANT} HTTP/1.1\r\nhost: localhost\r\n").into_bytes();
    for (name, value) in &order.headers {
        request.extend_from_slice(format!("{name}: {value}\r\n").as_bytes());
    }
    request.extend_from_slice(format!("content-length: {}\r\n\r\n", order.body.len()).as_bytes());
    request.extend_from_slice(&order.body);
    let (begun, rest) = request.split_at(request.len() - 1);
    let mut stream = TcpStream::connect(world.service("api").address).await.unwrap();
    stream.write_all(begun).await.unwrap();
    // Its handler waits for the body once a second request of the same connection's worker has been answered.
    assert_eq!(probe.get("/healthz").await.unwrap().status, 200);

    world.service("api").signal("TERM").await;
    is_draining(&probe).await;
    stream.write_all(rest).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 202 "), "{answer}");
    let exit = world.service_mut("api").exits_within(ENDS_WITHIN).await;
    assert_eq!(exit.code(), Some(0));
    let job: Uuid = world
        .sql
        .query_one("select id from store.jobs", &[])
        .await
        .unwrap()
        .get(0);
    world.succeeds(job).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_relay_settles_what_it_has_claimed() {
    let mut world = World::new().await;
    let proxy = Proxy::before(world.broker.amqp_url(), 5672).await;
    let direct = std::mem::replace(&mut world.amqp_url, proxy.url().to_owned());
    world.start("api", &[]).await;
    world.start("relay", &[]).await;
    for name in ["api", "relay"] {
        world.service(name).answers_ready_with(200).await;
    }
    // The broker takes its time over a batch.
    proxy.stall(true);
    let answer = world.deliver(SourceKind::Generic, ORDER_CREATED.fresh()).await;
    let job = answer.id("job_id").unwrap();
    let claimed = "select count(*) from pg_stat_activity
                    where datname = current_database() and usename = 'relayforge_relay' and state = 'idle in transaction'";
    eventually("the relay has claimed", PATIENCE, async || {
        (world.count(claimed).await > 0).then_some(())
    })
    .await;

    let probe = Client::new(&world.service("relay").url()).unwrap();
    world.service("relay").signal("TERM").await;
    is_draining(&probe).await;
    proxy.stall(false);
    let exit = world.service_mut("relay").exits_within(ENDS_WITHIN).await;
    assert_eq!(exit.code(), Some(0));
    assert_eq!(
        world.count("select count(*) from store.outbox_messages").await,
        0,
        "it was confirmed and settled"
    );

    world.amqp_url = direct;
    world.start("consumer", &[]).await;
    world.succeeds(job).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_consumer_ends_its_runs() {
    let mut world = World::new().await;
    world.start("api", &[]).await;
    world.start("relay", &[]).await;
    // Four slots: some jobs run, some wait, when it is told to end.
    world
        .start(
            "consumer",
            &[("APP_ENV", "development"), ("CONSUMER__SLOTS", "4")],
        )
        .await;
    for name in ["api", "relay", "consumer"] {
        world.service(name).answers_ready_with(200).await;
    }
    let client = world.client();
    let mut jobs = Vec::new();
    for _ in 0..12 {
        let data = json!({ "event": "chaos", "data": { "sleep_ms": 700 } });
        let delivery = Delivery {
            body: data.to_string().into_bytes(),
            ..ORDER_CREATED.fresh()
        };
        let delivery = delivery.signed(SourceKind::Generic, &world.state.generic_secret);
        let answer = client
            .deliver(CHAOS, Addressing::Path(TENANT), &delivery)
            .await
            .unwrap();
        jobs.push(answer.id("job_id").unwrap());
    }
    let running = "select count(*) from store.open_jobs where state = 'processing'";
    eventually("four jobs run", PATIENCE, async || {
        (world.count(running).await == 4).then_some(())
    })
    .await;

    let probe = Client::new(&world.service("consumer").url()).unwrap();
    world.service("consumer").signal("TERM").await;
    is_draining(&probe).await;
    let exit = world.service_mut("consumer").exits_within(ENDS_WITHIN).await;
    assert_eq!(exit.code(), Some(0));
    assert_eq!(world.count(running).await, 0, "no run was abandoned");
    let done = world
        .count("select count(*) from store.jobs where outcome = 'succeeded'")
        .await;
    assert!((4..12).contains(&done), "{done} of 12 were done when it ended");

    // The others went back to the broker.
    world.service_mut("consumer").restart().await;
    for job in jobs {
        world.succeeds(job).await;
    }
}
