//! Upkeep: partitions ahead, expiry, retention, purges; at once from many, and beside those who read and write.

use std::time::Duration;

use sql::testing::TestDb;
use sql::upkeep::{Maintained, UpkeepSettings, check_horizon, configure_upkeep, maintain, partition_horizon};
use sql::{DbError, Object};
use uuid::Uuid;

use crate::support::{
    Hook, accepted, api, consumer, count, dba, hook, ingest, ingest_at, maintain_at, stripe,
    until_somebody_waits,
};

const SETTINGS: &str = "select partition_interval || ' ' || inbox_days || ' ' || jobs_days from store.upkeep";

fn settings(interval: &str, inbox_days: u16, jobs_days: u16) -> UpkeepSettings {
    UpkeepSettings {
        partition_interval: interval.to_owned(),
        inbox_days,
        jobs_days,
        dedup_window: Duration::from_secs(86_400),
        hash_window: Duration::from_secs(3600),
        default_daily_quota: 5,
    }
}

/// What upkeep says while it is cautious, but for its first words.
const UNTIL: &str = "select to_char(cautious_until, 'YYYY-MM-DD HH24:MI:SS+00') || ': the clock has jumped, or a retention was shortened'
                       from store.upkeep";

async fn text(db: &TestDb, query: &str) -> String {
    db.owner().await.query_one(query, &[]).await.unwrap().get(0)
}

/// Partitions of a table that end by then.
async fn ended(db: &TestDb, table: &str, by: &str) -> i64 {
    count(
        db,
        &format!(
            "select count(*) from relayforge.list_partitions() p
              where p.parent = '{table}' and p.to_at <= clock_timestamp() + interval '{by}'"
        ),
    )
    .await
}

#[tokio::test]
async fn a_job_lives_from_its_partition_to_the_end_of_its_retention() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let old = accepted(&ingest(&client, &[hook("old")]).await[0]);

    let done = maintain_at(&db, "12 days").await;
    assert!(
        done.iter().any(|line| line.contains("partitions made")),
        "{done:?}"
    );
    assert_eq!(count(&db, "select count(*) from store.open_jobs").await, 1);

    // Its event goes once its partition has ended 14 days ago: at the earliest in 14 days, in 15 at the latest.
    let done = maintain_at(&db, "14 days").await;
    assert!(done.contains(&"1 jobs expired".to_owned()), "{done:?}");
    let row = db
        .owner()
        .await
        .query_one(
            "select j.outcome, j.attempts, d.cause, o.target, (select count(*) from store.webhook_inbox)
               from store.jobs j
               join store.dead_jobs d on d.job_id = j.id
               join store.outbox_messages o on o.job_id = j.id and o.target = 'dlq'
              where j.id = $1",
            &[&old.job_id],
        )
        .await
        .unwrap();
    assert_eq!(row.get::<_, &str>(0), "dead_lettered");
    assert_eq!(row.get::<_, i16>(1), 0, "no run was started");
    assert_eq!(row.get::<_, &str>(2), "expired");
    assert_eq!(
        row.get::<_, i64>(4),
        1,
        "its event is there for another day, for the copy's message"
    );

    let done = maintain_at(&db, "15 days").await;
    assert!(
        done.iter().any(|line| line.starts_with("webhook_inbox_p")),
        "{done:?}"
    );
    assert_eq!(count(&db, "select count(*) from store.webhook_inbox").await, 0);
    assert_eq!(count(&db, "select count(*) from store.jobs").await, 1);
    // Ingest goes on in the partitions that were made meanwhile.
    assert_eq!(ingest_at(&client, &hook("new"), "15 days").await.0, "accepted");

    maintain_at(&db, "31 days").await;
    assert_eq!(
        count(&db, "select count(*) from store.jobs where event_id <> id").await,
        1
    );
    assert_eq!(
        count(
            &db,
            "select count(*) from store.jobs where dedup_key = 'provider:old'"
        )
        .await,
        0
    );
    // Only the newer one is left, expired by now; what is known of the older one has gone with it.
    assert_eq!(
        count(
            &db,
            "select count(*) from store.dead_jobs d join store.jobs j on j.id = d.job_id"
        )
        .await,
        count(&db, "select count(*) from store.dead_jobs").await,
    );
    assert_eq!(ended(&db, "jobs", "0 days").await, 0);
}

#[tokio::test]
async fn a_run_that_holds_its_lease_expires_a_day_later() {
    let db = TestDb::create().await;
    let ids = accepted(&ingest(&api(&db).await, &[hook("a")]).await[0]);
    db.owner()
        .await
        .execute(
            "update store.open_jobs
                set state = 'processing', run_id = gen_random_uuid(), lease_until = clock_timestamp() + interval '20 days'
              where job_id = $1",
            &[&ids.job_id],
        )
        .await
        .unwrap();
    maintain_at(&db, "14 days").await;
    assert_eq!(count(&db, "select count(*) from store.open_jobs").await, 1);
    let done = maintain_at(&db, "15 days").await;
    assert!(done.contains(&"1 jobs expired".to_owned()), "{done:?}");
    assert_eq!(
        count(&db, "select attempts::bigint from store.jobs").await,
        1,
        "this run was one"
    );
}

/// A partition whose jobs could not be expired stays: nobody loses an event that a job may need, nor the job itself.
#[tokio::test]
async fn partitions_stay_while_one_of_their_jobs_is_open() {
    let db = TestDb::create().await;
    ingest(&api(&db).await, &[hook("a")]).await;
    let holder = db.owner().await;
    holder
        .batch_execute("begin; select 1 from store.open_jobs for update")
        .await
        .unwrap();
    let done = maintain_at(&db, "20 days").await;
    assert!(!done.iter().any(|line| line.contains("expired")), "{done:?}");
    maintain_at(&db, "32 days").await;
    for table in ["webhook_inbox", "jobs"] {
        assert_eq!(
            count(&db, &format!("select count(*) from store.{table}")).await,
            1,
            "{table}"
        );
    }
    holder.batch_execute("rollback").await.unwrap();
    maintain_at(&db, "32 days").await;
    for table in ["webhook_inbox", "jobs"] {
        assert_eq!(
            count(&db, &format!("select count(*) from store.{table}")).await,
            0,
            "{table}"
        );
    }
    assert_eq!(
        count(
            &db,
            "select count(*) from store.dead_jobs where cause = 'expired'"
        )
        .await,
        1
    );
}

/// A clock that jumps, or a slip in RETENTION__INBOX_DAYS, leaves an hour to notice it.
#[tokio::test]
async fn nothing_is_dropped_for_an_hour_after_a_jump_of_the_clock_or_a_shorter_retention() {
    let db = TestDb::create().await;
    let (client, owner) = (api(&db).await, db.owner().await);
    ingest(&client, &[hook("a")]).await;
    let run = async |offset: &str| {
        let call =
            format!("call relayforge.maintain('0', null, null, clock_timestamp() + interval '{offset}')");
        owner
            .query_one(&call, &[])
            .await
            .unwrap()
            .get::<_, Vec<String>>("p_done")
            .join("; ")
    };
    run("0").await;
    let done = run("35 days").await;
    assert!(done.contains("the clock has jumped"), "{done}");
    assert_eq!(count(&db, "select count(*) from store.open_jobs").await, 1);
    // It was wrong.
    let done = run("1 minute").await;
    assert_eq!(
        done,
        "nothing is expired, dropped or purged before ".to_owned() + &text(&db, UNTIL).await
    );
    let until =
        "select count(*) from store.upkeep where cautious_until < clock_timestamp() + interval '62 minutes'";
    assert_eq!(count(&db, until).await, 1, "not for 35 days");
    // It was right.
    run("35 days").await;
    let done = run("35 days 61 minutes").await;
    assert!(
        done.contains("1 jobs expired") && done.contains("dropped"),
        "{done}"
    );

    assert!(configure_upkeep(&client, &settings("day", 14, 30)).await.unwrap());
    owner
        .batch_execute("update store.upkeep set cautious_until = null")
        .await
        .unwrap();
    assert!(configure_upkeep(&client, &settings("day", 1, 30)).await.unwrap());
    let done = run("35 days 62 minutes").await;
    assert!(!done.contains("cautious"), "{done}");
    let cautious =
        "select count(*) from store.upkeep where cautious_until > clock_timestamp() + interval '59 minutes'";
    assert_eq!(count(&db, cautious).await, 1);
    let audited = text(
        &db,
        "select detail::text from relayforge.audit_log where action = 'configure_upkeep' order by id desc limit 1",
    )
    .await;
    assert_eq!(audited, r#"{"inbox_days": {"to": 1, "from": 14}}"#);
}

/// What the services' roles and the DBA may not say: that it is another time.
#[tokio::test]
async fn only_the_owner_has_another_clock() {
    let db = TestDb::create().await;
    let operator = crate::support::dba(&db).await;
    for call in [
        "select relayforge.ensure_partitions('day', 14, clock_timestamp() + interval '10 years')",
        "select relayforge.upkeep_step('partitions', p_now => '1960-01-01Z')",
        "select relayforge.upkeep_step('drop', p_now => clock_timestamp() + interval '35 days')",
        "select relayforge.upkeep_step('drop', p_now => null)",
    ] {
        let error = operator.query(call, &[]).await.unwrap_err();
        assert_eq!(error.code().unwrap().code(), "RF400", "{call}: {error}");
    }
}

/// The names of our advisory locks are in public; their keys are not.
#[tokio::test]
async fn nobody_takes_the_locks_of_upkeep_by_name_and_who_finds_another_at_it_says_so() {
    let db = TestDb::create().await;
    let operator = crate::support::dba(&db).await;
    operator
        .batch_execute(
            "select pg_advisory_lock(hashtextextended('relayforge.' || n, 0))
               from unnest(array['upkeep', 'ensure_partitions', 'sweep_leases', 'audit']) n",
        )
        .await
        .unwrap();
    let owner = db.owner().await;
    owner
        .batch_execute("drop table store.jobs_p20991231")
        .await
        .unwrap_err();
    assert!(
        maintain_at(&db, "1 day")
            .await
            .contains(&"3 partitions made".to_owned())
    );
    owner
        .batch_execute("begin; select pg_advisory_xact_lock(relayforge.lock_key('upkeep'))")
        .await
        .unwrap();
    let pool = db.pool("relayforge_api");
    let maintained = maintain(&pool.get().await.unwrap(), Duration::ZERO)
        .await
        .unwrap();
    assert_eq!(maintained.done, ["another process is at it"]);
}

#[tokio::test]
async fn purges_take_what_is_expired_and_nothing_else() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let no_id = Hook { id: None, ..hook("") };
    ingest(
        &client,
        &[
            hook("id"),
            no_id.clone(),
            stripe("evt", 1000),
            stripe("evt", 1000),
        ],
    )
    .await;
    db.owner()
        .await
        .batch_execute(
            "select relayforge.record_rejections('{replay}', '{stripe}', '{00000000-0000-0000-0000-000000000000}', '{1}');
             select relayforge.record_traffic('{00000000-0000-0000-0000-000000000000}', '{stripe}', '{accepted}', '{3}')",
        )
        .await
        .unwrap();
    let left = async || {
        text(
            &db,
            "select format('%s keys %s hashes %s replays %s refused %s quotas %s rejections %s minutes',
                      (select count(*) from store.dedup_ledger where not by_hash),
                      (select count(*) from store.dedup_ledger where by_hash),
                      (select count(*) from store.stripe_event_idempotency),
                      (select count(*) from store.rejected_replays),
                      (select count(*) from store.tenant_daily_quota_usage),
                      (select count(*) from store.webhook_rejections),
                      (select count(*) from store.traffic_minutes))",
        )
        .await
    };
    let all = "2 keys 1 hashes 1 replays 1 refused 1 quotas 1 rejections 1 minutes";
    maintain_at(&db, "23 hours").await;
    assert_eq!(left().await, all);
    maintain_at(&db, "25 hours").await;
    assert_eq!(left().await, all.replace("1 hashes", "0 hashes"));
    // A key outlives its window (7 days) for as long as deliveries are kept, so that event_of finds its event.
    maintain_at(&db, "13 days").await;
    assert_eq!(
        left().await,
        "2 keys 0 hashes 1 replays 1 refused 1 quotas 1 rejections 0 minutes"
    );
    maintain_at(&db, "15 days").await;
    assert_eq!(
        left().await,
        "0 keys 0 hashes 0 replays 0 refused 1 quotas 1 rejections 0 minutes"
    );
    maintain_at(&db, "32 days").await;
    assert_eq!(
        left().await,
        "0 keys 0 hashes 0 replays 0 refused 0 quotas 0 rejections 0 minutes"
    );
}

#[tokio::test]
async fn a_pass_over_a_large_ledger_goes_on_where_it_was_left() {
    let db = TestDb::create().await;
    let owner = db.owner().await;
    owner
        .batch_execute(
            "insert into store.dedup_ledger (digest, event_id, by_hash)
             select substring(sha256(i::text::bytea) for 16), relayforge.uuid7(clock_timestamp() - interval '60 days', i), false
               from generate_series(1, 300000) i",
        )
        .await
        .unwrap();
    let step = async || {
        owner
            .query_one("select more from relayforge.upkeep_step('ledger')", &[])
            .await
            .unwrap()
            .get::<_, bool>(0)
    };
    assert!(step().await, "more than 256 pages in a partition");
    let left = count(&db, "select count(*) from store.dedup_ledger").await;
    assert!((1..300_000).contains(&left), "{left}");
    // Whoever comes next goes on.
    maintain_at(&db, "0").await;
    assert_eq!(count(&db, "select count(*) from store.dedup_ledger").await, 0);
    assert!(!step().await, "the next pass is in an hour");
}

/// The key has expired, and the purge is at its row when the event comes again: one new event, no error, no deadlock.
#[tokio::test]
async fn a_duplicate_that_arrives_while_its_key_is_purged_is_a_new_event() {
    let db = TestDb::create().await;
    ingest(&api(&db).await, &[hook("a")]).await;
    maintain_at(&db, "10 days").await;
    let purger = db.owner().await;
    purger
        .batch_execute(
            "begin;
             select relayforge.upkeep_step('ledger', p_now => clock_timestamp() + interval '15 days');",
        )
        .await
        .unwrap();
    let client = api(&db).await;
    // The wait is the test's own, however slow the machine is.
    client.batch_execute("set lock_timeout = 0").await.unwrap();
    let arrives = tokio::spawn(async move { ingest_at(&client, &hook("a"), "15 days").await });
    until_somebody_waits(&db).await;
    purger.batch_execute("commit").await.unwrap();
    let (outcome, event_id) = arrives.await.unwrap();
    assert_eq!(outcome, "accepted");
    assert_eq!(
        count(&db, "select count(*) from store.dedup_ledger").await,
        1,
        "the key is the new event's"
    );
    assert!(event_id.is_some());
}

/// The other way round: the duplicate is at the row when the purge comes. The purge passes over it.
#[tokio::test]
async fn a_purge_passes_over_a_key_that_a_duplicate_has_locked() {
    let db = TestDb::create().await;
    let mut client = api(&db).await;
    let first = accepted(&ingest(&client, &[hook("a")]).await[0]);
    let tx = client.transaction().await.unwrap();
    ingest(&tx, &[hook("a")]).await;
    maintain_at(&db, "15 days").await;
    assert_eq!(count(&db, "select count(*) from store.dedup_ledger").await, 1);
    tx.commit().await.unwrap();
    let again = ingest_at(&client, &hook("a"), "0").await;
    assert_eq!(again, ("duplicate".to_owned(), Some(first.event_id)));
}

/// pg_dump or a report has the tables open. Partitions are made beside it, dropping gives up in time, and ingest, which
/// queues behind the drop, waits for no lock longer than 200 ms.
#[tokio::test]
async fn an_open_reader_stops_neither_upkeep_nor_ingest() {
    const REFUSED: &str = "a partition is due to be dropped, but somebody reads webhook_inbox, jobs, job_log";
    let db = TestDb::create().await;
    let owner = db.owner().await;
    for table in ["webhook_inbox", "jobs", "job_log"] {
        owner
            .batch_execute(&format!(
                "set role relayforge_owner;
                 create table store.{table}_p20200101 partition of store.{table}
                   for values from (relayforge.uuid7_floor('2020-01-01Z')) to (relayforge.uuid7_floor('2020-01-02Z'))"
            ))
            .await
            .unwrap();
    }
    let reader = db.owner().await;
    reader
        .batch_execute(
            "begin isolation level repeatable read;
             select count(*) from store.webhook_inbox, store.jobs, store.job_log",
        )
        .await
        .unwrap();
    let client = api(&db).await;
    client.batch_execute("set lock_timeout = '200ms'").await.unwrap();
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writer = tokio::spawn(async move {
        let mut written = 0_u32;
        while !*stopped.borrow() {
            ingest(&client, &[hook(&format!("e{written}"))]).await;
            written += 1;
        }
        written
    });
    for _ in 0..3 {
        assert_eq!(maintain_at(&db, "0").await, [REFUSED]);
    }
    assert_eq!(ended(&db, "jobs", "-1 days").await, 1, "nothing was dropped");
    let made: String = owner
        .query_one(
            "select done from relayforge.upkeep_step('partitions', p_now => clock_timestamp() + interval '5 days')",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert_eq!(made, "15 partitions made");
    reader.batch_execute("rollback").await.unwrap();
    // The writer's own short transactions are no hindrance.
    let mut dropped = maintain_at(&db, "0").await;
    for _ in 0..20 {
        if dropped.len() >= 3 {
            break;
        }
        dropped.retain(|line| line != REFUSED);
        dropped.extend(maintain_at(&db, "0").await);
    }
    dropped.sort();
    assert_eq!(
        dropped,
        [
            "job_log_p20200101 dropped",
            "jobs_p20200101 dropped",
            "webhook_inbox_p20200101 dropped"
        ]
    );
    stop.send(true).unwrap();
    assert!(writer.await.unwrap() > 0);
}

#[tokio::test]
async fn upkeep_from_many_places_at_once_is_done_once() {
    let db = TestDb::create().await;
    ingest(&api(&db).await, &[hook("a")]).await;
    let runs: Vec<_> =
        (0..6)
            .map(|_| {
                let pool = db.pool("owner");
                tokio::spawn(async move {
                    let client: Object = pool.get().await.unwrap();
                    client
                    .query_one(
                        "call relayforge.maintain('0', null, null, clock_timestamp() + interval '20 days')",
                        &[],
                    )
                    .await
                    .map(|row| (row.get::<_, Vec<String>>("p_done"), row.get::<_, Vec<String>>("p_failed")))
                    .unwrap()
                })
            })
            .collect();
    let mut expired = 0;
    for run in runs {
        let (done, failed) = run.await.unwrap();
        assert!(failed.is_empty(), "{failed:?}");
        expired += done.iter().filter(|line| line.contains("expired")).count();
    }
    assert!(expired <= 1, "{expired}");
    // Those that met another one at a step have left it to that one.
    maintain_at(&db, "20 days").await;
    assert_eq!(count(&db, "select count(*) from store.dead_jobs").await, 1);
}

#[tokio::test]
async fn services_leave_a_run_that_was_just_made_alone() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let minute = Duration::from_secs(50);
    maintain(&client, minute).await.unwrap();
    count(&db, "select count(pg_stat_force_next_flush())").await;
    let before = text(&db, "select last_run_at::text from store.upkeep").await;
    assert_eq!(maintain(&client, minute).await.unwrap(), Maintained::default());
    assert_eq!(
        text(&db, "select last_run_at::text from store.upkeep").await,
        before
    );
    // By hand it always runs, also when the clock was set back since.
    db.owner()
        .await
        .batch_execute("update store.upkeep set last_run_at = clock_timestamp() + interval '1 hour'")
        .await
        .unwrap();
    maintain(&client, minute).await.unwrap();
    let after = text(&db, "select last_run_at::text from store.upkeep").await;
    assert_ne!(after, before);
}

/// One step that cannot be done stops no other.
#[tokio::test]
async fn a_step_that_fails_stops_no_other() {
    let db = TestDb::create().await;
    ingest(&api(&db).await, &[hook("a")]).await;
    db.owner()
        .await
        .batch_execute("drop function relayforge.ensure_partitions")
        .await
        .unwrap();
    let client = db.owner().await;
    let row = client
        .query_one(
            "call relayforge.maintain('0', null, null, clock_timestamp() + interval '14 days')",
            &[],
        )
        .await
        .unwrap();
    let (done, failed): (Vec<String>, Vec<String>) = (row.get("p_done"), row.get("p_failed"));
    assert_eq!(failed.len(), 1, "{failed:?}");
    assert!(failed[0].starts_with("partitions: "), "{failed:?}");
    assert!(done.contains(&"1 jobs expired".to_owned()), "{done:?}");
}

#[tokio::test]
async fn settings_are_noted_once_and_have_bounds_with_names() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let noted = settings("week", 20, 200);
    assert!(configure_upkeep(&client, &noted).await.unwrap());
    assert!(
        !configure_upkeep(&client, &noted).await.unwrap(),
        "nothing differs"
    );
    assert_eq!(text(&db, SETTINGS).await, "week 20 200");
    for (wrong, constraint) in [
        (settings("month", 14, 30), "upkeep_interval_known"),
        (settings("day", 30, 30), "upkeep_jobs_days_bounds"),
        (settings("day", 14, 105), "upkeep_live_partitions"),
    ] {
        let error = configure_upkeep(&client, &wrong).await.unwrap_err();
        assert!(
            matches!(&error, DbError::Invalid(text) if text.contains(constraint)),
            "{error}"
        );
    }
    assert_eq!(text(&db, SETTINGS).await, "week 20 200");
}

/// Weeks follow on days without a gap, and days on weeks.
#[tokio::test]
async fn the_length_of_partitions_can_change() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    configure_upkeep(&client, &settings("week", 14, 30))
        .await
        .unwrap();
    maintain_at(&db, "10 days").await;
    maintain_at(&db, "20 days").await;
    configure_upkeep(&client, &settings("day", 14, 30)).await.unwrap();
    maintain_at(&db, "25 days").await;
    let gaps = count(
        &db,
        "select count(*) from (
           select p.from_at, lag(p.to_at) over (partition by p.parent order by p.from_at) as before
             from relayforge.list_partitions() p) q
          where q.before <> q.from_at",
    )
    .await;
    assert_eq!(gaps, 0);
    assert_eq!(
        count(
            &db,
            "select count(distinct (p.to_at - p.from_at)) from relayforge.list_partitions() p where p.parent = 'jobs'
               and p.to_at - p.from_at in ('1 day', '7 days')"
        )
        .await,
        2
    );
    for days in [12, 20, 38] {
        let (outcome, _) = ingest_at(&client, &hook(&format!("in {days}")), &format!("{days} days")).await;
        assert_eq!(outcome, "accepted", "in {days} days");
    }
}

#[tokio::test]
async fn readiness_warns_days_before_partitions_run_out() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let full = partition_horizon(&client).await.unwrap();
    assert!(full > Duration::from_secs(13 * 86_400), "{full:?}");
    assert_eq!(check_horizon(full), Ok(None));

    // A hole in one of the three tables counts, whatever lies beyond it.
    db.owner()
        .await
        .batch_execute(
            "do $$ declare v_name text; begin
               select p.partition into v_name from relayforge.list_partitions() p
                where p.parent = 'job_log' and p.from_at > clock_timestamp() + interval '3 days' order by p.from_at limit 1;
               execute 'drop table store.' || v_name;
             end $$",
        )
        .await
        .unwrap();
    let left = partition_horizon(&client).await.unwrap();
    assert!(left < Duration::from_secs(4 * 86_400), "{left:?}");
    let warning = check_horizon(left).unwrap().unwrap();
    let days = format!("partitions run out in {:.1} days", left.as_secs_f64() / 86_400.0);
    assert!(warning.contains(&days), "{warning}");

    db.owner()
        .await
        .batch_execute("drop table store.jobs cascade")
        .await
        .unwrap();
    let left = partition_horizon(&client).await.unwrap();
    assert!(check_horizon(left).unwrap_err().contains("run out"), "{left:?}");
}

/// The database's clock is set back by an hour, over midnight: events are known, quotas and leases hold.
#[tokio::test]
async fn a_clock_that_is_set_back_makes_nothing_twice() {
    let db = TestDb::create().await;
    let client = api(&db).await;
    let (outcome, event_id) = ingest_at(&client, &hook("a"), "25 hours").await;
    assert_eq!(outcome, "accepted");
    let again = ingest_at(&client, &hook("a"), "0").await;
    assert_eq!(again, ("duplicate".to_owned(), event_id));
    assert_eq!(ingest_at(&client, &hook("b"), "0").await.0, "accepted");
    assert_eq!(
        count(
            &db,
            "select count(*) from store.tenant_daily_quota_usage where used = 1"
        )
        .await,
        2,
        "each on the day that the clock said"
    );
    // A job of the future is due by then; one that runs keeps its lease.
    let worker = consumer(&db).await;
    let job: Uuid = db
        .owner()
        .await
        .query_one(
            "select job_id from store.open_jobs order by job_id desc limit 1",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    worker
        .query_one(
            "select outcome from relayforge.start_jobs(array[$1::uuid], array[1], '30 s', 3, clock_timestamp() + interval '25 hours')",
            &[&job],
        )
        .await
        .unwrap();
    let swept: i32 = worker
        .query_one("select rescued from relayforge.sweep_leases(10, 3)", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(swept, 0, "nobody takes over a lease that has not run out");
}

/// Upkeep of a day to come would drop what is still kept: services and the DBA can't ask for that.
#[tokio::test]
async fn nobody_but_the_owner_runs_upkeep_ahead_of_time() {
    let db = TestDb::create().await;
    ingest(&api(&db).await, &[hook("a")]).await;
    for client in [api(&db).await, dba(&db).await] {
        let row = client
            .query_one(
                "call relayforge.maintain('0', null, null, clock_timestamp() + interval '60 days')",
                &[],
            )
            .await
            .map_err(DbError::from);
        assert!(matches!(row, Err(DbError::Invalid(_))), "{row:?}");
    }
    assert_eq!(count(&db, "select count(*) from store.open_jobs").await, 1);
}
