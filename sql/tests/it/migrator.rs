//! The migrator: any number at once, again and again, beside the DBA's own objects and older or newer releases.

use sql::migrate::{Migrated, migrate};
use sql::testing::TestDb;
use sql::{CodeVersion, DbError};

#[tokio::test]
async fn eight_migrators_at_once_make_one_database_and_a_ninth_changes_nothing() {
    let db = TestDb::create_empty().await;
    let runs = (0..8).map(|_| {
        let config = db.migrate_config();
        tokio::spawn(async move { migrate(&config).await.unwrap() })
    });
    let mut applied = 0;
    for run in runs.collect::<Vec<_>>() {
        let Migrated::Done { migrations, .. } = run.await.unwrap() else {
            panic!("no newer code here")
        };
        applied += usize::from(migrations > 0);
    }
    assert_eq!(applied, 1, "one of them applied all migrations");

    let Migrated::Done {
        migrations,
        code,
        partitions,
    } = migrate(&db.migrate_config()).await.unwrap()
    else {
        panic!("no newer code here")
    };
    assert_eq!((migrations, partitions), (0, 0));
    assert_eq!(code, sql::Swapped::default());
}

#[tokio::test]
async fn an_older_migrator_changes_nothing() {
    let db = TestDb::create().await;
    let client = db.owner().await;
    client
        .batch_execute("comment on schema relayforge is 'epoch 999999, fingerprint 00'")
        .await
        .unwrap();
    client
        .batch_execute("drop function relayforge.backoff")
        .await
        .unwrap();
    let migrated = migrate(&db.migrate_config()).await.unwrap();
    assert_eq!(
        migrated,
        Migrated::NewerCode {
            database: 999_999,
            built_in: CodeVersion::built_in().epoch
        }
    );
    let gone = client
        .query("select 1 from pg_proc where proname = 'backoff'", &[])
        .await
        .unwrap();
    assert!(gone.is_empty(), "it must not have been made again");
}

#[tokio::test]
async fn a_changed_object_is_made_again_and_keeps_foreign_grants() {
    let db = TestDb::create().await;
    let client = db.owner().await;
    // As an earlier release would have left them: another body, another return type, other arguments, a dropped one.
    client
        .batch_execute(
            "set role relayforge_owner;
             drop function relayforge.count_outbox;
             create function relayforge.count_outbox() returns text language sql as 'select ''old''';
             grant execute on function relayforge.count_outbox to pg_monitor;
             drop function relayforge.backoff;
             create function relayforge.backoff(p_try integer) returns interval language sql as 'select null::interval';
             drop function relayforge.relay_wake;
             update store.code_objects set checksum = '' where name in ('count_outbox', 'backoff');
             create function relayforge.left_over() returns integer language sql as 'select 1';
             insert into store.code_objects (path, name, checksum) values ('functions/left_over.sql', 'left_over', '');
             reset role;
             create table public.oids as select oid, proname from pg_proc where proname = 'ingest_webhooks'",
        )
        .await
        .unwrap();
    let Migrated::Done { code, .. } = migrate(&db.migrate_config()).await.unwrap() else {
        panic!()
    };
    let mut changed = code.changed.clone();
    changed.sort();
    assert_eq!(changed, ["backoff", "count_outbox", "relay_wake"]);
    assert_eq!(code.removed, ["left_over"]);
    let row = client
        .query_one(
            "select has_function_privilege('pg_monitor', 'relayforge.count_outbox()', 'execute'),
                    has_function_privilege('relayforge_relay', 'relayforge.count_outbox()', 'execute'),
                    (select count(*) from pg_proc where proname = 'backoff'),
                    (select p.oid = o.oid from pg_proc p join public.oids o on o.proname = p.proname),
                    pg_get_function_result('relayforge.count_outbox'::regproc)",
            &[],
        )
        .await
        .unwrap();
    assert!(row.get::<_, bool>(0), "the DBA's own grant is kept");
    assert!(row.get::<_, bool>(1), "the file's grant is there");
    assert_eq!(row.get::<_, i64>(2), 1, "no second overload");
    assert!(row.get::<_, bool>(3), "an unchanged object is not touched");
    assert_eq!(row.get::<_, String>(4), "bigint");
}

#[tokio::test]
async fn a_view_of_the_dba_that_is_in_the_way_is_named_and_nothing_changes() {
    let db = TestDb::create().await;
    let client = db.owner().await;
    client
        .batch_execute(
            "set role relayforge_owner;
             drop view relayforge.schema_version;
             create view relayforge.schema_version as select 1 as other_column;
             reset role;
             create view public.our_dashboard as select * from relayforge.schema_version;
             update store.code_objects set checksum = '' where name in ('schema_version', 'backoff')",
        )
        .await
        .unwrap();
    let error = migrate(&db.migrate_config()).await.unwrap_err();
    assert!(
        matches!(&error, DbError::Conflict(text) if text.contains("our_dashboard")),
        "{error}"
    );
    let untouched: i64 = client
        .query_one("select count(*) from store.code_objects where checksum = ''", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(untouched, 2, "what could have been swapped was not either");
}

/// `EPOCH` rises with every change of migrations, functions or views; `UPDATE_SNAPSHOTS=1` raises it.
#[test]
fn the_epoch_is_raised_with_the_code() {
    let (built_in, recorded) = (CodeVersion::built_in(), CodeVersion::recorded());
    if built_in.fingerprint != recorded.fingerprint && updating_snapshots() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/EPOCH");
        std::fs::write(path, format!("{} {}\n", recorded.epoch + 1, built_in.fingerprint)).unwrap();
        return;
    }
    assert_eq!(
        built_in.fingerprint, recorded.fingerprint,
        "the SQL has changed: run this test with UPDATE_SNAPSHOTS=1 to raise sql/EPOCH"
    );
}

/// `schema.sql` shows the final shape in reviews.
#[tokio::test]
async fn the_schema_dump_is_fresh() {
    let Some(pg_dump) = pg_dump() else {
        assert!(std::env::var_os("CI").is_none(), "CI has pg_dump 15");
        eprintln!("skipped: no pg_dump 15 on this machine");
        return;
    };
    let db = TestDb::create().await;
    let output = std::process::Command::new(pg_dump)
        .args([
            "--schema-only",
            "--no-owner",
            "--schema=store",
            "--schema=relayforge",
        ])
        .args([
            "--exclude-table=store.*_p20*",
            "--exclude-table=store.dedup_ledger_*",
            "--dbname",
        ])
        .arg(db.url("owner").expose())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let dump: String = String::from_utf8(output.stdout)
        .unwrap()
        .lines()
        .filter(|line| {
            // The schema's comment holds the epoch, which rises with everything else. Column options are not ours: some
            // minor releases keep a version of their own there.
            let noise = ["--", "\\", "SET ", "COMMENT ON SCHEMA relayforge"];
            let foreign = line.contains(" ALTER COLUMN ") && line.contains(" SET (pg_attver=");
            !line.is_empty() && !foreign && !noise.iter().any(|start| line.starts_with(start))
        })
        .fold(String::new(), |text, line| text + line + "\n");
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/schema.sql");
    if updating_snapshots() {
        std::fs::write(path, dump).unwrap();
        return;
    }
    let recorded = std::fs::read_to_string(path).unwrap_or_default();
    assert!(
        dump == recorded,
        "sql/schema.sql is stale: run this test with UPDATE_SNAPSHOTS=1"
    );
}

fn updating_snapshots() -> bool {
    std::env::var_os("UPDATE_SNAPSHOTS").is_some()
}

/// The dump's text is that version's: another one's would differ.
fn pg_dump() -> Option<&'static str> {
    ["/usr/lib/postgresql/15/bin/pg_dump", "pg_dump"]
        .into_iter()
        .find(|program| {
            std::process::Command::new(program)
                .arg("--version")
                .output()
                .is_ok_and(|output| String::from_utf8_lossy(&output.stdout).contains(" 15."))
        })
}
