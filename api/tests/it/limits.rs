//! Bounds: body size, ingress, tenant rate, quota; and that nobody pays for somebody else.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use reqwest::StatusCode;

use crate::app::{App, GENERIC_SECRET, answer, problem, sign, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn a_body_over_the_limit_is_413_announced_or_not() {
    let app = App::start_with(&[("HARDENING__MAX_BODY_BYTES", "1000")])
        .await
        .ready()
        .await;
    let exact = format!(r#"{{"event":"a","data":"{}"}}"#, "x".repeat(977));
    assert_eq!(exact.len(), 1000);
    let signed = app
        .post("/webhooks/generic", exact.clone())
        .header("X-Signature", sign(GENERIC_SECRET, exact.as_bytes()));
    assert_eq!(answer(signed).await.0, StatusCode::ACCEPTED);
    problem(
        app.post("/webhooks/generic", vec![b'x'; 1001]),
        413,
        "body_too_large",
    )
    .await;

    // Announced a terabyte: refused before a byte of it comes.
    let mut socket = TcpStream::connect(app.address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
        .write_all(b"POST /webhooks/generic HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000000\r\n\r\n")
        .unwrap();
    let mut head = [0; 64];
    let read = socket.read(&mut head).unwrap();
    assert!(
        head[..read].starts_with(b"HTTP/1.1 413"),
        "{}",
        String::from_utf8_lossy(&head[..read])
    );

    // In chunks, which announce nothing.
    let mut socket = TcpStream::connect(app.address).unwrap();
    socket.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    socket
        .write_all(b"POST /webhooks/generic HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
        .unwrap();
    let chunk = [b"200\r\n".as_slice(), &[b'x'; 512], b"\r\n"].concat();
    for _ in 0..2 {
        socket.write_all(&chunk).unwrap();
    }
    let read = socket.read(&mut head).unwrap();
    assert!(
        head[..read].starts_with(b"HTTP/1.1 413"),
        "{}",
        String::from_utf8_lossy(&head[..read])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unsigned_flood_costs_the_tenant_nothing_and_does_not_shut_it_out() {
    let limits = [
        ("HARDENING__INGRESS_RATE_LIMIT_PER_SECOND", "4"),
        ("HARDENING__INGRESS_BURST", "40"),
        ("HARDENING__TENANT_RATE_LIMIT_PER_SECOND", "1"),
        ("HARDENING__TENANT_RATE_LIMIT_BURST", "15"),
    ];
    let app = App::start_with(&limits).await.ready().await;
    assert_eq!(answer(app.generic("first")).await.0, StatusCode::ACCEPTED);
    // Without a tenant's name in the request, our network has verified: the flood comes as another sender.
    let mut limited = 0;
    for _ in 0..100 {
        let response = app.post("/webhooks/github", "{}").send().await.unwrap();
        limited += usize::from(response.status() == StatusCode::TOO_MANY_REQUESTS);
    }
    assert!(limited > 50, "{limited} of 100 were over the ingress limit");
    problem(app.post("/webhooks/github", "{}"), 429, "ingress_limited").await;
    for i in 0..10 {
        let (status, body) = answer(app.generic(&format!("during-{i}"))).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    }
    assert_eq!(
        app.count("select used from store.tenant_daily_quota_usage").await,
        11
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_over_its_rate_or_quota_is_429_and_its_events_are_new_later() {
    let limits = [
        ("HARDENING__TENANT_RATE_LIMIT_PER_SECOND", "1"),
        ("HARDENING__TENANT_RATE_LIMIT_BURST", "3"),
    ];
    let app = App::start_with(&limits).await.ready().await;
    for i in 0..3 {
        assert_eq!(answer(app.generic(&format!("{i}"))).await.0, StatusCode::ACCEPTED);
    }
    problem(app.generic("late"), 429, "tenant_rate_limited").await;
    wait_until("a token is back", async || {
        let (status, body) = answer(app.generic("late")).await;
        status == StatusCode::ACCEPTED && body["job_created"] == true
    })
    .await;

    let app = App::start_with(&[("HARDENING__TENANT_DAILY_QUOTA", "2")])
        .await
        .ready()
        .await;
    for i in 0..2 {
        assert_eq!(answer(app.generic(&format!("{i}"))).await.0, StatusCode::ACCEPTED);
    }
    problem(app.generic("over"), 429, "over_quota").await;
    let (status, again) = answer(app.generic("1")).await;
    assert_eq!(
        (status, again["deduped"].as_bool()),
        (StatusCode::ACCEPTED, Some(true)),
        "a duplicate is answered"
    );
    app.execute("update store.tenants set daily_quota = 3").await;
    let (status, new) = answer(app.generic("over")).await;
    assert_eq!(
        (status, new["job_created"].as_bool()),
        (StatusCode::ACCEPTED, Some(true))
    );
}

/// Somebody's psql session holds the quota rows of some tenants: they get 503, the others do not notice, and nobody takes
/// the database for dead.
#[tokio::test(flavor = "multi_thread")]
async fn held_rows_of_some_tenants_stop_nobody_else() {
    const HELD: [&str; 4] = ["/held-1", "/held-2", "/held-3", "/held-4"];
    // Whether they are served is asked here; on a busy machine they may be served late.
    let app = App::start_with(&[("INGEST__DEADLINE_MS", "10000")])
        .await
        .ready()
        .await;
    for path in HELD {
        app.tenant(&path[1..], "s3cret").await;
        wait_until("the tenant is known", async || {
            app.generic_for(path, "s3cret", "0")
                .send()
                .await
                .unwrap()
                .status()
                == StatusCode::ACCEPTED
        })
        .await;
    }
    let psql = app.db.owner().await;
    psql.batch_execute("begin; update store.tenant_daily_quota_usage set used = used")
        .await
        .unwrap();
    let senders: Vec<_> = (0..40)
        .map(|i| {
            let held = app.generic_for(HELD[i % HELD.len()], "s3cret", &format!("h{i}"));
            let free = app.generic(&format!("f{i}"));
            tokio::spawn(async move {
                let (held, free) = tokio::join!(answer(held), answer(free));
                (held.0, free.0)
            })
        })
        .collect();
    for sender in senders {
        assert_eq!(
            sender.await.unwrap(),
            (StatusCode::SERVICE_UNAVAILABLE, StatusCode::ACCEPTED)
        );
    }
    let metrics = app.get("/metrics").await.text().await.unwrap();
    assert!(metrics.contains("ingest_breaker_open 0"), "{metrics}");
    psql.batch_execute("rollback").await.unwrap();
    wait_until("the tenants are served again", async || {
        app.generic_for(HELD[0], "s3cret", "again")
            .send()
            .await
            .unwrap()
            .status()
            == StatusCode::ACCEPTED
    })
    .await;
}

/// Behind one proxy every sender has the same address: forged requests in a tenant's name cost it none of its tokens.
#[tokio::test(flavor = "multi_thread")]
async fn a_forger_in_the_tenants_name_does_not_shut_it_out() {
    let limits = [
        ("HARDENING__INGRESS_RATE_LIMIT_PER_SECOND", "4"),
        ("HARDENING__INGRESS_BURST", "40"),
    ];
    let app = App::start_with(&limits).await.ready().await;
    assert_eq!(answer(app.generic("first")).await.0, StatusCode::ACCEPTED);
    for _ in 0..200 {
        let forged = app
            .post("/webhooks/generic", "{}")
            .header("X-Signature", "00".repeat(32));
        problem(forged, 401, "signature_mismatch").await;
    }
    for i in 0..20 {
        let (status, body) = answer(app.generic(&format!("{i}"))).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    }
}
