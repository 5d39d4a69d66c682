//! Configuration is data: what changes in the database is live within a second.

use reqwest::StatusCode;

use crate::app::{App, GENERIC_SECRET, answer, problem, wait_until};

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_is_rotated_without_a_gap() {
    let app = App::start().await.ready().await;
    let tenant = app.tenant("acme", "old").await;
    let works = async |secret: &str| {
        let id = uuid::Uuid::new_v4().to_string();
        app.generic_for("/acme", secret, &id)
            .send()
            .await
            .unwrap()
            .status()
            == StatusCode::ACCEPTED
    };
    wait_until("the old one verifies", async || works("old").await).await;
    let new = app.add_secret(tenant, "new").await;
    wait_until("the new one verifies", async || works("new").await).await;
    assert!(works("old").await, "both are valid at once");
    app.execute(&format!(
        "update store.tenant_provider_secrets set retired_at = clock_timestamp() where tenant_id = '{tenant}' and id <> '{new}'"
    ))
    .await;
    wait_until("the old one is retired", async || !works("old").await).await;
    assert!(works("new").await);
    // Which version verified each webhook is known: what is still in use is not retired blindly.
    let by_new = format!("select count(*) from store.webhook_inbox where secret_id = '{new}'");
    assert_eq!(app.count(&by_new).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_secret_takes_the_place_of_the_environments() {
    let app = App::start().await.ready().await;
    assert_eq!(answer(app.generic("a")).await.0, StatusCode::ACCEPTED);
    app.add_secret(uuid::Uuid::nil(), "stored").await;
    wait_until("the stored one verifies", async || {
        app.generic_for("", "stored", "b").send().await.unwrap().status() == StatusCode::ACCEPTED
    })
    .await;
    problem(
        app.generic_for("", GENERIC_SECRET, "c"),
        401,
        "signature_mismatch",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_suspended_tenant_is_403_until_it_is_resumed() {
    let app = App::start().await.ready().await;
    assert_eq!(answer(app.generic("a")).await.0, StatusCode::ACCEPTED);
    app.execute("update store.tenants set status = 'suspended'").await;
    wait_until("it is suspended", async || {
        app.generic("b").send().await.unwrap().status() == StatusCode::FORBIDDEN
    })
    .await;
    problem(app.generic("b"), 403, "tenant_suspended").await;
    app.execute("update store.tenants set status = 'active'").await;
    wait_until("it is resumed", async || {
        app.generic("b").send().await.unwrap().status() == StatusCode::ACCEPTED
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_does_not_open_takes_no_other_away() {
    let app = App::start().await.ready().await;
    let tenant = app.tenant("acme", "good").await;
    app.execute(&format!(
        "insert into store.tenant_provider_secrets (id, tenant_id, source, ciphertext, master_key_id)
         values (gen_random_uuid(), '{tenant}', 'generic', decode(repeat('00', 40), 'hex'), repeat('0', 16))"
    ))
    .await;
    wait_until("the good one verifies", async || {
        app.generic_for("/acme", "good", "a")
            .send()
            .await
            .unwrap()
            .status()
            == StatusCode::ACCEPTED
    })
    .await;
}
