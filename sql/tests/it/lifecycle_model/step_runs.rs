//! What consumers and the sweeper do: as in `step.rs`.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use chrono::TimeDelta;
use uuid::Uuid;

use super::model::Time;
use super::step::{Case, pick};

impl Case<'_> {
    pub(crate) async fn deliver(&mut self, picks: &[u8], redelivered: bool) -> Result<()> {
        let live = self.model.broker.len();
        let picked: Vec<usize> = picks.iter().filter_map(|number| pick(*number, live)).collect();
        let messages: Vec<(usize, i16)> = picked.iter().map(|at| self.model.broker[*at]).collect();
        self.start(&messages).await?;
        if !redelivered {
            for at in picked.iter().copied().collect::<BTreeSet<_>>().into_iter().rev() {
                let message = self.model.broker.remove(at);
                self.model.acknowledged.push(message);
            }
        }
        Ok(())
    }

    /// Messages reach a consumer, in one call.
    pub(crate) async fn start(&mut self, messages: &[(usize, i16)]) -> Result<()> {
        let asked: Vec<(Uuid, i16)> = messages
            .iter()
            .map(|(job, attempt)| (self.model.jobs[*job].id, *attempt))
            .collect();
        let rows = self.database.start(&asked, self.model.now).await?;
        ensure!(rows.len() == asked.len());
        for (row, (job, attempt)) in rows.iter().zip(messages) {
            let outcome: &str = row.get("outcome");
            let expected = self.model.start(*job, *attempt);
            self.say(format!(
                "  job {job}, attempt {attempt}: {outcome}, expected {expected}"
            ));
            ensure!(outcome == expected);
            let run: Option<Uuid> = row.get("run_id");
            ensure!(run.is_some() == (outcome == "started"));
            if let Some(run) = run {
                ensure!(self.model.runs.iter().all(|(_, other)| *other != run));
                ensure!(row.get::<_, Uuid>("event_id") == self.model.jobs[*job].event);
                ensure!(
                    row.get::<_, Option<&[u8]>>("body").is_some(),
                    "the event was erased"
                );
                self.model.started(*job, run);
                ensure!(
                    self.model.jobs[*job].runs == *attempt,
                    "an attempt was started twice or left out"
                );
            }
        }
        Ok(())
    }

    /// A run: its job's number, and what the database calls the two. Mostly one that is under way, sometimes any that
    /// ever was.
    fn picked_run(&self, number: u8) -> Option<(usize, (Uuid, Uuid))> {
        let runs = self.model.runs.iter().copied();
        let current = runs
            .clone()
            .filter(|(job, run)| number < 160 && self.model.is_current(*job, *run));
        let mut runs: Vec<(usize, Uuid)> = if current.clone().count() > 0 {
            current.collect()
        } else {
            runs.collect()
        };
        let (job, run) = runs.swap_remove(pick(number, runs.len())?);
        Some((job, (self.model.jobs[job].id, run)))
    }

    pub(crate) async fn complete(&mut self, picks: &[u8]) -> Result<()> {
        let runs: Vec<_> = picks
            .iter()
            .filter_map(|number| self.picked_run(*number))
            .collect();
        let ids: Vec<(Uuid, Uuid)> = runs.iter().map(|(_, ids)| *ids).collect();
        self.complete_runs(&ids).await
    }

    pub(crate) async fn complete_runs(&mut self, runs: &[(Uuid, Uuid)]) -> Result<()> {
        let mut completed = self.database.complete(runs, self.model.now).await?;
        let mut expected = Vec::new();
        for (id, run) in runs {
            let job = self.model.job_of(*id).unwrap();
            if self.model.complete(job, *run) {
                expected.push(*id);
            }
        }
        completed.sort();
        expected.sort();
        self.say(format!("  {} of {} completed", expected.len(), runs.len()));
        ensure!(
            completed == expected,
            "completed {completed:?}, expected {expected:?}"
        );
        Ok(())
    }

    pub(crate) async fn fail(
        &mut self,
        run: u8,
        retryable: bool,
        retry_after_seconds: Option<u16>,
    ) -> Result<()> {
        let Some((job, ids)) = self.picked_run(run) else {
            return Ok(());
        };
        let row = self
            .database
            .fail(ids, retryable, retry_after_seconds, self.model.now)
            .await?;
        let failed: Vec<Uuid> = row.get("p_failed");
        let outcomes: Vec<&str> = row.get("p_outcomes");
        let due: Option<Time> = row.get("p_next_due");
        let expected = self.model.fail(job, ids.1, retryable, retry_after_seconds);
        self.say(format!("  job {job}: {outcomes:?}, expected {expected:?}"));
        let Some((outcome, dues)) = expected else {
            ensure!(
                failed.is_empty() && outcomes.is_empty() && due.is_none(),
                "a late run was heard"
            );
            return Ok(());
        };
        ensure!(failed == [ids.0] && outcomes == [outcome]);
        ensure!(due.is_some() == dues.is_some());
        if let (Some(due), Some((soonest, latest))) = (due, dues) {
            ensure!((soonest..=latest).contains(&due), "due at {due}");
            self.model.retries_at(job, due);
        }
        Ok(())
    }

    pub(crate) async fn renew(&mut self, run: u8) -> Result<()> {
        let Some((job, ids)) = self.picked_run(run) else {
            return Ok(());
        };
        let lost = self.database.renew(ids, self.model.now).await?;
        ensure!(lost.is_empty() == self.model.renew(job, ids.1), "lost {lost:?}");
        Ok(())
    }

    pub(crate) async fn hand_back(&mut self, run: u8) -> Result<()> {
        let Some((job, ids)) = self.picked_run(run) else {
            return Ok(());
        };
        let handed_back = self.database.hand_back(ids, self.model.now).await?;
        ensure!(
            handed_back.contains(&ids.0) == self.model.hand_back(job, ids.1),
            "handed back {handed_back:?}"
        );
        Ok(())
    }

    pub(crate) async fn sweep(&mut self, limit: u8, max_starts: u16) -> Result<()> {
        let swept = self.database.sweep(limit, max_starts, self.model.now).await?;
        let expected = self.model.sweep(limit.into(), max_starts);
        self.say(format!("  rescued and poisoned {swept:?}, expected {expected:?}"));
        ensure!(swept == expected);
        for job in std::mem::take(&mut self.model.delayed) {
            let query = "select due_at from store.open_jobs where job_id = $1";
            let rows = self.database.rows(query, &[&self.model.jobs[job].id]).await?;
            let due: Time = rows[0].get(0);
            let latest = self.model.now + TimeDelta::seconds(20);
            ensure!(
                (self.model.now..=latest).contains(&due),
                "job {job} waits until {due}"
            );
            self.model.delayed_until(job, due);
        }
        Ok(())
    }
}
