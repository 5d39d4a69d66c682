//! Replays in `ingest_webhooks`: the three policies, and what is remembered of a refusal.

use sql::ingest::Ingested;
use sql::testing::TestDb;

use crate::support::{Hook, accepted, api, count, duplicate, hook, ingest, ingest_at, source, stripe};

#[tokio::test]
async fn an_older_signature_is_a_replay_and_a_newer_one_a_retry() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let first = accepted(&ingest(&client, &[stripe("evt", 1000)]).await[0]);
    let replay = Ingested::Replay {
        event_id: first.event_id,
        job_id: first.job_id,
    };
    assert_eq!(
        ingest(&client, &[stripe("evt", 1000)]).await[0],
        replay,
        "the same signature"
    );
    assert_eq!(
        ingest(&client, &[stripe("evt", 999)]).await[0],
        replay,
        "an older one"
    );
    let retry = duplicate(&ingest(&client, &[stripe("evt", 1001)]).await[0]);
    assert_eq!((retry.event_id, retry.job_id), (first.event_id, first.job_id));
    assert_eq!(
        ingest(&client, &[stripe("evt", 1001)]).await[0],
        replay,
        "the timestamp has moved forward"
    );
    // In one batch: a newer one after an older one is a retry, then both are replays.
    let outcomes = ingest(
        &client,
        &[
            stripe("new", 10),
            stripe("new", 10),
            stripe("new", 11),
            stripe("new", 11),
        ],
    )
    .await;
    accepted(&outcomes[0]);
    assert!(matches!(outcomes[1], Ingested::Replay { .. }), "{outcomes:?}");
    duplicate(&outcomes[2]);
    assert!(matches!(outcomes[3], Ingested::Replay { .. }), "{outcomes:?}");
    assert_eq!(count(&db, "select count(*) from store.jobs").await, 2);
    assert_eq!(
        count(&db, "select count(*) from store.webhook_inbox").await,
        4,
        "a replay stores nothing"
    );
}

#[tokio::test]
async fn the_other_replay_policies() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    source(&db, "never", "event_id", "reject_all", false).await;
    source(&db, "timeless", "event_id", "reject", false).await;
    accepted(
        &ingest(
            &client,
            &[Hook {
                source: "never",
                ..stripe("e", 10)
            }],
        )
        .await[0],
    );
    let newer = &ingest(
        &client,
        &[Hook {
            source: "never",
            ..stripe("e", 20)
        }],
    )
    .await[0];
    assert!(matches!(newer, Ingested::Replay { .. }), "{newer:?}");
    // Without timestamps nothing is newer.
    accepted(
        &ingest(
            &client,
            &[Hook {
                source: "timeless",
                ..hook("e")
            }],
        )
        .await[0],
    );
    let again = &ingest(
        &client,
        &[Hook {
            source: "timeless",
            ..hook("e")
        }],
    )
    .await[0];
    assert!(matches!(again, Ingested::Replay { .. }), "{again:?}");
}

/// However often it comes: one row an event, and nothing of the replay itself.
#[tokio::test]
async fn refused_replays_are_counted_by_event() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let first = accepted(&ingest(&client, &[stripe("evt", 1000)]).await[0]);
    for _ in 0..2 {
        ingest(
            &client,
            &[stripe("evt", 1000), stripe("evt", 999), stripe("other", 1)],
        )
        .await;
    }
    let row = db
        .owner()
        .await
        .query_one(
            "select r.times, r.event_id, r.first_at < r.last_at from store.rejected_replays r where r.provider_event_id = 'evt'",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, _>(1)), (4, first.event_id));
    assert!(row.get::<_, bool>(2));
    assert_eq!(count(&db, "select count(*) from store.rejected_replays").await, 2);
    assert_eq!(count(&db, "select count(*) from store.webhook_inbox").await, 2);
}

/// Whether the row has been purged or not: after the dedup window the event is new, and its own signature counts.
#[tokio::test]
async fn a_replayed_key_is_free_again_after_the_dedup_window() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let (outcome, first) = ingest_at(&client, &stripe("evt", 2000), "0").await;
    assert_eq!(outcome, "accepted");
    assert_eq!(
        ingest_at(&client, &stripe("evt", 2000), "6 days").await.0,
        "replay"
    );
    let (outcome, second) = ingest_at(&client, &stripe("evt", 1000), "8 days").await;
    assert_eq!(outcome, "accepted");
    assert_ne!(first, second);
    assert_eq!(
        ingest_at(&client, &stripe("evt", 1000), "9 days").await,
        ("replay".to_owned(), second)
    );
    // Counted for the new event alone.
    let refused = "select count(*) from store.rejected_replays where times = 1 and first_at = last_at";
    assert_eq!(count(&db, refused).await, 1);
    assert_eq!(
        ingest_at(&client, &stripe("evt", 1500), "9 days").await,
        ("duplicate".to_owned(), second)
    );
}
