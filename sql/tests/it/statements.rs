//! The statements of older releases on today's schema: their binaries run on while a new release is rolled out.
//!
//! `fixtures/statements_<epoch>.txt` has those of one release: role, parameters and columns on the first line, then the
//! statement, then an empty line. `RELEASE_STATEMENTS=1 cargo nextest run -p sql --all-features statements` writes the
//! one of this release.

use std::fmt::Write as _;
use std::path::PathBuf;

use sql::CodeVersion;
use sql::testing::TestDb;
use tokio_postgres::Client;

/// Statements that an older release may no longer make, with what becomes of it then.
const WITHDRAWN: &[(&str, &str)] = &[(
    "select relayforge.ensure_partitions($1) as made",
    "Services run relayforge.maintain instead. One that calls this is refused and logs a warning every 30 s; partitions \
     are made by the migrator, 14 days ahead, and by the first new service.",
)];

fn fixtures() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

/// What a binary relies on: the role may make the statement, and parameters and columns are of these types.
///
/// # Errors
/// Says what is in the way. Preparing alone looks at no right to execute: that is asked for by name.
pub(crate) async fn describe(client: &Client, role: &str, statement: &str) -> Result<String, String> {
    let forbidden = client
        .query(
            "select m.names[1]
               from regexp_matches($2, 'relayforge\\.(\\w+)', 'g') m(names)
               left join pg_proc p on p.pronamespace = 'relayforge'::regnamespace and p.proname = m.names[1]
               left join pg_class c on c.relnamespace = 'relayforge'::regnamespace and c.relname = m.names[1]
              where not coalesce(has_function_privilege($1, p.oid, 'execute'), has_table_privilege($1, c.oid, 'select'), false)",
            &[&role, &statement],
        )
        .await
        .map_err(|error| format!("{error:?}"))?;
    if let Some(row) = forbidden.first() {
        return Err(format!("{role} may not use {}", row.get::<_, String>(0)));
    }
    let prepared = client
        .prepare(statement)
        .await
        .map_err(|error| format!("{error:?}"))?;
    let parameters: Vec<&str> = prepared.params().iter().map(|kind| kind.name()).collect();
    let columns: Vec<String> = prepared
        .columns()
        .iter()
        .map(|column| format!("{} {}", column.name(), column.type_().name()))
        .collect();
    Ok(format!(
        "{role} ({}) -> ({})",
        parameters.join(", "),
        columns.join(", ")
    ))
}

#[tokio::test]
async fn the_statements_of_older_releases_still_fit() {
    let db = TestDb::create().await;
    let client = db.owner().await;
    let mut checked = 0;
    for file in std::fs::read_dir(fixtures()).unwrap() {
        let path = file.unwrap().path();
        let release = path.file_name().unwrap().to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&path).unwrap();
        for block in text.split("\n\n").filter(|block| !block.trim().is_empty()) {
            let (described, statement) = block.split_once('\n').unwrap();
            let role = described.split(' ').next().unwrap();
            let today = describe(&client, role, statement.trim_end()).await;
            checked += 1;
            match WITHDRAWN.iter().find(|(gone, _)| *gone == statement.trim_end()) {
                Some((_, reason)) => assert!(today.is_err(), "{release}: not withdrawn ({reason})"),
                // Columns may have come behind those that the release knows.
                None => {
                    let today = today.unwrap_or_else(|error| panic!("{release}: {statement}: {error}"));
                    let known = described.trim_end_matches(')');
                    let more = today.strip_prefix(known).map(|more| more.starts_with([',', ')']));
                    assert_eq!(
                        more,
                        Some(true),
                        "{release}: {statement}: {described}, today {today}"
                    );
                }
            }
        }
    }
    assert!(checked > 30, "{checked} statements");
}

#[tokio::test]
async fn the_statements_of_this_release_are_written_when_asked_for() {
    if std::env::var_os("RELEASE_STATEMENTS").is_none() {
        return;
    }
    let db = TestDb::create().await;
    let client = db.owner().await;
    let mut text = String::new();
    for (role, statement) in sql::STATEMENTS {
        let described = describe(&client, role, statement).await.unwrap();
        write!(text, "{described}\n{statement}\n\n").unwrap();
    }
    let name = format!("statements_{}.txt", CodeVersion::built_in().epoch);
    std::fs::write(fixtures().join(name), text).unwrap();
}
