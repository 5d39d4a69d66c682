//! What a webhook costs the database, from the request to the finished job, in counts that a busy machine does not
//! change: statements, commits, bytes of WAL. Real services, on a server of the test's own.
//!
//! `costs/stages.rs` has the work done in batches that are known before, `costs/reading.rs` counts. `perf/README.md` says
//! how to read a failure, and when to raise a bound.

mod reading;
mod stages;

use relay::testing::TestBroker;
use sql::testing::TestDb;
use sql::testing::server::{OLDEST, programs};

use self::reading::{Counter, Reading, counting_server};
use crate::faults::skipped;
use crate::world::World;

/// Webhooks in one transaction of the API, and of the relay.
const BATCH: usize = 64;

/// Batches that are sent at once. Each of their webhooks has a connection: fewer than the files a process may open.
const BATCHES: usize = 8;

/// Theirs, and the one that they wait behind.
const WEBHOOKS: usize = BATCHES * BATCH + 1;

/// Bytes of a webhook's body.
const BODY_BYTES: usize = 600;

// Some bounds are what was measured: nothing may come on top of that. WAL may take a twentieth more, for it is the same to
// two digits each time; and the consumer one call, should a message be late. Where one is exceeded, perf/README.md says
// what to do ("What may not become dearer").

/// The API's statements for a batch, but for those that wake relays. Measured: 1.
const INGEST_STATEMENTS: f64 = 1.0;

/// The API's calls that wake relays, for a batch. Measured: 0.5 to 1, as commits that follow each other soon share one.
const INGEST_WAKES: f64 = 1.0;

/// Transaction ids that the API uses for a batch: one commit, and the subtransaction in which the ledger is written. Measured: 2.
const INGEST_IDS: f64 = 2.0;

/// WAL of a webhook when it is stored. Measured: 2,226 to 2,230.
const INGEST_WAL_BYTES: f64 = 2_340.0;

/// The relay's statements for a batch: start, claim, settle, commit. Measured: 4.
const PUBLISH_STATEMENTS: f64 = 4.0;

/// Transaction ids, and so commits, of the relay for a batch. Measured: 1.
const PUBLISH_IDS: f64 = 1.0;

/// The consumer's statements for all jobs: a start and an outcome for each 256, and one more of both. Measured: 6.
const EXECUTE_STATEMENTS: f64 = 7.0;

/// Transaction ids, and so commits, of the consumer for all jobs. Measured: 6.
const EXECUTE_IDS: f64 = 7.0;

/// WAL of a webhook and its job until it has succeeded. Measured: 3,016 to 3,029.
const LIFE_WAL_BYTES: f64 = 3_170.0;

/// A figure, and what it must not exceed.
struct Cost {
    what: &'static str,
    found: f64,
    bound: f64,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_webhook_costs_the_database_no_more_than_it_did() {
    let test = "a_webhook_costs_the_database_no_more_than_it_did";
    let Some(programs) = programs() else {
        return skipped(test, &format!("PostgreSQL {OLDEST} or newer is not installed"));
    };
    let Some(server) = counting_server(&programs).await else {
        return skipped(test, "pg_stat_statements is not installed (postgresql-contrib)");
    };
    let mut world = World::on(TestDb::create_on(&server).await, TestBroker::start().await).await;
    let counter = Counter::begin(&world).await;
    stages::start(&mut world).await;
    // Plans are made then, and the first pages of all tables are there.
    stages::ingest(&world, 1).await;
    stages::is_empty(&world, "open_jobs").await;
    let idle = counter.settled().await;

    for name in ["relay", "consumer"] {
        world.service(name).signal("STOP").await;
    }
    stages::ingest(&world, BATCHES).await;
    let stored = counter.settled().await;
    stages::publish(&world).await;
    let published = counter.settled().await;
    stages::execute(&world, WEBHOOKS).await;
    let executed = counter.settled().await;

    check(
        &stored.since(&idle),
        &published.since(&stored),
        &executed.since(&published),
    );
}

fn check(ingest: &Reading, publish: &Reading, execute: &Reading) {
    for (stage, reading) in [("ingest", ingest), ("publish", publish), ("execute", execute)] {
        println!("{}", reading.describe(stage));
    }
    let costs = costs(ingest, publish, execute);
    for Cost { what, found, bound } in &costs {
        println!("{what:<32} {found:>9.2}, at most {bound:.2}");
    }
    let dearer: Vec<&str> = costs
        .iter()
        .filter(|cost| cost.found > cost.bound)
        .map(|cost| cost.what)
        .collect();
    assert!(
        dearer.is_empty(),
        "dearer than before: {dearer:?}; perf/README.md says what to do"
    );
}

fn costs(ingest: &Reading, publish: &Reading, execute: &Reading) -> [Cost; 9] {
    let cost = |what, count: i64, each_of: usize, bound| Cost {
        what,
        found: count as f64 / each_of as f64,
        bound,
    };
    let calls = BATCHES + 1;
    let wakes = ingest.calls("relayforge.wake_relays(");
    // A claim that finds nothing: start, claim, rollback. How many there are depends on who was woken when.
    let in_vain = 3 * publish.calls("ROLLBACK");
    let wal = ingest.wal_bytes + publish.wal_bytes + execute.wal_bytes;
    // The first wake finds the relay asleep, and says in its row that it was woken.
    let (statements, ids) = (ingest.work() - wakes, ingest.work_ids() - 1);
    [
        cost("ingest, statements a batch", statements, calls, INGEST_STATEMENTS),
        cost("ingest, wakes a batch", wakes, calls, INGEST_WAKES),
        cost("ingest, transaction ids a batch", ids, calls, INGEST_IDS),
        cost(
            "ingest, WAL bytes a webhook",
            ingest.wal_bytes,
            WEBHOOKS,
            INGEST_WAL_BYTES,
        ),
        cost(
            "publish, statements a batch",
            publish.work() - in_vain,
            calls,
            PUBLISH_STATEMENTS,
        ),
        cost(
            "publish, transaction ids a batch",
            publish.work_ids(),
            calls,
            PUBLISH_IDS,
        ),
        cost("execute, statements", execute.work(), 1, EXECUTE_STATEMENTS),
        cost("execute, transaction ids", execute.work_ids(), 1, EXECUTE_IDS),
        cost("whole life, WAL bytes a job", wal, WEBHOOKS, LIFE_WAL_BYTES),
    ]
}
