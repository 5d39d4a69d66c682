//! Sends the demo webhooks, waits until their jobs are final, and says whether each became what it should.

use std::fmt;
use std::time::{Duration, Instant};

use chrono::Utc;
use sql::event::SourceKind;
use sql::operators::{FoundEvent, JobOverview, find_events, job_overview};
use sql::{DbError, GenericClient};
use uuid::Uuid;

use super::setup::find_tenant;
use super::{State, TENANT};
use crate::client::{Addressing, Answer, Client};
use crate::config::Target;
use crate::report::{Align, Table, short};
use crate::scenario::{Delivery, Fixture, INVOICE_PAID, ORDER_CREATED, PUSH};

/// How long the jobs may take to become final.
const FINAL_WITHIN: Duration = Duration::from_secs(15);

/// How often the database is asked meanwhile.
const POLL_EVERY: Duration = Duration::from_millis(50);

/// How far the database's clock may be behind ours.
const CLOCK_SKEW: chrono::TimeDelta = chrono::TimeDelta::minutes(5);

/// What a webhook of the demo is to become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Expected {
    /// 202, and a job that succeeds.
    Accepted,
    /// 202 with the ids of the first one.
    Duplicate,
    /// 401, and nothing stored.
    Refused,
}

#[derive(Clone)]
struct Webhook {
    what: &'static str,
    expected: Expected,
    kind: SourceKind,
    tenant: Addressing<'static>,
    delivery: Delivery,
}

struct Sent {
    what: &'static str,
    expected: Expected,
    answer: anyhow::Result<Answer>,
    job: Option<JobOverview>,
}

/// What became of the demo webhooks. Prints as a table, then a line for each thing that is wrong.
pub struct Report {
    sent: Vec<Sent>,
    stored_forgeries: Vec<FoundEvent>,
}

/// Sends a webhook of each provider, the first one again, and one with a forged signature, to the demo tenant.
///
/// # Errors
/// If the state file is missing or the database does not answer. A webhook that is not answered is in the report.
pub async fn send(target: &Target) -> anyhow::Result<Report> {
    let state = State::load(&target.state)?;
    let pool = sql::pool::connect(&target.database, "relayforge-perf")?;
    let client = pool.get().await.map_err(DbError::from)?;
    let tenant_id = find_tenant(&client, TENANT).await?;
    let since = Utc::now() - CLOCK_SKEW;
    let sender = Client::new(&target.url)?;
    let mut sent = Vec::new();
    let mut forged_ids = Vec::new();
    for webhook in webhooks(&state) {
        let source = webhook.kind.as_str();
        let answer = sender.deliver(source, webhook.tenant, &webhook.delivery).await;
        if webhook.expected == Expected::Refused {
            forged_ids.push(webhook.delivery.event_id);
        }
        sent.push(Sent {
            what: webhook.what,
            expected: webhook.expected,
            answer,
            job: None,
        });
    }
    follow_jobs(&client, &mut sent).await?;
    let github = SourceKind::Github.as_str();
    let stored_forgeries = find_events(&client, tenant_id, github, &forged_ids, since).await?;
    Ok(Report {
        sent,
        stored_forgeries,
    })
}

/// What is sent, in this order: the duplicate repeats the first.
fn webhooks(state: &State) -> Vec<Webhook> {
    let (in_header, in_path) = (Addressing::Header(TENANT), Addressing::Path(TENANT));
    let webhook = |what, expected, fixture: Fixture, tenant, secret: &str| Webhook {
        what,
        expected,
        kind: fixture.kind,
        tenant,
        delivery: fixture.fresh().signed(fixture.kind, secret),
    };
    let accepted = |what, fixture: Fixture, tenant| {
        webhook(
            what,
            Expected::Accepted,
            fixture,
            tenant,
            state.secret(fixture.kind),
        )
    };
    let order = accepted("generic order.created", ORDER_CREATED, in_header);
    let again = Webhook {
        what: "the generic one again",
        expected: Expected::Duplicate,
        tenant: in_path,
        ..order.clone()
    };
    vec![
        order,
        accepted("github push", PUSH, in_path),
        accepted("stripe invoice.paid", INVOICE_PAID, in_path),
        again,
        webhook(
            "a forged github push",
            Expected::Refused,
            PUSH,
            in_path,
            "not the tenant's secret",
        ),
    ]
}

/// Reads the jobs of the answers until all are final, or time is up.
async fn follow_jobs(client: &impl GenericClient, sent: &mut [Sent]) -> Result<(), DbError> {
    let ids: Vec<Uuid> = sent.iter().filter_map(Sent::job_id).collect();
    let deadline = Instant::now() + FINAL_WITHIN;
    loop {
        let jobs = job_overview(client, &ids).await?;
        for one in sent.iter_mut() {
            one.job = jobs.iter().find(|job| Some(job.job_id) == one.job_id()).cloned();
        }
        let all_final = sent
            .iter()
            .all(|one| one.job.as_ref().is_none_or(|job| job.finished_at.is_some()));
        if all_final || Instant::now() >= deadline {
            return Ok(());
        }
        tokio::time::sleep(POLL_EVERY).await;
    }
}

impl Sent {
    fn job_id(&self) -> Option<Uuid> {
        self.answer.as_ref().ok()?.id("job_id")
    }

    /// What is not as expected, in words. `first` is the webhook that a duplicate repeats.
    fn wrong(&self, first: &Sent) -> Option<String> {
        let answer = match &self.answer {
            Ok(answer) => answer,
            Err(error) => return Some(format!("no answer: {error:#}")),
        };
        let wanted = if self.expected == Expected::Refused {
            401
        } else {
            202
        };
        if answer.status.as_u16() != wanted {
            let detail = answer.body["detail"].as_str().unwrap_or("no detail");
            return Some(format!(
                "answered {} instead of {wanted}: {detail}",
                answer.status.as_u16()
            ));
        }
        match self.expected {
            Expected::Refused => None,
            Expected::Accepted if answer.deduped() != Some(false) => {
                Some("answered as a duplicate, though its event id is new".to_owned())
            }
            Expected::Accepted => self.wrong_job(),
            Expected::Duplicate => {
                let ids = |one: &Sent| {
                    let answer = one.answer.as_ref().ok()?;
                    Some((answer.id("event_id")?, answer.id("job_id")?))
                };
                let repeats =
                    answer.deduped() == Some(true) && ids(self).is_some() && ids(self) == ids(first);
                (!repeats).then(|| "not answered with the first event id and job id".to_owned())
            }
        }
    }

    fn wrong_job(&self) -> Option<String> {
        let id = self
            .job_id()
            .map_or_else(|| "no id".to_owned(), |id| id.to_string());
        match &self.job {
            None => Some(format!("the job of the answer ({id}) is not in the database")),
            Some(job) if job.status == "succeeded" && job.finished_at.is_some() => None,
            Some(job) => {
                let waited = FINAL_WITHIN.as_secs();
                let said = job
                    .last_error
                    .as_deref()
                    .map(|error| format!(", last error: {error}"));
                let (status, said) = (&job.status, said.unwrap_or_default());
                Some(format!(
                    "job {id} is {status} and not succeeded after {waited} s{said}"
                ))
            }
        }
    }

    fn cells(&self) -> [String; 9] {
        let answer = self.answer.as_ref().ok();
        let id = |member| {
            answer
                .and_then(|answer| answer.id(member))
                .map(short)
                .unwrap_or_default()
        };
        // A duplicate has no job of its own: its status would be the first one's, told twice.
        let job = self.job.as_ref().filter(|_| self.expected == Expected::Accepted);
        let took = job.and_then(|job| Some(job.finished_at? - job.created_at));
        [
            self.what.to_owned(),
            answer.map_or_else(|| "none".to_owned(), |answer| answer.status.as_u16().to_string()),
            id("event_id"),
            id("job_id"),
            answer
                .and_then(Answer::deduped)
                .map(|deduped| if deduped { "yes" } else { "no" }.to_owned())
                .unwrap_or_default(),
            job.map(|job| job.status.clone()).unwrap_or_default(),
            job.map(|job| job.attempts.to_string()).unwrap_or_default(),
            answer
                .map(|answer| answer.elapsed.as_millis().to_string())
                .unwrap_or_default(),
            took.map(|took| took.num_milliseconds().to_string())
                .unwrap_or_default(),
        ]
    }
}

impl Report {
    /// Whether everything became what it should.
    pub fn is_right(&self) -> bool {
        self.wrong().is_empty()
    }

    fn wrong(&self) -> Vec<String> {
        let Some(first) = self.sent.first() else {
            return Vec::new();
        };
        let each = self
            .sent
            .iter()
            .filter_map(|one| Some(format!("{}: {}", one.what, one.wrong(first)?)));
        let forgeries = self.stored_forgeries.iter();
        each.chain(forgeries.map(|event| format!("the forgery is stored, as event {}", event.event_id)))
            .collect()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&[
            ("sent", Align::Left),
            ("HTTP", Align::Right),
            ("event id", Align::Left),
            ("job id", Align::Left),
            ("deduped", Align::Left),
            ("job status", Align::Left),
            ("attempts", Align::Right),
            ("ms to answer", Align::Right),
            ("ms to final", Align::Right),
        ]);
        for one in &self.sent {
            table.row(one.cells());
        }
        write!(f, "\n{table}(ids by their last 12 digits)\n\n")?;
        let wrong = self.wrong();
        if wrong.is_empty() {
            return writeln!(
                f,
                "right: three providers accepted and succeeded, the duplicate got the first ids, the forgery 401"
            );
        }
        wrong.iter().try_for_each(|line| writeln!(f, "WRONG: {line}"))
    }
}
