//! `rejections`, `secret_usage`, `traffic` and `tenant_usage`: what services add up, per hour, minute and day.

use sql::config::{StoredSecret, add_secret, record_secret_usage};
use sql::ingest::{RejectedSample, RejectionCount, record_rejections};
use sql::secret::Sealed;
use sql::testing::TestDb;
use sql::traffic::{Traffic, What};
use uuid::Uuid;

use crate::stage::Stage;
use crate::support::{DEFAULT_TENANT, Hook, hook, owner, stripe, tenant};

const HOUR: i64 = 3600;

#[tokio::test]
async fn rejections_per_hour_and_cause_without_what_was_sent() {
    let db = TestDb::create().await;
    let stage = Stage::of(&db).await;
    let acme = tenant(&db, "acme", None).await;
    let refuse = async |second: i64,
                        cause: &str,
                        source: &str,
                        tenant: Option<Uuid>,
                        count: i64,
                        sample: Option<&str>| {
        stage
            .api
            .query(
                "select relayforge.record_rejections(array[$1::text], array[$2::text], array[$3::uuid], array[$4::bigint],
                                                     array[$5::text]::bytea[], array['field event is missing'], $6)",
                &[&cause, &source, &tenant, &count, &sample, &stage.at(second)],
            )
            .await
            .unwrap();
    };
    refuse(10, "invalid_payload", "generic", Some(acme), 2, None).await;
    refuse(20, "invalid_payload", "generic", Some(acme), 3, Some("{}")).await;
    refuse(30, "invalid_payload", "generic", None, 1, None).await;
    refuse(40, "unknown_source", "", None, 7, None).await;
    refuse(HOUR + 5, "invalid_payload", "generic", Some(acme), 1, None).await;
    let shown = stage
        .rows(
            "select hour - :day, tenant, source, cause, count, last_at - :day, sampled
               from relayforge.rejections
              order by hour, cause, tenant nulls last",
        )
        .await;
    assert_eq!(
        shown,
        [
            "(00:00:00,acme,generic,invalid_payload,5,00:00:20,t)",
            "(00:00:00,,generic,invalid_payload,1,00:00:30,f)",
            "(00:00:00,,\"\",unknown_source,7,00:00:40,f)",
            "(01:00:00,acme,generic,invalid_payload,1,01:00:05,f)",
        ]
    );
    // As the API calls it.
    let count = RejectionCount {
        cause: "invalid_payload",
        source: "github".to_owned(),
        tenant_id: Some(acme),
        count: 4,
        sample: Some(RejectedSample {
            body: b"{}".to_vec(),
            detail: "field action is missing".to_owned(),
        }),
    };
    record_rejections(&stage.api, &[count]).await.unwrap();
    let latest = "select source, count, sampled from relayforge.rejections where source = 'github'";
    assert_eq!(stage.rows(latest).await, ["(github,4,t)"]);
}

#[tokio::test]
async fn secret_versions_with_what_they_still_verify() {
    let db = TestDb::create().await;
    let stage = Stage::of(&db).await;
    let client = owner(&db).await;
    let mut ids = Vec::new();
    // A second apart: ids of one millisecond have no order.
    for (second, source) in (0..).zip(["github", "github", "github", "stripe"]) {
        let id = client
            .query_one("select relayforge.uuid7($1, 0)", &[&stage.at(second)])
            .await
            .unwrap();
        let secret = StoredSecret {
            id: id.get(0),
            tenant_id: DEFAULT_TENANT,
            source: source.to_owned(),
            sealed: Sealed {
                ciphertext: vec![0; 40],
                master_key_id: "0123456789abcdef".to_owned(),
            },
        };
        add_secret(&client, &secret).await.unwrap();
        ids.push(secret.id);
    }
    // There is no function for it yet.
    db.owner()
        .await
        .execute(
            "update store.tenant_provider_secrets set retired_at = $1 where id = $2",
            &[&stage.at(0), &ids[2]],
        )
        .await
        .unwrap();
    record_secret_usage(&stage.api, &[(ids[0], 2), (ids[0], 3), (Uuid::now_v7(), 9)])
        .await
        .unwrap();
    record_secret_usage(&stage.api, &[(ids[0], 1), (ids[1], 1)])
        .await
        .unwrap();
    let shown = stage
        .rows(
            "select secret_id, tenant, source, retired_at - :day, is_current, uses, last_used_at >= created_at
               from relayforge.secret_usage
              order by secret_id",
        )
        .await;
    assert_eq!(
        shown,
        [
            format!("({},default,github,,f,6,t)", ids[0]),
            format!("({},default,github,,t,1,t)", ids[1]),
            format!("({},default,github,00:00:00,f,0,)", ids[2]),
            format!("({},default,stripe,,t,0,)", ids[3]),
        ]
    );
}

/// Counts of this minute by both services, of half an hour ago twice, and of two hours ago.
async fn count_traffic(stage: &Stage, acme: Uuid, small: Uuid) {
    let by_service = [
        (
            &stage.api,
            vec![(acme, What::Accepted, 2), (acme, What::Duplicate, 1)],
        ),
        (
            &stage.consumer,
            vec![
                (acme, What::Succeeded, 4),
                (acme, What::Retried, 5),
                (acme, What::DeadLettered, 6),
                (small, What::Accepted, 7),
            ],
        ),
    ];
    for (client, counts) in by_service {
        let traffic = Traffic::default();
        for (tenant_id, what, times) in counts {
            (0..times).for_each(|_| traffic.count(tenant_id, "generic", what));
        }
        traffic.write(client).await.unwrap();
    }
    let earlier = async |second: i64, number: i64| {
        stage
            .api
            .query(
                "select relayforge.record_traffic(array[$1::uuid], array['generic'], array['accepted'], array[$2::bigint], $3)",
                &[&acme, &number, &stage.at(second)],
            )
            .await
            .unwrap();
    };
    earlier(-1800, 10).await;
    earlier(-1800, 1).await;
    earlier(-2 * HOUR, 100).await;
}

#[tokio::test]
async fn quota_and_traffic_per_tenant() {
    let db = TestDb::create().await;
    let stage = Stage::from_now(&db).await;
    let acme = tenant(&db, "acme", Some(3)).await;
    let small = tenant(&db, "small", Some(1)).await;
    db.owner()
        .await
        .batch_execute(
            "update store.tenants set quota_policy = 'hold' where slug = 'small';
             update store.tenants set status = 'suspended' where slug = 'default'",
        )
        .await
        .unwrap();
    for (tenant, id) in [(acme, "a"), (acme, "a"), (acme, "b"), (small, "a"), (small, "b")] {
        let hook = Hook { tenant, ..hook(id) };
        stage.deliver(0, &hook).await;
    }
    stage
        .api
        .query(
            "select relayforge.configure_upkeep(null, null, null, null, null, 500)",
            &[],
        )
        .await
        .unwrap();

    count_traffic(&stage, acme, small).await;
    assert_eq!(
        stage
            .rows(
                "select tenant, status, day = (:day at time zone 'UTC')::date, used, daily_quota, remaining, quota_policy,
                        accepted_last_hour, duplicates_last_hour, succeeded_last_hour, retried_last_hour, dead_lettered_last_hour
                   from relayforge.tenant_usage
                  order by tenant"
            )
            .await,
        [
            "(acme,active,t,2,3,1,reject,13,1,4,5,6)",
            "(default,suspended,t,0,500,500,reject,0,0,0,0,0)",
            "(small,active,t,2,1,0,hold,7,0,0,0,0)",
        ]
    );
    let ids = "select tenant_id from relayforge.tenant_usage where tenant = 'acme'";
    assert_eq!(stage.rows(ids).await, [format!("({acme})")]);
    assert_eq!(
        stage
            .rows(
                "select date_trunc('minute', :day) - minute >= '2 hours', date_trunc('minute', :day) - minute >= '30 min',
                        tenant, source, what, count
                   from relayforge.traffic
                  order by minute, what, tenant"
            )
            .await,
        [
            "(t,t,acme,generic,accepted,100)",
            "(f,t,acme,generic,accepted,11)",
            "(f,f,acme,generic,accepted,2)",
            "(f,f,small,generic,accepted,7)",
            "(f,f,acme,generic,dead_lettered,6)",
            "(f,f,acme,generic,duplicate,1)",
            "(f,f,acme,generic,retried,5)",
            "(f,f,acme,generic,succeeded,4)",
        ]
    );
}

/// One body under two unsigned ids is suspect; a provider's retry under one id is not, nor what Stripe has signed.
#[tokio::test]
async fn a_body_under_two_ids_is_a_suspected_replay() {
    let db = TestDb::create().await;
    let stage = Stage::from_now(&db).await;
    let named = |id: &str, body: &[u8]| Hook {
        body: body.to_vec(),
        ..hook(id)
    };
    let (first, _) = stage.accept(-90, &named("a", b"captured")).await;
    stage.accept(-80, &named("b", b"another")).await;
    let (second, _) = stage.accept(-70, &named("c", b"captured")).await;
    for (second, id) in [(-60, "evt_1"), (-50, "evt_2")] {
        let signed = Hook {
            body: b"captured".to_vec(),
            ..stripe(id, 1000)
        };
        stage.accept(second, &signed).await;
    }
    let shown = stage
        .rows(
            "select tenant, source, event_type, events, first_event_id, last_event_id, last_at - first_at
               from relayforge.suspected_replays",
        )
        .await;
    assert_eq!(
        shown,
        [format!(
            "(default,generic,order.created,2,{first},{second},00:00:20)"
        )]
    );
}
