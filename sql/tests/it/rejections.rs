//! Counts of what was refused: they add up, keep one sample, and their rows are bounded.

use sql::ingest::{RejectedSample, RejectionCount, record_rejections};
use sql::testing::TestDb;
use uuid::Uuid;

use crate::support::{api, count};

fn rejection(
    cause: &'static str,
    source: &str,
    tenant_id: Option<Uuid>,
    body: Option<&[u8]>,
) -> RejectionCount {
    RejectionCount {
        cause,
        source: source.to_owned(),
        tenant_id,
        count: 1,
        sample: body.map(|body| RejectedSample {
            body: body.to_vec(),
            detail: "x".repeat(400),
        }),
    }
}

#[tokio::test]
async fn counts_add_up_and_the_first_sample_stays() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let tenant = Some(Uuid::nil());
    let long = vec![7; 5000];
    record_rejections(
        &client,
        &[
            rejection("invalid_event", "generic", tenant, Some(&long)),
            rejection("invalid_event", "generic", tenant, Some(b"second")),
            rejection("unknown_source", "", None, None),
        ],
    )
    .await
    .unwrap();
    record_rejections(
        &client,
        &[
            rejection("invalid_event", "generic", tenant, Some(b"third")),
            rejection("unknown_source", "", None, None),
        ],
    )
    .await
    .unwrap();
    let rows = db
        .owner()
        .await
        .query(
            "select cause, count, sample, length(sample_detail) from store.webhook_rejections order by cause",
            &[],
        )
        .await
        .unwrap();
    assert_eq!(rows.len(), 2);
    assert_eq!(rows[0].get::<_, i64>(1), 3);
    assert_eq!(rows[0].get::<_, &[u8]>(2), &long[..4096]);
    assert_eq!(rows[0].get::<_, i32>(3), 300);
    assert_eq!(rows[1].get::<_, i64>(1), 2);
    assert_eq!(rows[1].get::<_, Option<&[u8]>>(2), None);
}

/// A flood over many tenants: what would be row 10,001 of the hour is counted by its cause alone, without the sample.
#[tokio::test]
async fn an_hour_has_so_many_rows_and_no_more() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    db.owner()
        .await
        .batch_execute(
            "insert into store.webhook_rejections (hour, cause, source, tenant_id, count, last_at)
             select date_trunc('hour', clock_timestamp(), 'UTC'), 'signature_mismatch', 'generic', gen_random_uuid(), 1, clock_timestamp()
               from generate_series(1, 9999)",
        )
        .await
        .unwrap();
    let flood: Vec<RejectionCount> = (1..=50)
        .map(|i| {
            rejection(
                "invalid_event",
                "generic",
                Some(Uuid::from_u128(i)),
                Some(b"body"),
            )
        })
        .collect();
    record_rejections(&client, &flood[..1]).await.unwrap();
    for _ in 0..2 {
        record_rejections(&client, &flood).await.unwrap();
    }
    assert_eq!(
        count(&db, "select count(*) from store.webhook_rejections").await,
        10_001
    );
    assert_eq!(
        count(
            &db,
            "select count from store.webhook_rejections where cause = 'invalid_event' and source = '' and sample is null"
        )
        .await,
        98
    );
    assert_eq!(
        count(
            &db,
            "select count from store.webhook_rejections where cause = 'invalid_event' and source <> ''"
        )
        .await,
        3,
        "a row that is there is counted on"
    );
}
