//! The Python examples of `docs/handlers.md`, as processes: a worker that goes through the SQL functions in place of our
//! consumer, and a queue of its own on the events' exchange.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use amqprs::BasicProperties;
use amqprs::channel::{BasicPublishArguments, QueueDeleteArguments};
use perf::scenario::{Delivery, ORDER_CREATED};
use serde_json::{Value, json};
use sql::event::SourceKind;
use tokio::process::{Child, Command};
use uuid::Uuid;

use crate::world::{PATIENCE, World, eventually};

/// Interpreters that are tried; Debian's packages are for its own.
const INTERPRETERS: [&str; 2] = ["python3", "/usr/bin/python3"];

/// Of the worker: short, because one of them dies.
const LEASE_MS: &str = "2000";

/// How long a process may take to end after SIGTERM: the job that it runs is done by then.
const ENDS_WITHIN: Duration = Duration::from_secs(10);

/// The path of an interpreter that has psycopg and pika; none where there is none.
///
/// # Panics
/// In continuous integration, which is to have them.
#[expect(
    clippy::disallowed_methods,
    reason = "how CI says that nothing may be skipped; no setting of ours"
)]
async fn python() -> Option<String> {
    for interpreter in INTERPRETERS {
        let asked = Command::new(interpreter)
            .args(["-c", "import pika, psycopg, sys; print(sys.executable)"])
            .output()
            .await;
        if let Some(output) = asked.ok().filter(|output| output.status.success()) {
            return Some(String::from_utf8(output.stdout).unwrap().trim().to_owned());
        }
    }
    let missing =
        "no Python with psycopg and pika. Install: sudo apt-get install -y python3-psycopg python3-pika";
    assert!(std::env::var_os("CI").is_none(), "{missing}");
    println!("skipped: {missing}");
    None
}

fn examples() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples")
}

/// One of the examples, running. Killed when dropped; if the test fails, what it wrote is printed.
struct Script {
    child: Child,
    log: PathBuf,
}

impl Script {
    fn start(world: &World, python: &str, name: &str, arguments: &[&str]) -> Self {
        let log = world
            .folder()
            .join(format!("{name}-{}.log", Uuid::new_v4().simple()));
        let file = File::create(&log).unwrap();
        let child = Command::new(python)
            .arg(examples().join(name))
            .args(arguments)
            .env_clear()
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .env("DATABASE__URL", world.db.url("relayforge_consumer").expose())
            .env("AMQP__URL", &world.amqp_url)
            .env("AMQP__PREFIX", world.broker.prefix())
            .env("CONSUMER__LEASE_MS", LEASE_MS)
            .env("CONSUMER__BACKOFF_BASE_MS", "20")
            .current_dir(world.folder())
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap()
    }

    async fn says(&self, text: &str) {
        eventually(&format!("it says {text:?}"), PATIENCE, async || {
            self.log().contains(text).then_some(())
        })
        .await;
    }

    async fn ends_well_after_sigterm(mut self) {
        let pid = self.child.id().unwrap().to_string();
        let sent = Command::new("sh")
            .args(["-c", "kill -s TERM \"$0\"", &pid])
            .status()
            .await
            .unwrap();
        assert!(sent.success(), "{sent}");
        let ended = tokio::time::timeout(ENDS_WITHIN, self.child.wait()).await;
        let status = ended.expect("it ends after SIGTERM").unwrap();
        assert!(status.success(), "{status}");
        assert!(
            !self.log().contains("amqp://") && !self.log().contains("postgres://"),
            "{}",
            self.log()
        );
    }
}

impl Drop for Script {
    fn drop(&mut self) {
        if std::thread::panicking() {
            println!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// API and relay, but no consumer of ours; generic events are jobs of kind `shop` and go to the exchange too.
async fn world() -> World {
    let mut world = World::new().await;
    let change = "update store.sources set job_kind = 'shop', fanout = true where name = 'generic'";
    assert_eq!(world.sql.execute(change, &[]).await.unwrap(), 1);
    for name in ["api", "relay"] {
        world.start(name, &[]).await;
    }
    for name in ["api", "relay"] {
        world.service(name).answers_ready_with(200).await;
    }
    world
}

fn order(data: &Value) -> Delivery {
    let mut delivery = ORDER_CREATED.fresh();
    delivery.body = json!({ "event": "order.created", "data": data })
        .to_string()
        .into_bytes();
    delivery
}

/// Sends an order and returns its job.
async fn ordered(world: &World, data: Value) -> Uuid {
    let answer = world.deliver(SourceKind::Generic, order(&data)).await;
    assert_eq!(answer.status, 202, "{}", answer.body);
    answer.id("job_id").unwrap()
}

async fn is_processing(world: &World, job_id: Uuid) {
    let query = "select 1 from store.open_jobs where job_id = $1 and state = 'processing'";
    eventually(&format!("job {job_id} runs"), PATIENCE, async || {
        world.sql.query_opt(query, &[&job_id]).await.unwrap()
    })
    .await;
}

async fn last_error(world: &World, job_id: Uuid) -> String {
    let query = "select last_error from relayforge.job_overview where job_id = $1";
    world.sql.query_one(query, &[&job_id]).await.unwrap().get(0)
}

fn label(world: &World, job_id: Uuid) -> Option<String> {
    fs::read_to_string(world.folder().join("labels").join(job_id.to_string())).ok()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_writes_each_outcome_and_survives_what_is_no_message_of_ours() {
    let Some(python) = python().await else { return };
    let world = world().await;
    publish_junk(&world).await;
    // Nothing runs yet, so these can be prepared in peace: a row that somebody holds, and a kind that nobody knows.
    let held = ordered(&world, json!({ "order": 3 })).await;
    let mut holder = world.db.owner().await;
    let holding = holder.transaction().await.unwrap();
    let hold = "select from store.open_jobs where job_id = $1 for update";
    holding.query_one(hold, &[&held]).await.unwrap();
    let unheard = ordered(&world, json!({ "order": 4 })).await;
    let rename = "update store.jobs set kind = 'unheard' where id = $1";
    assert_eq!(world.sql.execute(rename, &[&unheard]).await.unwrap(), 1);

    let worker = Script::start(&world, &python, "worker.py", &["shop"]);
    worker.says(&format!("job {held}:1 is locked")).await;
    let early = ordered(&world, json!({ "order": 17 })).await;
    let nameless = ordered(&world, json!({ "pages": 0 })).await;
    worker.says("the printer is away").await;
    fs::create_dir(world.folder().join("labels")).unwrap();
    holding.commit().await.unwrap();
    for job_id in [early, held] {
        let (outcome, _) = world.outcome(job_id).await;
        assert_eq!(outcome, "succeeded", "{}", worker.log());
    }
    assert!(
        world.outcome(early).await.1 >= 2,
        "its first attempt found no printer"
    );
    assert_eq!(label(&world, early).as_deref(), Some("order 17\n"));
    // Text that the exception has of its own may quote the payload: only its type is kept.
    let odd = ordered(&world, json!({ "order": 1, "pages": "4242" })).await;
    for (job_id, attempts, error) in [
        (nameless, 1, "the data names no order"),
        (unheard, 1, "this worker has no handler for job kind \"unheard\""),
        (odd, 5, "the handler raised TypeError at shop.py:"),
    ] {
        assert_eq!(
            world.outcome(job_id).await,
            ("dead_lettered".to_owned(), attempts)
        );
        let found = last_error(&world, job_id).await;
        assert!(found.starts_with(error), "{found}");
    }
    // It may come after the jobs, which were sent over another connection.
    eventually(
        "all that is no message of ours is dropped",
        PATIENCE,
        async || {
            let dropped = worker.log().matches("names no job and attempt").count();
            (dropped == JUNK_IDS.len()).then_some(())
        },
    )
    .await;
    worker.ends_well_after_sigterm().await;
    assert_eq!(world.count("select count(*) from store.open_jobs").await, 0);
}

/// Ids of messages that are not ours.
const JUNK_IDS: [&str; 6] = [
    "nonsense",
    "",
    "019370b0-1c01-7000-8000-000000000002",
    "019370b0-1c01-7000-8000-000000000002:0",
    "019370b0-1c01-7000-8000-000000000002:2147483648",
    "019370b0-1c01-7000-8000-000000000002:99999999999",
];

async fn publish_junk(world: &World) {
    let session = world.broker.session().await;
    for id in JUNK_IDS {
        let to = BasicPublishArguments::new("", &world.broker.topology().jobs);
        let properties = BasicProperties::default().with_message_id(id).finish();
        session
            .control()
            .basic_publish(properties, b"junk".to_vec(), to)
            .await
            .unwrap();
    }
    session.close().await;
}

/// Handlers whose errors have what no column can have.
const ODD_HANDLERS: &str = r#"
from worker import Fail, Retry

ODD = {
    "surrogate": Fail("half of a pair: \ud83d"),
    "nul": Fail("nul: \0"),
    "nan": Retry("waits nan", after=float("nan")),
    "inf": Retry("waits inf", after=float("inf")),
    "negative": Retry("waits negative", after=-1e308),
    "text": Retry("waits text", after="soon"),
}


def odd(job):
    error = ODD.get(job.event["data"].get("odd"))
    if error:
        raise error


HANDLERS = {"shop": odd}
"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_survives_what_its_handlers_raise() {
    let Some(python) = python().await else { return };
    let world = world().await;
    fs::write(world.folder().join("odd.py"), ODD_HANDLERS).unwrap();
    let worker = Script::start(&world, &python, "worker.py", &["odd"]);
    for (odd, error) in [("surrogate", "half of a pair: ?"), ("nul", "nul: ?")] {
        let job_id = ordered(&world, json!({ "odd": odd })).await;
        assert_eq!(world.outcome(job_id).await, ("dead_lettered".to_owned(), 1));
        assert_eq!(last_error(&world, job_id).await, error);
    }
    // A wait that is none is left to the back-off, and there is no longer one than a day.
    for odd in ["nan", "negative", "text"] {
        let job_id = ordered(&world, json!({ "odd": odd })).await;
        assert_eq!(world.outcome(job_id).await, ("dead_lettered".to_owned(), 5));
        assert_eq!(last_error(&world, job_id).await, format!("waits {odd}"));
    }
    let endless = ordered(&world, json!({ "odd": "inf" })).await;
    worker.says(&format!("job {endless}:1 waits inf")).await;
    let well = ordered(&world, json!({})).await;
    world.succeeds(well).await;
    worker.ends_well_after_sigterm().await;
}

/// As while a migration is under way, and as with rows that no call may touch.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_survives_a_database_that_refuses_and_each_job_is_refused_alone() {
    let Some(python) = python().await else { return };
    let world = world().await;
    fs::write(world.folder().join("odd.py"), ODD_HANDLERS).unwrap();
    let (unstarted, unended, well) = (
        ordered(&world, json!({ "order": 1 })).await,
        ordered(&world, json!({ "order": 2 })).await,
        ordered(&world, json!({ "order": 3 })).await,
    );
    let refuse = format!(
        "create function public.refuse() returns trigger language plpgsql as $$
         begin raise feature_not_supported; end $$;
         create trigger unstarted before update on store.open_jobs for each row
         when (new.job_id = '{unstarted}' and new.state = 'processing') execute function public.refuse();
         create trigger unended before delete on store.open_jobs for each row
         when (old.job_id = '{unended}') execute function public.refuse();
         revoke execute on function relayforge.start_jobs from relayforge_consumer"
    );
    world.sql.batch_execute(&refuse).await.unwrap();
    let worker = Script::start(&world, &python, "worker.py", &["odd"]);
    worker.says(&format!("job {well}:1 can't be started")).await;
    let grant = "grant execute on function relayforge.start_jobs to relayforge_consumer";
    world.sql.batch_execute(grant).await.unwrap();
    world.succeeds(well).await;
    worker.says(&format!("job {unended}:1 can't be ended yet")).await;
    let drop_both = "drop function public.refuse() cascade";
    world.sql.batch_execute(drop_both).await.unwrap();
    for job_id in [unstarted, unended] {
        world.succeeds(job_id).await;
    }
    worker.ends_well_after_sigterm().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_is_killed_loses_nothing_and_one_that_is_asked_to_end_finishes() {
    let Some(python) = python().await else { return };
    let world = world().await;
    fs::create_dir(world.folder().join("labels")).unwrap();
    let mut first = Script::start(&world, &python, "worker.py", &["shop"]);
    // Longer than a lease: the second run ends only if its lease is renewed.
    let job_id = ordered(&world, json!({ "order": 17, "pages": 30 })).await;
    is_processing(&world, job_id).await;
    first.child.kill().await.unwrap();
    assert_eq!(label(&world, job_id), None);

    let second = Script::start(&world, &python, "worker.py", &["shop"]);
    let state = "select state, attempt from store.open_jobs where job_id = $1";
    eventually(&format!("job {job_id} is taken over"), PATIENCE, async || {
        // Where no service sweeps, this does.
        world
            .sql
            .query("select relayforge.sweep_leases(100, 5)", &[])
            .await
            .unwrap();
        let row = world.sql.query_one(state, &[&job_id]).await.unwrap();
        (row.get::<_, String>(0) == "processing" && row.get::<_, i16>(1) == 2).then_some(())
    })
    .await;
    let sweeping = async {
        loop {
            world
                .sql
                .query("select relayforge.sweep_leases(100, 5)", &[])
                .await
                .unwrap();
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::select! {
        outcome = world.outcome(job_id) => assert_eq!(outcome, ("succeeded".to_owned(), 2), "{}", second.log()),
        () = sweeping => {}
    }
    assert_eq!(label(&world, job_id).as_deref(), Some("order 17\n"));

    let last = ordered(&world, json!({ "order": 18, "pages": 10 })).await;
    is_processing(&world, last).await;
    second.ends_well_after_sigterm().await;
    world.succeeds(last).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_of_ones_own_gets_each_event_once() {
    const EVENTS: usize = 5;
    let Some(python) = python().await else { return };
    let world = world().await;
    let queue = format!("{}.strangers", world.broker.prefix());
    let script = Script::start(&world, &python, "events.py", &[&queue, "demo.generic.order.*"]);
    script.says("waiting for events").await;
    let mut sent = BTreeMap::new();
    for number in 0..EVENTS {
        let answer = world
            .deliver(SourceKind::Generic, order(&json!({ "order": number })))
            .await;
        sent.insert(answer.id("event_id").unwrap(), number);
        if number == 0 {
            // Once more, as the relay does when it dies between the broker's confirmation and its own commit. It lies
            // before the others in the queue: when they are printed, this one has been dealt with.
            publish_again(&world, &script).await;
            let mut other = ORDER_CREATED.fresh();
            other.body = json!({ "event": "basket.filled" }).to_string().into_bytes();
            assert_eq!(world.deliver(SourceKind::Generic, other).await.status, 202);
        }
    }

    let got = || -> Vec<Value> {
        let lines = script.log();
        lines
            .lines()
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    };
    eventually("each event is printed", PATIENCE, async || {
        (got().len() >= EVENTS).then_some(())
    })
    .await;
    eventually("nothing waits for the exchange", PATIENCE, async || {
        let waiting = world
            .count("select count(*) from store.outbox_messages where target = 'events'")
            .await;
        (waiting == 0).then_some(())
    })
    .await;
    let log = script.log();
    script.ends_well_after_sigterm().await;
    let found: BTreeMap<Uuid, usize> = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .map(|event| {
            assert_eq!(event["routing_key"], "demo.generic.order.created");
            let number = event["data"]["order"].as_u64().unwrap();
            (
                event["id"].as_str().unwrap().parse().unwrap(),
                usize::try_from(number).unwrap(),
            )
        })
        .collect();
    assert_eq!(found, sent);
    assert_eq!(log.matches("\"id\"").count(), EVENTS, "{log}");
    let session = world.broker.session().await;
    let all = session
        .control()
        .queue_delete(QueueDeleteArguments::new(&queue))
        .await
        .unwrap();
    assert_eq!(all, Some(0), "what was printed is acknowledged");
}

/// The first event that was printed, published a second time.
async fn publish_again(world: &World, script: &Script) {
    let first = eventually("an event is printed", PATIENCE, async || {
        let log = script.log();
        log.lines()
            .find_map(|line| serde_json::from_str::<Value>(line).ok())
    })
    .await;
    let session = world.broker.session().await;
    let to = BasicPublishArguments::new(&world.broker.topology().events, "demo.generic.order.created");
    let body = first.to_string().into_bytes();
    session
        .control()
        .basic_publish(BasicProperties::default(), body, to)
        .await
        .unwrap();
    session.close().await;
}

/// The document shows the handlers that these tests run.
#[test]
fn the_document_shows_these_handlers() {
    let document = fs::read_to_string(examples().join("../handlers.md")).unwrap();
    let shop = fs::read_to_string(examples().join("shop.py")).unwrap();
    assert!(
        document.contains(&format!("```python\n{shop}```\n")),
        "docs/handlers.md does not show docs/examples/shop.py"
    );
}
