//! A server that counts what is sent to it, and what it has counted.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::path::Path;

use sql::Object;
use sql::activity::{count_statements, statement_counts};
use sql::testing::server::Server;

use crate::world::{PATIENCE, World, eventually};

const ROLES: [&str; 3] = ["relayforge_api", "relayforge_relay", "relayforge_consumer"];

/// What services call every so often, however much work there is, and how many transaction ids a call uses at the most.
const BY_THE_CLOCK: [(&str, i64); 17] = [
    ("configure_upkeep", 1),
    ("count_outbox", 0),
    ("load_secrets", 0),
    ("load_sources", 0),
    ("load_tenants", 0),
    ("maintain", 1),
    ("outbox_next_due", 0),
    ("partitions_end", 0),
    ("record_rejections", 1),
    ("record_secret_usage", 1),
    ("record_traffic", 1),
    ("relay_sleep", 1),
    ("relay_wake", 1),
    ("renew_leases", 1),
    ("schema_code", 0),
    ("seal_audit", 1),
    ("sweep_leases", 1),
];

/// How often counts have to be seen unchanged until nobody is taken to be at work.
const QUIET_LOOKS: usize = 6;

/// Characters of a statement that are shown.
const SHOWN_CHARS: usize = 100;

/// A server that counts statements, and writes nothing of its own accord. None where it can't count.
pub(super) async fn counting_server(programs: &Path) -> Option<Server> {
    let mut server = Server::initialise(programs);
    server.start().await;
    let superuser = server.superuser().await;
    let extension = "select from pg_available_extensions where name = 'pg_stat_statements'";
    superuser.query_opt(extension, &[]).await.unwrap()?;
    for setting in [
        "shared_preload_libraries = 'pg_stat_statements'",
        "autovacuum = off",
        // Which page is written for the first time after a checkpoint, and so logged whole, is a matter of time.
        "full_page_writes = off",
        "checkpoint_timeout = '1h'",
    ] {
        let set = format!("alter system set {setting}");
        superuser.batch_execute(&set).await.unwrap();
    }
    server.stop().await;
    server.start().await;
    Some(server)
}

/// What a server has counted; or what came to it between two readings.
#[derive(Clone)]
pub(super) struct Reading {
    /// Calls of all services, by statement.
    statements: HashMap<String, i64>,
    /// Transaction ids that were used: one for each commit that wrote, and for each subtransaction that did.
    ids: i64,
    pub(super) wal_bytes: i64,
}

/// Who reads them.
pub(super) struct Counter(Object);

impl Counter {
    /// Has the server of this world count.
    pub(super) async fn begin(world: &World) -> Self {
        let client = world.db.pool("owner").get().await.unwrap();
        count_statements(&client).await.unwrap();
        Self(client)
    }

    async fn read(&self) -> Reading {
        let mut statements = HashMap::new();
        for count in statement_counts(&self.0, &ROLES).await.unwrap().counts {
            *statements.entry(count.statement).or_default() += count.calls;
        }
        let query = "select pg_snapshot_xmax(pg_current_snapshot())::text::bigint as ids,
                            (pg_current_wal_insert_lsn() - '0/0')::bigint as wal_bytes";
        let row = self.0.query_one(query, &[]).await.unwrap();
        Reading {
            statements,
            ids: row.get("ids"),
            wal_bytes: row.get("wal_bytes"),
        }
    }

    /// Once nobody is at work any more.
    pub(super) async fn settled(&self) -> Reading {
        let mut last = self.read().await;
        let mut quiet = 0;
        eventually("nobody is at work", PATIENCE, async || {
            let now = self.read().await;
            quiet = if now.work() == last.work() { quiet + 1 } else { 0 };
            last = now;
            (quiet == QUIET_LOOKS).then(|| last.clone())
        })
        .await
    }
}

impl Reading {
    /// What has come since then.
    pub(super) fn since(&self, earlier: &Self) -> Self {
        let mut statements = self.statements.clone();
        for (statement, calls) in &mut statements {
            *calls -= earlier.statements.get(statement).unwrap_or(&0);
        }
        statements.retain(|_, calls| *calls > 0);
        Self {
            statements,
            ids: self.ids - earlier.ids,
            wal_bytes: self.wal_bytes - earlier.wal_bytes,
        }
    }

    fn sum(&self, which: impl Fn(&str) -> bool) -> i64 {
        let those = self.statements.iter().filter(|(statement, _)| which(statement));
        those.map(|(_, calls)| calls).sum()
    }

    /// Calls of statements with these words in them.
    pub(super) fn calls(&self, words: &str) -> i64 {
        self.sum(|statement| statement.contains(words))
    }

    /// Statements that the work took.
    pub(super) fn work(&self) -> i64 {
        self.sum(|statement| by_the_clock(statement).is_none())
    }

    /// Transaction ids that the work took.
    pub(super) fn work_ids(&self) -> i64 {
        let ids = |(statement, calls): (&String, &i64)| by_the_clock(statement).unwrap_or(0) * calls;
        self.ids - self.statements.iter().map(ids).sum::<i64>()
    }

    /// All of it, for a person.
    pub(super) fn describe(&self, stage: &str) -> String {
        let mut statements: Vec<_> = self.statements.iter().collect();
        statements.sort_by_key(|(statement, calls)| (-**calls, statement.as_str()));
        let mut text = format!(
            "{stage}: {} transaction ids, {} bytes of WAL\n",
            self.ids, self.wal_bytes
        );
        for (statement, calls) in statements {
            let mark = by_the_clock(statement).map_or("", |_| "(by the clock) ");
            let shown: String = statement.chars().take(SHOWN_CHARS).collect();
            let _ = writeln!(text, "{calls:>6}  {mark}{shown}");
        }
        text
    }
}

/// How many transaction ids a call uses at the most, if it goes by the clock.
fn by_the_clock(statement: &str) -> Option<i64> {
    let is_called = |function: &str| statement.contains(&format!("relayforge.{function}("));
    let found = BY_THE_CLOCK.iter().find(|(function, _)| is_called(function));
    found.map(|(_, ids)| *ids)
}
