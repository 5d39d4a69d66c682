//! A publisher on whichever session is up, and what is done while the broker confirms nothing.
//!
//! A broker that is blocked by its memory or disk alarm, or stalled, says nothing; it only stops to confirm. So when a
//! message times out, publishing is paused: the next session is open to one message at a time, the probe, until the broker
//! has answered for one. The same finds the one message that a broker closes its channel over. If nothing is due that could be the probe, it is a message for nobody, which the broker returns, so
//! that an idle relay does not stay paused. Owns that, and the readiness check `broker` meanwhile. Sessions come from
//! `supervisor.rs`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::outgoing::Outgoing;
use crate::publisher::Publisher;
use crate::session::Session;
use crate::supervisor::Supervisor;
use crate::topology::Topology;

/// What readiness says while publishing is paused.
const PAUSED: &str =
    "publishing is paused: the broker confirms nothing (a memory or disk alarm, or it is stalled)";

/// How long a paused session waits for somebody to probe with a message that is due, before it asks with one for nobody.
const NOTHING_DUE_AFTER: Duration = Duration::from_secs(1);

/// The publisher of whichever session is up; clones share it.
#[derive(Clone, Debug)]
pub struct KeptPublisher(watch::Receiver<Option<Live>>);

#[derive(Clone, Debug)]
struct Live {
    publisher: Publisher,
    /// While publishing is paused: who holds its one permit may probe.
    probe: Option<Arc<Semaphore>>,
}

/// Leave to publish.
#[derive(Debug)]
pub struct Turn {
    /// Where to.
    pub publisher: Publisher,
    probe: Option<OwnedSemaphorePermit>,
}

impl Turn {
    /// Whether publishing is paused: one message, and nobody else publishes as long as this is held.
    pub fn is_probe(&self) -> bool {
        self.probe.is_some()
    }
}

impl From<Publisher> for Turn {
    fn from(publisher: Publisher) -> Self {
        Self {
            publisher,
            probe: None,
        }
    }
}

impl KeptPublisher {
    /// The publisher, once there is one and, while publishing is paused, it is the caller's turn to probe. `None` after the
    /// end of the task of [`keep`].
    pub async fn turn(&mut self) -> Option<Turn> {
        let is_live = |live: &Option<Live>| live.as_ref().is_some_and(|live| !live.publisher.is_lost());
        loop {
            let live = self.0.wait_for(is_live).await.ok()?.clone()?;
            let Some(probe) = live.probe else {
                return Some(live.publisher.into());
            };
            tokio::select! {
                // Fails only for a closed semaphore, and nobody closes it.
                permit = probe.acquire_owned() => return Some(Turn { publisher: live.publisher, probe: permit.ok() }),
                changed = self.0.changed() => changed.ok()?,
            }
        }
    }
}

/// Why a session is open to one message at a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Restraint {
    /// It is not.
    None,
    /// The last one got no confirms: until the broker has answered once.
    Stalled,
    /// The broker has closed the last one over one of so many messages: until it has answered for as many. The one that
    /// it closes a session over when nothing else is in flight is refused for good.
    Suspects(usize),
}

impl Restraint {
    /// Answers after which it is over.
    fn answers(self) -> usize {
        match self {
            Self::None => 0,
            Self::Stalled => 1,
            Self::Suspects(suspects) => suspects,
        }
    }

    /// The restraint on the session after one that was lost.
    fn after(self, publisher: &Publisher) -> Self {
        let left = self.answers().saturating_sub(publisher.answers());
        match self {
            _ if publisher.suspects() > 0 => Self::Suspects(publisher.suspects().max(left)),
            _ if publisher.has_timed_out() => Self::Stalled,
            _ if left == 0 => Self::None,
            Self::Suspects(_) => Self::Suspects(left),
            other => other,
        }
    }
}

/// Keeps a publisher open on one session after the other, until `stop` is cancelled: to be done after the
/// last message has its outcome, because what is in flight then is lost. The task ends with the connection
/// closed.
pub fn keep(
    mut supervisor: Supervisor,
    confirm_timeout: Duration,
    stop: CancellationToken,
) -> (KeptPublisher, JoinHandle<()>) {
    let (current, kept) = watch::channel(None);
    let task = tokio::spawn(async move {
        let mut restraint = Restraint::None;
        while let Some(session) = supervisor.connect(&stop).await {
            let started = tokio::select! {
                biased;
                () = stop.cancelled() => continue,
                started = Publisher::start(&session, confirm_timeout) => started,
            };
            // Its error is the session's end, which the supervisor logs.
            let Ok(publisher) = started else { continue };
            if restraint == Restraint::Stalled {
                supervisor.report(Err(PAUSED));
            }
            offer(&current, &publisher, restraint);
            restraint = serve(&current, &publisher, session, restraint, &supervisor, &stop).await;
        }
    });
    (KeptPublisher(kept), task)
}

fn offer(current: &watch::Sender<Option<Live>>, publisher: &Publisher, restraint: Restraint) {
    current.send_replace(Some(Live {
        publisher: publisher.clone(),
        probe: (restraint != Restraint::None).then(|| Arc::new(Semaphore::new(1))),
    }));
}

/// A message to no queue: a broker that reads it returns and acknowledges it.
fn for_nobody(topology: &Topology) -> Outgoing {
    Outgoing {
        routing_key: topology.nobody.clone(),
        ..Outgoing::default()
    }
}

/// Until the session ends; returns the restraint on the next one.
async fn serve(
    current: &watch::Sender<Option<Live>>,
    publisher: &Publisher,
    session: Session,
    mut restraint: Restraint,
    supervisor: &Supervisor,
    stop: &CancellationToken,
) -> Restraint {
    let nothing_due = tokio::time::sleep(NOTHING_DUE_AFTER);
    tokio::pin!(nothing_due);
    let mut asked = false;
    loop {
        tokio::select! {
            reason = session.lost() => {
                current.send_replace(None);
                publisher.settled().await;
                let next = restraint.after(publisher);
                if next != Restraint::None && next != restraint {
                    tracing::warn!(reason, restraint = ?next, "publishing is paused but for one message at a time");
                }
                return next;
            }
            () = publisher.answered(restraint.answers()), if restraint != Restraint::None => {
                restraint = Restraint::None;
                supervisor.report(Ok(()));
                offer(current, publisher, restraint);
                tracing::info!("the broker confirms again: publishing goes on");
            }
            () = &mut nothing_due, if restraint != Restraint::None && !asked => {
                asked = true;
                if !publisher.has_published() {
                    let (publisher, ask) = (publisher.clone(), for_nobody(supervisor.topology()));
                    // The answer is heard above, and so is that there is none.
                    tokio::spawn(async move { publisher.publish(ask).await });
                }
            }
            () = stop.cancelled() => {
                session.close().await;
                return Restraint::None;
            }
        }
    }
}
