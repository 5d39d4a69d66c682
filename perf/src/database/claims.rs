//! How fast a relay claims and settles, and how much slower beside a snapshot that is older than the messages; the same of
//! the ingest that writes them.
//!
//! A snapshot keeps dead rows in its own database only. So two databases take turns, batch by batch, one beside a snapshot
//! and one not, and then change sides: a noisy neighbour disturbs both, and what else differs between them cancels out.

use std::time::{Duration, Instant};

use sql::outbox::Target;
use sql::volume::{Role, Scratch, hold_snapshot, vacuum_queues};
use sql::{DbError, Object};

use super::feed::Feed;
use super::relay::Drain;
use super::{Cell, Report, Section};

/// Webhooks a call takes while messages are made.
const INGEST_ITEMS: usize = 256;

/// The last of the messages, which count: one in so many.
const COUNTED: u32 = 5;

/// What is to be left of the rate beside an old snapshot.
const RATE_KEPT: f64 = 0.8;

/// A number of things that were done, and how long it took.
#[derive(Default, Clone, Copy)]
struct Pace {
    done: u32,
    took: Duration,
}

impl Pace {
    fn add(&mut self, done: usize, took: Duration) {
        self.done += u32::try_from(done).unwrap_or(u32::MAX);
        self.took += took;
    }

    fn a_second(self) -> f64 {
        f64::from(self.done) / self.took.as_secs_f64()
    }
}

/// What was done beside a snapshot, or without one: first, and at last.
#[derive(Default)]
struct Paces {
    ingest: [Pace; 2],
    claims: [Pace; 2],
}

/// One database's queue.
struct Queue {
    api: Object,
    feed: Feed,
    lane: Drain,
    ingested: u32,
    claimed: u32,
}

impl Queue {
    /// Empty and vacuumed, whatever the fill or an earlier run has left in it.
    async fn new(scratch: &Scratch) -> Result<Self, DbError> {
        for target in Target::ALL {
            Drain::new(scratch, target).await?.empty().await?;
        }
        vacuum_queues(&scratch.session(Role::Login).await?).await?;
        let api = scratch.session(Role::Api).await?;
        Ok(Self {
            feed: Feed::new(&api).await?,
            api,
            lane: Drain::new(scratch, Target::Jobs).await?,
            ingested: 0,
            claimed: 0,
        })
    }

    async fn ingest(&mut self, messages: u32, paces: &mut Paces) -> anyhow::Result<()> {
        let took = self.feed.ingest(&self.api, INGEST_ITEMS).await?;
        let before = self.ingested;
        self.ingested += u32::try_from(INGEST_ITEMS)?;
        if let Some(part) = part(before, self.ingested, messages) {
            paces.ingest[part].add(INGEST_ITEMS, took);
        }
        Ok(())
    }

    async fn claim(&mut self, messages: u32, paces: &mut Paces) -> anyhow::Result<()> {
        let began = Instant::now();
        let claimed = self.lane.cycle().await?.len();
        let took = began.elapsed();
        anyhow::ensure!(claimed > 0, "{} messages of {messages} were there", self.claimed);
        let before = self.claimed;
        self.claimed += u32::try_from(claimed)?;
        if let Some(part) = part(before, self.claimed, messages) {
            paces.claims[part].add(claimed, took);
        }
        Ok(())
    }
}

/// Whether the batch that brought `before` to `after` of `messages` began in the first fifth (0) or ended in the last (1).
fn part(before: u32, after: u32, messages: u32) -> Option<usize> {
    let counted = messages / COUNTED;
    if before < counted {
        Some(0)
    } else {
        (after > messages - counted).then_some(1)
    }
}

/// Measures one lane on each.
pub(super) async fn measure(
    empty: &Scratch,
    full: &Scratch,
    messages: u32,
    report: &mut Report,
) -> anyhow::Result<()> {
    let (mut alone, mut beside) = (Paces::default(), Paces::default());
    for (old, new) in [(full, empty), (empty, full)] {
        let mut queues = [Queue::new(new).await?, Queue::new(old).await?];
        let mut holder = old.session(Role::Login).await?;
        let snapshot = hold_snapshot(&mut holder).await?;
        let mut paces = [&mut alone, &mut beside];
        while queues[0].ingested < messages {
            for (queue, paces) in queues.iter_mut().zip(&mut paces) {
                queue.ingest(messages, paces).await?;
            }
        }
        while queues.iter().any(|queue| queue.claimed < messages) {
            for (queue, paces) in queues.iter_mut().zip(&mut paces) {
                if queue.claimed < messages {
                    queue.claim(messages, paces).await?;
                }
            }
        }
        drop(snapshot);
    }
    let mut section = Section::new(
        "claims",
        "Beside a snapshot that is older than all messages",
        &["what", "messages", "of which", "no snapshot, a second", "old snapshot, a second", "kept"],
    )
    .noted(
        "Ingest in batches of 256 until all messages are there, then claim and settle in batches of 500, one lane; on both \
         databases by turns, each once with the snapshot and once without.",
    );
    for (what, alone, beside) in [
        ("ingest", alone.ingest, beside.ingest),
        ("claim and settle", alone.claims, beside.claims),
    ] {
        for (which, alone, beside) in [
            ("the first fifth", alone[0], beside[0]),
            ("the last fifth", alone[1], beside[1]),
        ] {
            section.row([
                Cell::text(what),
                Cell::count(messages.into()),
                Cell::text(which),
                Cell::figure(alone.a_second(), 0),
                Cell::figure(beside.a_second(), 0),
                Cell::figure(beside.a_second() / alone.a_second(), 2),
            ]);
        }
    }
    let kept = beside.claims[1].a_second() / alone.claims[1].a_second();
    report.at_least("claim rate kept beside an old snapshot", kept, RATE_KEPT);
    report.sections.push(section);
    Ok(())
}
