//! The audit log: who may write it, and the hash chain that shows what was changed behind everybody's back.

use sql::GenericClient;
use sql::audit::{Sealed, seal_audit};
use sql::testing::TestDb;
use uuid::Uuid;

use crate::support::{api, count, dba, maintain_at, new_job};

async fn verb(client: &impl GenericClient, verb: &str, job_id: Uuid) {
    client
        .query(
            &format!("select job_id, outcome from relayforge.{verb}(array[$1::uuid], 'ticket 7')"),
            &[&job_id],
        )
        .await
        .unwrap();
}

/// What `audit_verify` says: verified, unsealed, the last seal, and of the break its place, its row, what does not fit.
async fn verify_as(client: &impl GenericClient, known_end: &str) -> String {
    let query = format!(
        "select (verified, unsealed, seq, broken_seq, broken_id, broken_why)::text from relayforge.audit_verify({known_end})"
    );
    client.query_one(&query, &[]).await.unwrap().get(0)
}

async fn verify(db: &TestDb, known_end: &str) -> String {
    verify_as(&dba(db).await, known_end).await
}

/// That many audited calls, and the end of the chain over them.
async fn audited(db: &TestDb, calls: usize) -> Sealed {
    let (operator, sealer) = (dba(db).await, api(db).await);
    let job_id = new_job(db, "a").await;
    for _ in 0..calls {
        verb(&operator, "hold_jobs", job_id).await;
    }
    let sealed = seal_audit(&sealer).await.unwrap().unwrap();
    assert_eq!(
        (sealed.rows, sealed.seq),
        (i32::try_from(calls).unwrap(), i64::try_from(calls).unwrap())
    );
    sealed
}

#[tokio::test]
async fn each_call_is_audited() {
    let db = TestDb::create().await;
    let operator = dba(&db).await;
    let job_id = new_job(&db, "a").await;
    verb(&operator, "cancel_jobs", job_id).await;
    let row = operator
        .query_one(
            "select actor, db_user, action, target, reason, detail ->> $1, seal, at - clock_timestamp() between '-1 minute' and '0'
               from relayforge.audit_log",
            &[&job_id.to_string()],
        )
        .await
        .unwrap();
    let texts: [String; 6] = std::array::from_fn(|i| row.get(i));
    let target = format!("job/{job_id}");
    assert_eq!(
        texts,
        [
            "relayforge_dba",
            "relayforge_dba",
            "cancel_jobs",
            &target,
            "ticket 7",
            "cancelled"
        ]
    );
    assert_eq!(
        (row.get::<_, Option<i64>>(6), row.get::<_, bool>(7)),
        (None, true)
    );
    assert_eq!(
        count(&db, "select count(*) from store.job_log where what = 'cancelled' and detail = 'relayforge_dba: ticket 7'").await,
        1
    );
    // Who acts for somebody says for whom; who is logged in stays beside it.
    operator
        .query(
            "select relayforge.reprocess_jobs(array[$1::uuid], 'again', 'ada')",
            &[&job_id],
        )
        .await
        .unwrap();
    assert_eq!(
        count(
            &db,
            "select count(*) from relayforge.audit_log where actor = 'ada' and db_user = 'relayforge_dba'"
        )
        .await,
        1
    );
}

#[tokio::test]
async fn nobody_changes_the_audit_log() {
    let db = TestDb::create().await;
    let job_id = new_job(&db, "a").await;
    verb(&dba(&db).await, "hold_jobs", job_id).await;
    seal_audit(&api(&db).await).await.unwrap();
    let owner = db.owner().await;
    for role in ["relayforge_owner", "relayforge_dba", "relayforge_api"] {
        for change in [
            "update store.admin_audit_log set reason = 'x'",
            "delete from store.admin_audit_log",
            "truncate store.admin_audit_log",
            "update store.audit_seals set digest = sha256('x')",
            "delete from store.audit_seals",
            "truncate store.audit_seals",
        ] {
            let refused = owner.batch_execute(&format!("set role {role}; {change}")).await;
            assert!(refused.is_err(), "{role}: {change}");
            owner.batch_execute("reset role").await.unwrap();
        }
    }
    assert_eq!(verify(&db, "null, null").await, "(1,0,1,,,)");
}

#[tokio::test]
async fn what_is_committed_is_sealed_once_also_what_commits_late() {
    let db = TestDb::create().await;
    audited(&db, 2).await;
    let operator = dba(&db).await;
    let job_id = new_job(&db, "b").await;
    let mut late = dba(&db).await;
    let tx = late.transaction().await.unwrap();
    verb(&tx, "hold_jobs", job_id).await;
    let other = new_job(&db, "c").await;
    verb(&operator, "hold_jobs", other).await;
    assert_eq!(verify(&db, "").await, "(2,1,2,,,)");

    // Two at once; whoever finds the other at it leaves it to that one.
    let (one, two) = (api(&db).await, api(&db).await);
    let (one, two) = tokio::join!(seal_audit(&one), seal_audit(&two));
    let rows: i32 = [one, two]
        .into_iter()
        .filter_map(|sealed| sealed.unwrap().map(|sealed| sealed.rows))
        .sum();
    assert_eq!(rows, 1);
    tx.commit().await.unwrap();
    assert_eq!(verify(&db, "").await, "(3,1,3,,,)");
    let sealed = seal_audit(&api(&db).await).await.unwrap().unwrap();
    assert_eq!((sealed.rows, sealed.seq), (1, 4));
    let seals = dba(&db)
        .await
        .query("select seal from relayforge.audit_log order by id", &[])
        .await
        .unwrap();
    let seals: Vec<i64> = seals.iter().map(|row| row.get(0)).collect();
    assert_eq!(seals, [1, 2, 4, 3]);
}

#[tokio::test]
async fn what_committed_very_late_is_sealed_by_the_hourly_pass() {
    let db = TestDb::create().await;
    audited(&db, 1).await;
    db.owner()
        .await
        .batch_execute(
            "insert into store.admin_audit_log (id, actor, db_user, action, target, reason, detail)
             values (relayforge.uuid7(clock_timestamp() - interval '2 hours', 0), 'a', 'b', 'c', 'd', 'e', '{}')",
        )
        .await
        .unwrap();
    assert_eq!(seal_audit(&api(&db).await).await.unwrap().unwrap().rows, 0);
    maintain_at(&db, "0").await;
    assert_eq!(verify(&db, "").await, "(2,0,2,,,)");
}

/// A superuser can switch triggers off. What does not go together any more is named, by its first place.
#[tokio::test]
async fn a_change_behind_the_triggers_breaks_the_chain() {
    let db = TestDb::create().await;
    let end = audited(&db, 4).await;
    let mut owner = db.pool("owner").get().await.unwrap();
    let second = "(select audit_id from store.audit_seals where seq = 2)";
    let id: Uuid = owner
        .query_one(&format!("select {second}"), &[])
        .await
        .unwrap()
        .get(0);
    let changed = format!("(1,0,4,2,{id},\"the row or its seal was changed\")");
    let known = format!("4, '{}'", end.digest);
    let cases = [
        ("select", "", "(4,0,4,,,)".to_owned()),
        ("select", known.as_str(), "(4,0,4,,,)".to_owned()),
        (&format!("update store.admin_audit_log set reason = 'x' where id = {second}"), "", changed.clone()),
        (&format!("update store.admin_audit_log set detail = '{{\"a\": 1}}' where id = {second}"), "", changed.clone()),
        ("update store.audit_seals set digest = sha256('x') where seq = 2", "", changed),
        (
            &format!("delete from store.admin_audit_log where id = {second}"),
            "",
            format!("(1,0,4,2,{id},\"its row is gone\")"),
        ),
        // The next one stands in its place.
        (
            "delete from store.audit_seals where seq = 1",
            "",
            format!("(0,1,4,2,{id},\"seal 1 is gone\")"),
        ),
        // Whoever takes the end away, or makes all of it anew, is found by who has noted the end.
        (
            "delete from store.admin_audit_log where id = (select audit_id from store.audit_seals where seq = 4);
             delete from store.audit_seals where seq = 4",
            "",
            "(3,0,3,,,)".to_owned(),
        ),
        (
            "delete from store.admin_audit_log where id = (select audit_id from store.audit_seals where seq = 4);
             delete from store.audit_seals where seq = 4",
            &known,
            "(3,0,3,4,,\"seals 4 to 4 are gone\")".to_owned(),
        ),
    ];
    for (change, known_end, expected) in cases {
        let tx = owner.transaction().await.unwrap();
        tx.batch_execute(&format!("set local session_replication_role = replica; {change}"))
            .await
            .unwrap();
        assert_eq!(verify_as(&tx, known_end).await, expected, "{change}");
    }
    let tx = owner.transaction().await.unwrap();
    tx.batch_execute(&format!(
        "set local session_replication_role = replica;
         update store.admin_audit_log set reason = 'x' where id = {second};
         delete from store.audit_seals;
         select relayforge.seal_audit();"
    ))
    .await
    .unwrap();
    assert_eq!(verify_as(&tx, "").await, "(4,0,4,,,)");
    let anew = verify_as(&tx, &known).await;
    assert!(
        anew.starts_with("(3,0,4,4,") && anew.ends_with(",\"the chain was made anew\")"),
        "{anew}"
    );
}

/// A clock that was ahead for a moment does not keep later rows from being sealed; rows that come under an earlier date are
/// counted.
#[tokio::test]
async fn clocks_that_were_wrong_are_seen_and_hold_up_nothing() {
    let db = TestDb::create().await;
    let owner = db.owner().await;
    let insert = async |when: &str| {
        owner
            .batch_execute(&format!(
                "insert into store.admin_audit_log (id, actor, db_user, action, target, reason, detail)
                 values (relayforge.uuid7(clock_timestamp() + interval '{when}', 0), 'a', 'b', 'c', 'd', 'e', '{{}}')"
            ))
            .await
            .unwrap();
    };
    insert("2 days").await;
    assert_eq!(seal_audit(&api(&db).await).await.unwrap().unwrap().rows, 1);
    insert("0").await;
    let end = seal_audit(&api(&db).await).await.unwrap().unwrap();
    assert_eq!((end.rows, end.seq), (1, 2));
    let late = "select late from relayforge.audit_verify()";
    assert_eq!(count(&db, late).await, 1);
    let known = format!("2, '{}'", end.digest.to_uppercase());
    assert_eq!(verify(&db, &known).await, "(2,0,2,,,)");
    let error = dba(&db)
        .await
        .query("select relayforge.audit_verify(2, null)", &[])
        .await
        .unwrap_err();
    assert_eq!(error.code().unwrap().code(), "RF400");
}
