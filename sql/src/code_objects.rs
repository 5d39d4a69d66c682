//! The code swap: brings schema `relayforge` to what the files of `functions/` and `views/` say, object by object, in
//! one transaction. What has not changed is not touched. `migrate.rs` calls it under the migrator's lock.

use std::collections::{BTreeMap, BTreeSet};

use ring::digest::{SHA256, digest};
use tokio_postgres::Transaction;
use tokio_postgres::error::SqlState;

use crate::DbError;

include!(concat!(env!("OUT_DIR"), "/code_files.rs"));

/// The epoch of this code and its fingerprint, which a test keeps true. The epoch rises with each change, so that a
/// migrator of an older release knows that it has nothing to do here.
const EPOCH_FILE: &str = include_str!("../EPOCH");

/// The roles whose rights the files themselves state; those of anybody else are kept over a swap.
const SERVICE_ROLES: &str = "relayforge_api, relayforge_relay, relayforge_consumer, relayforge_dba";

/// Which code a binary carries, or a database has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CodeVersion {
    /// Rises with each change of the code.
    pub epoch: i32,
    /// SHA-256 over migrations, functions and views, in hex.
    pub fingerprint: String,
}

impl CodeVersion {
    /// The version that this binary carries.
    pub fn built_in() -> Self {
        let mut words = EPOCH_FILE.split_whitespace();
        let epoch = words
            .next()
            .and_then(|word| word.parse().ok())
            .unwrap_or_default();
        Self {
            epoch,
            fingerprint: fingerprint(),
        }
    }

    /// What the file `EPOCH` claims; equal to [`CodeVersion::built_in`] unless somebody forgot to raise it.
    pub fn recorded() -> Self {
        let mut words = EPOCH_FILE.split_whitespace();
        let epoch = words
            .next()
            .and_then(|word| word.parse().ok())
            .unwrap_or_default();
        Self {
            epoch,
            fingerprint: words.next().unwrap_or_default().to_owned(),
        }
    }
}

fn fingerprint() -> String {
    let mut text = String::new();
    for migration in crate::migrate::migrations() {
        text.push_str(&migration);
    }
    for (path, sql) in FILES {
        text.push_str(path);
        text.push_str(sql);
    }
    hex::encode(&digest(&SHA256, text.as_bytes()).as_ref()[..16])
}

/// A file of code and the one object that it makes.
struct CodeFile {
    path: &'static str,
    sql: &'static str,
    name: &'static str,
    kind: Kind,
    checksum: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Routine,
    View,
}

impl CodeFile {
    fn new(path: &'static str, sql: &'static str) -> Self {
        let name = path
            .rsplit('/')
            .next()
            .and_then(|file| file.strip_suffix(".sql"))
            .unwrap_or(path);
        let kind = if path.starts_with("views/") {
            Kind::View
        } else {
            Kind::Routine
        };
        Self {
            path,
            sql,
            name,
            kind,
            checksum: digest(&SHA256, sql.as_bytes()).as_ref().to_vec(),
        }
    }

    /// The file's text with its first `create` made `create or replace`.
    fn as_replacement(&self) -> String {
        for verb in ["create function", "create procedure", "create view"] {
            if self.sql.contains(&format!("\n{verb}")) || self.sql.starts_with(verb) {
                return self
                    .sql
                    .replacen(verb, &verb.replacen("create", "create or replace", 1), 1);
            }
        }
        self.sql.to_owned()
    }
}

/// What a swap did.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Swapped {
    /// Objects made or replaced.
    pub changed: Vec<String>,
    /// Objects whose file is gone.
    pub removed: Vec<String>,
}

/// Swaps the code and writes epoch and fingerprint into the schema's comment. The transaction is the caller's; the role
/// is the owner's.
///
/// # Errors
/// [`DbError::Conflict`] names the object of ours that has to go and what of the DBA's depends on it; nothing is
/// changed then, since the caller rolls back.
pub(crate) async fn swap(tx: &mut Transaction<'_>) -> Result<Swapped, DbError> {
    // Bodies name objects that a later file makes; each is checked when it first runs, and by the catalogue test.
    tx.batch_execute("set local check_function_bodies = off; set local lock_timeout = '2s'")
        .await?;
    let files: Vec<CodeFile> = FILES.iter().map(|(path, sql)| CodeFile::new(path, sql)).collect();
    let mut known = known_objects(tx).await?;
    let mut grants = BTreeMap::new();
    let mut swapped = Swapped::default();

    let current: BTreeSet<&str> = files.iter().map(|file| file.name).collect();
    let gone: Vec<String> = known
        .keys()
        .filter(|name| !current.contains(name.as_str()))
        .cloned()
        .collect();
    for name in &gone {
        drop_views_on(tx, name, &mut known, &mut grants).await?;
        drop_object(tx, name).await?;
        tx.execute("delete from store.code_objects where name = $1", &[name])
            .await?;
        swapped.removed.push(name.clone());
    }
    for file in &files {
        if known.get(file.name) == Some(&file.checksum) {
            continue;
        }
        install(tx, file, &mut known, &mut grants).await?;
        tx.execute(
            "insert into store.code_objects (path, name, checksum) values ($1, $2, $3)
             on conflict (name) do update set path = excluded.path, checksum = excluded.checksum",
            &[&file.path, &file.name, &file.checksum],
        )
        .await?;
        swapped.changed.push(file.name.to_owned());
    }
    let version = CodeVersion::built_in();
    tx.batch_execute(&format!(
        "comment on schema relayforge is \
         'The interface of Relayforge: functions, procedures and views. Code epoch {}, fingerprint {}.'",
        version.epoch, version.fingerprint
    ))
    .await?;
    Ok(swapped)
}

/// Name and checksum of the objects that are there and came from a file of ours.
async fn known_objects(tx: &Transaction<'_>) -> Result<BTreeMap<String, Vec<u8>>, DbError> {
    let rows = tx
        .query(
            "select o.name, o.checksum
               from store.code_objects o
              where exists (select 1 from pg_proc p
                             where p.pronamespace = 'relayforge'::regnamespace and p.proname = o.name)
                 or exists (select 1 from pg_class c
                             where c.relnamespace = 'relayforge'::regnamespace and c.relname = o.name)",
            &[],
        )
        .await?;
    Ok(rows
        .iter()
        .map(|row| (row.get("name"), row.get("checksum")))
        .collect())
}

/// Replaces the object in place where its signature allows that, else drops it and makes it anew.
async fn install(
    tx: &mut Transaction<'_>,
    file: &CodeFile,
    known: &mut BTreeMap<String, Vec<u8>>,
    grants: &mut BTreeMap<String, Vec<String>>,
) -> Result<(), DbError> {
    let attempt = tx.transaction().await?;
    match replace_in_place(&attempt, file).await {
        Ok(true) => {
            attempt.commit().await?;
            return restore_grants(tx, grants.remove(file.name).unwrap_or_default()).await;
        }
        Ok(false) => attempt.rollback().await?,
        Err(error) if signature_changed(&error) => attempt.rollback().await?,
        Err(error) => return Err(in_file(file, error)),
    }
    let mut kept = grants.remove(file.name).unwrap_or_default();
    kept.extend(foreign_grants(tx, file.name).await?);
    drop_views_on(tx, file.name, known, grants).await?;
    drop_object(tx, file.name).await?;
    tx.batch_execute(file.sql)
        .await
        .map_err(|error| in_file(file, error))?;
    restore_grants(tx, kept).await
}

/// Drops our own views that need an object which is about to be dropped, and forgets them: views come after functions, so
/// they are made again in their turn, with the rights that others had on them.
async fn drop_views_on(
    tx: &Transaction<'_>,
    name: &str,
    known: &mut BTreeMap<String, Vec<u8>>,
    grants: &mut BTreeMap<String, Vec<String>>,
) -> Result<(), DbError> {
    let ours: Vec<&String> = known.keys().collect();
    let rows = tx.query(DEPENDENT_VIEWS, &[&name, &ours]).await?;
    // The farthest first, which nothing of ours depends on any more.
    for row in rows {
        let view: String = row.get(0);
        let kept = foreign_grants(tx, &view).await?;
        drop_object(tx, &view).await?;
        known.remove(&view);
        grants.entry(view).or_default().extend(kept);
    }
    Ok(())
}

/// A right on a column that is not there any more is not given again.
async fn restore_grants(tx: &mut Transaction<'_>, grants: Vec<String>) -> Result<(), DbError> {
    for grant in grants {
        let attempt = tx.transaction().await?;
        match attempt.batch_execute(&grant).await {
            Ok(()) => attempt.commit().await?,
            Err(error) if error.code() == Some(&SqlState::UNDEFINED_COLUMN) => attempt.rollback().await?,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The views among `$2` that depend on object `$1`, on each other too; the farthest first.
const DEPENDENT_VIEWS: &str = "
    with recursive needed(oid, depth) as (
      select p.oid, 0 from pg_proc p where p.pronamespace = 'relayforge'::regnamespace and p.proname = $1
       union
      select c.oid, 0 from pg_class c where c.relnamespace = 'relayforge'::regnamespace and c.relname = $1
       union
      select r.ev_class, n.depth + 1
        from needed n
        join pg_depend d on d.refobjid = n.oid and d.classid = 'pg_rewrite'::regclass
        join pg_rewrite r on r.oid = d.objid and r.ev_class <> n.oid
        join pg_class c on c.oid = r.ev_class
       where c.relnamespace = 'relayforge'::regnamespace and c.relname = any ($2)
    )
    select c.relname::text from needed n join pg_class c on c.oid = n.oid
     where n.depth > 0
     group by c.relname
     order by max(n.depth) desc, c.relname";

/// False if there are now two of that name: the arguments differ, so that a second overload was made.
async fn replace_in_place(tx: &Transaction<'_>, file: &CodeFile) -> Result<bool, tokio_postgres::Error> {
    let exists = count_objects(tx, file.name).await? > 0;
    if exists {
        let target = if file.kind == Kind::View {
            "table"
        } else {
            "routine"
        };
        tx.batch_execute(&format!(
            "revoke all on {target} relayforge.{} from public, {SERVICE_ROLES}",
            file.name
        ))
        .await?;
    }
    tx.batch_execute(&file.as_replacement()).await?;
    Ok(count_objects(tx, file.name).await? == 1)
}

async fn count_objects(tx: &Transaction<'_>, name: &str) -> Result<i64, tokio_postgres::Error> {
    let row = tx
        .query_one(
            "select (select count(*) from pg_proc where pronamespace = 'relayforge'::regnamespace and proname = $1)
                  + (select count(*) from pg_class where relnamespace = 'relayforge'::regnamespace and relname = $1
                                                     and relkind = 'v')",
            &[&name],
        )
        .await?;
    Ok(row.get(0))
}

fn signature_changed(error: &tokio_postgres::Error) -> bool {
    // 42P13: other return type or parameter names. 42725: the comment or grant finds two overloads.
    // 42P16: a view whose columns are not the old ones and more. 42809: a function is now a procedure.
    [
        SqlState::INVALID_FUNCTION_DEFINITION,
        SqlState::AMBIGUOUS_FUNCTION,
        SqlState::INVALID_TABLE_DEFINITION,
        SqlState::WRONG_OBJECT_TYPE,
    ]
    .iter()
    .any(|state| error.code() == Some(state))
}

/// Rights on an object, or on columns of it, that somebody other than the migrator has given: the statements that give
/// them again. Those of our own roles are the files'.
async fn foreign_grants(tx: &Transaction<'_>, name: &str) -> Result<Vec<String>, DbError> {
    let rows = tx
        .query(
            "select format('grant %s on %s relayforge.%I to %s', lower(a.privilege_type) || o.columns, o.target, $1::text, a.grantee::regrole)
                    || case when a.is_grantable then ' with grant option' else '' end as statement
               from (select proacl as acl, proowner as owner, 'routine' as target, '' as columns from pg_proc
                      where pronamespace = 'relayforge'::regnamespace and proname = $1
                      union all
                     select relacl, relowner, 'table', '' from pg_class
                      where relnamespace = 'relayforge'::regnamespace and relname = $1
                      union all
                     select att.attacl, c.relowner, 'table', format(' (%I)', att.attname)
                       from pg_class c join pg_attribute att on att.attrelid = c.oid
                      where c.relnamespace = 'relayforge'::regnamespace and c.relname = $1 and att.attacl is not null) o,
                    aclexplode(o.acl) a
              where a.grantee <> 0 and a.grantee <> o.owner
                and a.grantee::regrole::text <> all (string_to_array($2, ', '))",
            &[&name, &SERVICE_ROLES],
        )
        .await?;
    Ok(rows.iter().map(|row| row.get("statement")).collect())
}

async fn drop_object(tx: &Transaction<'_>, name: &str) -> Result<(), DbError> {
    let rows = tx
        .query(
            "select 'drop routine ' || p.oid::regprocedure as statement from pg_proc p
              where p.pronamespace = 'relayforge'::regnamespace and p.proname = $1
              union all
             select 'drop view ' || c.oid::regclass from pg_class c
              where c.relnamespace = 'relayforge'::regnamespace and c.relname = $1 and c.relkind = 'v'",
            &[&name],
        )
        .await?;
    for row in rows {
        let statement: String = row.get("statement");
        tx.batch_execute(&statement).await.map_err(|error| match error.as_db_error() {
            Some(db) if *db.code() == SqlState::DEPENDENT_OBJECTS_STILL_EXIST => DbError::Conflict(format!(
                "relayforge.{name} has to be dropped, but something that is not ours depends on it: {}. \
                 Drop that, migrate, and make it again",
                db.detail().unwrap_or("(no detail)")
            )),
            _ => error.into(),
        })?;
    }
    Ok(())
}

fn in_file(file: &CodeFile, error: tokio_postgres::Error) -> DbError {
    match DbError::from(error) {
        DbError::Bug(text) => DbError::Bug(format!("{}: {text}", file.path)),
        other => other,
    }
}
