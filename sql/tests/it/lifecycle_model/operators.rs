//! What operators do to a job, one at a time.

use super::model::{Model, Outcome, State};
use super::op::Verb;

impl Model {
    pub(crate) fn verb(&mut self, verb: Verb, job: usize) -> &'static str {
        let (outcome, changed) = match verb {
            Verb::Cancel => (self.cancel(job), "cancelled"),
            Verb::Hold => (self.hold(job), "held"),
            Verb::Release => (self.release(job), "released"),
            Verb::Reprocess => (self.reprocess(job), "reprocessed"),
        };
        if outcome == changed {
            self.log(job, changed, 0);
        }
        outcome
    }

    fn cancel(&mut self, job: usize) -> &'static str {
        if !self.jobs[job].is_open() {
            return "final";
        }
        self.jobs[job].end(Outcome::Cancelled, self.now);
        "cancelled"
    }

    fn hold(&mut self, job: usize) -> &'static str {
        match self.jobs[job].state {
            State::Final(_) => "final",
            State::Processing { .. } => "processing",
            _ => {
                self.jobs[job].state = State::HeldByOperator;
                self.jobs[job].due = None;
                "held"
            }
        }
    }

    fn release(&mut self, job: usize) -> &'static str {
        let j = &mut self.jobs[job];
        match j.state {
            State::Final(_) => "final",
            State::HeldByOperator | State::HeldByQuota => {
                j.state = if j.runs == 0 {
                    State::Queued
                } else {
                    State::Retrying
                };
                j.due = Some(self.now);
                self.send("retries", job, self.jobs[job].attempt(), self.now);
                "released"
            }
            _ => "not_held",
        }
    }

    fn reprocess(&mut self, job: usize) -> &'static str {
        let j = &mut self.jobs[job];
        match j.state {
            State::Final(Outcome::Succeeded) => "succeeded",
            State::Final(_) if j.erased => "no_event",
            State::Final(_) => {
                j.state = State::Queued;
                j.due = Some(self.now);
                j.finished_at = None;
                (j.failures, j.unfinished) = (0, 0);
                j.reopened += 1;
                self.send("retries", job, self.jobs[job].attempt(), self.now);
                "reprocessed"
            }
            _ => "open",
        }
    }

    /// How many deliveries of the job's event are erased now.
    pub(crate) fn erase(&mut self, job: usize) -> i64 {
        self.cancel(job);
        let j = &mut self.jobs[job];
        j.erased = true;
        j.error = false;
        let erased = j.deliveries - j.deliveries_erased;
        j.deliveries_erased = j.deliveries;
        erased
    }
}
