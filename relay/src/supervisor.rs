//! One session after the other, for as long as the service runs.
//!
//! Owns the back-off between attempts, the readiness check `broker` and the log lines of the broker's coming
//! and going. Does not own what is done on a session (`session.rs` leads there).

use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use observability::admin::Readiness;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::amqp::{AmqpConfig, AmqpError, Endpoint};
use crate::backoff::Backoff;
use crate::session::{CLOSED_HERE, End, STEP_TIMEOUT, Session};
use crate::topology::Topology;

/// Back-off between attempts: doubled from the first to the last, then jittered.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(10);

/// How often a session for work looks whether its queues are still there. Nobody tells a publisher, and an idle one would not
/// find out.
const LOOK_EVERY: Duration = Duration::from_secs(15);

/// How long a session must have lived for the next attempt to start over with the first delay.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// What is done when a work queue of ours is missing, before it is declared anew: the broker has lost it, with all that was
/// in it. Until it has passed the queue stays missing, so that whoever comes next does it if we die.
#[derive(Clone)]
pub struct Repair(Arc<dyn Fn() -> RepairFuture + Send + Sync>);

type RepairFuture = Pin<Box<dyn Future<Output = Result<(), String>> + Send>>;

impl Repair {
    /// Calls that.
    pub fn new<F>(repair: impl Fn() -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Result<(), String>> + Send + 'static,
    {
        Self(Arc::new(move || Box::pin(repair())))
    }
}

impl fmt::Debug for Repair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Repair")
    }
}

/// Makes one session after the other. Keeps the readiness check `broker`, and is the one place that logs
/// that the broker came or went.
#[derive(Debug)]
pub struct Supervisor {
    endpoint: Endpoint,
    topology: Topology,
    name: String,
    readiness: Readiness,
    repair: Option<Repair>,
    backoff: Backoff,
    last: Option<Watched>,
}

/// The session made last, for as long as it lives.
#[derive(Debug)]
struct Watched {
    since: Instant,
    end: Arc<End>,
    watch: JoinHandle<()>,
}

impl Supervisor {
    /// Connects nowhere yet. `name` is what the broker lists the connections as. With a `repair` the work queues are looked
    /// after; sessions without one are not for work, and leave them alone: a queue that was declared by the way would hide
    /// that it was missing.
    ///
    /// # Errors
    /// [`AmqpError::Url`].
    pub fn new(
        config: &AmqpConfig,
        name: &str,
        readiness: Readiness,
        repair: Option<Repair>,
    ) -> Result<Self, AmqpError> {
        Ok(Self {
            endpoint: config.endpoint()?,
            topology: Topology::new(&config.prefix),
            name: name.to_owned(),
            readiness,
            repair,
            backoff: Backoff::new(FIRST_DELAY, LAST_DELAY),
            last: None,
        })
    }

    /// Our names on this broker.
    pub fn topology(&self) -> &Topology {
        &self.topology
    }

    /// The next session, with the topology declared on it; ends the one before. Tries for as long as it takes,
    /// from 100 ms to 10 s apart; a session that ended within 10 s counts as a failed attempt. `None` once
    /// `stop` is cancelled.
    pub async fn connect(&mut self, stop: &CancellationToken) -> Option<Session> {
        if let Some(last) = self.last.take() {
            last.end.come(CLOSED_HERE);
            // Who is refused a message is not the worse connected for it.
            if last.since.elapsed() < STABLE_AFTER && !last.end.is_refusal() {
                self.backoff.after_failure();
            } else {
                self.backoff.reset();
            }
            // What it says of the readiness must not come after what the next one says.
            let _ = last.watch.await;
        }
        loop {
            let delay = self.backoff.delay();
            // Cutting an attempt short is safe: its half-made session is dropped, and all of it goes.
            let attempt = async {
                tokio::time::sleep(delay).await;
                self.attempt().await
            };
            let made = tokio::select! {
                biased;
                () = stop.cancelled() => return None,
                made = attempt => made,
            };
            match made {
                Ok(session) => {
                    self.last = Some(self.watch(&session));
                    return Some(session);
                }
                Err(error) => {
                    self.backoff.after_failure();
                    let reason = error.to_string();
                    self.readiness.set("broker", Err(&reason));
                    tracing::warn!(amqp.connection = self.name, attempts = self.backoff.failures(), %error, "no broker");
                }
            }
        }
    }

    async fn attempt(&self) -> Result<Session, AmqpError> {
        let session = Session::connect(&self.endpoint, &self.name).await?;
        let Some(repair) = &self.repair else {
            in_time(self.topology.declare_others(&session)).await?;
            return Ok(session);
        };
        if in_time(self.topology.has_work_queues(&session)).await? {
            in_time(self.topology.declare(&session)).await?;
            return Ok(session);
        }
        drop(session);
        tracing::warn!(
            amqp.connection = self.name,
            "a work queue is missing: writing the messages of all open jobs anew"
        );
        (repair.0)().await.map_err(AmqpError::Repair)?;
        let session = Session::connect(&self.endpoint, &self.name).await?;
        in_time(self.topology.declare(&session)).await?;
        Ok(session)
    }

    /// Says under the check `broker` what there is to say of a session that is up.
    pub(crate) fn report(&self, found: Result<(), &str>) {
        self.readiness.set("broker", found);
    }

    fn watch(&self, session: &Session) -> Watched {
        self.readiness.set("broker", Ok(()));
        let broker = self.endpoint.address();
        tracing::info!(
            amqp.connection = self.name,
            amqp.broker = broker,
            "connected to the broker"
        );
        if self.repair.is_some() {
            let (topology, control, ended) =
                (self.topology.clone(), session.control().clone(), session.ended());
            tokio::spawn(async move {
                while ended.run_until_cancelled(tokio::time::sleep(LOOK_EVERY)).await.is_some()
                    // Where one is missing the broker closes the channel, and so the session ends.
                    && topology.look_for_work_queues(&control).await.is_ok()
                {}
            });
        }
        let (end, readiness, name) = (session.end().clone(), self.readiness.clone(), self.name.clone());
        let watch = async move {
            end.reached().await;
            let reason = end.reason().unwrap_or_default();
            readiness.set("broker", Err(&reason));
            if reason == CLOSED_HERE {
                tracing::info!(amqp.connection = name, "left the broker");
            } else {
                tracing::warn!(amqp.connection = name, reason, "lost the broker");
            }
        };
        Watched {
            since: Instant::now(),
            end: session.end().clone(),
            watch: tokio::spawn(watch),
        }
    }
}

/// A step that the broker may take [`STEP_TIMEOUT`] for.
async fn in_time<T>(step: impl Future<Output = Result<T, AmqpError>>) -> Result<T, AmqpError> {
    let done = tokio::time::timeout(STEP_TIMEOUT, step).await;
    done.unwrap_or(Err(AmqpError::TimedOut(STEP_TIMEOUT.as_millis())))
}
