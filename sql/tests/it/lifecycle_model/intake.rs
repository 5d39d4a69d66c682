//! What becomes of a webhook, one after the other: who it is from, whether it is known, whether there is quota left. A
//! batch is answered as if its webhooks had come alone.

use std::collections::BTreeMap;

use chrono::{NaiveDate, TimeDelta};
use uuid::Uuid;

use super::model::{Job, Model, State, Time, midnight_after};
use super::op::{Key, Sent, Source, Tenant};

pub(crate) const QUOTA: u8 = 2;
pub(crate) const DEDUP_WINDOW: TimeDelta = TimeDelta::hours(30);
pub(crate) const HASH_WINDOW: TimeDelta = TimeDelta::minutes(30);

/// What makes two webhooks the same event.
pub(crate) type EventKey = (Tenant, Source, Key);

/// What a webhook is answered; the number is that of the event and its job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Answer {
    Accepted(usize),
    Duplicate(usize),
    Replay(usize),
    OverQuota { retry_after_seconds: i32 },
    Refused(&'static str),
}

/// What is known of events.
#[derive(Debug, Default)]
pub(crate) struct Intake {
    pub(crate) ledger: BTreeMap<EventKey, Known>,
    pub(crate) used: BTreeMap<(Tenant, NaiveDate), i64>,
    /// The job of the last event of that key whose replays were refused, and how often.
    pub(crate) replays: BTreeMap<EventKey, (usize, i64)>,
}

/// A known event.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Known {
    pub(crate) job: usize,
    pub(crate) duplicates: i32,
    /// The newest signature, where the source rejects replays.
    pub(crate) signed: Option<u8>,
}

impl Source {
    /// Whether it rejects replays.
    pub(crate) fn rejects(self) -> bool {
        matches!(self, Self::Stripe | Self::Never)
    }
}

impl Model {
    /// Whether an event is still known by its key. Ids tell times to the millisecond.
    pub(crate) fn is_known(&self, key: Key, event: usize) -> bool {
        let window = match key {
            Key::Id(_) => DEDUP_WINDOW,
            Key::Body(_) => HASH_WINDOW,
        };
        self.jobs[event].made_at.timestamp_millis() >= (self.now - window).timestamp_millis()
    }

    pub(crate) fn ingest(&mut self, sent: Sent) -> Answer {
        match (sent.tenant, sent.source, sent.key) {
            (Tenant::Nobody, ..) => return Answer::Refused("unknown_tenant"),
            (Tenant::Suspended, ..) => return Answer::Refused("suspended"),
            (_, Source::Nowhere, _) => return Answer::Refused("unknown_source"),
            (_, source, Key::Body(_)) if source.rejects() => return Answer::Refused("event_id_required"),
            _ => {}
        }
        let key = (sent.tenant, sent.source, sent.key);
        let known = match self.intake.ledger.get(&key) {
            Some(known) if self.is_known(sent.key, known.job) => Some(*known),
            _ => None,
        };
        match known {
            Some(known) => self.again(key, known, sent.signed),
            None => self.accept(key, sent.signed),
        }
    }

    fn again(&mut self, key: EventKey, known: Known, signed: Option<u8>) -> Answer {
        let replay = match key.1 {
            Source::Never => true,
            // None sorts before any time: without one, nothing is newer.
            Source::Stripe => signed <= known.signed,
            _ => false,
        };
        if replay {
            let refused = self.intake.replays.entry(key).or_insert((known.job, 0));
            if refused.0 != known.job {
                *refused = (known.job, 0);
            }
            refused.1 += 1;
            return Answer::Replay(known.job);
        }
        self.jobs[known.job].deliveries += 1;
        let known = Known {
            duplicates: known.duplicates + 1,
            signed: signed.max(known.signed),
            ..known
        };
        self.intake.ledger.insert(key, known);
        Answer::Duplicate(known.job)
    }

    fn accept(&mut self, key: EventKey, signed: Option<u8>) -> Answer {
        let (now, midnight) = (self.now, midnight_after(self.now));
        let used = self.intake.used.entry((key.0, now.date_naive())).or_default();
        let within = |quotas: i64| *used < quotas * i64::from(QUOTA);
        let held = match key.0 {
            Tenant::Strict | Tenant::Lenient if within(1) => false,
            Tenant::Lenient if within(2) => true,
            Tenant::Strict | Tenant::Lenient => {
                let left = (midnight - now).num_microseconds().unwrap();
                return Answer::OverQuota {
                    retry_after_seconds: i32::try_from((left + 999_999) / 1_000_000).unwrap(),
                };
            }
            _ => false,
        };
        *used += 1;
        let job = self.jobs.len();
        let due = if held { midnight } else { now };
        self.jobs.push(new_job(now, due, held));
        self.send(if held { "retries" } else { "jobs" }, job, 1, due);
        if key.1 == Source::Loud {
            self.send("events", job, 1, due);
        }
        if key.1 != Source::Each {
            let known = Known {
                job,
                duplicates: 0,
                signed,
            };
            self.intake.ledger.insert(key, known);
        }
        Answer::Accepted(job)
    }
}

fn new_job(now: Time, due: Time, held: bool) -> Job {
    Job {
        id: Uuid::nil(),
        event: Uuid::nil(),
        state: if held { State::HeldByQuota } else { State::Queued },
        made_at: now,
        due: Some(due),
        runs: 0,
        failures: 0,
        unfinished: 0,
        finished_at: None,
        error: false,
        ends: 0,
        reopened: 0,
        erased: false,
        deliveries: 1,
        deliveries_erased: 0,
    }
}
