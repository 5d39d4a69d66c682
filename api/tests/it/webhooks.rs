//! The answers to `POST /webhooks/…`: a case for each row of the table in docs and for each wrong request.

use std::sync::atomic::{AtomicU32, Ordering};

use chrono::Utc;
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::app::{App, GENERIC_SECRET, GITHUB_SECRET, answer, problem, sign, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn a_new_event_is_202_and_committed_and_a_duplicate_gets_its_ids() {
    let app = App::start().await.ready().await;
    let (status, first) = answer(app.generic("e1").header("X-Correlation-Id", "corr-7")).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let mut expected = json!({
        "job_created": true, "deduped": false, "accepted": true, "signature_valid": true,
    });
    for name in ["event_id", "inbox_id", "job_id"] {
        assert!(first[name].as_str().is_some_and(|id| id.len() == 36), "{first}");
        expected[name] = first[name].clone();
    }
    assert_eq!(first, expected, "these members and no others");
    let stored = app
        .owner()
        .await
        .query_one(
            "select correlation_id, body, headers from store.webhook_inbox",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(stored.get::<_, &str>(0), "corr-7");
    assert_eq!(
        stored.get::<_, &[u8]>(1),
        br#"{"event":"order.created","data":{"n":1}}"#
    );
    assert_eq!(
        stored.get::<_, Value>(2),
        json!({ "x-event-id": "e1" }),
        "no signature is kept"
    );

    let (status, again) = answer(app.generic("e1")).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    assert_eq!(
        (&again["event_id"], &again["job_id"]),
        (&first["event_id"], &first["job_id"])
    );
    assert_ne!(again["inbox_id"], first["inbox_id"]);
    assert_eq!(
        (&again["job_created"], &again["deduped"]),
        (&json!(false), &json!(true))
    );
    assert_eq!(app.count("select count(*) from store.jobs").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn github_comes_as_json_and_as_a_form_and_upper_case_hex_is_hex() {
    let app = App::start().await.ready().await;
    let json_body = r#"{"action":"opened","number":1}"#;
    let form_body = "payload=%7B%22action%22%3A%22opened%22%2C%22number%22%3A1%7D";
    for (delivery, kind, body) in [
        ("d1", "application/json", json_body),
        ("d2", "application/x-www-form-urlencoded", form_body),
    ] {
        let signature = sign(GITHUB_SECRET, body.as_bytes()).to_uppercase();
        let request = app
            .post("/webhooks/github", body)
            .header("Content-Type", kind)
            .header("X-GitHub-Event", "pull_request")
            .header("X-GitHub-Delivery", delivery)
            .header("X-Hub-Signature-256", format!("sha256={signature}"));
        let (status, body) = answer(request).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    }
    let types = "select count(*) from store.jobs where event_type = 'pull_request.opened'";
    assert_eq!(app.count(types).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stripe_replay_is_409_and_a_fresh_signature_a_duplicate() {
    let app = App::start().await.ready().await;
    let now = Utc::now().timestamp();
    let (status, first) = answer(app.stripe("evt_1", now - 10)).await;
    assert_eq!(status, StatusCode::ACCEPTED);
    let replay = problem(app.stripe("evt_1", now - 10), 409, "replay").await;
    assert_eq!(
        (&replay["job_id"], &replay["event_id"]),
        (&first["job_id"], &first["event_id"])
    );
    let (status, again) = answer(app.stripe("evt_1", now)).await;
    assert_eq!(
        (status, &again["deduped"], &again["job_id"]),
        (StatusCode::ACCEPTED, &json!(true), &first["job_id"])
    );
    problem(app.stripe("evt_2", now - 400), 401, "signature_stale").await;
    problem(app.stripe("evt_2", now + 400), 401, "signature_stale").await;
    assert_eq!(app.count("select count(*) from store.jobs").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_signed_right_is_401_and_stores_nothing() {
    let app = App::start().await.ready().await;
    let body = r#"{"event":"x"}"#;
    let unsigned = || app.post("/webhooks/generic", body);
    problem(unsigned(), 401, "signature_missing").await;
    problem(unsigned().header("X-Signature", "zz"), 401, "signature_malformed").await;
    problem(
        unsigned().header("X-Signature", sign("wrong", body.as_bytes())),
        401,
        "signature_mismatch",
    )
    .await;
    let right = sign(GENERIC_SECRET, body.as_bytes());
    problem(
        app.post("/webhooks/generic", r#"{"event":"y"}"#)
            .header("X-Signature", &right),
        401,
        "signature_mismatch",
    )
    .await;
    problem(
        unsigned()
            .header("X-Signature", &right)
            .header("X-Signature", &right),
        401,
        "signature_malformed",
    )
    .await;
    // A body that is no event says nothing to whom has not signed it.
    problem(app.post("/webhooks/generic", "no json"), 401, "signature_missing").await;
    for table in [
        "webhook_inbox",
        "jobs",
        "dedup_ledger",
        "tenant_daily_quota_usage",
    ] {
        assert_eq!(
            app.count(&format!("select count(*) from store.{table}")).await,
            0,
            "{table}"
        );
    }
    wait_until("the rejections are counted", async || {
        app.count("select coalesce(sum(count), 0)::bigint from store.webhook_rejections")
            .await
            == 6
    })
    .await;
    let per_cause =
        "select count(*) from store.webhook_rejections where cause = 'signature_mismatch' and count = 2
                       and source = 'generic' and tenant_id = '00000000-0000-0000-0000-000000000000'";
    assert_eq!(app.count(per_cause).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_but_wrong_is_400_and_names_the_field() {
    let app = App::start().await.ready().await;
    let signed = |body: &str| {
        app.post("/webhooks/generic", body.to_owned())
            .header("X-Signature", sign(GENERIC_SECRET, body.as_bytes()))
    };
    let long = format!(r#"{{"event":"{}"}}"#, "x".repeat(121));
    for (body, field) in [
        ("", "body"),
        ("[]", "body"),
        ("{", "body"),
        ("{}", "event"),
        (r#"{"event":""}"#, "event"),
        (r#"{"event":7}"#, "event"),
        (long.as_str(), "event"),
        (r#"{"event":"a","evnt":"b"}"#, "evnt"),
        ("{\"event\":\"a\\u0000b\"}", "event"),
    ] {
        let problem = problem(signed(body), 400, "invalid_event").await;
        assert_eq!(problem["field"], field, "{body}: {problem}");
    }
    let overlong = signed(r#"{"event":"a"}"#).header("X-Event-Id", "i".repeat(256));
    assert_eq!(
        problem(overlong, 400, "invalid_event").await["field"],
        "X-Event-Id"
    );
    // NUL inside of data is none of our business: the bytes are stored.
    let (status, _) = answer(signed("{\"event\":\"a\",\"data\":\"\\u0000\"}")).await;
    assert_eq!(status, StatusCode::ACCEPTED);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_found_by_id_and_slug_in_path_and_header() {
    let app = App::start().await.ready().await;
    let acme = app.tenant("acme", "s3cret").await;
    wait_until("acme is known", async || {
        app.generic_for("/acme", "s3cret", "0")
            .send()
            .await
            .unwrap()
            .status()
            == StatusCode::ACCEPTED
    })
    .await;
    let to = |path: &str| app.generic_for(path, "s3cret", &uuid::Uuid::new_v4().to_string());
    for request in [
        to(&format!("/{acme}")),
        to("").header("X-Tenant-Id", "acme"),
        to("").header("X-Tenant-Id", acme.to_string()),
        to("/acme").header("X-Tenant-Id", acme.to_string()),
    ] {
        let (status, body) = answer(request).await;
        assert_eq!(status, StatusCode::ACCEPTED, "{body}");
    }
    problem(
        to("/acme").header("X-Tenant-Id", "default"),
        400,
        "invalid_tenant",
    )
    .await;
    problem(to("/acme").header("X-Tenant-Id", "nobody"), 400, "invalid_tenant").await;
    problem(
        to("").header("X-Tenant-Id", "acme").header("X-Tenant-Id", "acme"),
        400,
        "invalid_tenant",
    )
    .await;
    problem(to("/nobody"), 404, "unknown_tenant").await;
    problem(to("/acme/more"), 404, "not_found").await;
    // The environment's secrets are the default tenant's, not everybody's.
    problem(
        app.generic_for("/acme", GENERIC_SECRET, "x"),
        401,
        "signature_mismatch",
    )
    .await;
    problem(app.post("/webhooks/github/acme", "{}"), 503, "secret_missing").await;
    problem(app.post("/webhooks/nobody/acme", "{}"), 404, "unknown_source").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn other_methods_and_routes_answer_with_problems_too() {
    let app = App::start().await.ready().await;
    for method in [
        reqwest::Method::GET,
        reqwest::Method::PUT,
        reqwest::Method::DELETE,
    ] {
        let request = app.http.request(method, app.url("/webhooks/github"));
        problem(request, 405, "method_not_allowed").await;
    }
    problem(
        app.http.get(app.url("/webhooks/github/acme")),
        405,
        "method_not_allowed",
    )
    .await;
    for path in ["/", "/webhooks", "/webhooks/", "/nothing?x=1", "/webhooks/a/b/c"] {
        problem(app.http.get(app.url(path)), 404, "not_found").await;
    }
    // A made correlation id is given to whoever sends none or nonsense.
    for sent in ["", "with space", &"x".repeat(129)] {
        let response = app
            .generic("c")
            .header("X-Correlation-Id", sent)
            .send()
            .await
            .unwrap();
        let id = response.headers()["x-correlation-id"]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(uuid::Uuid::parse_str(&id).is_ok(), "{sent:?}: {id}");
    }
    let metrics = app.get("/metrics").await.text().await.unwrap();
    assert!(
        metrics.contains(r#"http_requests_total{route="unmatched",method="GET",status="404"}"#),
        "{metrics}"
    );
    assert!(!metrics.contains("nothing"), "no raw path is a label");
    assert!(
        metrics.contains(r#"jobs_created_total{source="generic"} 1"#),
        "{metrics}"
    );
    assert!(metrics.ends_with("# EOF\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn sixty_four_senders_with_the_same_events_make_each_job_once() {
    let app = App::start().await.ready().await;
    let senders: Vec<_> = (0..64)
        .map(|_| {
            let requests: Vec<_> = (0..10).map(|i| app.generic(&format!("same-{i}"))).collect();
            tokio::spawn(async move {
                let mut created = Vec::new();
                for request in requests {
                    let (status, body) = answer(request).await;
                    assert_eq!(status, StatusCode::ACCEPTED, "{body}");
                    created.push(body["job_created"] == json!(true));
                }
                created.into_iter().filter(|new| *new).count()
            })
        })
        .collect();
    let mut created = 0;
    for sender in senders {
        created += sender.await.unwrap();
    }
    assert_eq!(created, 10);
    assert_eq!(app.count("select count(*) from store.jobs").await, 10);
    assert_eq!(app.count("select count(*) from store.webhook_inbox").await, 640);
}

/// Each has at hand what another would have to fetch; and between any two webhooks, relays are woken by another connection.
#[tokio::test(flavor = "multi_thread")]
async fn webhooks_in_a_row_go_through_one_server_process() {
    let app = App::start().await.ready().await;
    app.execute(
        "create table public.seen (pid integer);
         grant insert on public.seen to public;
         create function public.see() returns trigger language plpgsql as
           $$ begin insert into public.seen values (pg_backend_pid()); return null; end $$;
         create trigger see after insert on store.webhook_inbox for each row execute function public.see()",
    )
    .await;
    for id in 0..40 {
        assert_eq!(answer(app.generic(&format!("row-{id}"))).await.0, 202);
    }
    assert_eq!(app.count("select count(*) from public.seen").await, 40);
    assert_eq!(app.count("select count(distinct pid) from public.seen").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn with_the_fewest_connections_a_lane_leaves_them_to_others() {
    let app = App::start_with(&[("DATABASE__MAX_CONNECTIONS", "2")])
        .await
        .ready()
        .await;
    let sent = AtomicU32::new(0);
    wait_until("traffic is written while webhooks come", async || {
        let id = sent.fetch_add(1, Ordering::Relaxed);
        assert_eq!(answer(app.generic(&format!("few-{id}"))).await.0, 202);
        app.count("select count(*) from store.traffic_minutes").await > 0
    })
    .await;
}
