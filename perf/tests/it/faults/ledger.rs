//! The reckoning after faults: each event that was answered 2xx is one event with one job, the job has its outcome, got
//! it once, each of its attempts is explained, and its handler ran at least once and no more often than it was started.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use perf::ledger::compare;
use serde_json::Value;
use uuid::Uuid;

use super::load::Load;
use crate::world::{World, eventually_or};

/// What handlers say when they begin, which is the side effect that is counted.
const HANDLER_LINES: [&str; 2] = ["event received", "chaos: obeying"];

/// What was found, all of it right.
#[derive(Debug)]
pub(crate) struct Reckoning {
    pub(crate) jobs: usize,
    pub(crate) runs: u32,
    pub(crate) rescued: i64,
    pub(crate) failed: i64,
    retries: u32,
    pub(crate) known: u32,
    /// From the last answer until everything was final.
    final_after: Duration,
}

impl fmt::Display for Reckoning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let jobs = u32::try_from(self.jobs).unwrap();
        write!(
            f,
            "{jobs} jobs, each once, after {} retries ({} of them known already); {} handler runs, {} more than jobs; {} \
             runs taken over, {} failed; all final {:.1} s after the last answer",
            self.retries,
            self.known,
            self.runs,
            self.runs - jobs,
            self.rescued,
            self.failed,
            self.final_after.as_secs_f64()
        )
    }
}

/// A row for each time that a job gets an outcome: what no table of ours would show of a second time.
pub(crate) async fn record_every_finish(world: &World) {
    world
        .sql
        .batch_execute(
            "create table public.finishes (job_id uuid not null, outcome text not null);
             create function public.record_finish() returns trigger language plpgsql security definer as $$
             begin
               if new.outcome is not null then
                 insert into public.finishes values (new.id, new.outcome);
               end if;
               return null;
             end $$;
             create trigger record_finish after update on store.jobs
               for each row execute function public.record_finish()",
        )
        .await
        .unwrap();
}

/// Waits for all answers, then until everything is final, then compares. All events are to have succeeded.
pub(crate) async fn reckon(world: &World, load: &mut Load, final_within: Duration) -> Reckoning {
    load.end().await;
    let began = Instant::now();
    all_is_final(world, final_within).await;
    let final_after = began.elapsed();
    promises(world, load).await;
    finishes(world, load.released()).await;
    let runs = side_effects(world).await;
    let log = async |what: &str| {
        let query = "select count(*) from store.job_log where what = $1";
        world.sql.query_one(query, &[&what]).await.unwrap().get(0)
    };
    Reckoning {
        jobs: load.released(),
        runs,
        rescued: log("rescued").await,
        failed: log("failed").await,
        retries: load.shared.retries.load(Ordering::Relaxed),
        known: load.shared.known.load(Ordering::Relaxed),
        final_after,
    }
}

/// Waits until no job is open and the outbox is empty.
pub(crate) async fn all_is_final(world: &World, within: Duration) {
    let what = "no job is open and the outbox is empty";
    let mut last = String::new();
    eventually_or(what, within, &mut last, async |last: &mut String| {
        let open = world.count("select count(*) from store.open_jobs").await;
        let waiting = world.count("select count(*) from store.outbox_messages").await;
        *last = format!("{open} jobs are open, {waiting} messages wait");
        (open + waiting == 0).then_some(())
    })
    .await;
}

/// Each 2xx is one event with one job, that of the answer, and there are no others.
async fn promises(world: &World, load: &Load) {
    let accepted = load.shared.accepted.lock().unwrap().clone();
    let pool = world.db.pool("owner");
    let client = pool.get().await.unwrap();
    for (source, answers) in &accepted {
        let sent: Vec<String> = answers
            .iter()
            .map(|answer| answer.provider_event_id.clone())
            .collect();
        let found = compare(
            &client,
            world.tenant_id,
            source,
            load.shared.since,
            &sent,
            answers,
        )
        .await
        .unwrap();
        assert!(found.is_right(), "{source}: {found:?}");
        let each = (found.accepted, found.stored, found.jobs);
        assert_eq!(each, (sent.len(), sent.len(), sent.len()), "{source}");
    }
    let answered: usize = accepted.values().map(Vec::len).sum();
    assert_eq!(answered, load.released(), "every event was answered once");
    let total = i64::try_from(answered).unwrap();
    for query in [
        "select count(*) from store.jobs",
        "select count(*) from store.jobs where outcome = 'succeeded'",
        "select count(distinct event_id) from store.webhook_inbox",
    ] {
        assert_eq!(world.count(query).await, total, "{query}");
    }
    assert_eq!(world.count("select count(*) from store.dead_jobs").await, 0);
    let dlq = world.broker.topology().dlq;
    assert!(world.broker.get(&dlq).await.is_none(), "nothing was given up");
}

/// Each job was finished once, and each of its attempts follows from a failure or a rescue before it.
async fn finishes(world: &World, jobs: usize) {
    let total = i64::try_from(jobs).unwrap();
    for query in [
        "select count(*) from public.finishes",
        "select count(distinct job_id) from public.finishes",
    ] {
        assert_eq!(world.count(query).await, total, "{query}");
    }
    let unaccounted = "select count(*) from store.jobs j
        where j.attempts <> 1 + (select count(*) from store.job_log l where l.job_id = j.id and l.what in ('rescued', 'failed'))";
    let unaccounted = world.count(unaccounted).await;
    assert_eq!(unaccounted, 0, "an attempt is counted that nothing explains");
}

/// What the consumers say of their runs agrees with the rows; returns how many runs there were.
async fn side_effects(world: &World) -> u32 {
    let (mut runs, mut finished) = (HashMap::<Uuid, u32>::new(), HashMap::<Uuid, u32>::new());
    for consumer in world
        .services()
        .iter()
        .filter(|service| service.kind() == "consumer")
    {
        for line in consumer.log().lines() {
            let count = if HANDLER_LINES.iter().any(|mark| line.contains(mark)) {
                &mut runs
            } else if line.contains("job succeeded") {
                &mut finished
            } else {
                continue;
            };
            *count.entry(job_of(line)).or_default() += 1;
        }
    }
    let attempts: HashMap<Uuid, i16> = world
        .sql
        .query("select id, attempts from store.jobs", &[])
        .await
        .unwrap()
        .iter()
        .map(|row| (row.get(0), row.get(1)))
        .collect();
    for (job, attempts) in &attempts {
        let runs = runs.get(job).copied().unwrap_or_default();
        let most = u32::try_from(*attempts).unwrap();
        assert!(
            (1..=most).contains(&runs),
            "{job} ran {runs} times in {attempts} attempts"
        );
        let finished = finished.get(job).copied().unwrap_or_default();
        assert!(
            finished <= 1,
            "consumers say {finished} times that they finished {job}"
        );
    }
    let strangers: Vec<_> = runs.keys().filter(|job| !attempts.contains_key(job)).collect();
    assert!(
        strangers.is_empty(),
        "handlers ran for {strangers:?}, which are no jobs"
    );
    // A consumer that died between the commit and the line has not said it: a batch for each kill, and there may be one for
    // every five jobs. The lines must be there to be counted, that is all.
    let said = finished.len() * 4;
    assert!(
        said > attempts.len() * 3,
        "{} say so of {} jobs",
        finished.len(),
        attempts.len()
    );
    runs.values().sum()
}

fn job_of(line: &str) -> Uuid {
    let fields: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    let job = fields["job.id"].as_str().and_then(|id| id.parse().ok());
    job.unwrap_or_else(|| panic!("no job.id in {line}"))
}
