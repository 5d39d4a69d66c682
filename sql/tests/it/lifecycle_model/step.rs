//! One operation, done to the database and to the model; what both answer must be the same, and afterwards what the one
//! holds and the other. What consumers do is in `step_runs.rs`.

use std::collections::BTreeSet;

use anyhow::{Result, ensure};
use chrono::TimeDelta;
use uuid::Uuid;

use super::database::Database;
use super::intake::Answer;
use super::model::{
    BACKOFF_BASE_SECONDS, BACKOFF_CAP_SECONDS, LEASE_SECONDS, MAX_STARTS, Model, Time, is_work,
    midnight_after,
};
use super::op::{Fate, Op, Sent, Verb};

/// Beyond this there may be no partition, and there is a way to go after the last operation.
const LONGEST: TimeDelta = TimeDelta::days(9);

/// A sequence under way.
pub(crate) struct Case<'a> {
    pub(crate) database: &'a Database,
    pub(crate) model: Model,
    /// What happened, for whoever reads why it failed.
    pub(crate) transcript: Vec<String>,
}

/// A job that does not exist.
const UNKNOWN: Uuid = Uuid::from_u128(0x0192_0000_0000_7000_8000_0000_0000_0000);

pub(crate) fn pick(number: u8, of: usize) -> Option<usize> {
    usize::from(number).checked_rem(of)
}

impl Case<'_> {
    pub(crate) async fn step(&mut self, op: &Op) -> Result<()> {
        self.say(format!("{op:?}"));
        match op {
            Op::Ingest(batch) => self.ingest(batch).await?,
            Op::Relay { target, limit, fate } => self.relay(target, *limit, *fate).await?,
            Op::Deliver {
                messages,
                redelivered,
            } => self.deliver(messages, *redelivered).await?,
            Op::DeliverOld(message) => {
                if let Some(message) = pick(*message, self.model.acknowledged.len()) {
                    self.start(&[self.model.acknowledged[message]]).await?;
                }
            }
            Op::Complete(runs) => self.complete(runs).await?,
            Op::Fail {
                run,
                retryable,
                retry_after_seconds,
            } => self.fail(*run, *retryable, *retry_after_seconds).await?,
            Op::Renew(run) => self.renew(*run).await?,
            Op::HandBack(run) => self.hand_back(*run).await?,
            Op::LoseBroker => {
                let written = self.database.rebuild_broker(self.model.now).await?;
                let expected = self.model.lose_broker();
                self.say(format!("  {written} messages written, expected {expected}"));
                ensure!(written == expected);
            }
            Op::Turn { forgotten } => self.turn(*forgotten).await?,
            Op::Crash { swept } => {
                self.model.now += TimeDelta::seconds(i64::from(LEASE_SECONDS) + 1);
                if *swept {
                    self.sweep(u8::MAX, MAX_STARTS).await?;
                }
            }
            Op::Sweep { limit, patient } => self.sweep(*limit, MAX_STARTS + u16::from(*patient)).await?,
            Op::Verb { verb, jobs } => self.verb(*verb, jobs).await?,
            Op::Erase(job) => self.erase(*job).await?,
            Op::Expire => {
                self.database.expire(self.model.now).await?;
                self.model.expire();
            }
            Op::Pass(seconds) => self.pass(TimeDelta::seconds((*seconds).into())),
            Op::PassUntilDue => self.pass_until_due(),
            Op::PassMidnight => {
                self.pass(midnight_after(self.model.now) - self.model.now + TimeDelta::seconds(1));
            }
            Op::SetBack(seconds) => self.model.now -= TimeDelta::seconds((*seconds).into()),
        }
        if matches!(op, Op::Ingest(_) | Op::Erase(_)) {
            self.compare_intake().await?;
        }
        if matches!(op, Op::Fail { .. } | Op::Verb { .. }) {
            self.compare_overview().await?;
        }
        self.compare().await
    }

    pub(crate) fn say(&mut self, what: String) {
        self.transcript
            .push(format!("{} {what}", self.model.now.format("%d %T%.3f")));
    }

    fn pass(&mut self, time: TimeDelta) {
        if self.model.now + time < self.model.start + LONGEST {
            self.model.now += time;
        }
    }

    /// Until something is due, if nothing is.
    fn pass_until_due(&mut self) {
        if let Some(due) = self.model.outbox.iter().map(|message| message.due).min() {
            self.pass((due - self.model.now).max(TimeDelta::zero()));
        }
    }

    /// All that is due reaches the broker, and all that is there reaches a consumer.
    async fn turn(&mut self, forgotten: bool) -> Result<()> {
        self.pass_until_due();
        let fate = if forgotten {
            Fate::Forgotten
        } else {
            Fate::Confirmed
        };
        for target in ["jobs", "retries", "events", "dlq"] {
            self.relay(target, u8::MAX, fate).await?;
        }
        let messages = std::mem::take(&mut self.model.broker);
        self.start(&messages).await?;
        self.model.acknowledged.extend(messages);
        Ok(())
    }

    async fn ingest(&mut self, batch: &[Sent]) -> Result<()> {
        let rows = self
            .database
            .ingest(batch, self.model.start, self.model.now)
            .await?;
        for (row, sent) in rows.iter().zip(batch) {
            let outcome: &str = row.get("outcome");
            let (event, job): (Option<Uuid>, Option<Uuid>) = (row.get("event_id"), row.get("job_id"));
            let expected = self.model.ingest(*sent);
            self.say(format!("  {outcome}, expected {expected:?}"));
            let (word, first) = match expected {
                Answer::Accepted(first) => {
                    self.model.jobs[first].id = job.unwrap_or_default();
                    self.model.jobs[first].event = event.unwrap_or_default();
                    ("accepted", Some(first))
                }
                Answer::Duplicate(first) => ("duplicate", Some(first)),
                Answer::Replay(first) => ("replay", Some(first)),
                Answer::OverQuota { retry_after_seconds } => {
                    ensure!(row.get::<_, Option<i32>>("retry_after_seconds") == Some(retry_after_seconds));
                    ("over_quota", None)
                }
                Answer::Refused(word) => (word, None),
            };
            ensure!(outcome == word, "{sent:?} was answered {outcome}, not {word}");
            let ids = first.map(|first| (self.model.jobs[first].event, self.model.jobs[first].id));
            ensure!(event.zip(job) == ids, "{sent:?} was answered with other ids");
        }
        ensure!(rows.len() == batch.len());
        Ok(())
    }

    async fn relay(&mut self, target: &'static str, limit: u8, fate: Fate) -> Result<()> {
        let now = self.model.now;
        let rows = self.database.claim(target, limit, now).await?;
        let expected: Vec<(Uuid, Uuid, i16, i32)> = self
            .model
            .claim(target, limit.into())
            .into_iter()
            .map(|m| &self.model.outbox[m])
            .map(|m| (m.id.unwrap(), self.model.jobs[m.job].id, m.attempt, m.failures))
            .collect();
        let claimed: Vec<(Uuid, Uuid, i16, i32)> = rows
            .iter()
            .map(|row| {
                (
                    row.get("id"),
                    row.get("job_id"),
                    row.get("attempt"),
                    row.get("attempts"),
                )
            })
            .collect();
        ensure!(claimed == expected, "claimed {claimed:?}, expected {expected:?}");
        let ids: Vec<Uuid> = claimed.iter().map(|row| row.0).collect();
        for message in &mut self.model.outbox {
            message.claimed |= message.id.is_some_and(|id| ids.contains(&id));
        }
        match fate {
            Fate::Confirmed => {
                self.database.settle(&ids, &[], now).await?;
                ids.iter().for_each(|id| self.model.confirm(*id));
            }
            Fate::Abandoned => {
                self.database.abandon(&ids, now).await?;
                ids.iter().for_each(|id| self.model.abandon(*id));
            }
            Fate::Deferred => {
                self.database.settle(&[], &ids, now).await?;
                self.deferred(&ids).await?;
            }
            Fate::Forgotten if is_work(target) => {
                let messages = claimed
                    .iter()
                    .map(|row| (self.model.job_of(row.1).unwrap(), row.2));
                let messages: Vec<(usize, i16)> = messages.collect();
                self.model.broker.extend(messages);
            }
            Fate::Forgotten => {}
        }
        Ok(())
    }

    /// The database has chosen when they are tried again: within the back-off.
    async fn deferred(&mut self, ids: &[Uuid]) -> Result<()> {
        let query = "select id, next_attempt_at from store.outbox_messages where id = any ($1)";
        for row in self.database.rows(query, &[&ids]).await? {
            let (id, due): (Uuid, Time) = (row.get(0), row.get(1));
            let now = self.model.now;
            let message = self.model.outbox.iter_mut().find(|m| m.id == Some(id)).unwrap();
            message.failures += 1;
            // As long as it has been refused for, within the bounds.
            let refused_for = now - *message.refused_since.get_or_insert(now);
            let latest = refused_for.clamp(
                TimeDelta::seconds(BACKOFF_BASE_SECONDS.into()),
                TimeDelta::seconds(BACKOFF_CAP_SECONDS.into()),
            );
            let soonest = latest / 2;
            ensure!(
                (now + soonest..=now + latest).contains(&due),
                "tried again at {due}"
            );
            message.due = due;
        }
        Ok(())
    }

    async fn verb(&mut self, verb: Verb, picks: &[u8]) -> Result<()> {
        // One beyond the last is none.
        let jobs = self.model.jobs.len();
        let job = |number: u8| {
            if number < 240 {
                pick(number, jobs).unwrap_or(jobs)
            } else {
                jobs
            }
        };
        let picked: Vec<usize> = picks.iter().map(|number| job(*number)).collect();
        self.apply(verb, &picked).await
    }

    /// A verb on jobs by number; one that is too high is a job that does not exist.
    pub(crate) async fn apply(&mut self, verb: Verb, jobs: &[usize]) -> Result<()> {
        let id = |model: &Model, job: usize| model.jobs.get(job).map_or(UNKNOWN, |job| job.id);
        let ids: Vec<Uuid> = jobs.iter().map(|job| id(&self.model, *job)).collect();
        let answers = self.database.verb(verb, &ids, self.model.now).await?;
        let mut sorted: Vec<usize> = jobs
            .iter()
            .copied()
            .collect::<BTreeSet<_>>()
            .into_iter()
            .collect();
        sorted.sort_by_key(|job| id(&self.model, *job));
        let mut expected = Vec::new();
        for job in sorted {
            let outcome = if job >= self.model.jobs.len() {
                "unknown"
            } else {
                self.model.verb(verb, job)
            };
            expected.push((id(&self.model, job), outcome.to_owned()));
        }
        self.model.audited += 1;
        self.say(format!("  jobs {jobs:?}: {answers:?}"));
        ensure!(
            answers == expected,
            "{verb:?} answered {answers:?}, expected {expected:?}"
        );
        Ok(())
    }

    async fn erase(&mut self, job: u8) -> Result<()> {
        let Some(job) = pick(job, self.model.jobs.len()) else {
            return Ok(());
        };
        let erased = self
            .database
            .erase(self.model.jobs[job].event, self.model.now)
            .await?;
        let expected = self.model.erase(job);
        self.model.audited += 1;
        ensure!(
            erased == expected,
            "{erased} deliveries of job {job} were erased, expected {expected}"
        );
        Ok(())
    }
}
