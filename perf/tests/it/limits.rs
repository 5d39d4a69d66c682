//! What is refused for its size, its number or its tenant's state, and that nothing of it is held against the sender
//! once it is allowed.

use std::time::Duration;

use perf::demo::CHAOS;
use perf::scenario::{INVOICE_PAID, ORDER_CREATED, PUSH};
use sql::event::SourceKind;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::refusals::{JOBS, MAX_BODY_BYTES, QUOTA_USED, STORED, api_alone, check_problem};
use crate::world::{PATIENCE, World, eventually};

/// Speaks HTTP by hand, because a client library sends the whole body before it listens.
async fn by_hand(world: &World, request: &[u8]) -> String {
    let mut stream = TcpStream::connect(world.service("api").address).await.unwrap();
    stream.write_all(request).await.unwrap();
    let mut answer = Vec::new();
    let read = async {
        while !answer.windows(4).any(|window| window == b"\r\n\r\n") {
            if stream.read_buf(&mut answer).await.unwrap() == 0 {
                break;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(5), read)
        .await
        .expect("an answer while the body is still to come");
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_body_that_is_too_long_is_refused_before_it_is_read() {
    let world = api_alone().await;
    let head = "POST /webhooks/generic/demo HTTP/1.1\r\nhost: localhost\r\n";
    let announced = format!("{head}content-length: {}\r\n\r\n", MAX_BODY_BYTES + 1);
    let answer = by_hand(&world, announced.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("application/problem+json"), "{answer}");

    // Without an end: more than the limit is enough.
    let mut unannounced = format!("{head}transfer-encoding: chunked\r\n\r\n").into_bytes();
    for _ in 0..5 {
        unannounced.extend_from_slice(b"4000\r\n");
        unannounced.extend_from_slice(&[b'x'; 0x4000]);
        unannounced.extend_from_slice(b"\r\n");
    }
    let answer = by_hand(&world, &unannounced).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");

    let mut fitting = ORDER_CREATED.fresh();
    let pad = MAX_BODY_BYTES - br#"{"event":"e","data":""}"#.len();
    fitting.body = format!(r#"{{"event":"e","data":"{}"}}"#, "x".repeat(pad)).into_bytes();
    assert_eq!(fitting.body.len(), MAX_BODY_BYTES);
    assert_eq!(
        world.deliver(SourceKind::Generic, fitting).await.status,
        202,
        "the limit itself is allowed"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_event_is_new_when_it_is_allowed() {
    let world = api_alone().await;
    let known = INVOICE_PAID.fresh();
    assert_eq!(world.deliver(SourceKind::Stripe, known.clone()).await.status, 202);

    // The quota is spent now. Each provider, because a replay row must not be left either.
    set_tenant(&world, "daily_quota = 1").await;
    let refused = [ORDER_CREATED.fresh(), PUSH.fresh(), INVOICE_PAID.fresh()];
    let kinds = [SourceKind::Generic, SourceKind::Github, SourceKind::Stripe];
    for (kind, delivery) in kinds.into_iter().zip(&refused) {
        check_problem(&world.deliver(kind, delivery.clone()).await, 429, "over_quota");
    }
    let signed_later = chrono::Utc::now().timestamp() + 5;
    let again = known.signed_at(SourceKind::Stripe, &world.state.stripe_secret, signed_later);
    let again = world.send("stripe", again).await;
    assert_eq!(
        (again.status.as_u16(), again.deduped()),
        (202, Some(true)),
        "a duplicate costs no quota"
    );
    assert_eq!(
        (
            world.count(STORED).await,
            world.count(JOBS).await,
            world.count(QUOTA_USED).await
        ),
        (2, 1, 1)
    );
    set_tenant(&world, "daily_quota = null").await;
    for (kind, delivery) in kinds.into_iter().zip(refused) {
        let answer = world.deliver(kind, delivery).await;
        assert_eq!(
            (answer.status.as_u16(), answer.deduped()),
            (202, Some(false)),
            "{}",
            answer.body
        );
    }
}

/// The API hears of a suspension, of its end, and of a new rate within a second or so.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_of_the_tenant_is_live_soon() {
    let world = api_alone().await;
    set_tenant(&world, "status = 'suspended'").await;
    let order = ORDER_CREATED.fresh();
    eventually("the tenant is suspended", PATIENCE, async || {
        let answer = world.deliver(SourceKind::Generic, ORDER_CREATED.fresh()).await;
        (answer.status == 403).then(|| check_problem(&answer, 403, "tenant_suspended"))
    })
    .await;
    assert_eq!(
        world.deliver(SourceKind::Generic, order.clone()).await.status,
        403
    );
    set_tenant(&world, "status = 'active'").await;
    let answer = eventually("the tenant is active again", PATIENCE, async || {
        Some(world.deliver(SourceKind::Generic, order.clone()).await).filter(|answer| answer.status != 403)
    })
    .await;
    assert_eq!(
        (answer.status.as_u16(), answer.deduped()),
        (202, Some(false)),
        "{}",
        answer.body
    );

    // The tenant's rate: one token, refilled once a second.
    set_tenant(&world, "rate_per_second = 1, rate_burst = 1").await;
    let chaos = ORDER_CREATED
        .fresh()
        .signed(SourceKind::Generic, &world.state.generic_secret);
    let limited = eventually("the tenant's rate is limited", PATIENCE, async || {
        let answer = world.send(CHAOS, chaos.clone()).await;
        (answer.status == 429).then_some(answer)
    })
    .await;
    check_problem(&limited, 429, "tenant_rate_limited");
}

async fn set_tenant(world: &World, what: &str) {
    let change = format!("update store.tenants set {what} where slug = 'demo'");
    world.sql.batch_execute(&change).await.unwrap();
}
