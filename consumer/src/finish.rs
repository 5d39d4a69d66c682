//! Writes the outcomes of runs to the database, as many at once as wait.
//!
//! Owns the two queues of outcomes (a failure that waits for a lock does not hold up what succeeded) and their retries
//! while the database is away. It may repeat a call whose answer was lost: only the current run can end a job.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use sql::jobs::{Failed, FailedRun, RetryPolicy, Run, complete_jobs, fail_jobs};
use sql::{DbError, Object};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use uuid::Uuid;

use crate::database::{CALL_TIMEOUT, Database, persist};
use crate::outcome::{Outcome, Tally};
use crate::wake::{Wake, Waker};

/// Outcomes written in one call.
const BATCH: usize = 256;

/// Pause before the outcome of a job that somebody else holds is tried again.
const BUSY_PAUSE: Duration = Duration::from_millis(200);

/// What became of the job of a run that has ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Ended {
    /// Its outcome is `succeeded`.
    Succeeded,
    /// It waits for its next attempt.
    Retrying,
    /// It was given up.
    DeadLettered,
    /// It was not this run's any more: taken over, cancelled, or ended by a call whose answer was lost. Nothing was
    /// written.
    NotOurs,
    /// Somebody else holds the job just now: nothing was written, ask again.
    Busy,
    /// The database refuses the call, and not for a moment: the lease will run out and the sweeper decide.
    Unwritten(String),
}

#[derive(Debug)]
struct Finished {
    run: Run,
    /// None if it succeeded.
    failure: Option<FailedRun>,
    reply: oneshot::Sender<Ended>,
}

/// Takes the outcomes of runs. Clones feed the same queues.
#[derive(Debug, Clone)]
pub(crate) struct Finisher {
    succeeded: mpsc::Sender<Finished>,
    failed: mpsc::Sender<Finished>,
}

/// What writing needs.
#[derive(Debug, Clone)]
pub(crate) struct Writer {
    pub(crate) database: Database,
    pub(crate) policy: RetryPolicy,
    pub(crate) waker: Waker,
    pub(crate) tally: Tally,
}

impl Finisher {
    /// Starts both writers on `tasks`. Each queue holds `slots` outcomes, more than there can be.
    pub(crate) fn start(writer: &Writer, slots: u16, tasks: &mut JoinSet<()>) -> Self {
        let mut queue = || {
            let (sender, receiver) = mpsc::channel(usize::from(slots));
            tasks.spawn(writer.clone().work(Batches {
                receiver,
                left_over: None,
            }));
            sender
        };
        Self {
            succeeded: queue(),
            failed: queue(),
        }
    }

    /// Has the outcome written, and waits until it is. A job that somebody else holds, in an operator's open transaction
    /// for example, holds up nobody but its own run.
    pub(crate) async fn finish(&self, run: Run, outcome: Outcome) -> Ended {
        let outcome = outcome.bounded();
        loop {
            match self.write_once(run, outcome.clone()).await {
                Ended::Busy => tokio::time::sleep(BUSY_PAUSE).await,
                ended => return ended,
            }
        }
    }

    async fn write_once(&self, run: Run, outcome: Outcome) -> Ended {
        let (reply, answer) = oneshot::channel();
        let failed = |error, retryable, retry_after| {
            Some(FailedRun {
                run,
                error,
                retryable,
                retry_after,
            })
        };
        let (queue, failure) = match outcome {
            Outcome::Succeeded => (&self.succeeded, None),
            Outcome::Retry { error, after } => (&self.failed, failed(error, true, after)),
            Outcome::Failed { error } => (&self.failed, failed(error, false, None)),
        };
        // Neither fails while the writers live, and they live as long as the runs that ask.
        let _ = queue.send(Finished { run, failure, reply }).await;
        answer
            .await
            .unwrap_or_else(|_| Ended::Unwritten("the consumer is ending".to_owned()))
    }
}

/// Takes from a queue whatever waits.
#[derive(Debug)]
struct Batches {
    receiver: mpsc::Receiver<Finished>,
    left_over: Option<Finished>,
}

impl Batches {
    /// The next batch, or `None` at the end. It holds at most one run of a job, because the database's answer names
    /// jobs, not runs.
    async fn next(&mut self) -> Option<Vec<Finished>> {
        let first = match self.left_over.take() {
            Some(finished) => finished,
            None => self.receiver.recv().await?,
        };
        let mut jobs = HashSet::from([first.run.job_id]);
        let mut batch = vec![first];
        while batch.len() < BATCH {
            let Ok(next) = self.receiver.try_recv() else { break };
            if !jobs.insert(next.run.job_id) {
                self.left_over = Some(next);
                break;
            }
            batch.push(next);
        }
        Some(batch)
    }
}

impl Writer {
    async fn work(self, mut batches: Batches) {
        while let Some(batch) = batches.next().await {
            match self.write(&batch).await {
                Ok(ended) => self.reply(batch, &ended),
                // One that can't be written must not hold up the others.
                Err(error) => self.write_each(batch, &error).await,
            }
        }
    }

    async fn write_each(&self, batch: Vec<Finished>, error: &DbError) {
        tracing::error!(%error, runs = batch.len(), "outcomes were refused; trying each by itself");
        for finished in batch {
            let alone = [finished];
            let ended = self.write(&alone).await.unwrap_or_else(|error| {
                alone
                    .iter()
                    .map(|f| (f.run.job_id, Ended::Unwritten(error.to_string())))
                    .collect()
            });
            self.reply(alone.into(), &ended);
        }
    }

    /// Writes outcomes of one sort; returns what became of the jobs whose current run it was.
    async fn write(&self, batch: &[Finished]) -> Result<HashMap<Uuid, Ended>, DbError> {
        let failures: Vec<FailedRun> = batch
            .iter()
            .filter_map(|finished| finished.failure.clone())
            .collect();
        if failures.is_empty() {
            let runs: Vec<Run> = batch.iter().map(|finished| finished.run).collect();
            let call = async |client: &Object| complete_jobs(client, &runs).await;
            let completed = persist(|| self.database.call(CALL_TIMEOUT, call)).await?;
            return Ok(each(completed.jobs, &Ended::Succeeded)
                .chain(each(completed.busy, &Ended::Busy))
                .collect());
        }
        let call = async |client: &Object| fail_jobs(client, &failures, &self.policy).await;
        let failed = persist(|| self.database.call(CALL_TIMEOUT, call)).await?;
        self.wake(&failed);
        Ok(each(failed.retrying, &Ended::Retrying)
            .chain(each(failed.dead_lettered, &Ended::DeadLettered))
            .chain(each(failed.busy, &Ended::Busy))
            .collect())
    }

    fn wake(&self, failed: &Failed) {
        if !failed.dead_lettered.is_empty() {
            // The copies for the dead-letter queue are due at once.
            self.waker.wish(Wake::Now);
        } else if let Some(due) = failed.next_due {
            self.waker.wish(Wake::At(due));
        }
    }

    fn reply(&self, batch: Vec<Finished>, ended: &HashMap<Uuid, Ended>) {
        for finished in batch {
            let ended = ended.get(&finished.run.job_id).cloned().unwrap_or(Ended::NotOurs);
            match ended {
                Ended::Succeeded => self.tally.succeeded(),
                Ended::Retrying => self.tally.retried(),
                Ended::DeadLettered => self.tally.dead_lettered(1),
                Ended::NotOurs | Ended::Busy | Ended::Unwritten(_) => {}
            }
            // Nobody listens any more when the run was given up at the end of a shutdown.
            let _ = finished.reply.send(ended);
        }
    }
}

fn each(jobs: Vec<Uuid>, ended: &Ended) -> impl Iterator<Item = (Uuid, Ended)> {
    jobs.into_iter().map(|job_id| (job_id, ended.clone()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finished(job: u128, run: u128) -> Finished {
        let run = Run {
            job_id: Uuid::from_u128(job),
            run_id: Uuid::from_u128(run),
        };
        Finished {
            run,
            failure: None,
            reply: oneshot::channel().0,
        }
    }

    #[tokio::test]
    async fn a_batch_is_what_waits_up_to_its_bound() {
        let (sender, receiver) = mpsc::channel(BATCH * 2);
        let mut batches = Batches {
            receiver,
            left_over: None,
        };
        for job in 0..BATCH as u128 + 3 {
            sender.send(finished(job, 1)).await.unwrap();
        }
        assert_eq!(batches.next().await.unwrap().len(), BATCH);
        assert_eq!(batches.next().await.unwrap().len(), 3);
        drop(sender);
        assert!(batches.next().await.is_none());
    }

    #[tokio::test]
    async fn two_runs_of_one_job_are_never_in_one_batch() {
        let (sender, receiver) = mpsc::channel(8);
        let mut batches = Batches {
            receiver,
            left_over: None,
        };
        for (job, run) in [(1, 1), (2, 1), (1, 2), (1, 3), (3, 1)] {
            sender.send(finished(job, run)).await.unwrap();
        }
        drop(sender);
        let mut jobs = Vec::new();
        while let Some(batch) = batches.next().await {
            jobs.push(
                batch
                    .iter()
                    .map(|finished| finished.run.job_id.as_u128())
                    .collect::<Vec<_>>(),
            );
        }
        assert_eq!(jobs, [vec![1, 2], vec![1], vec![1, 3]]);
    }
}
