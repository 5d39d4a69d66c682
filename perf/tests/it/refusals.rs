//! What is not new, not genuine or not allowed: each with its answer, and what it leaves behind, which is mostly nothing.
//! Limits and their end are in `limits.rs`.

use perf::client::{Addressing, Answer};
use perf::demo::TENANT;
use perf::scenario::{Delivery, INVOICE_PAID, ORDER_CREATED, PUSH};
use sql::event::SourceKind;

use crate::world::{PATIENCE, World};

pub(crate) const STORED: &str = "select count(*) from store.webhook_inbox";
pub(crate) const JOBS: &str = "select count(*) from store.jobs";
pub(crate) const QUOTA_USED: &str =
    "select coalesce(sum(used), 0)::bigint from store.tenant_daily_quota_usage";
/// `HARDENING__MAX_BODY_BYTES` of [`api_alone`].
pub(crate) const MAX_BODY_BYTES: usize = 65_536;

/// A world whose API refuses bodies that still fit into socket buffers, with no relay and no consumer.
pub(crate) async fn api_alone() -> World {
    let mut world = World::new().await;
    world
        .start(
            "api",
            &[("HARDENING__MAX_BODY_BYTES", &MAX_BODY_BYTES.to_string())],
        )
        .await;
    world.service("api").answers_ready_with(200).await;
    world
}

/// Status, and a problem document that says the same and how to find it in the logs.
#[track_caller]
pub(crate) fn check_problem(answer: &Answer, status: u16, code: &str) {
    let body = &answer.body;
    assert_eq!(
        (answer.status.as_u16(), answer.code()),
        (status, Some(code)),
        "{body}"
    );
    assert_eq!(answer.headers["content-type"], "application/problem+json");
    assert_eq!(body["status"], status, "{body}");
    for member in ["type", "title", "detail"] {
        assert!(
            body[member].as_str().is_some_and(|text| !text.is_empty()),
            "{member}: {body}"
        );
    }
    let correlation_id = answer.headers["x-correlation-id"].to_str().unwrap();
    assert_eq!(body["correlation_id"], correlation_id, "{body}");
    assert_eq!(
        answer.headers.contains_key("retry-after"),
        matches!(status, 403 | 429 | 503),
        "{status} {code}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn duplicate_forgery_and_replay() {
    let mut world = World::started().await;
    let order = ORDER_CREATED.fresh();
    let first = world.deliver(SourceKind::Generic, order.clone()).await;
    assert_eq!(first.status, 202, "{}", first.body);
    let (event_id, job_id) = (first.id("event_id").unwrap(), first.id("job_id").unwrap());

    let again = world.deliver(SourceKind::Generic, order.clone()).await;
    assert_eq!(again.status, 202, "{}", again.body);
    assert_eq!(again.body["deduped"], true);
    assert_eq!(again.body["job_created"], false);
    assert_eq!(
        (again.id("event_id"), again.id("job_id")),
        (Some(event_id), Some(job_id))
    );
    assert_ne!(again.id("inbox_id"), Some(event_id), "a delivery of its own");

    // The id decides, not the body; a body that differs is kept, one that does not is not stored twice.
    let other_body = Delivery {
        body: br#"{"event":"order.created","data":7}"#.to_vec(),
        ..order
    };
    let altered = world.deliver(SourceKind::Generic, other_body).await;
    assert_eq!(
        (altered.status.as_u16(), altered.id("job_id")),
        (202, Some(job_id)),
        "{}",
        altered.body
    );
    let bodies = world
        .sql
        .query(
            "select body is not null as kept from store.webhook_inbox where event_id = $1 order by id",
            &[&event_id],
        )
        .await
        .unwrap();
    assert_eq!(
        bodies.iter().map(|row| row.get(0)).collect::<Vec<bool>>(),
        [true, false, true]
    );
    assert_eq!((world.count(JOBS).await, world.count(QUOTA_USED).await), (1, 1));
    world.succeeds(job_id).await;

    forgeries_leave_nothing(&world).await;
    stripe_replays(&world).await;
    let api = world.service_mut("api");
    api.signal("TERM").await;
    assert_eq!(api.exits_within(PATIENCE).await.code(), Some(0));
    let counts = world
        .sql
        .query_one(
            "select coalesce(sum(count) filter (where cause = 'signature_mismatch'), 0)::bigint,
                    coalesce(sum(count) filter (where cause = 'replay'), 0)::bigint
               from store.webhook_rejections",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(
        (counts.get::<_, i64>(0), counts.get::<_, i64>(1)),
        (3, 2),
        "counted, and written before the end"
    );
}

async fn forgeries_leave_nothing(world: &World) {
    let rows = async || {
        (
            world.count(STORED).await,
            world.count(JOBS).await,
            world.count(QUOTA_USED).await,
        )
    };
    let before = rows().await;
    let events = [ORDER_CREATED, PUSH, INVOICE_PAID].map(|fixture| (fixture.kind, fixture.fresh()));
    for (kind, event) in &events {
        let forgery = event.clone().signed(*kind, "not the tenant's secret");
        check_problem(
            &world.send(kind.as_str(), forgery).await,
            401,
            "signature_mismatch",
        );
        check_problem(
            &world.send(kind.as_str(), event.clone()).await,
            401,
            "signature_missing",
        );
    }
    assert_eq!(rows().await, before);
    // Nor has the forger taken the id: the genuine event is new.
    for (kind, event) in events {
        let answer = world.deliver(kind, event).await;
        assert_eq!(
            (answer.status.as_u16(), answer.deduped()),
            (202, Some(false)),
            "{}",
            answer.body
        );
    }
}

async fn stripe_replays(world: &World) {
    let invoice = INVOICE_PAID.fresh();
    let now = chrono::Utc::now().timestamp();
    let signed_at = |at| {
        let delivery = invoice
            .clone()
            .signed_at(SourceKind::Stripe, &world.state.stripe_secret, at);
        world.send("stripe", delivery)
    };
    let first = signed_at(now - 20).await;
    assert_eq!(first.status, 202, "{}", first.body);
    let job_id = first.id("job_id").unwrap();

    let replay = signed_at(now - 20).await;
    check_problem(&replay, 409, "replay");
    assert_eq!(replay.id("job_id"), Some(job_id));
    let retry = signed_at(now - 10).await;
    assert_eq!(
        (retry.status.as_u16(), retry.deduped()),
        (202, Some(true)),
        "{}",
        retry.body
    );
    assert_eq!(retry.id("job_id"), Some(job_id));
    let late_replay = signed_at(now - 20).await;
    check_problem(&late_replay, 409, "replay");

    for stale in [now - 400, now + 400] {
        check_problem(&signed_at(stale).await, 401, "signature_stale");
    }
    world.succeeds(job_id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_refusal_has_its_status_and_code() {
    let world = api_alone().await;
    let secret = &world.state.generic_secret;
    let order = || ORDER_CREATED.fresh().signed(SourceKind::Generic, secret);

    check_problem(&world.send("nosuch", order()).await, 404, "unknown_source");
    let client = world.client();
    let to = async |tenant, delivery: Delivery| client.deliver("generic", tenant, &delivery).await.unwrap();
    check_problem(
        &to(Addressing::Path("nosuch"), order()).await,
        404,
        "unknown_tenant",
    );
    check_problem(
        &to(Addressing::Header("nosuch"), order()).await,
        404,
        "unknown_tenant",
    );
    check_problem(&client.get("/nosuch").await.unwrap(), 404, "not_found");

    let contradiction = order().with_header("X-Tenant-Id", "default");
    check_problem(
        &to(Addressing::Path(TENANT), contradiction).await,
        400,
        "invalid_tenant",
    );
    let agreement = order().with_header("X-Tenant-Id", &world.tenant_id.to_string());
    assert_eq!(
        to(Addressing::Path(TENANT), agreement).await.status,
        202,
        "slug and id of one tenant"
    );

    check_problem(&to(Addressing::Default, order()).await, 503, "secret_missing");
    for path in ["/webhooks/generic", "/webhooks/github/demo"] {
        let answer = client.get(path).await.unwrap();
        check_problem(&answer, 405, "method_not_allowed");
        assert_eq!(answer.headers["allow"], "POST");
    }

    fields_are_named(&world).await;
    let sane = world
        .send(
            "generic",
            ORDER_CREATED.fresh().with_header("X-Correlation-Id", "mine-1"),
        )
        .await;
    assert_eq!(sane.headers["x-correlation-id"], "mine-1");
    let strange = "x".repeat(129);
    let made = world
        .send(
            "generic",
            ORDER_CREATED.fresh().with_header("X-Correlation-Id", &strange),
        )
        .await;
    assert_ne!(made.headers["x-correlation-id"], strange.as_str());
    assert_eq!(world.count(STORED).await, 1, "only what was accepted");
}

/// Signed, but not what the schema allows: the answer names the field.
async fn fields_are_named(world: &World) {
    for (body, field) in [
        (r#"{"event":"order.created","data":1,"colour":"red"}"#, "colour"),
        (r#"{"data":1}"#, "event"),
        (r#"{"event":""}"#, "event"),
        (r#"{"event":7}"#, "event"),
        (r#"["event"]"#, "body"),
        ("{", "body"),
    ] {
        let delivery = Delivery {
            body: body.as_bytes().to_vec(),
            ..ORDER_CREATED.fresh()
        };
        let answer = world.deliver(SourceKind::Generic, delivery).await;
        check_problem(&answer, 400, "invalid_event");
        assert_eq!(answer.body["field"], field, "{body}: {}", answer.body);
    }
    let no_type = PUSH.fresh();
    let headers = no_type
        .headers
        .iter()
        .filter(|(name, _)| name != "x-github-event")
        .cloned()
        .collect();
    let answer = world
        .deliver(SourceKind::Github, Delivery { headers, ..no_type })
        .await;
    check_problem(&answer, 400, "invalid_event");
    assert_eq!(answer.body["field"], "X-GitHub-Event");
}
