//! Two sessions at the same job, stepped by hand: the first has done its part and not committed, the second waits for it
//! or passes by; then the first commits, or rolls back. Whichever comes first, one of the two is told that it was late,
//! and the tables hold what one of them did.

use std::time::Duration;

use sql::jobs::{JobAttempt, Run, Start, start_jobs};
use sql::testing::TestDb;
use tokio_postgres::{Client, SimpleQueryMessage};
use uuid::Uuid;

use crate::support::{Hook, accepted, api, consumer, count, hook, ingest, waiting_sessions};

/// How the first session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Commit,
    Rollback,
}

/// What a statement answers: the first column of its rows, joined.
async fn ask(client: &Client, statement: &str) -> Result<String, tokio_postgres::Error> {
    let answers = client.simple_query(statement).await?;
    let column = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("null").to_owned()),
        _ => None,
    };
    Ok(answers.iter().filter_map(column).collect::<Vec<_>>().join(" "))
}

/// Waits until that many sessions wait for a lock.
async fn waiting(db: &TestDb, sessions: i64) {
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while waiting_sessions(db).await < sessions {
        assert!(std::time::Instant::now() < until, "{sessions} sessions wait");
    }
}

/// `first` in an open transaction, then `second`, which must wait for it, or say that the job is somebody else's just now
/// and is asked again after the end of the first. What they answer.
async fn race(db: &TestDb, first: &str, second: &str, end: End) -> (String, String) {
    let (one, two) = (db.owner().await, db.owner().await);
    one.batch_execute("begin").await.unwrap();
    let won = ask(&one, first).await.unwrap();
    let statement = second.to_owned();
    let late = tokio::spawn(async move { ask(&two, &statement).await });
    let until = std::time::Instant::now() + Duration::from_secs(10);
    while !late.is_finished() && waiting_sessions(db).await < 1 {
        assert!(std::time::Instant::now() < until, "the second waits or ends");
    }
    let is_refused = late.is_finished();
    one.batch_execute(if end == End::Commit { "commit" } else { "rollback" })
        .await
        .unwrap();
    let answer = late.await.unwrap().unwrap();
    if !is_refused {
        return (won, answer);
    }
    assert!(["{}", "locked"].contains(&answer.as_str()), "{second}: {answer}");
    (won, ask(&db.owner().await, second).await.unwrap())
}

async fn new_job(db: &TestDb, id: &str) -> Uuid {
    accepted(&ingest(&api(db).await, &[hook(id)]).await[0])
        .job_id
        .unwrap()
}

async fn running(db: &TestDb, id: &str) -> Run {
    let job_id = new_job(db, id).await;
    let asked = JobAttempt { job_id, attempt: 1 };
    let mut answers = start_jobs(&consumer(db).await, &[asked], Duration::from_secs(30), 5)
        .await
        .unwrap();
    match answers.remove(0) {
        Start::Started(job) => job.run,
        other => panic!("not started: {other:?}"),
    }
}

fn verb(function: &str, jobs: &[Uuid]) -> String {
    format!(
        "select outcome from relayforge.{function}({}, 'race') order by job_id",
        array(jobs)
    )
}

fn array(ids: &[Uuid]) -> String {
    let ids: Vec<String> = ids.iter().map(Uuid::to_string).collect();
    format!("'{{{}}}'::uuid[]", ids.join(","))
}

fn complete(run: Run) -> String {
    format!(
        "call relayforge.complete_jobs({}, {}, null)",
        array(&[run.job_id]),
        array(&[run.run_id])
    )
}

fn fail(run: Run) -> String {
    format!(
        "call relayforge.fail_jobs({}, {}, array['no answer'], array[true], array[null::double precision],
                                  3, '1 second', '10 seconds', null, null, null)",
        array(&[run.job_id]),
        array(&[run.run_id])
    )
}

fn start(job: Uuid, attempt: u8) -> String {
    format!(
        "select outcome from relayforge.start_jobs({}, array[{attempt}], '30 seconds', 5)",
        array(&[job])
    )
}

/// An hour from now: all leases have run out.
const SWEEP: &str = "select rescued || ' and ' || poisoned
                       from relayforge.sweep_leases(100, 5, clock_timestamp() + interval '1 hour')";

/// What a procedure answers that has changed that job.
fn changed(job: Uuid) -> String {
    format!("{{{job}}}")
}

/// Where a job is: outcome and runs, or state and attempt; and for what attempts there are messages.
async fn story(db: &TestDb, job: Uuid) -> String {
    let query = format!(
        "select concat_ws(' ', j.outcome, j.attempts, o.state, o.attempt, 'messages', m.attempts)
           from store.jobs j
           left join store.open_jobs o on o.job_id = j.id
          cross join lateral (
            select coalesce(string_agg(b.attempt::text, ',' order by b.attempt), 'none') as attempts
              from store.outbox_messages b
             where b.job_id = j.id and b.target in ('jobs', 'retries')) m
          where j.id = '{job}'"
    );
    ask(&db.owner().await, &query).await.unwrap()
}

#[tokio::test]
async fn complete_and_cancel() {
    let db = TestDb::create().await;
    let run = running(&db, "complete first").await;
    let (complete_it, cancel_it) = (complete(run), verb("cancel_jobs", &[run.job_id]));
    let answers = race(&db, &complete_it, &cancel_it, End::Commit).await;
    assert_eq!(answers, (changed(run.job_id), "final".to_owned()));
    assert_eq!(story(&db, run.job_id).await, "succeeded 1 messages 1");

    let run = running(&db, "cancel first").await;
    let (complete_it, cancel_it) = (complete(run), verb("cancel_jobs", &[run.job_id]));
    let answers = race(&db, &cancel_it, &complete_it, End::Commit).await;
    assert_eq!(answers, ("cancelled".to_owned(), "{}".to_owned()));
    assert_eq!(story(&db, run.job_id).await, "cancelled 1 messages 1");

    let run = running(&db, "cancel is taken back").await;
    let (complete_it, cancel_it) = (complete(run), verb("cancel_jobs", &[run.job_id]));
    let answers = race(&db, &cancel_it, &complete_it, End::Rollback).await;
    assert_eq!(answers.1, changed(run.job_id));
    assert_eq!(story(&db, run.job_id).await, "succeeded 1 messages 1");
}

#[tokio::test]
async fn fail_and_cancel() {
    let db = TestDb::create().await;
    let run = running(&db, "fail first").await;
    let cancel_it = verb("cancel_jobs", &[run.job_id]);
    let answers = race(&db, &fail(run), &cancel_it, End::Commit).await;
    assert_eq!(answers, (changed(run.job_id), "cancelled".to_owned()));
    // Its second attempt was never begun; the message for it will find the job final.
    assert_eq!(story(&db, run.job_id).await, "cancelled 1 messages 1,2");
    assert_eq!(
        ask(&db.owner().await, &start(run.job_id, 2)).await.unwrap(),
        "final"
    );

    let run = running(&db, "cancel first").await;
    let cancel_it = verb("cancel_jobs", &[run.job_id]);
    let answers = race(&db, &cancel_it, &fail(run), End::Commit).await;
    assert_eq!(answers, ("cancelled".to_owned(), "{}".to_owned()));
    assert_eq!(story(&db, run.job_id).await, "cancelled 1 messages 1");

    let run = running(&db, "cancel is taken back").await;
    let cancel_it = verb("cancel_jobs", &[run.job_id]);
    let answers = race(&db, &cancel_it, &fail(run), End::Rollback).await;
    assert_eq!(answers.1, changed(run.job_id));
    assert_eq!(story(&db, run.job_id).await, "retrying 2 messages 1,2");
}

#[tokio::test]
async fn sweep_and_complete() {
    let db = TestDb::create().await;
    let run = running(&db, "sweep first").await;
    let answers = race(&db, SWEEP, &complete(run), End::Commit).await;
    assert_eq!(answers, ("1 and 0".to_owned(), "{}".to_owned()));
    assert_eq!(story(&db, run.job_id).await, "retrying 2 messages 1,2");

    let late = running(&db, "sweep is taken back").await;
    let answers = race(&db, SWEEP, &complete(late), End::Rollback).await;
    assert_eq!(answers.1, changed(late.job_id));
    assert_eq!(story(&db, late.job_id).await, "succeeded 1 messages 1");

    // The sweeper waits for nobody: it leaves the row that is being completed to whoever has it.
    let run = running(&db, "complete first").await;
    let (one, two) = (db.owner().await, db.owner().await);
    two.batch_execute("set lock_timeout = '5s'").await.unwrap();
    one.batch_execute("begin").await.unwrap();
    assert_eq!(ask(&one, &complete(run)).await.unwrap(), changed(run.job_id));
    assert_eq!(ask(&two, SWEEP).await.unwrap(), "0 and 0");
    one.batch_execute("commit").await.unwrap();
    assert_eq!(ask(&two, SWEEP).await.unwrap(), "0 and 0");
    assert_eq!(story(&db, run.job_id).await, "succeeded 1 messages 1");
}

#[tokio::test]
async fn reprocess_twice() {
    let db = TestDb::create().await;
    for (end, second) in [(End::Commit, "open"), (End::Rollback, "reprocessed")] {
        let job = new_job(&db, second).await;
        let client = db.owner().await;
        ask(&client, &verb("cancel_jobs", &[job])).await.unwrap();
        let again = verb("reprocess_jobs", &[job]);
        let answers = race(&db, &again, &again, end).await;
        assert_eq!(answers, ("reprocessed".to_owned(), second.to_owned()));
        // The first message was there before.
        assert_eq!(story(&db, job).await, "queued 1 messages 1,1");
    }
}

#[tokio::test]
async fn hold_and_start() {
    let db = TestDb::create().await;
    let job = new_job(&db, "hold first").await;
    let hold_it = verb("hold_jobs", &[job]);
    let answers = race(&db, &hold_it, &start(job, 1), End::Commit).await;
    assert_eq!(answers, ("held".to_owned(), "held".to_owned()));
    assert_eq!(story(&db, job).await, "held 1 messages 1");

    let job = new_job(&db, "start first").await;
    let hold_it = verb("hold_jobs", &[job]);
    let answers = race(&db, &start(job, 1), &hold_it, End::Commit).await;
    assert_eq!(answers, ("started".to_owned(), "processing".to_owned()));
    assert_eq!(story(&db, job).await, "processing 1 messages 1");

    let job = new_job(&db, "start is taken back").await;
    let hold_it = verb("hold_jobs", &[job]);
    let answers = race(&db, &start(job, 1), &hold_it, End::Rollback).await;
    assert_eq!(answers.1, "held");
    assert_eq!(story(&db, job).await, "held 1 messages 1");
}

#[tokio::test]
async fn release_twice() {
    let db = TestDb::create().await;
    for (end, second) in [(End::Commit, "not_held"), (End::Rollback, "released")] {
        let job = new_job(&db, second).await;
        let client = db.owner().await;
        ask(&client, &verb("hold_jobs", &[job])).await.unwrap();
        let let_go = verb("release_jobs", &[job]);
        let answers = race(&db, &let_go, &let_go, end).await;
        assert_eq!(answers, ("released".to_owned(), second.to_owned()));
        assert_eq!(story(&db, job).await, "queued 1 messages 1,1");
    }
}

/// As the API would send it, but without its lock_timeout.
fn delivery(id: &str) -> String {
    format!(
        "select outcome from relayforge.ingest_webhooks(
           array['00000000-0000-0000-0000-000000000000'::uuid], array['generic'], array['{id}'], array['order.created'],
           array['another body'::bytea], array['{{\"a\": \"b\"}}'::jsonb], array[null::timestamptz], array[null::uuid],
           array['race'], array[null::jsonb], 1000, '7 days', '1 day')"
    )
}

#[tokio::test]
async fn erase_and_a_duplicate() {
    let db = TestDb::create().await;
    for (id, erases_first) in [("erase first", true), ("duplicate first", false)] {
        let ids = accepted(&ingest(&api(&db).await, &[hook(id)]).await[0]);
        let erase = format!("select relayforge.erase_event('{}', 'race')", ids.event_id);
        let (first, second) = if erases_first {
            (erase, delivery(id))
        } else {
            (delivery(id), erase)
        };
        let answers = race(&db, &first, &second, End::Commit).await;
        let expected = if erases_first {
            ("1", "duplicate")
        } else {
            ("duplicate", "2")
        };
        assert_eq!((answers.0.as_str(), answers.1.as_str()), expected);
        let left = format!(
            "select count(*) from store.webhook_inbox
              where event_id = '{}' and (body is not null or headers <> '{{}}')",
            ids.event_id
        );
        assert_eq!(count(&db, &left).await, 0, "{id}");
        let job = ids.job_id.unwrap();
        assert_eq!(story(&db, job).await, "cancelled 0 messages 1");
    }
}

#[tokio::test]
async fn erase_and_complete() {
    let db = TestDb::create().await;
    let erase = |run: Run| {
        format!(
            "select relayforge.erase_event(event_id, 'race') from store.jobs where id = '{}'",
            run.job_id
        )
    };
    let run = running(&db, "erase first").await;
    let answers = race(&db, &erase(run), &complete(run), End::Commit).await;
    assert_eq!(answers, ("1".to_owned(), "{}".to_owned()));
    assert_eq!(story(&db, run.job_id).await, "cancelled 1 messages 1");

    let run = running(&db, "complete first").await;
    let answers = race(&db, &complete(run), &erase(run), End::Commit).await;
    assert_eq!(answers, (changed(run.job_id), "1".to_owned()));
    assert_eq!(story(&db, run.job_id).await, "succeeded 1 messages 1");
}

/// Both have half of them to go when a third session lets go of the job in the middle.
#[tokio::test]
async fn cancel_in_opposite_orders() {
    let db = TestDb::create().await;
    let hooks: Vec<Hook> = (0..50).map(|i| hook(&i.to_string())).collect();
    let ingested = ingest(&api(&db).await, &hooks).await;
    let jobs: Vec<Uuid> = ingested
        .iter()
        .map(|answer| accepted(answer).job_id.unwrap())
        .collect();
    let backwards: Vec<Uuid> = jobs.iter().rev().copied().collect();
    let (psql, one, two) = (db.owner().await, db.owner().await, db.owner().await);
    psql.batch_execute(&format!(
        "begin; select from store.open_jobs where job_id = '{}' for update",
        jobs[25]
    ))
    .await
    .unwrap();
    let (forwards, backwards) = (verb("cancel_jobs", &jobs), verb("cancel_jobs", &backwards));
    let first = tokio::spawn(async move { ask(&one, &forwards).await });
    let second = tokio::spawn(async move { ask(&two, &backwards).await });
    waiting(&db, 2).await;
    psql.batch_execute("commit").await.unwrap();
    let answers = [first.await.unwrap().unwrap(), second.await.unwrap().unwrap()];
    let (won, late) = (["cancelled"; 50].join(" "), ["final"; 50].join(" "));
    assert!(answers.contains(&won) && answers.contains(&late), "{answers:?}");
}

/// Both lock jobs in the order of their ids, whatever the order they are asked in.
#[tokio::test]
async fn complete_and_reprocess_in_opposite_orders() {
    let db = TestDb::create().await;
    let mut runs = Vec::new();
    for id in ["a", "b", "c"] {
        runs.push(running(&db, id).await);
    }
    let jobs: Vec<Uuid> = runs.iter().map(|run| run.job_id).collect();
    let (psql, one, two) = (db.owner().await, db.owner().await, db.owner().await);
    psql.batch_execute(&format!(
        "begin; select from store.jobs where id = '{}' for no key update",
        jobs[1]
    ))
    .await
    .unwrap();
    let (late, current): (Vec<Uuid>, Vec<Uuid>) =
        runs.iter().rev().map(|run| (run.job_id, run.run_id)).unzip();
    let complete = format!(
        "call relayforge.complete_jobs({}, {}, null)",
        array(&late),
        array(&current)
    );
    let reprocess = verb("reprocess_jobs", &jobs);
    let first = tokio::spawn(async move { ask(&one, &complete).await });
    waiting(&db, 1).await;
    let second = tokio::spawn(async move { ask(&two, &reprocess).await });
    psql.batch_execute("commit").await.unwrap();
    first.await.unwrap().unwrap();
    second.await.unwrap().unwrap();
}

/// Whoever is second sees the other: no open job remains whose event is gone.
#[tokio::test]
async fn reprocess_and_erase() {
    let db = TestDb::create().await;
    let ids = accepted(&ingest(&api(&db).await, &[hook("a")]).await[0]);
    let job = ids.job_id.unwrap();
    let (one, two) = (db.owner().await, db.owner().await);
    ask(&one, &verb("cancel_jobs", &[job])).await.unwrap();
    one.batch_execute("begin").await.unwrap();
    assert_eq!(
        ask(&one, &verb("reprocess_jobs", &[job])).await.unwrap(),
        "reprocessed"
    );
    let erase = format!("select relayforge.erase_event('{}', 'race')", ids.event_id);
    let erasing = tokio::spawn(async move { ask(&two, &erase).await });
    // Mended, it may wait.
    let until = std::time::Instant::now() + Duration::from_secs(1);
    while !erasing.is_finished() && std::time::Instant::now() < until {
        tokio::task::yield_now().await;
    }
    one.batch_execute("commit").await.unwrap();
    assert_eq!(erasing.await.unwrap().unwrap(), "1");
    let open = "select count(*) from store.open_jobs o join store.jobs j on j.id = o.job_id
                  join store.webhook_inbox i on i.id = j.event_id where i.erased_at is not null";
    assert_eq!(count(&db, open).await, 0, "open jobs of erased events");
}
