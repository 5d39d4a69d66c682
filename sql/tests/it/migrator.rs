//! The migrator: any number at once, again and again, beside the DBA's own objects and older or newer releases.

use sql::migrate::{Migrated, migrate};
use sql::testing::TestDb;
use sql::{CodeVersion, DbError};
use tokio_postgres::Client;
use uuid::Uuid;

use crate::support::{accepted, api, hook, ingest};

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

/// Roles belong to the cluster, so migrators of its other databases write the same ones at the same moment.
#[tokio::test]
async fn migrators_of_several_databases_of_one_cluster_do_not_fail_each_other() {
    let runs = (0..4).map(|_| {
        tokio::spawn(async {
            let db = TestDb::create().await;
            for _ in 0..5 {
                migrate(&db.migrate_config()).await.unwrap();
            }
        })
    });
    for run in runs.collect::<Vec<_>>() {
        run.await.unwrap();
    }
}

/// All that a migrator could change in a database, but for the roles, which belong to all of them.
async fn everything(client: &Client) -> Vec<String> {
    let rows = client
        .query(
            "select p.oid || pg_get_functiondef(p.oid) || coalesce(p.proacl::text, '') || coalesce(obj_description(p.oid, 'pg_proc'), '')
               from pg_proc p where p.pronamespace in ('relayforge'::regnamespace, 'store'::regnamespace)
              union all
             select c.oid || c.relname || coalesce(c.relacl::text, '') || coalesce(pg_get_viewdef(c.oid), '')
               from pg_class c where c.relnamespace in ('relayforge'::regnamespace, 'store'::regnamespace)
              union all
             select n.nspname || coalesce(n.nspacl::text, '') || obj_description(n.oid, 'pg_namespace')
               from pg_namespace n where n.nspname in ('relayforge', 'store')
              union all
             select o.path || o.name || encode(o.checksum, 'hex') from store.code_objects o
              union all
             select h::text from store.refinery_schema_history h
              order by 1",
            &[],
        )
        .await
        .unwrap();
    rows.iter().map(|row| row.get(0)).collect()
}

/// A rollback of the services takes their migrator with it: it leaves the newer code, of which it knows nothing, alone.
#[tokio::test]
async fn an_older_migrator_changes_nothing() {
    let db = TestDb::create().await;
    let client = db.owner().await;
    client
        .batch_execute(
            "comment on schema relayforge is 'The interface. Code epoch 999999, fingerprint 00.';
             drop function relayforge.backoff;
             create function relayforge.from_the_future() returns integer language sql as 'select 1';
             insert into store.code_objects (path, name, checksum) values ('functions/from_the_future.sql', 'from_the_future', '');
             create or replace view relayforge.schema_version as
               select c.epoch, c.fingerprint, c.migration, true as newer from relayforge.schema_code() c;
             insert into store.refinery_schema_history (version, name, applied_on, checksum)
               values (9999, 'from_the_future', now()::text, '0');
             do $$ begin execute (select 'drop table ' || max(inhrelid)::regclass from pg_inherits
                                   where inhparent = 'store.jobs'::regclass); end $$",
        )
        .await
        .unwrap();
    let before = everything(&client).await;
    let migrated = migrate(&db.migrate_config()).await.unwrap();
    assert_eq!(
        migrated,
        Migrated::NewerCode {
            database: 999_999,
            built_in: CodeVersion::built_in().epoch
        }
    );
    let command = tokio::process::Command::new(env!("CARGO_BIN_EXE_relayforge-migrate"))
        .env("APP_ENV", "production")
        .env("MIGRATE__DATABASE_URL", db.url("owner").expose())
        .output()
        .await
        .unwrap();
    let said = String::from_utf8_lossy(&command.stdout);
    assert!(
        command.status.success() && said.contains("nothing changed"),
        "{command:?}"
    );
    assert_eq!(everything(&client).await, before);
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

/// A function with other columns takes our own views on it along; the rights that others have on those come back.
#[tokio::test]
async fn our_own_views_are_in_nobodys_way() {
    let db = TestDb::create().await;
    let client = db.owner().await;
    client
        .batch_execute(
            "set role relayforge_owner;
             drop view relayforge.partition_health;
             drop function relayforge.list_partitions cascade;
             create function relayforge.list_partitions() returns table (parent text, partition text) language sql
               as 'select null::text, null::text';
             create view relayforge.partition_health as select p.parent as table_name from relayforge.list_partitions() p;
             create view relayforge.queue_of_health as select * from relayforge.partition_health;
             update store.code_objects set checksum = '' where name = 'list_partitions';
             insert into store.code_objects (path, name, checksum) values ('views/queue_of_health.sql', 'queue_of_health', '');
             grant select (table_name) on relayforge.partition_health to pg_monitor with grant option",
        )
        .await
        .unwrap();
    let Migrated::Done { code, .. } = migrate(&db.migrate_config()).await.unwrap() else {
        panic!()
    };
    assert!(code.changed.contains(&"partition_health".to_owned()), "{code:?}");
    assert_eq!(code.removed, ["queue_of_health"]);
    let row = client
        .query_one(
            "select has_column_privilege('pg_monitor', 'relayforge.partition_health', 'table_name', 'select with grant option'),
                    has_table_privilege('relayforge_dba', 'relayforge.partition_health', 'select'),
                    (select count(distinct runs_out_at) from relayforge.partition_health)",
            &[],
        )
        .await
        .unwrap();
    assert_eq!((row.get(0), row.get(1), row.get(2)), (true, true, 1_i64));
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

/// The DBA's own views stay where ours keep the columns that they have, in that order.
#[tokio::test]
async fn a_view_of_the_dba_outlives_what_only_adds_columns() {
    let db = TestDb::create().await;
    let client = db.owner().await;
    let ours = include_str!("../../views/job_overview.sql");
    let last = [
        ",\n       j.tenant_id",
        "comment on column relayforge.job_overview.tenant_id is 'The tenant. Narrow by this rather than by its slug: for the newest jobs of a tenant the slug reads those of all.';\n",
    ];
    assert!(
        last.iter().all(|text| ours.contains(text)),
        "the last column is another one"
    );
    let older = last
        .iter()
        .fold(ours.to_owned(), |text, part| text.replace(part, ""));
    client
        .batch_execute(&format!(
            "set role relayforge_owner;
             drop view relayforge.job_overview;
             {older}
             reset role;
             grant select on relayforge.job_overview to pg_monitor;
             create schema dba;
             create view dba.everything as select * from relayforge.job_overview;
             create view dba.open as select job_id, attempts from relayforge.job_overview where finished_at is null;
             create materialized view dba.per_status as select status, count(*) from relayforge.job_overview group by 1"
        ))
        .await
        .unwrap();
    let job = accepted(&ingest(&api(&db).await, &[hook("a")]).await[0]).job_id;
    // First something else is swapped, then the view itself.
    for (swapped, columns) in [("backoff", 11_i64), ("job_overview", 12)] {
        let statement = "update store.code_objects set checksum = '' where name = $1";
        client.execute(statement, &[&swapped]).await.unwrap();
        let Migrated::Done { code, .. } = migrate(&db.migrate_config()).await.unwrap() else {
            panic!("no newer code here")
        };
        assert_eq!(code.changed, [swapped]);
        let row = client
            .query_one(
                "select (select count(*) from information_schema.columns
                          where table_schema = 'relayforge' and table_name = 'job_overview'),
                        (select count(*) from information_schema.columns
                          where table_schema = 'dba' and table_name = 'everything'),
                        (select job_id from dba.everything), (select job_id from dba.open),
                        has_table_privilege('pg_monitor', 'relayforge.job_overview', 'select')",
                &[],
            )
            .await
            .unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (columns, 11));
        assert_eq!(
            (row.get::<_, Option<Uuid>>(2), row.get::<_, Option<Uuid>>(3)),
            (job, job)
        );
        assert!(row.get::<_, bool>(4), "the DBA's own grant is kept");
    }
    client
        .batch_execute("refresh materialized view dba.per_status")
        .await
        .unwrap();
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
