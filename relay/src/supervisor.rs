//! One session after the other, for as long as the service runs.
//!
//! Owns the back-off between attempts, the readiness check `broker` and the log lines of the broker's coming
//! and going. Does not own what is done on a session (`session.rs` leads there).

use std::sync::Arc;
use std::time::{Duration, Instant};

use observability::admin::Readiness;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::amqp::{AmqpConfig, AmqpError, Endpoint};
use crate::session::{CLOSED_HERE, End, STEP_TIMEOUT, Session};
use crate::topology::Topology;

/// Back-off between attempts: doubled from the first to the last, then jittered.
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LAST_DELAY: Duration = Duration::from_secs(10);

/// How long a session must have lived for the next attempt to start over with the first delay.
const STABLE_AFTER: Duration = Duration::from_secs(10);

/// Makes one session after the other. Keeps the readiness check `broker`, and is the one place that logs
/// that the broker came or went.
#[derive(Debug)]
pub struct Supervisor {
    endpoint: Endpoint,
    topology: Topology,
    name: String,
    readiness: Readiness,
    failures: u32,
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
    /// Connects nowhere yet. `name` is what the broker lists the connections as.
    ///
    /// # Errors
    /// [`AmqpError::Url`].
    pub fn new(config: &AmqpConfig, name: &str, readiness: Readiness) -> Result<Self, AmqpError> {
        Ok(Self {
            endpoint: config.endpoint()?,
            topology: Topology::new(&config.prefix),
            name: name.to_owned(),
            readiness,
            failures: 0,
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
            self.failures = if last.since.elapsed() < STABLE_AFTER {
                self.failures + 1
            } else {
                0
            };
            // What it says of the readiness must not come after what the next one says.
            let _ = last.watch.await;
        }
        loop {
            let delay = delay_after(self.failures);
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
                    self.failures += 1;
                    let reason = error.to_string();
                    self.readiness.set("broker", Err(&reason));
                    tracing::warn!(amqp.connection = self.name, attempts = self.failures, %error, "no broker");
                }
            }
        }
    }

    async fn attempt(&self) -> Result<Session, AmqpError> {
        let session = Session::connect(&self.endpoint, &self.name).await?;
        match tokio::time::timeout(STEP_TIMEOUT, self.topology.declare(&session)).await {
            Ok(declared) => declared.map(|()| session),
            Err(_) => Err(AmqpError::TimedOut(STEP_TIMEOUT.as_millis())),
        }
    }

    fn watch(&self, session: &Session) -> Watched {
        self.readiness.set("broker", Ok(()));
        let broker = self.endpoint.address();
        tracing::info!(
            amqp.connection = self.name,
            amqp.broker = broker,
            "connected to the broker"
        );
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

/// How long to wait after so many failures in a row: between half and all of the doubled delay, so that
/// services which lost the same broker don't come back in step.
fn delay_after(failures: u32) -> Duration {
    let Some(doublings) = failures.checked_sub(1) else {
        return Duration::ZERO;
    };
    let full = FIRST_DELAY.saturating_mul(1 << doublings.min(10)).min(LAST_DELAY);
    full.mul_f64(rand::random_range(0.5..=1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_back_off_doubles_with_jitter_up_to_its_cap() {
        assert_eq!(delay_after(0), Duration::ZERO);
        for (failures, full_ms) in [(1, 100), (2, 200), (5, 1600), (8, 10_000), (u32::MAX, 10_000)] {
            for _ in 0..100 {
                let delay = delay_after(failures);
                let full = Duration::from_millis(full_ms);
                assert!(delay >= full / 2 && delay <= full, "{failures}: {delay:?}");
            }
        }
    }
}
