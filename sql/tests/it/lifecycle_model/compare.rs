//! What the tables hold of jobs against what the model says they do, after each step; and what must be true of any
//! state. What they hold of events is in `compare_intake.rs`.

use std::collections::BTreeMap;
use std::fmt::Debug;

use anyhow::{Result, ensure};
use uuid::Uuid;

use super::model::{Job, Message, Outcome, State, Time, is_work};
use super::step::Case;

/// A job that is open: state, attempt, attempt_base, starts, run, lease, due.
type OpenRow = (String, i16, i16, i16, Option<Uuid>, Option<Time>, Option<Time>);
/// Any job: outcome, attempts, finished, whether it has an error, cause of death.
type JobRow = (Option<String>, Option<i16>, Option<Time>, bool, Option<String>);

pub(crate) fn same<K: Ord + Debug, V: PartialEq + Debug>(
    what: &str,
    found: &BTreeMap<K, V>,
    expected: &BTreeMap<K, V>,
) -> Result<()> {
    for key in expected.keys().chain(found.keys()) {
        let (found, expected) = (found.get(key), expected.get(key));
        ensure!(
            found == expected,
            "{what} of {key:?}: the database has {found:?}, the model {expected:?}"
        );
    }
    Ok(())
}

impl Case<'_> {
    pub(crate) async fn compare(&mut self) -> Result<()> {
        // One round trip for the three.
        tokio::try_join!(self.compare_open_jobs(), self.compare_jobs(), self.compare_log())?;
        self.compare_outbox().await?;
        self.every_open_job_has_a_way_forward()
    }

    /// The number of a job; one that the model has not is none.
    fn number(&self, id: Uuid) -> usize {
        self.model.job_of(id).unwrap_or(usize::MAX)
    }

    async fn compare_open_jobs(&self) -> Result<()> {
        let rows = self
            .database
            .rows(
                "select job_id, state, attempt, attempt_base, starts, run_id, lease_until,
                        case when due_at < 'infinity' then due_at end
                   from store.open_jobs",
                &[],
            )
            .await?;
        let found: BTreeMap<usize, OpenRow> = rows
            .iter()
            .map(|r| {
                let row = (
                    r.get(1),
                    r.get(2),
                    r.get(3),
                    r.get(4),
                    r.get(5),
                    r.get(6),
                    r.get(7),
                );
                (self.number(r.get(0)), row)
            })
            .collect();
        let open = self
            .model
            .jobs
            .iter()
            .enumerate()
            .filter(|(_, job)| job.is_open());
        let expected = open.map(|(number, job)| (number, open_row(job))).collect();
        same("open_jobs", &found, &expected)
    }

    async fn compare_jobs(&self) -> Result<()> {
        let rows = self
            .database
            .rows(
                "select j.id, j.outcome, j.attempts, j.finished_at, j.last_error is not null, d.cause
                   from store.jobs j
                   left join store.dead_jobs d on d.job_id = j.id",
                &[],
            )
            .await?;
        let found: BTreeMap<usize, JobRow> = rows
            .iter()
            .map(|r| {
                (
                    self.number(r.get(0)),
                    (r.get(1), r.get(2), r.get(3), r.get(4), r.get(5)),
                )
            })
            .collect();
        let jobs = self.model.jobs.iter().enumerate();
        same(
            "jobs",
            &found,
            &jobs.map(|(number, job)| (number, job_row(job))).collect(),
        )
    }

    /// What operators are shown: status and runs that were started.
    pub(crate) async fn compare_overview(&self) -> Result<()> {
        let query = "select job_id, status, attempts from relayforge.job_overview";
        let rows = self.database.rows(query, &[]).await?;
        let mut found: BTreeMap<usize, (String, i32)> = BTreeMap::new();
        for r in &rows {
            found.insert(self.number(r.get(0)), (r.get(1), r.get(2)));
        }
        let jobs = self.model.jobs.iter().enumerate();
        let expected = jobs.map(|(number, job)| {
            let outcome = job_row(job).0;
            (
                number,
                (outcome.unwrap_or_else(|| open_row(job).0), job.runs.into()),
            )
        });
        same("job_overview", &found, &expected.collect())
    }

    /// Also learns the ids of rows that are new.
    async fn compare_outbox(&mut self) -> Result<()> {
        let query =
            "select id, target, job_id, attempt, next_attempt_at, attempts from store.outbox_messages";
        let rows = self.database.rows(query, &[]).await?;
        let mut new = Vec::new();
        for row in &rows {
            let (id, target): (Uuid, &str) = (row.get(0), row.get(1));
            let rest = (self.number(row.get(2)), row.get(3), row.get(4), row.get(5));
            let is = |m: &Message| m.target == target && (m.job, m.attempt, m.due, m.failures) == rest;
            match self.model.outbox.iter().find(|m| m.id == Some(id)) {
                Some(known) => ensure!(is(known), "outbox has {rest:?}, expected {known:?}"),
                None => new.push((id, target, rest)),
            }
        }
        for (id, target, rest) in new {
            let message = self.model.outbox.iter_mut().find(|m| {
                m.id.is_none() && m.target == target && (m.job, m.attempt, m.due, m.failures) == rest
            });
            let Some(message) = message else {
                anyhow::bail!("outbox has a row for {target} that is not expected: {rest:?}");
            };
            message.id = Some(id);
        }
        let missing = self.model.outbox.iter().find(|m| m.id.is_none());
        ensure!(missing.is_none(), "outbox lacks {missing:?}");
        ensure!(rows.len() == self.model.outbox.len(), "outbox has lost a row");
        Ok(())
    }

    async fn compare_log(&self) -> Result<()> {
        let rows = self
            .database
            .rows(
                "select l.job_id, l.what, a.attempt, count(*)
                   from store.job_log l
                  cross join lateral (
                    select case when l.what in ('published', 'failed', 'rescued', 'dead') then l.attempt else 0 end) a(attempt)
                  group by 1, 2, 3",
                &[],
            )
            .await?;
        let found: BTreeMap<(usize, String, i16), i64> = rows
            .iter()
            .map(|r| {
                (
                    (
                        self.number(r.get(0)),
                        r.get(1),
                        i16::try_from(r.get::<_, i32>(2)).unwrap(),
                    ),
                    r.get(3),
                )
            })
            .collect();
        let log = self.model.log.iter();
        let expected =
            log.map(|((job, what, attempt), times)| ((*job, (*what).to_owned(), *attempt), *times));
        same("job_log", &found, &expected.collect())?;
        Ok(())
    }

    fn every_open_job_has_a_way_forward(&self) -> Result<()> {
        for (number, job) in self.model.jobs.iter().enumerate() {
            let message = (number, job.attempt());
            let moves = match job.state {
                State::Final(_) | State::HeldByOperator | State::Processing { .. } => true,
                State::Queued | State::Retrying | State::HeldByQuota => {
                    let in_outbox = |m: &Message| is_work(m.target) && (m.job, m.attempt) == message;
                    self.model.outbox.iter().any(in_outbox) || self.model.broker.contains(&message)
                }
            };
            ensure!(moves, "job {number} waits for nothing: {job:?}");
        }
        Ok(())
    }
}

fn open_row(job: &Job) -> OpenRow {
    let (state, run, lease) = match job.state {
        State::Queued => ("queued", None, None),
        State::Retrying => ("retrying", None, None),
        State::HeldByQuota | State::HeldByOperator => ("held", None, None),
        State::Processing { run, lease_until } => ("processing", Some(run), Some(lease_until)),
        State::Final(_) => ("final", None, None),
    };
    // What is not a failure does not count against the budget.
    let free = job.attempt() - job.failures - 1;
    (
        state.to_owned(),
        job.attempt(),
        free,
        job.unfinished,
        run,
        lease,
        job.due,
    )
}

fn job_row(job: &Job) -> JobRow {
    let (outcome, cause) = match job.state {
        State::Final(Outcome::Succeeded) => (Some("succeeded"), None),
        State::Final(Outcome::Cancelled) => (Some("cancelled"), None),
        State::Final(Outcome::DeadLettered(cause)) => (Some("dead_lettered"), Some(cause)),
        _ => (None, None),
    };
    (
        outcome.map(str::to_owned),
        outcome.map(|_| job.runs),
        job.finished_at,
        job.error,
        cause.map(str::to_owned),
    )
}

/// What must hold at the end, asked of the tables alone.
impl Case<'_> {
    pub(crate) async fn assert_all_ended(&self) -> Result<()> {
        self.compare_intake().await?;
        self.compare_overview().await?;
        for (what, wrong) in [
            ("a job is open", "select 1 from store.open_jobs"),
            (
                "a job has no outcome",
                "select 1 from store.jobs where outcome is null or attempts is null",
            ),
            (
                "an event has two jobs",
                "select 1 from store.jobs group by event_id having count(*) > 1",
            ),
            (
                "an event has no job",
                "select 1 from store.webhook_inbox i where i.id = i.event_id
                    and not exists (select 1 from store.jobs j where j.event_id = i.id)",
            ),
            (
                "dead_jobs and jobs differ",
                "select 1 from store.jobs j full join store.dead_jobs d on d.job_id = j.id
                  where (j.outcome = 'dead_lettered') is distinct from (d.job_id is not null)",
            ),
            ("the outbox is not empty", "select 1 from store.outbox_messages"),
            (
                "quota is not what was accepted",
                "select 1 from store.tenant_daily_quota_usage
                 having coalesce(sum(used), 0) <> (select count(*) from store.jobs)",
            ),
        ] {
            ensure!(
                self.database.rows(wrong, &[]).await?.is_empty(),
                "at the end {what}"
            );
        }
        for (number, job) in self.model.jobs.iter().enumerate() {
            ensure!(
                job.ends == job.reopened + 1,
                "job {number} has ended {} times",
                job.ends
            );
        }
        Ok(())
    }
}
