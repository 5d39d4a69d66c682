//! The outbox as a queue: claims that don't meet, settlements, low water, and the protocol of sleep and wake.

use std::time::Duration;

use chrono::{TimeDelta, Utc};
use sql::outbox::{
    LowWater, OUTBOX_CHANNEL, Settlement, Target, abandon_outbox, claim_outbox, count_outbox,
    outbox_next_due, relay_sleep, relay_wake, settle_outbox, wake_relays,
};
use sql::pool::Listener;
use sql::testing::TestDb;
use uuid::Uuid;

use crate::support::{Hook, api, count, hook, ingest, relay};

const BASE: Duration = Duration::from_secs(1);
const CAP: Duration = Duration::from_secs(60);

async fn fill(db: &TestDb, events: usize) {
    let hooks: Vec<Hook> = (0..events).map(|i| hook(&i.to_string())).collect();
    ingest(&api(db).await, &hooks).await;
}

#[tokio::test]
async fn two_relays_share_the_queue_and_a_dead_ones_rows_are_free_again() {
    let db = TestDb::create().await;
    fill(&db, 10).await;
    let (mut one, mut two) = (relay(&db).await, relay(&db).await);
    let first = one.transaction().await.unwrap();
    let second = two.transaction().await.unwrap();
    let mine = claim_outbox(&first, Target::Jobs, 6, LowWater::START)
        .await
        .unwrap();
    let theirs = claim_outbox(&second, Target::Jobs, 6, LowWater::START)
        .await
        .unwrap();
    assert_eq!((mine.len(), theirs.len()), (6, 4));
    assert!(
        mine.iter()
            .all(|row| theirs.iter().all(|other| other.id != row.id))
    );
    let event = mine[0].event.as_ref().unwrap();
    assert_eq!(
        (event.event_type.as_str(), event.body.clone()),
        ("order.created", hook("0").body)
    );
    drop(first);
    let settlement = Settlement {
        confirmed: theirs.iter().map(|row| row.id).collect(),
        deferred: Vec::new(),
    };
    settle_outbox(&second, &settlement, BASE, CAP).await.unwrap();
    second.commit().await.unwrap();
    assert_eq!(count_outbox(&one).await.unwrap(), 6);
    assert_eq!(
        count(&db, "select count(*) from store.job_log where what = 'published'").await,
        4
    );
    let again = one.transaction().await.unwrap();
    assert_eq!(
        claim_outbox(&again, Target::Jobs, 10, LowWater::START)
            .await
            .unwrap()
            .len(),
        6
    );
}

/// Large bodies make small batches: a relay's memory is bounded, and all of them come in the end.
#[tokio::test]
async fn a_claim_is_bounded_in_bytes_too() {
    let db = TestDb::create().await;
    let large = |i: usize| Hook {
        body: vec![b'x'; 1_500_000],
        ..hook(&i.to_string())
    };
    ingest(&api(&db).await, &(0..7).map(large).collect::<Vec<_>>()).await;
    let mut client = relay(&db).await;
    let mut batches = Vec::new();
    while batches.iter().sum::<usize>() < 7 {
        let transaction = client.transaction().await.unwrap();
        let rows = claim_outbox(&transaction, Target::Jobs, 500, LowWater::START)
            .await
            .unwrap();
        assert!(!rows.is_empty(), "after {batches:?}");
        let settlement = Settlement {
            confirmed: rows.iter().map(|row| row.id).collect(),
            deferred: Vec::new(),
        };
        settle_outbox(&transaction, &settlement, BASE, CAP).await.unwrap();
        transaction.commit().await.unwrap();
        batches.push(rows.len());
    }
    assert_eq!(batches, [3, 3, 1]);
}

#[tokio::test]
async fn what_the_broker_refuses_waits_with_its_reason() {
    let db = TestDb::create().await;
    fill(&db, 1).await;
    let mut client = relay(&db).await;
    let transaction = client.transaction().await.unwrap();
    let row = claim_outbox(&transaction, Target::Jobs, 10, LowWater::START)
        .await
        .unwrap()
        .remove(0);
    let settlement = Settlement {
        confirmed: Vec::new(),
        deferred: vec![(row.id, "nacked".to_owned())],
    };
    settle_outbox(&transaction, &settlement, BASE, CAP).await.unwrap();
    transaction.commit().await.unwrap();
    let waits = "select count(*) from store.outbox_messages
                  where attempts = 1 and last_error = 'nacked' and next_attempt_at > clock_timestamp() + interval '300 ms'";
    assert_eq!(count(&db, waits).await, 1);
    let transaction = client.transaction().await.unwrap();
    assert!(
        claim_outbox(&transaction, Target::Jobs, 10, LowWater::START)
            .await
            .unwrap()
            .is_empty()
    );
    transaction.rollback().await.unwrap();
    let found = outbox_next_due(&client, LowWater::START.at).await.unwrap();
    let wait = found.due.unwrap() - found.now;
    assert!(
        wait > TimeDelta::milliseconds(200) && wait <= TimeDelta::seconds(1),
        "{wait}"
    );
}

#[tokio::test]
async fn a_claim_starts_at_its_low_water_mark() {
    let db = TestDb::create().await;
    fill(&db, 3).await;
    let mut client = relay(&db).await;
    let transaction = client.transaction().await.unwrap();
    let later = LowWater {
        at: Utc::now() + TimeDelta::hours(1),
        ..LowWater::START
    };
    assert!(
        claim_outbox(&transaction, Target::Jobs, 10, later)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        claim_outbox(&transaction, Target::Jobs, 10, LowWater::START)
            .await
            .unwrap()
            .len(),
        3
    );
}

#[tokio::test]
async fn a_message_that_can_never_be_published_gives_its_job_up() {
    let db = TestDb::create().await;
    fill(&db, 2).await;
    let client = relay(&db).await;
    let id: Uuid = db
        .owner()
        .await
        .query_one("select id from store.outbox_messages order by id limit 1", &[])
        .await
        .unwrap()
        .get(0);
    abandon_outbox(&client, &[(id, "too large".to_owned())])
        .await
        .unwrap();
    abandon_outbox(&client, &[(id, "too large".to_owned())])
        .await
        .unwrap();
    assert_eq!(
        count(
            &db,
            "select count(*) from store.dead_jobs where cause = 'unpublishable'"
        )
        .await,
        1
    );
    assert_eq!(
        count(
            &db,
            "select count(*) from store.jobs where last_error = 'too large'"
        )
        .await,
        1
    );
    assert_eq!(
        count(
            &db,
            "select count(*) from store.outbox_messages where target = 'jobs'"
        )
        .await,
        1
    );
    assert_eq!(
        count(
            &db,
            "select count(*) from store.outbox_messages where target = 'dlq'"
        )
        .await,
        1
    );
}

#[tokio::test]
async fn a_writer_wakes_who_would_sleep_past_its_row_and_nobody_else() {
    let db = TestDb::create().await;
    let client = relay(&db).await;
    let mut listener = Listener::connect(&db.config("relayforge_relay"), OUTBOX_CHANNEL)
        .await
        .unwrap();
    let id = Uuid::new_v4();
    assert_eq!(wake_relays(&client, None).await.unwrap(), 0, "nobody sleeps");
    relay_sleep(&client, id, Utc::now() + TimeDelta::seconds(60))
        .await
        .unwrap();
    assert_eq!(
        wake_relays(&client, Some(Utc::now() + TimeDelta::seconds(90)))
            .await
            .unwrap(),
        0,
        "it wakes earlier"
    );
    assert_eq!(wake_relays(&client, None).await.unwrap(), 1);
    assert_eq!(
        wake_relays(&client, None).await.unwrap(),
        0,
        "one notification is enough"
    );
    let heard = tokio::time::timeout(Duration::from_secs(5), listener.next())
        .await
        .unwrap();
    assert_eq!(heard.as_deref(), Some(""));
    relay_sleep(&client, id, Utc::now() + TimeDelta::seconds(60))
        .await
        .unwrap();
    relay_wake(&client, id).await.unwrap();
    assert_eq!(wake_relays(&client, None).await.unwrap(), 0);
}

/// Writers commit, then call `wake_relays`; a sleeper says so, looks, then waits. In no order is a row left unseen.
#[tokio::test]
async fn no_wake_up_is_lost() {
    let db = TestDb::create().await;
    let client = relay(&db).await;
    let mut listener = Listener::connect(&db.config("relayforge_relay"), OUTBOX_CHANNEL)
        .await
        .unwrap();
    let id = Uuid::new_v4();
    let writer = {
        let pool = db.pool("relayforge_api");
        tokio::spawn(async move {
            for i in 0..300 {
                let client = pool.get().await.unwrap();
                ingest(&client, &[hook(&format!("w{i}"))]).await;
                wake_relays(&client, None).await.unwrap();
            }
        })
    };
    let mut seen = 0;
    while seen < 300 {
        relay_sleep(&client, id, Utc::now() + TimeDelta::seconds(60))
            .await
            .unwrap();
        let mut claimer = relay(&db).await;
        let transaction = claimer.transaction().await.unwrap();
        let rows = claim_outbox(&transaction, Target::Jobs, 500, LowWater::START)
            .await
            .unwrap();
        let settlement = Settlement {
            confirmed: rows.iter().map(|row| row.id).collect(),
            deferred: Vec::new(),
        };
        settle_outbox(&transaction, &settlement, BASE, CAP).await.unwrap();
        transaction.commit().await.unwrap();
        seen += rows.len();
        if rows.is_empty() {
            // A lost wake-up would be this time-out: nothing else ends the wait.
            let heard = tokio::time::timeout(Duration::from_secs(20), listener.next()).await;
            assert!(heard.is_ok(), "slept through a row after {seen}");
        }
    }
    writer.await.unwrap();
}
