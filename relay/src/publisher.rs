//! Publishing with confirms: each message handed in comes back as what the broker made of it.
//!
//! Owns one confirm channel, the window of messages in flight and their time-out. Does not own retries: a
//! message that is not confirmed stays where it came from. What a message may hold is in `outgoing.rs`,
//! connections come from `session.rs`; `kept.rs` has a publisher on whichever session is up.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use amqprs::BasicProperties;
use amqprs::channel::{BasicPublishArguments, Channel, ConfirmSelectArguments};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;

use crate::amqp::AmqpError;
use crate::outgoing::{Outgoing, PublishOutcome, basic_properties, check, publish_tag};
use crate::session::{CLOSED_HERE, Confirms, End, Session};

/// Messages in flight at once. More than 1000 gains nothing, and it stays below the 8192 frames that the
/// client library queues, so that handing one over never waits.
const WINDOW: usize = 1000;

/// Publishes on one session. Clones share its channel and window; when the last is dropped, or anything goes
/// wrong, the session ends.
#[derive(Clone, Debug)]
pub struct Publisher {
    queue: mpsc::Sender<Command>,
    window: Arc<Semaphore>,
    book: Arc<Book>,
    end: Arc<End>,
}

#[derive(Debug)]
struct Command {
    message: Outgoing,
    reply: oneshot::Sender<PublishOutcome>,
    permit: OwnedSemaphorePermit,
}

/// A message that was handed in, or was not.
enum Ticket {
    Waits(oneshot::Receiver<PublishOutcome>),
    Settled(PublishOutcome),
}

impl Publisher {
    /// Opens a confirm channel on `session`. A message without an answer after `confirm_timeout` ends the
    /// session: a broker that is blocked by its memory or disk alarm says nothing else.
    ///
    /// # Errors
    /// [`AmqpError::Lost`] or [`AmqpError::TimedOut`]; the session has ended then.
    pub async fn start(session: &Session, confirm_timeout: Duration) -> Result<Self, AmqpError> {
        let end = session.end().clone();
        let book = Arc::new(Book::default());
        let channel = session.open_confirm_channel(book.clone()).await?;
        channel
            .confirm_select(ConfirmSelectArguments::default())
            .await
            .map_err(|error| AmqpError::Lost(end.reason().unwrap_or_else(|| error.to_string())))?;
        let (queue, commands) = mpsc::channel(WINDOW);
        let window = Arc::new(Semaphore::new(WINDOW));
        tokio::spawn(watch_deadlines(book.clone(), end.clone(), confirm_timeout));
        let task = Task {
            channel,
            commands,
            book: book.clone(),
            window: window.clone(),
            end: end.clone(),
            confirm_timeout,
        };
        tokio::spawn(task.run());
        Ok(Self {
            queue,
            window,
            book,
            end,
        })
    }

    /// Publishes one message and waits for the broker's answer, which is there within the confirm time-out
    /// once the message is in the window. Dropping the future takes nothing back.
    pub async fn publish(&self, message: Outgoing) -> PublishOutcome {
        self.hand_in(message).await.outcome(&self.end).await
    }

    /// Publishes all, in order and without waiting in between, and answers in the same order, until the deadline at the
    /// latest: `TimedOut` for what has no answer by then, none for what did not come into the window, and was not sent.
    pub async fn publish_batch(
        &self,
        messages: Vec<Outgoing>,
        deadline: Instant,
    ) -> Vec<Option<PublishOutcome>> {
        let count = messages.len();
        let mut tickets = Vec::with_capacity(count);
        for message in messages {
            let Ok(ticket) = timeout_at(deadline, self.hand_in(message)).await else {
                break;
            };
            tickets.push(ticket);
        }
        let mut outcomes = Vec::with_capacity(count);
        for ticket in tickets {
            let outcome = timeout_at(deadline, ticket.outcome(&self.end)).await;
            outcomes.push(Some(outcome.unwrap_or(PublishOutcome::TimedOut)));
        }
        outcomes.resize(count, None);
        outcomes
    }

    /// Ends the session, for a reason that its next one mends: the topology is declared anew then.
    pub fn give_up(&self, reason: &str) {
        self.end.come(reason);
    }

    /// Waits until the broker has answered that often in this session, whatever the answers were.
    pub(crate) async fn answered(&self, times: usize) {
        // Its sender is in the book: it can't fail.
        let _ = self
            .book
            .answers
            .subscribe()
            .wait_for(|answers| *answers >= times)
            .await
            .map(drop);
    }

    /// How often the broker has answered in this session.
    pub(crate) fn answers(&self) -> usize {
        *self.book.answers.borrow()
    }

    /// Waits until every message has its outcome, which is soon after the session's end.
    pub(crate) async fn settled(&self) {
        self.book.settled.cancelled().await;
    }

    /// How many messages were in flight when the broker closed the channel over one of them; 0 if it did not, or if there
    /// was only that one, which is `Refused` then.
    pub(crate) fn suspects(&self) -> usize {
        self.book.suspects.load(Ordering::SeqCst)
    }

    /// Whether the broker has closed the channel over one of the messages in flight: the others are as good as ever.
    pub fn is_refused(&self) -> bool {
        self.end.is_refusal()
    }

    /// Whether a message was handed to the broker in this session.
    pub(crate) fn has_published(&self) -> bool {
        self.book.lock().last_tag > 0
    }

    /// Whether a message of this session had no answer in time.
    pub(crate) fn has_timed_out(&self) -> bool {
        self.book.timed_out.load(Ordering::Relaxed)
    }

    /// Whether its session has ended: nothing can be published on it any more.
    pub fn is_lost(&self) -> bool {
        self.end.is_reached()
    }

    async fn hand_in(&self, message: Outgoing) -> Ticket {
        if let Err(reason) = check(&message) {
            return Ticket::Settled(PublishOutcome::Refused(reason));
        }
        // Both fail only when the session has ended; the ticket's channel says the same then.
        let (reply, outcome) = oneshot::channel();
        if let Ok(permit) = self.window.clone().acquire_owned().await {
            let _ = self
                .queue
                .send(Command {
                    message,
                    reply,
                    permit,
                })
                .await;
        }
        Ticket::Waits(outcome)
    }
}

impl Ticket {
    async fn outcome(self, end: &End) -> PublishOutcome {
        match self {
            Ticket::Settled(outcome) => outcome,
            Ticket::Waits(outcome) => outcome.await.unwrap_or_else(|_| lost(end)),
        }
    }
}

fn lost(end: &End) -> PublishOutcome {
    PublishOutcome::Lost(end.reason().unwrap_or_else(|| "the connection broke".to_owned()))
}

/// The messages in flight, by delivery tag: the broker counts the messages of a channel from 1, and so do we.
#[derive(Debug, Default)]
struct Book {
    entries: Mutex<Entries>,
    answers: watch::Sender<usize>,
    timed_out: AtomicBool,
    /// Cancelled when every message has its outcome, after the end.
    settled: CancellationToken,
    suspects: AtomicUsize,
}

#[derive(Debug, Default)]
struct Entries {
    last_tag: u64,
    in_flight: BTreeMap<u64, Entry>,
}

#[derive(Debug)]
struct Entry {
    reply: oneshot::Sender<PublishOutcome>,
    deadline: Instant,
    /// The broker acks a returned message too, right after the return.
    returned: Option<(u16, String)>,
    _permit: OwnedSemaphorePermit,
}

impl Book {
    fn lock(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn enter(
        &self,
        reply: oneshot::Sender<PublishOutcome>,
        deadline: Instant,
        permit: OwnedSemaphorePermit,
    ) -> u64 {
        let mut entries = self.lock();
        entries.last_tag += 1;
        let tag = entries.last_tag;
        entries.in_flight.insert(
            tag,
            Entry {
                reply,
                deadline,
                returned: None,
                _permit: permit,
            },
        );
        tag
    }

    /// Takes out `tag`, or all up to it.
    fn take(&self, tag: u64, multiple: bool) -> Vec<Entry> {
        let in_flight = &mut self.lock().in_flight;
        if multiple {
            let later = in_flight.split_off(&tag.saturating_add(1));
            std::mem::replace(in_flight, later).into_values().collect()
        } else {
            in_flight.remove(&tag).into_iter().collect()
        }
    }

    fn take_all(&self) -> Vec<Entry> {
        self.take(u64::MAX, true)
    }

    /// All have the same time-out, so the oldest is the first due.
    fn is_overdue(&self, now: Instant) -> bool {
        self.lock()
            .in_flight
            .values()
            .next()
            .is_some_and(|entry| entry.deadline <= now)
    }
}

impl Entry {
    /// Nobody listens any more when the caller dropped its future.
    fn answer(self, outcome: PublishOutcome) {
        let _ = self.reply.send(outcome);
    }
}

impl Confirms for Book {
    fn ack(&self, tag: u64, multiple: bool) {
        self.answers.send_modify(|answers| *answers += 1);
        for mut entry in self.take(tag, multiple) {
            let outcome = match entry.returned.take() {
                None => PublishOutcome::Confirmed,
                Some((reply_code, reply_text)) => PublishOutcome::Returned {
                    reply_code,
                    reply_text,
                },
            };
            entry.answer(outcome);
        }
    }

    fn nack(&self, tag: u64, multiple: bool) {
        self.answers.send_modify(|answers| *answers += 1);
        for entry in self.take(tag, multiple) {
            entry.answer(PublishOutcome::Nacked);
        }
    }

    fn returned(&self, properties: &BasicProperties, reply_code: u16, reply_text: &str) {
        let tag = publish_tag(properties);
        let mut entries = self.lock();
        match tag.and_then(|tag| entries.in_flight.get_mut(&tag)) {
            Some(entry) => entry.returned = Some((reply_code, reply_text.to_owned())),
            None => tracing::error!(reply_code, "the broker returned a message that is not in flight"),
        }
    }
}

async fn watch_deadlines(book: Arc<Book>, end: Arc<End>, timeout: Duration) {
    let period = (timeout / 10).clamp(Duration::from_millis(10), Duration::from_millis(250));
    let mut ticks = tokio::time::interval(period);
    loop {
        tokio::select! {
            () = end.reached() => return,
            now = ticks.tick() => if book.is_overdue(now) {
                // Taken before the end comes, which answers all others; answered after it, so that who hears
                // of a time-out finds the publisher lost.
                book.timed_out.store(true, Ordering::Relaxed);
                let unanswered = book.take_all();
                end.come(format!("no confirm in {} ms: blocked by an alarm, or stalled", timeout.as_millis()));
                for entry in unanswered {
                    let overdue = entry.deadline <= now;
                    entry.answer(if overdue { PublishOutcome::TimedOut } else { lost(&end) });
                }
                return;
            }
        }
    }
}

/// The one task that writes to the channel, which keeps our count of tags in step with the broker's.
struct Task {
    channel: Channel,
    commands: mpsc::Receiver<Command>,
    book: Arc<Book>,
    window: Arc<Semaphore>,
    end: Arc<End>,
    confirm_timeout: Duration,
}

impl Task {
    async fn run(mut self) {
        let end = self.end.clone();
        loop {
            let command = tokio::select! {
                biased;
                () = end.reached() => break,
                command = self.commands.recv() => command,
            };
            let Some(command) = command else {
                end.come(CLOSED_HERE);
                break;
            };
            // Not a call that waits for an answer, so it may be cut off; it is when the connection is gone.
            tokio::select! {
                biased;
                () = end.reached() => break,
                sent = self.send(command) => if let Err(error) = sent {
                    end.come(format!("the connection broke: {error}"));
                    break;
                }
            }
        }
        // Order matters: nothing may be handed in once the rest is answered.
        self.window.close();
        self.commands.close();
        let mut unanswered = self.book.take_all();
        if end.is_refusal() {
            match unanswered.len() {
                1 => unanswered
                    .remove(0)
                    .answer(PublishOutcome::Refused(end.reason().unwrap_or_default())),
                suspects => self.book.suspects.store(suspects, Ordering::SeqCst),
            }
        }
        for entry in unanswered {
            entry.answer(lost(&end));
        }
        while let Some(command) = self.commands.recv().await {
            let _ = command.reply.send(lost(&end));
        }
        self.book.settled.cancel();
    }

    async fn send(&self, command: Command) -> Result<(), amqprs::error::Error> {
        let Command {
            message,
            reply,
            permit,
        } = command;
        let tag = self
            .book
            .enter(reply, Instant::now() + self.confirm_timeout, permit);
        let properties = basic_properties(&message.properties, tag);
        let route = BasicPublishArguments::new(&message.exchange, &message.routing_key)
            .mandatory(true)
            .finish();
        self.channel.basic_publish(properties, message.body, route).await
    }
}
