//! What the catalogue says must be what the wrappers, the roles and the documentation say.

use sql::testing::TestDb;

use crate::statements::describe;

/// Each wrapper's statement prepares, and the role that runs it may: names, argument types and grants are right.
#[tokio::test]
async fn every_statement_prepares_as_its_role() {
    let db = TestDb::create().await;
    let client = db.owner().await;
    for (role, statement) in sql::STATEMENTS {
        describe(&client, role, statement)
            .await
            .unwrap_or_else(|error| panic!("{role}: {statement}: {error}"));
    }
}

/// Each grant to a service has a wrapper that uses it, or a procedure with its caller's rights that a wrapper calls:
/// nothing is open that nobody calls.
#[tokio::test]
async fn every_grant_has_a_wrapper() {
    let db = TestDb::create().await;
    let rows = db
        .owner()
        .await
        .query(
            "select p.proname, r.rolname,
                    array(select i.proname::text from pg_proc i
                           where i.pronamespace = p.pronamespace and i.prokind = 'p' and not i.prosecdef
                             and strpos(i.prosrc, 'relayforge.' || p.proname || '(') > 0) as procedures
               from pg_proc p, pg_roles r
              where p.pronamespace = 'relayforge'::regnamespace
                and r.rolname in ('relayforge_api', 'relayforge_relay', 'relayforge_consumer')
                and has_function_privilege(r.oid, p.oid, 'execute')",
            &[],
        )
        .await
        .unwrap();
    assert!(!rows.is_empty());
    for row in rows {
        let (name, role): (String, String) = (row.get(0), row.get(1));
        let mut callers: Vec<String> = row.get(2);
        callers.push(name.clone());
        assert!(
            callers.iter().any(|caller| sql::STATEMENTS
                .iter()
                .any(|(r, s)| *r == role && s.contains(&format!("relayforge.{caller}(")))),
            "{role} may execute {name}, but no wrapper does"
        );
    }
}

#[tokio::test]
async fn no_service_reaches_a_table_and_nothing_is_public() {
    let db = TestDb::create().await;
    let client = db.owner().await;
    for (what, query) in [
        (
            "a service role can touch a table",
            "select c.relname || ' by ' || r.rolname
               from pg_class c, pg_roles r
              where c.relnamespace = 'store'::regnamespace and c.relkind in ('r', 'p', 'v', 'S')
                and r.rolname in ('relayforge_api', 'relayforge_relay', 'relayforge_consumer', 'relayforge_dba')
                and has_table_privilege(r.oid, c.oid, 'select, insert, update, delete, truncate')",
        ),
        (
            "a function is open to everybody",
            "select p.proname::text
               from pg_proc p
              where p.pronamespace in ('relayforge'::regnamespace, 'store'::regnamespace)
                and exists (select 1 from aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a where a.grantee = 0)",
        ),
        (
            "an object is not the owner's",
            "select p.proname::text from pg_proc p
              where p.pronamespace in ('relayforge'::regnamespace, 'store'::regnamespace)
                and p.proowner <> 'relayforge_owner'::regrole
              union all
             select c.relname from pg_class c
              where c.relnamespace in ('relayforge'::regnamespace, 'store'::regnamespace)
                and c.relowner <> 'relayforge_owner'::regrole",
        ),
        (
            "the owner is a superuser or can log in",
            "select rolname::text from pg_roles where rolname = 'relayforge_owner' and (rolsuper or rolcanlogin)",
        ),
        (
            "a security definer function without a fixed search_path",
            "select p.proname::text from pg_proc p
              where p.pronamespace = 'relayforge'::regnamespace and p.prosecdef
                and not coalesce('search_path=store, pg_temp' = any (p.proconfig), false)",
        ),
        (
            "an overload",
            "select p.proname::text from pg_proc p where p.pronamespace = 'relayforge'::regnamespace
              group by p.proname having count(*) > 1",
        ),
        (
            "the dba sees a secret or a payload",
            "select c.relname || '.' || a.attname
               from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0
              where c.relnamespace = 'relayforge'::regnamespace
                and a.attname in ('body', 'ciphertext', 'key_sha256', 'headers')",
        ),
    ] {
        let found: Vec<String> =
            client.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect();
        assert!(found.is_empty(), "{what}: {found:?}");
    }
    // The negatives above would also pass on an empty database.
    let functions: i64 = client
        .query_one(
            "select count(*) from pg_proc where pronamespace = 'relayforge'::regnamespace",
            &[],
        )
        .await
        .unwrap()
        .get(0);
    assert!(functions > 20, "{functions} functions");
}

#[tokio::test]
async fn everything_has_a_comment() {
    let db = TestDb::create().await;
    let rows = db
        .owner()
        .await
        .query(
            "select 'schema ' || n.nspname from pg_namespace n
              where n.nspname in ('relayforge', 'store') and obj_description(n.oid, 'pg_namespace') is null
              union all
             select 'function ' || p.proname from pg_proc p
              where p.pronamespace in ('relayforge'::regnamespace, 'store'::regnamespace)
                and obj_description(p.oid, 'pg_proc') is null
              union all
             select 'function of trigger ' || t.tgname || ' on ' || c.relname
               from pg_trigger t join pg_class c on c.oid = t.tgrelid
              where c.relnamespace = 'store'::regnamespace and not t.tgisinternal
                and obj_description(t.tgfoid, 'pg_proc') is null
              union all
             select 'relation ' || c.relname from pg_class c
              where c.relnamespace in ('relayforge'::regnamespace, 'store'::regnamespace)
                and c.relkind in ('r', 'p', 'v') and not c.relispartition and c.relname <> 'refinery_schema_history'
                and obj_description(c.oid, 'pg_class') is null
              union all
             select 'column ' || c.relname || '.' || a.attname
               from pg_class c join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
              where c.relnamespace in ('relayforge'::regnamespace, 'store'::regnamespace)
                and c.relkind in ('r', 'p', 'v') and not c.relispartition
                and c.relname <> 'refinery_schema_history'
                and col_description(c.oid, a.attnum) is null",
            &[],
        )
        .await
        .unwrap();
    let bare: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(bare.is_empty(), "without a comment: {bare:?}");
}
