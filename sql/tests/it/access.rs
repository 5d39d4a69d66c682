//! What each role can reach, tried for real: the DBA sees no secret and no payload, a service calls its own functions and
//! nothing else. And `docs/dba.md` lists what there is.

use std::collections::BTreeSet;

use sql::testing::TestDb;
use sql::{GenericClient as _, Object};
use tokio_postgres::SimpleQueryMessage;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::stage::Stage;
use crate::support::{DEFAULT_TENANT, Hook, hook};

/// Starts all that nobody may see; in hexadecimal where it is bytes.
const MARK: &str = "RFMARK";
const MARK_HEX: &str = "52464d41524b";

const DBA_GUIDE: &str = include_str!("../../../docs/dba.md");

const SERVICES: [&str; 3] = ["relayforge_api", "relayforge_relay", "relayforge_consumer"];

/// All that a statement answers, as text.
async fn answer(client: &Object, statement: &str) -> String {
    client
        .simple_query(statement)
        .await
        .unwrap_or_else(|error| panic!("{statement}: {error:?}"))
        .iter()
        .filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })
        .flat_map(|row| (0..row.len()).map(|i| row.get(i).unwrap_or("-").to_owned() + "\n"))
        .collect()
}

async fn names(db: &TestDb, query: &str) -> Vec<String> {
    let rows = db.owner().await.query(query, &[]).await.unwrap();
    let names: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(!names.is_empty(), "{query}");
    names
}

async fn views(db: &TestDb) -> Vec<String> {
    let query = "select relname::text from pg_class
                  where relnamespace = 'relayforge'::regnamespace and relkind = 'v' order by 1";
    names(db, query).await
}

/// Functions and procedures that the DBA may execute.
async fn dba_functions(db: &TestDb) -> Vec<String> {
    let query = "select proname::text from pg_proc
                  where pronamespace = 'relayforge'::regnamespace
                    and has_function_privilege('relayforge_dba', oid, 'execute')
                  order by 1";
    names(db, query).await
}

/// A dead job, one under way and one that waits; everything secret or sent marked: bodies, headers, trace context, a
/// sealed secret, an admin key's hash, a sample of a rejection and what was wrong with it.
async fn mark_everything(db: &TestDb) -> (Uuid, Uuid) {
    let stage = Stage::of(db).await;
    let marked = |id| Hook {
        body: format!(r#"{{"event":"x","data":"{MARK} body of {id}"}}"#).into_bytes(),
        ..hook(id)
    };
    let (event, dead) = stage.accept(0, &marked("dead")).await;
    let other_body = Hook {
        body: format!("{MARK} other body").into_bytes(),
        ..marked("dead")
    };
    assert_eq!(stage.deliver(1, &other_body).await.0, "duplicate");
    let run = stage.start(2, dead, 1).await;
    stage.fail(3, dead, run, false, "no such order").await;
    let (_, running) = stage.accept(4, &marked("running")).await;
    stage.start(5, running, 1).await;
    stage.accept(6, &marked("waiting")).await;
    stage.publish(7, "jobs", Some("no queue takes it")).await;
    stage
        .api
        .query(
            "select relayforge.record_rejections(array['invalid_payload'], array['generic'], array[$1::uuid], array[1::bigint],
                                                 array[$2::text]::bytea[], array[$2 || ' detail'])",
            &[&DEFAULT_TENANT, &format!("{MARK} sample")],
        )
        .await
        .unwrap();
    db.owner()
        .await
        .batch_execute(&format!(
            r#"update store.webhook_inbox
                  set headers = '{{"content-type": "{MARK} header"}}', trace_context = '{{"traceparent": "{MARK} trace"}}';
               select relayforge.add_secret(relayforge.uuid7(clock_timestamp(), 0), '{DEFAULT_TENANT}', 'generic',
                                            '{MARK} sealed secret of forty bytes......', '0123456789abcdef');
               select relayforge.create_admin_key('a key', 'viewer', rpad('{MARK} hash', 32, '.')::bytea)"#
        ))
        .await
        .unwrap();
    (event, dead)
}

/// Each function with arguments that make it do something, the ones that destroy last.
fn calls(event: Uuid, dead: Uuid) -> Vec<(&'static str, String)> {
    vec![
        ("tenant_of", "select relayforge.tenant_of('default')".into()),
        (
            "event_of",
            "select relayforge.event_of('default', 'generic', 'dead')".into(),
        ),
        ("uuid7_time", format!("select relayforge.uuid7_time('{event}')")),
        ("uuid7_floor", "select relayforge.uuid7_floor(now())".into()),
        ("inspect_queue", "select * from relayforge.inspect_queue()".into()),
        ("schema_code", "select * from relayforge.schema_code()".into()),
        (
            "list_partitions",
            "select * from relayforge.list_partitions()".into(),
        ),
        ("partitions_end", "select relayforge.partitions_end()".into()),
        (
            "partition_ends",
            "select * from relayforge.partition_ends()".into(),
        ),
        ("audit_verify", "select * from relayforge.audit_verify()".into()),
        (
            "ensure_partitions",
            "select relayforge.ensure_partitions('day', 15)".into(),
        ),
        (
            "configure_upkeep",
            "select relayforge.configure_upkeep('day', 13, 29, '6 days', '1 hour', 7)".into(),
        ),
        (
            "upkeep_step",
            "select * from relayforge.upkeep_step('ledger')".into(),
        ),
        ("maintain", "call relayforge.maintain()".into()),
    ]
    .into_iter()
    .chain(calls_on_jobs(event, dead))
    .collect()
}

/// Those that do something to jobs, or how they are run.
fn calls_on_jobs(event: Uuid, dead: Uuid) -> Vec<(&'static str, String)> {
    let open = "array(select job_id from relayforge.job_overview where status = 'queued')";
    let everything = "array(select job_id from relayforge.job_overview)";
    vec![
        (
            "set_retry_policy",
            "select relayforge.set_retry_policy('default', null, 'gently', 7, '1 min', '1 h', 0.1)"
                .to_owned(),
        ),
        (
            "remove_retry_policy",
            "select relayforge.remove_retry_policy('default', 'generic', 'as before')".to_owned(),
        ),
        (
            "rebuild_broker_step",
            "select last_job_id, written from relayforge.rebuild_broker_step()".to_owned(),
        ),
        ("rebuild_broker", "call relayforge.rebuild_broker()".to_owned()),
        ("wake_relays", "select relayforge.wake_relays()".to_owned()),
        (
            "hold_jobs",
            format!("select * from relayforge.hold_jobs({open}, 'let me look')"),
        ),
        (
            "release_jobs",
            format!("select * from relayforge.release_jobs({everything}, 'go on')"),
        ),
        (
            "reprocess_jobs",
            format!("select * from relayforge.reprocess_jobs(array['{dead}'::uuid], 'again')"),
        ),
        (
            "cancel_jobs",
            format!("select * from relayforge.cancel_jobs({everything}, 'enough')"),
        ),
        (
            "erase_event",
            format!("select relayforge.erase_event('{event}', 'asked to')"),
        ),
        (
            "erase_tenant_step",
            format!(
                "select * from relayforge.erase_tenant_step('{DEFAULT_TENANT}', 'begin', null, 'asked to')"
            ),
        ),
        (
            "erase_tenant",
            format!("call relayforge.erase_tenant('{DEFAULT_TENANT}', 'asked to')"),
        ),
    ]
}

#[tokio::test]
async fn the_dba_sees_no_secret_and_no_payload() {
    let db = TestDb::create().await;
    let (event, dead) = mark_everything(&db).await;
    let dba = db.pool("relayforge_dba").get().await.unwrap();
    let views = views(&db).await;
    let check = async |statement: &str| {
        let text = answer(&dba, statement).await;
        assert!(
            !text.contains(MARK) && !text.contains(MARK_HEX),
            "{statement}: {text}"
        );
        text
    };
    let mut seen = 0;
    for view in &views {
        seen += check(&format!("select v::text from relayforge.{view} v"))
            .await
            .lines()
            .count();
    }
    assert!(
        seen > 30,
        "the views show the marked rows, without the marks: {seen}"
    );
    let mut called = BTreeSet::new();
    for (name, statement) in calls(event, dead) {
        called.insert(name.to_owned());
        check(&statement).await;
        for view in &views {
            check(&format!("select v::text from relayforge.{view} v")).await;
        }
    }
    let callable: BTreeSet<String> = dba_functions(&db).await.into_iter().collect();
    assert_eq!(
        called, callable,
        "each function that the DBA may execute is called here"
    );
    // The marks were there to be seen: the owner still sees those of what is not the tenant's.
    let key = db
        .owner()
        .await
        .query_one("select key_sha256 from store.admin_api_keys", &[])
        .await
        .unwrap();
    assert!(hex::encode(key.get::<_, Vec<u8>>(0)).contains(MARK_HEX));
}

/// The error of a statement that must be refused.
async fn refusal(client: &Object, statement: &str) -> Option<SqlState> {
    match client.batch_execute(statement).await {
        Ok(()) => None,
        Err(error) => error.code().cloned(),
    }
}

#[tokio::test]
async fn no_role_reads_or_writes_a_table() {
    let db = TestDb::create().await;
    let tables = names(
        &db,
        "select c.oid::regclass::text from pg_class c
          where c.relnamespace = 'store'::regnamespace and c.relkind in ('r', 'p') order by 1",
    )
    .await;
    assert!(tables.len() > 60, "partitions, too: {tables:?}");
    for role in SERVICES.iter().chain(&["relayforge_dba"]) {
        let client = db.pool(role).get().await.unwrap();
        for table in &tables {
            for statement in [
                format!("select 1 from {table} limit 1"),
                format!("delete from {table}"),
                format!("copy {table} to stdout"),
            ] {
                let refused = refusal(&client, &statement).await;
                assert_eq!(
                    refused,
                    Some(SqlState::INSUFFICIENT_PRIVILEGE),
                    "{role}: {statement}"
                );
            }
        }
        for statement in [
            "create table relayforge.mine()",
            "create view relayforge.mine as select 1",
            "create table store.mine()",
            "set role relayforge_owner",
            "drop view relayforge.traffic",
            "drop function relayforge.event_of",
        ] {
            let refused = refusal(&client, statement).await;
            assert_eq!(
                refused,
                Some(SqlState::INSUFFICIENT_PRIVILEGE),
                "{role}: {statement}"
            );
        }
    }
}

#[tokio::test]
async fn a_service_executes_nobody_elses_function_and_reads_no_view() {
    let db = TestDb::create().await;
    let views = views(&db).await;
    for role in SERVICES {
        let foreign = db
            .owner()
            .await
            .query(
                // Not null: a strict function of nulls is never called.
                "select format('%s %s(%s)', case p.prokind when 'p' then 'call' else 'select' end, p.oid::regproc,
                               array_to_string(array(
                                 select format('%L::%s', case a.type
                                                           when 'uuid'::regtype then '00000000-0000-0000-0000-000000000000'
                                                           when 'timestamptz'::regtype then '2026-01-01'
                                                         end, a.type::regtype)
                                   from unnest(coalesce(p.proallargtypes, p.proargtypes::oid[]),
                                               coalesce(p.proargmodes, array_fill('i'::\"char\", array[p.pronargs::integer])))
                                          with ordinality a(type, mode, ord)
                                  where a.mode in ('i', 'b') order by a.ord), ', ')),
                        has_function_privilege($1, p.oid, 'execute')
                   from pg_proc p
                  where p.pronamespace = 'relayforge'::regnamespace
                  order by p.proname",
                &[&role],
            )
            .await
            .unwrap();
        let client = db.pool(role).get().await.unwrap();
        let mut own = 0;
        for row in foreign {
            let (statement, granted): (String, bool) = (row.get(0), row.get(1));
            if granted {
                own += 1;
                continue;
            }
            let refused = refusal(&client, &statement).await;
            assert_eq!(
                refused,
                Some(SqlState::INSUFFICIENT_PRIVILEGE),
                "{role}: {statement}"
            );
        }
        assert!((5..20).contains(&own), "{role} has {own} functions of its own");
        for view in &views {
            let refused = refusal(&client, &format!("select 1 from relayforge.{view}")).await;
            assert_eq!(refused, Some(SqlState::INSUFFICIENT_PRIVILEGE), "{role}: {view}");
        }
    }
}

/// First words in backticks of the lines of a section that start with `start`.
fn listed(section: &str, start: &str) -> Vec<String> {
    let text = DBA_GUIDE
        .split("\n## ")
        .find(|text| text.starts_with(section))
        .unwrap_or_else(|| panic!("docs/dba.md has no section {section}"));
    text.lines()
        .filter_map(|line| {
            let name = line.strip_prefix(start)?;
            Some(
                name.split(|c: char| !c.is_alphanumeric() && c != '_')
                    .next()?
                    .to_owned(),
            )
        })
        .collect()
}

#[tokio::test]
async fn the_guide_lists_the_functions_and_views_that_the_dba_has() {
    let db = TestDb::create().await;
    let mut functions = listed("Functions", "| `");
    functions.sort();
    assert_eq!(functions, dba_functions(&db).await, "docs/dba.md, Functions");
    let mut described = listed("Views", "### `");
    described.sort();
    assert_eq!(described, views(&db).await, "docs/dba.md, Views");
}
