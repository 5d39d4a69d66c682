//! Whole life cycles: an ingester, a relay lane and a consumer, a connection each, until every job has its outcome.

use std::cell::Cell;
use std::time::{Duration, Instant};

use anyhow::ensure;
use sql::Object;
use sql::jobs::{FailedRun, JobAttempt, RetryPolicy, Run, Start, complete_jobs, fail_jobs, start_jobs};
use sql::outbox::Target;
use sql::volume::{Role, Scratch, flush_statistics};
use tokio::sync::mpsc;
use uuid::Uuid;

use super::feed::Feed;
use super::relay::Drain;

/// Webhooks an ingest call takes: what a busy API has waiting.
const INGEST_ITEMS: usize = 64;

/// Runs the consumer starts and ends at a time: its default number of slots.
const CONSUMER_ITEMS: usize = 64;

/// Jobs that may be under way at once.
const OPEN_JOBS: u64 = 5_000;

/// One job in so many fails its first attempt, and is tried again.
const RETRY_EVERY: u128 = 50;

/// One job in so many is given up at its first attempt.
const GIVE_UP_EVERY: u128 = 200;

/// Without an end of any job for this long, something is wrong.
const STALLED_AFTER: Duration = Duration::from_secs(60);

/// Short, so that a run ends soon.
const POLICY: RetryPolicy = RetryPolicy {
    max_attempts: 5,
    backoff_base: Duration::from_millis(100),
    backoff_cap: Duration::from_secs(1),
};

/// What a run did.
#[derive(Debug, Clone, Copy)]
pub(super) struct Flowed {
    pub(super) jobs: u64,
    pub(super) retried: u64,
    pub(super) given_up: u64,
    pub(super) took: Duration,
}

/// What the three share. One task polls them all, so that plain cells do.
#[derive(Default)]
struct Progress {
    made: Cell<u64>,
    ended: Cell<u64>,
    retried: Cell<u64>,
    given_up: Cell<u64>,
    all_made: Cell<bool>,
}

impl Progress {
    fn open(&self) -> u64 {
        self.made.get().saturating_sub(self.ended.get())
    }

    fn is_done(&self) -> bool {
        self.all_made.get() && self.open() == 0
    }
}

/// Takes that many new jobs through to their end.
pub(super) async fn run(scratch: &Scratch, feed: &mut Feed, jobs: u64) -> anyhow::Result<Flowed> {
    let owner = scratch.session(Role::Owner).await?;
    let flow = Flow {
        // Jobs of earlier than this are of the fill.
        since: sql::config::new_id(&owner).await?,
        progress: Progress::default(),
    };
    let api = scratch.session(Role::Api).await?;
    let consumer = scratch.session(Role::Consumer).await?;
    let mut lanes = [
        Drain::new(scratch, Target::Jobs).await?,
        Drain::new(scratch, Target::Retries).await?,
    ];
    let mut copies = Drain::new(scratch, Target::Dlq).await?;
    let (sender, mut receiver) = mpsc::channel(usize::from(u16::MAX));
    let began = Instant::now();
    tokio::try_join!(
        flow.ingest(&api, feed, jobs),
        flow.publish(&mut lanes, &mut copies, sender),
        flow.consume(&consumer, &mut receiver),
    )?;
    let took = began.elapsed();
    for lane in &lanes {
        lane.flush().await?;
    }
    copies.flush().await?;
    flush_statistics(&api).await?;
    flush_statistics(&consumer).await?;
    Ok(Flowed {
        jobs,
        retried: flow.progress.retried.get(),
        given_up: flow.progress.given_up.get(),
        took,
    })
}

struct Flow {
    since: Uuid,
    progress: Progress,
}

impl Flow {
    async fn ingest(&self, api: &Object, feed: &mut Feed, jobs: u64) -> anyhow::Result<()> {
        let progress = &self.progress;
        while progress.made.get() < jobs {
            if progress.open() >= OPEN_JOBS {
                tokio::time::sleep(Duration::from_millis(1)).await;
                continue;
            }
            let left = usize::try_from(jobs - progress.made.get()).unwrap_or(usize::MAX);
            let webhooks = left.min(INGEST_ITEMS);
            // Counted before: they may be claimed before the call is back.
            progress.made.set(progress.made.get() + webhooks as u64);
            feed.ingest(api, webhooks).await?;
        }
        progress.all_made.set(true);
        Ok(())
    }

    async fn publish(
        &self,
        lanes: &mut [Drain],
        copies: &mut Drain,
        queue: mpsc::Sender<JobAttempt>,
    ) -> anyhow::Result<()> {
        let mut copied_at = Instant::now();
        while !self.progress.is_done() {
            let mut claimed = Vec::new();
            for lane in lanes.iter_mut() {
                claimed.extend(lane.cycle().await?);
            }
            for message in &claimed {
                let attempt = JobAttempt {
                    job_id: message.job_id,
                    attempt: i32::from(message.attempt),
                };
                queue.send(attempt).await?;
            }
            if copied_at.elapsed() > Duration::from_secs(1) {
                copies.empty().await?;
                copied_at = Instant::now();
            }
            if claimed.is_empty() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        }
        copies.empty().await?;
        Ok(())
    }

    async fn consume(&self, session: &Object, queue: &mut mpsc::Receiver<JobAttempt>) -> anyhow::Result<()> {
        let mut ended_at = Instant::now();
        while !self.progress.is_done() {
            let mut asked = Vec::with_capacity(CONSUMER_ITEMS);
            let receive = queue.recv_many(&mut asked, CONSUMER_ITEMS);
            // The sender may have nothing more to say, and not know yet that all is done.
            let _ = tokio::time::timeout(Duration::from_millis(20), receive).await;
            ensure!(
                ended_at.elapsed() < STALLED_AFTER,
                "{} jobs do not end",
                self.progress.open()
            );
            if asked.is_empty() {
                continue;
            }
            if self.run_all(session, &asked).await? > 0 {
                ended_at = Instant::now();
            }
        }
        Ok(())
    }

    /// Starts the runs and ends them; returns how many jobs of ours that ended.
    async fn run_all(&self, session: &Object, asked: &[JobAttempt]) -> anyhow::Result<u64> {
        let (mut succeeded, mut failures): (Vec<Run>, Vec<FailedRun>) = (Vec::new(), Vec::new());
        for start in start_jobs(session, asked, Duration::from_secs(30), 3).await? {
            let Start::Started(job) = start else { continue };
            let number = job.run.job_id.as_u128();
            let (given_up, fails) = (
                number % GIVE_UP_EVERY == 0,
                number % RETRY_EVERY == 1 && job.attempt == 1,
            );
            if given_up || fails {
                failures.push(FailedRun {
                    run: job.run,
                    error: "the shop answered 500 to the confirmation of its order".to_owned(),
                    retryable: !given_up,
                    retry_after: None,
                });
            } else {
                succeeded.push(job.run);
            }
        }
        let ours = |job: &&Uuid| **job > self.since;
        let mut ended = 0;
        if !succeeded.is_empty() {
            ended += complete_jobs(session, &succeeded)
                .await?
                .jobs
                .iter()
                .filter(ours)
                .count() as u64;
        }
        if !failures.is_empty() {
            let failed = fail_jobs(session, &failures, &POLICY).await?;
            let given_up = failed.dead_lettered.iter().filter(ours).count() as u64;
            let retried = failed.retrying.iter().filter(ours).count() as u64;
            let progress = &self.progress;
            progress.retried.set(progress.retried.get() + retried);
            progress.given_up.set(progress.given_up.get() + given_up);
            ended += given_up;
        }
        self.progress.ended.set(self.progress.ended.get() + ended);
        Ok(ended)
    }
}
