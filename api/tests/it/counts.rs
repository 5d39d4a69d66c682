//! What the API adds up in memory and writes once a second: rejections with their samples, traffic, use of secrets.

use crate::app::{App, GENERIC_SECRET, answer, problem, sign, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_body_is_sampled_if_it_was_signed() {
    let app = App::start().await.ready().await;
    let signed = |body: &'static str| {
        app.post("/webhooks/generic", body)
            .header("X-Signature", sign(GENERIC_SECRET, body.as_bytes()))
    };
    problem(
        app.post("/webhooks/generic", "unsigned"),
        401,
        "signature_missing",
    )
    .await;
    problem(signed(r#"{"evnt":"first"}"#), 400, "invalid_event").await;
    wait_until("the first is written", async || {
        app.count("select count(*) from store.webhook_rejections").await == 2
    })
    .await;
    problem(signed(r#"{"evnt":"second"}"#), 400, "invalid_event").await;
    wait_until("the second is counted", async || {
        app.count(
            "select count(*) from store.webhook_rejections
              where cause = 'invalid_event' and count = 2 and sample = convert_to('{\"evnt\":\"first\"}', 'UTF8')
                and sample_detail like '%evnt%' and source = 'generic'",
        )
        .await
            == 1
    })
    .await;
    assert_eq!(
        app.count("select count(*) from store.webhook_rejections where cause = 'signature_missing' and sample is null")
            .await,
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn traffic_and_the_use_of_secrets_are_added_up() {
    let app = App::start().await.ready().await;
    let tenant = app.tenant("acme", "first").await;
    let idle = app.add_secret(tenant, "second").await;
    wait_until("the tenant is known", async || {
        answer(app.generic_for("/acme", "first", "a")).await.0 == 202
    })
    .await;
    for id in ["b", "a"] {
        assert_eq!(answer(app.generic_for("/acme", "first", id)).await.0, 202);
    }
    wait_until("they are written", async || {
        app.count(&format!(
            "select coalesce(sum(count), 0)::bigint from store.traffic_minutes
              where tenant_id = '{tenant}' and source = 'generic' and (what, count) in (('accepted', 2), ('duplicate', 1))"
        ))
        .await
            == 3
    })
    .await;
    wait_until("the uses, too", async || {
        app.count("select coalesce(sum(uses), 0)::bigint from store.secret_usage")
            .await
            == 3
    })
    .await;
    let of_idle = format!("select count(*) from store.secret_usage where secret_id = '{idle}'");
    assert_eq!(app.count(&of_idle).await, 0);
}
