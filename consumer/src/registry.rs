//! Which handler runs which kind of job, and what a handler is.
//!
//! Owns the trait that job kinds implement and what they are given. Runs none: that is `execute.rs`. The kinds are in
//! `jobs/`.

use std::collections::HashMap;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;

use observability::AppEnv;
use serde::de::DeserializeOwned;
use sql::event::{DomainEvent, EventHeaders, normalise};
use sql::jobs::StartedJob;
use uuid::Uuid;

use crate::jobs::{Chaos, Log};
use crate::outcome::Outcome;

/// A handler's work, which ends with its verdict.
pub type JobFuture<'a> = Pin<Box<dyn Future<Output = Outcome> + Send + 'a>>;

/// Runs one kind of job.
///
/// A job may be run more than once (its process may die after the work and before its outcome is written), and two
/// runs of it may overlap when the first has lost its lease: a handler's effects must be safe to repeat, keyed by
/// [`JobContext::job_id`]. A handler whose lease is lost is dropped at its next `await`. A panic is a retry.
pub trait JobHandler: Send + Sync + 'static {
    /// The kind it runs, as sources name it (`job_kind`): 1-63 of `[a-z0-9_.-]`.
    fn kind(&self) -> &'static str;

    /// Runs one attempt. Lines that it logs carry the ids of the job by themselves.
    fn run(&self, job: JobContext) -> JobFuture<'_>;
}

/// What a handler gets. The event is made of the bytes that were signed, as the database has them.
#[derive(Debug, Clone)]
pub struct JobContext {
    /// The job.
    pub job_id: Uuid,
    /// The attempt, from 1.
    pub attempt: i32,
    /// The tenant of the event.
    pub tenant_id: Uuid,
    /// The tenant's name in URLs and routing keys.
    pub tenant_slug: String,
    /// The event: the id of its first delivery.
    pub event_id: Uuid,
    /// Joins log lines, from the request to the last retry.
    pub correlation_id: String,
    /// The event itself.
    pub event: DomainEvent,
}

impl JobContext {
    /// The event's data as what the handler expects.
    ///
    /// # Errors
    /// [`Outcome::Failed`]: it is something else, and will be on every attempt. Says where, and not what is there.
    pub fn data<T: DeserializeOwned>(&self) -> Result<T, Outcome> {
        serde_json::from_str(self.event.data.get()).map_err(|error| {
            // The error's own text quotes the data, and operators would read it.
            let (line, column) = (error.line(), error.column());
            Outcome::failed(format_args!(
                "data is not what this kind expects, at line {line} column {column}"
            ))
        })
    }

    /// Makes the event of what is stored.
    ///
    /// # Errors
    /// [`Outcome::Failed`]: there is no event, or it can't be read, and neither will change.
    pub(crate) fn of(job: StartedJob) -> Result<Self, Outcome> {
        let Some(stored) = job.event else {
            return Err(Outcome::failed("the event is not stored any more"));
        };
        let headers = EventHeaders::from_stored(&stored.headers);
        let kind = stored.source_kind.map_err(|error| {
            Outcome::failed(format_args!("this consumer is too old for its source: {error}"))
        })?;
        let event = normalise(kind, &stored.source, &headers, &stored.body)
            .map_err(|error| Outcome::failed(format_args!("the stored event can't be read: {error}")))?;
        Ok(Self {
            job_id: job.run.job_id,
            attempt: job.attempt,
            tenant_id: stored.tenant_id,
            tenant_slug: stored.tenant_slug,
            event_id: job.event_id,
            correlation_id: stored.correlation_id,
            event,
        })
    }
}

/// A kind that is run by a function.
struct Function<F> {
    kind: &'static str,
    run: F,
}

impl<F, R> JobHandler for Function<F>
where
    F: Fn(JobContext) -> R + Send + Sync + 'static,
    R: Future<Output: Into<Outcome>> + Send + 'static,
{
    fn kind(&self) -> &'static str {
        self.kind
    }

    fn run(&self, job: JobContext) -> JobFuture<'_> {
        let ended = (self.run)(job);
        Box::pin(async move { ended.await.into() })
    }
}

/// The handlers of a consumer, one for each kind.
#[derive(Clone, Default)]
pub struct Registry(HashMap<&'static str, Arc<dyn JobHandler>>);

impl Registry {
    /// The kinds that every consumer has: `log`, and `chaos`, which refuses to run in production.
    #[must_use]
    pub fn built_in(app_env: AppEnv) -> Self {
        Self::default().with(Log).with(Chaos::new(app_env))
    }

    /// Adds a handler, in place of an earlier one of its kind.
    #[must_use]
    pub fn with(mut self, handler: impl JobHandler) -> Self {
        self.0.insert(handler.kind(), Arc::new(handler));
        self
    }

    /// The same with a function: `async fn`s fit, and so do closures that return a future. Its verdict is an [`Outcome`],
    /// or `Result<(), Outcome>` where it ends early by `?`.
    #[must_use]
    pub fn with_fn<F, R>(self, kind: &'static str, run: F) -> Self
    where
        F: Fn(JobContext) -> R + Send + Sync + 'static,
        R: Future<Output: Into<Outcome>> + Send + 'static,
    {
        self.with(Function { kind, run })
    }

    /// The handler of a kind.
    ///
    /// # Errors
    /// [`Outcome::Failed`] that names the kind: retries would find no handler either until a release brings one, and
    /// an operator can reprocess the job then.
    pub(crate) fn handler(&self, kind: &str) -> Result<Arc<dyn JobHandler>, Outcome> {
        let found = self.0.get(kind).cloned();
        found.ok_or_else(|| {
            Outcome::failed(format_args!(
                "this consumer has no handler for job kind \"{kind}\""
            ))
        })
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.0.keys()).finish()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use sql::event::SourceKind;
    use sql::jobs::Run;
    use sql::outbox::StoredEvent;

    use super::*;

    fn started(body: Option<&[u8]>) -> StartedJob {
        let event = body.map(|body| StoredEvent {
            tenant_id: Uuid::from_u128(3),
            tenant_slug: "acme".to_owned(),
            source: "shop".to_owned(),
            source_kind: Ok(SourceKind::Generic),
            event_type: "order.paid".to_owned(),
            provider_event_id: Some("e-1".to_owned()),
            correlation_id: "c-1".to_owned(),
            headers: json!({"x-event-id": "e-1"}),
            body: body.to_vec(),
            trace_context: None,
        });
        StartedJob {
            run: Run {
                job_id: Uuid::from_u128(1),
                run_id: Uuid::from_u128(2),
            },
            attempt: 4,
            job_kind: "log".to_owned(),
            event_id: Uuid::from_u128(5),
            source: "generic".to_owned(),
            tenant_id: Uuid::from_u128(3),
            correlation_id: "c-1".to_owned(),
            event,
        }
    }

    #[test]
    fn a_handler_gets_the_event_of_the_stored_bytes() {
        let job = JobContext::of(started(Some(br#"{"event":"order.paid","data":{"n":1}}"#))).unwrap();
        assert_eq!(
            (job.job_id, job.attempt, job.event_id),
            (Uuid::from_u128(1), 4, Uuid::from_u128(5))
        );
        assert_eq!(
            (job.tenant_slug.as_str(), job.correlation_id.as_str()),
            ("acme", "c-1")
        );
        assert_eq!(
            (job.event.source.as_str(), job.event.event_type.as_str()),
            ("shop", "order.paid")
        );
        assert_eq!(job.event.provider_event_id.as_deref(), Some("e-1"));
        assert_eq!(job.event.data.get(), r#"{"n":1}"#);
    }

    #[test]
    fn data_of_another_shape_is_given_up_and_not_quoted() {
        let body = br#"{"event":"order.paid","data":{"n":"4242-secret"}}"#;
        let job = JobContext::of(started(Some(body))).unwrap();
        let read: HashMap<String, String> = job.data().unwrap();
        assert_eq!(read["n"], "4242-secret");
        let refused = job.data::<HashMap<String, u32>>().unwrap_err();
        assert_eq!(
            refused,
            Outcome::failed("data is not what this kind expects, at line 1 column 18")
        );
    }

    #[tokio::test]
    async fn a_function_is_a_handler_and_an_early_end_its_verdict() {
        async fn short(job: JobContext) -> Result<(), Outcome> {
            job.data::<u32>().map(drop)
        }
        let wait = std::time::Duration::from_secs(7);
        let registry = Registry::default()
            .with_fn("short", short)
            .with_fn(
                "long",
                move |_| async move { Outcome::retry_after(wait, "later") },
            );
        let run = async |kind, body: &[u8]| {
            let job = JobContext::of(started(Some(body))).unwrap();
            let handler = registry.handler(kind).unwrap();
            handler.run(job).await
        };
        assert_eq!(
            run("short", br#"{"event":"e","data":1}"#).await,
            Outcome::Succeeded
        );
        assert!(matches!(
            run("short", br#"{"event":"e","data":{}}"#).await,
            Outcome::Failed { .. }
        ));
        let Outcome::Retry { error, after } = run("long", br#"{"event":"e"}"#).await else {
            panic!("no retry");
        };
        assert_eq!((error.as_str(), after), ("later", Some(wait)));
    }

    #[test]
    fn an_event_that_is_gone_or_unreadable_is_given_up_and_says_why() {
        let gone = JobContext::of(started(None)).unwrap_err();
        assert_eq!(gone, Outcome::failed("the event is not stored any more"));
        let Outcome::Failed { error } = JobContext::of(started(Some(b"{"))).unwrap_err() else {
            panic!("not given up");
        };
        assert!(
            error.contains("can't be read") && error.contains("body"),
            "{error}"
        );
        let mut newer = started(Some(b"{}"));
        newer.event.as_mut().unwrap().source_kind = "paypal".parse();
        let Outcome::Failed { error } = JobContext::of(newer).unwrap_err() else {
            panic!("not given up");
        };
        assert!(error.contains("too old") && error.contains("paypal"), "{error}");
    }

    #[test]
    fn an_unknown_kind_is_given_up_by_name_and_a_later_handler_replaces_an_earlier() {
        struct Other;
        impl JobHandler for Other {
            fn kind(&self) -> &'static str {
                "log"
            }
            fn run(&self, _: JobContext) -> JobFuture<'_> {
                Box::pin(async { Outcome::Succeeded })
            }
        }
        let registry = Registry::built_in(AppEnv::Production).with(Other);
        assert_eq!(registry.0.len(), 2);
        assert!(registry.handler("log").is_ok() && registry.handler("chaos").is_ok());
        let Err(Outcome::Failed { error }) = registry.handler("mail") else {
            panic!("found a handler for mail");
        };
        assert!(error.contains("\"mail\""), "{error}");
    }
}
