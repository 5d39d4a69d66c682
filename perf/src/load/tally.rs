//! What connections have seen: answers, latencies, and what was promised.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde::Deserialize;
use uuid::Uuid;

use super::plan::Plan;

/// An acceptance: the event and the job that a 202 has named.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Promise {
    /// Number of the event.
    pub(crate) number: u32,
    /// The event.
    pub(crate) event_id: Uuid,
    /// Its job.
    pub(crate) job_id: Option<Uuid>,
    /// When the request was due, after the plan began.
    pub(crate) due: Duration,
}

/// What all connections have seen.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// New events that were accepted, in and out of the window.
    pub(crate) promises: Vec<Promise>,
    /// Requests that were due or answered in the window.
    pub(crate) window: Window,
    /// Acceptances in each second since the plan began.
    pub(crate) by_second: Vec<u32>,
    /// Times that each answer came, by status or what went wrong.
    pub(crate) answers: BTreeMap<String, u32>,
    /// Requests in all.
    pub(crate) requests: u32,
    /// Answers that are neither an acceptance nor one of our limits: what should never be.
    pub(crate) wrong: u32,
}

/// The part of a run that is measured.
#[derive(Debug, Default)]
pub(crate) struct Window {
    /// Latencies of accepted requests that were due in it, in microseconds.
    pub(crate) latencies: Vec<u32>,
    /// Acceptances that were answered in it, duplicates included.
    pub(crate) accepted: u32,
    /// Other answers in it, or none.
    pub(crate) refused: u32,
}

/// The members of an acceptance that matter here.
#[derive(Deserialize)]
struct Acceptance {
    event_id: Uuid,
    job_id: Option<Uuid>,
    deduped: bool,
}

const ACCEPTED: u16 = 202;
const CONFLICT: u16 = 409;
const TOO_MANY_REQUESTS: u16 = 429;

/// The code that a source which rejects replays answers a duplicate with.
const REPLAY: &str = "replay";

/// The stable code of a problem document.
#[derive(Deserialize)]
struct Problem<'a> {
    #[serde(borrow)]
    code: Cow<'a, str>,
}

/// What a request should be answered with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// Acceptance as this new event.
    New(u32),
    /// Acceptance as a duplicate of this one.
    Duplicate(Promise),
}

impl Tally {
    /// Adds one answer, and returns the new event that it accepts.
    pub(super) fn add(
        &mut self,
        plan: &Plan,
        due: Instant,
        expected: Expected,
        answer: anyhow::Result<(u16, &[u8])>,
    ) -> Option<Promise> {
        let now = Instant::now();
        let (seen, verdict) = judge(plan, due, expected, answer);
        self.requests += 1;
        // Nearly all of them were seen before, and cost no memory of their own.
        match self.answers.get_mut(seen.as_ref()) {
            Some(times) => *times += 1,
            None => drop(self.answers.insert(seen.into_owned(), 1)),
        }
        let answered_in_window = now >= plan.warm() && now < plan.ends();
        let Ok(promise) = verdict else {
            self.wrong += u32::from(verdict == Err(Refusal::Wrong));
            self.window.refused += u32::from(answered_in_window);
            return None;
        };
        let second = usize::try_from((now - plan.began()).as_secs()).unwrap_or_default();
        if self.by_second.len() <= second {
            self.by_second.resize(second + 1, 0);
        }
        self.by_second[second] += 1;
        self.window.accepted += u32::from(answered_in_window);
        if due >= plan.warm() {
            let micros = u32::try_from(now.saturating_duration_since(due).as_micros());
            self.window.latencies.push(micros.unwrap_or(u32::MAX));
        }
        self.promises.extend(promise);
        promise
    }
}

/// Why an answer is no acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Refusal {
    /// A limit of ours: nothing is wrong, but nothing was taken in either.
    Limited,
    /// What should never be.
    Wrong,
}

fn judge(
    plan: &Plan,
    due: Instant,
    expected: Expected,
    answer: anyhow::Result<(u16, &[u8])>,
) -> (Cow<'static, str>, Result<Option<Promise>, Refusal>) {
    let (status, body) = match answer {
        Ok(answer) => answer,
        Err(error) => {
            let seen = format!("no answer: {}", error.root_cause());
            return (seen.into(), Err(Refusal::Wrong));
        }
    };
    if status != ACCEPTED {
        let code = serde_json::from_slice::<Problem>(body);
        let code = code.map_or("without a problem document".into(), |problem| problem.code);
        let seen = format!("{status} {code}").into();
        if matches!(expected, Expected::Duplicate(_)) && (status, &*code) == (CONFLICT, REPLAY) {
            return (seen, Ok(None));
        }
        let limited = status == TOO_MANY_REQUESTS;
        let refusal = if limited { Refusal::Limited } else { Refusal::Wrong };
        return (seen, Err(refusal));
    }
    // Looked through for UTF-8 at once: by `from_slice` it would be for each string of it.
    let accepted = std::str::from_utf8(body).map(serde_json::from_str::<Acceptance>);
    let Ok(Ok(accepted)) = accepted else {
        return ("202 with another body".into(), Err(Refusal::Wrong));
    };
    match expected {
        Expected::New(number) if !accepted.deduped => {
            let promise = Promise {
                number,
                event_id: accepted.event_id,
                job_id: accepted.job_id,
                due: due - plan.began(),
            };
            ("202 accepted".into(), Ok(Some(promise)))
        }
        Expected::Duplicate(first)
            if accepted.deduped && (accepted.event_id, accepted.job_id) == (first.event_id, first.job_id) =>
        {
            ("202 duplicate".into(), Ok(None))
        }
        Expected::New(_) => (
            "202 as a duplicate of what was never sent".into(),
            Err(Refusal::Wrong),
        ),
        Expected::Duplicate(_) => ("202 that is not the first event's".into(), Err(Refusal::Wrong)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn body(event_id: u128, deduped: bool) -> Vec<u8> {
        let body = serde_json::json!({
            "event_id": Uuid::from_u128(event_id), "job_id": Uuid::from_u128(9), "deduped": deduped, "accepted": true,
        });
        body.to_string().into()
    }

    #[test]
    fn acceptances_are_promises_and_all_else_is_named() {
        let plan = Plan::new(None, Duration::ZERO, Duration::from_secs(60), 10);
        let due = plan.began();
        let mut tally = Tally::default();
        let [new, duplicate, other_duplicate] =
            [(7, false), (7, true), (8, true)].map(|(event_id, deduped)| body(event_id, deduped));
        let first = tally.add(&plan, due, Expected::New(1), Ok((202, &new))).unwrap();
        assert_eq!((first.number, first.event_id), (1, Uuid::from_u128(7)));
        let again = tally.add(&plan, due, Expected::Duplicate(first), Ok((202, &duplicate)));
        assert!(again.is_none());
        assert_eq!((tally.window.accepted, tally.wrong), (2, 0));
        for (expected, answer) in [
            (Expected::New(2), Ok((202, &other_duplicate[..]))),
            (Expected::Duplicate(first), Ok((202, &new))),
            (Expected::Duplicate(first), Ok((202, &other_duplicate))),
            (Expected::New(2), Ok((202, b"{}"))),
            (Expected::New(2), Ok((500, br#"{"code":"internal"}"#))),
            (Expected::New(2), Err(anyhow::anyhow!("refused"))),
        ] {
            tally.add(&plan, due, expected, answer);
        }
        assert_eq!(
            (tally.promises.len(), tally.wrong, tally.window.refused),
            (1, 6, 6)
        );
        let limited = Ok((429, &br#"{"code":"rate_limited"}"#[..]));
        tally.add(&plan, due, Expected::New(3), limited);
        assert_eq!(
            (tally.wrong, tally.window.refused),
            (6, 7),
            "a limit is no defect"
        );
        assert_eq!(tally.answers["429 rate_limited"], 1);
        assert_eq!(tally.answers["no answer: refused"], 1);
    }
}
