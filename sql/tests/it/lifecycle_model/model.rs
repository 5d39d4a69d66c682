//! The life of a job as ARCHITECTURE.md, design.md and the comments of the SQL files tell it, in memory. Written from
//! those, not from the SQL: a job counts its runs and failures, and everything that the database stores follows.
//! What comes before a job is in `intake.rs`, what operators do in `operators.rs`.

use std::collections::BTreeMap;

use chrono::{DateTime, Days, NaiveTime, TimeDelta, Utc};
use uuid::Uuid;

use super::intake::Intake;

pub(crate) type Time = DateTime<Utc>;

pub(crate) const LEASE_SECONDS: u16 = 30;
pub(crate) const MAX_ATTEMPTS: u16 = 3;
pub(crate) const MAX_STARTS: u16 = 3;
pub(crate) const BACKOFF_BASE_SECONDS: u16 = 4;
pub(crate) const BACKOFF_CAP_SECONDS: u16 = 10;
pub(crate) const INBOX_DAYS: u16 = 1;

/// Where a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Queued,
    Retrying,
    HeldByQuota,
    HeldByOperator,
    Processing { run: Uuid, lease_until: Time },
    Final(Outcome),
}

/// How it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    Succeeded,
    Cancelled,
    DeadLettered(&'static str),
}

/// A job. Its event has the same number: an event has one job here.
#[derive(Debug, Clone)]
pub(crate) struct Job {
    pub(crate) id: Uuid,
    pub(crate) event: Uuid,
    pub(crate) state: State,
    pub(crate) made_at: Time,
    /// Not before then; none while an operator holds it.
    pub(crate) due: Option<Time>,
    /// Runs that were started.
    pub(crate) runs: i16,
    /// Failed runs since it was made or reprocessed: what the budget of attempts is spent on.
    pub(crate) failures: i16,
    /// Runs in a row without an outcome, the present one included.
    pub(crate) unfinished: i16,
    pub(crate) finished_at: Option<Time>,
    /// Whether an error is kept with the job.
    pub(crate) error: bool,
    /// How often it has ended, and how often it was opened again.
    pub(crate) ends: u32,
    pub(crate) reopened: u32,
    pub(crate) erased: bool,
    /// Deliveries of its event, and how many of them are erased.
    pub(crate) deliveries: i64,
    pub(crate) deliveries_erased: i64,
}

impl Job {
    /// The number of its present run, or of its next one.
    pub(crate) fn attempt(&self) -> i16 {
        self.runs + i16::from(!matches!(self.state, State::Processing { .. }))
    }

    pub(crate) fn is_open(&self) -> bool {
        !matches!(self.state, State::Final(_))
    }

    fn waits(&self) -> bool {
        self.is_open() && !matches!(self.state, State::Processing { .. })
    }

    pub(crate) fn end(&mut self, outcome: Outcome, now: Time) {
        self.state = State::Final(outcome);
        self.finished_at = Some(now);
        self.error |= matches!(outcome, Outcome::DeadLettered(_));
        self.ends += 1;
    }
}

/// A row of the outbox. The id is the database's to choose, and learned from it.
#[derive(Debug, Clone)]
pub(crate) struct Message {
    pub(crate) id: Option<Uuid>,
    pub(crate) target: &'static str,
    pub(crate) job: usize,
    pub(crate) attempt: i16,
    pub(crate) due: Time,
    /// Times that publishing it failed.
    pub(crate) failures: i32,
    /// A relay has had it. All of a sequence is one transaction, so to the database it has it still.
    pub(crate) claimed: bool,
    /// Since when the broker has refused it.
    pub(crate) refused_since: Option<Time>,
}

/// Whether messages of that target ask for a run.
pub(crate) fn is_work(target: &str) -> bool {
    ["jobs", "retries"].contains(&target)
}

/// What the database should hold, and what is out in the world: messages in the broker, runs in consumers.
#[derive(Debug)]
pub(crate) struct Model {
    pub(crate) now: Time,
    pub(crate) start: Time,
    pub(crate) jobs: Vec<Job>,
    pub(crate) outbox: Vec<Message>,
    /// Work messages that the broker has: job and attempt.
    pub(crate) broker: Vec<(usize, i16)>,
    /// Work messages that were acknowledged.
    pub(crate) acknowledged: Vec<(usize, i16)>,
    /// All runs that ever were: job and run id.
    pub(crate) runs: Vec<(usize, Uuid)>,
    /// Rows of the job log: job, what, attempt (0 for what operators did), how many.
    pub(crate) log: BTreeMap<(usize, &'static str, i16), i64>,
    pub(crate) audited: i64,
    /// Jobs that were put back just now and wait.
    pub(crate) delayed: Vec<usize>,
    pub(crate) intake: Intake,
}

impl Model {
    pub(crate) fn new(start: Time) -> Self {
        Self {
            now: start,
            start,
            jobs: Vec::new(),
            outbox: Vec::new(),
            broker: Vec::new(),
            acknowledged: Vec::new(),
            runs: Vec::new(),
            log: BTreeMap::new(),
            audited: 0,
            delayed: Vec::new(),
            intake: Intake::default(),
        }
    }

    pub(crate) fn job_of(&self, id: Uuid) -> Option<usize> {
        self.jobs.iter().position(|job| job.id == id)
    }

    pub(crate) fn log(&mut self, job: usize, what: &'static str, attempt: i16) {
        *self.log.entry((job, what, attempt)).or_default() += 1;
    }

    pub(crate) fn send(&mut self, target: &'static str, job: usize, attempt: i16, due: Time) {
        self.outbox.push(Message {
            id: None,
            target,
            job,
            attempt,
            due,
            failures: 0,
            claimed: false,
            refused_since: None,
        });
    }

    /// Whether that is the job's current run: nobody else may change it.
    pub(crate) fn is_current(&self, job: usize, run: Uuid) -> bool {
        matches!(self.jobs[job].state, State::Processing { run: current, .. } if current == run)
    }

    fn dead_letter(&mut self, job: usize, cause: &'static str) {
        self.jobs[job].end(Outcome::DeadLettered(cause), self.now);
        let runs = self.jobs[job].runs;
        self.log(job, "dead", runs);
        self.send("dlq", job, runs, self.now);
    }

    /// What a message that asks for an attempt is answered. The caller calls `started` where it is that.
    pub(crate) fn start(&mut self, job: usize, attempt: i16) -> &'static str {
        let j = &self.jobs[job];
        match j.state {
            State::Final(_) => "final",
            // Which of two true answers comes first is nowhere said: held before stale, stale before busy.
            State::HeldByOperator => "held",
            _ if attempt != j.attempt() => "stale",
            State::Processing { .. } => "busy",
            _ if j.unfinished >= MAX_STARTS.cast_signed() => {
                self.dead_letter(job, "poison");
                "poisoned"
            }
            _ => "started",
        }
    }

    pub(crate) fn started(&mut self, job: usize, run: Uuid) {
        let lease_until = self.now + TimeDelta::seconds(LEASE_SECONDS.into());
        let j = &mut self.jobs[job];
        j.state = State::Processing { run, lease_until };
        j.runs += 1;
        j.unfinished += 1;
        self.runs.push((job, run));
    }

    /// Whether the run may end its job.
    pub(crate) fn complete(&mut self, job: usize, run: Uuid) -> bool {
        let current = self.is_current(job, run);
        if current {
            self.jobs[job].end(Outcome::Succeeded, self.now);
        }
        current
    }

    /// The outcome, and between what times a retry is due; none if the run has lost its job.
    pub(crate) fn fail(
        &mut self,
        job: usize,
        run: Uuid,
        retryable: bool,
        retry_after_seconds: Option<u16>,
    ) -> Option<(&'static str, Option<(Time, Time)>)> {
        if !self.is_current(job, run) {
            return None;
        }
        let attempt = self.jobs[job].attempt();
        self.log(job, "failed", attempt);
        let j = &mut self.jobs[job];
        j.failures += 1;
        j.unfinished = 0;
        if retryable && j.failures < MAX_ATTEMPTS.cast_signed() {
            j.state = State::Retrying;
            let (soonest, latest) = backoff(j.failures.unsigned_abs().into());
            let asked = TimeDelta::seconds(retry_after_seconds.unwrap_or(0).into());
            let due = (self.now + soonest.max(asked), self.now + latest.max(asked));
            return Some(("retrying", Some(due)));
        }
        self.dead_letter(job, if retryable { "exhausted" } else { "permanent" });
        Some(("dead_lettered", None))
    }

    /// The retry of a job that has failed is due then, as the database has chosen.
    pub(crate) fn retries_at(&mut self, job: usize, due: Time) {
        self.jobs[job].due = Some(due);
        self.send("retries", job, self.jobs[job].attempt(), due);
    }

    /// Whether the run, which will not go on, gave its job back.
    pub(crate) fn hand_back(&mut self, job: usize, run: Uuid) -> bool {
        let current = self.is_current(job, run);
        if current {
            self.requeue(job, true);
            self.jobs[job].unfinished -= 1;
        }
        current
    }

    /// Puts a job back whose run has ended without an outcome; where that keeps happening it waits, and how long is the
    /// database's to choose.
    fn requeue(&mut self, job: usize, blameless: bool) {
        let attempt = self.jobs[job].attempt();
        self.log(job, "rescued", attempt);
        let waits = !blameless && self.jobs[job].unfinished >= 2;
        self.jobs[job].state = State::Retrying;
        self.jobs[job].due = Some(self.now);
        self.send(if waits { "retries" } else { "jobs" }, job, attempt + 1, self.now);
        if waits {
            self.delayed.push(job);
        }
    }

    /// The database has chosen how long a job waits that was put back.
    pub(crate) fn delayed_until(&mut self, job: usize, due: Time) {
        self.jobs[job].due = Some(due);
        if let Some(message) = self.outbox.iter_mut().rfind(|m| m.job == job && m.id.is_none()) {
            message.due = due;
        }
    }

    /// The broker has lost all it had; returns how many messages are written anew.
    pub(crate) fn lose_broker(&mut self) -> i64 {
        self.broker.clear();
        let waiting = self.open_jobs(Job::waits);
        let mut written = 0;
        for job in waiting {
            let j = &self.jobs[job];
            let (attempt, held) = (j.attempt(), matches!(j.state, State::HeldByOperator));
            let is_there =
                |m: &Message| is_work(m.target) && (m.job, m.attempt, m.claimed) == (job, attempt, false);
            if held || self.outbox.iter().any(is_there) {
                continue;
            }
            let target = if matches!(j.state, State::Queued) {
                "jobs"
            } else {
                "retries"
            };
            let due = j.due.map_or(self.now, |due| due.max(self.now));
            self.send(target, job, attempt, due);
            written += 1;
        }
        written
    }

    pub(crate) fn renew(&mut self, job: usize, run: Uuid) -> bool {
        let current = self.is_current(job, run);
        if current {
            let lease_until = self.now + TimeDelta::seconds(LEASE_SECONDS.into());
            self.jobs[job].state = State::Processing { run, lease_until };
        }
        current
    }

    /// How many jobs the sweeper puts back and how many it gives up.
    pub(crate) fn sweep(&mut self, limit: usize, max_starts: u16) -> (i32, i32) {
        let now = self.now;
        let mut lost = self
            .open_jobs(|job| matches!(job.state, State::Processing { lease_until, .. } if lease_until < now));
        lost.truncate(limit);
        let (mut rescued, mut poisoned) = (0, 0);
        for job in lost {
            if self.jobs[job].unfinished >= max_starts.cast_signed() {
                self.dead_letter(job, "poison");
                poisoned += 1;
                continue;
            }
            self.requeue(job, false);
            rescued += 1;
        }
        (rescued, poisoned)
    }

    /// Open jobs of a kind, by id.
    fn open_jobs(&self, which: impl Fn(&Job) -> bool) -> Vec<usize> {
        let mut found: Vec<usize> = (0..self.jobs.len())
            .filter(|job| self.jobs[*job].is_open() && which(&self.jobs[*job]))
            .collect();
        found.sort_by_key(|job| self.jobs[*job].id);
        found
    }

    /// The jobs whose event may be dropped in a day; one that runs is let be until the day itself.
    pub(crate) fn expire(&mut self) {
        let now = self.now;
        let expired = self.open_jobs(|job| {
            let gone_at = midnight_after(job.made_at) + TimeDelta::days(INBOX_DAYS.into());
            let alive = matches!(job.state, State::Processing { lease_until, .. } if lease_until >= now);
            now >= gone_at - TimeDelta::days(1) && (!alive || now >= gone_at)
        });
        for job in expired {
            self.dead_letter(job, "expired");
        }
    }

    /// The first `limit` messages of a target that are due, as numbers of `outbox`.
    pub(crate) fn claim(&self, target: &str, limit: usize) -> Vec<usize> {
        let mut due: Vec<usize> = (0..self.outbox.len())
            .filter(|m| self.outbox[*m].target == target && self.outbox[*m].due <= self.now)
            .collect();
        due.sort_by_key(|m| (self.outbox[*m].due, self.outbox[*m].id));
        due.truncate(limit);
        due
    }

    /// The broker has confirmed a message.
    pub(crate) fn confirm(&mut self, id: Uuid) {
        let message = self.take(id);
        if is_work(message.target) {
            self.log(message.job, "published", message.attempt);
            self.broker.push((message.job, message.attempt));
        }
    }

    /// A message can never be published: it goes, and so does a job that waits for it.
    pub(crate) fn abandon(&mut self, id: Uuid) {
        let message = self.take(id);
        let job = &self.jobs[message.job];
        if is_work(message.target) && job.waits() && job.attempt() == message.attempt {
            self.dead_letter(message.job, "unpublishable");
        }
    }

    fn take(&mut self, id: Uuid) -> Message {
        let at = self.outbox.iter().position(|m| m.id == Some(id)).unwrap();
        self.outbox.remove(at)
    }
}

/// The least and the most that a back-off before that try (from 1) lasts.
pub(crate) fn backoff(attempt: u32) -> (TimeDelta, TimeDelta) {
    let seconds = (u64::from(BACKOFF_BASE_SECONDS) << (attempt - 1).min(16)).min(BACKOFF_CAP_SECONDS.into());
    let whole = TimeDelta::seconds(seconds.cast_signed());
    (whole / 2, whole)
}

pub(crate) fn midnight_after(at: Time) -> Time {
    (at.date_naive() + Days::new(1))
        .and_time(NaiveTime::MIN)
        .and_utc()
}
