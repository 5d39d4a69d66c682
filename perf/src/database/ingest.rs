//! What a webhook costs at ingest: time of one backend and WAL, by size of batch, on an empty and on a full database.
//!
//! The two take turns, round by round, so that a noisy neighbour disturbs both.

use std::time::Duration;

use sql::Object;
use sql::volume::{Role, Scratch, WalMeter, WalUse, checkpoint};

use super::feed::Feed;
use super::{Cell, Report, Section};

/// Webhooks a call takes. The API's calls take what waits, 256 at the most.
const BATCHES: [usize; 4] = [1, 8, 64, 256];

/// The batch whose cost is also measured right after a checkpoint.
const COLD_BATCH: usize = 64;

/// Turns of each database.
const ROUNDS: u32 = 5;

/// The longest round: single webhooks wait for the disk, and their cost is known sooner.
const ROUND_TIME: Duration = Duration::from_secs(3);

/// Webhooks before the first round, as a multiple of those of a figure: each page of the ledger has its image in the WAL
/// then, and plans are made.
const WARM_UP: usize = 5;

/// A database, and who sends to it.
pub(super) struct Side<'a> {
    scratch: &'a Scratch,
    api: Object,
    pub(super) login: Object,
    feed: Feed,
}

/// What the rounds of one figure found.
#[derive(Default)]
pub(super) struct Cost {
    /// Microseconds a webhook, a round each.
    pub(super) rounds: Vec<f64>,
    webhooks: usize,
    wal: WalUse,
}

/// The median: a round that was disturbed says nothing.
pub(super) fn middle(figures: &[f64]) -> f64 {
    let mut sorted = figures.to_vec();
    sorted.sort_unstable_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

impl Cost {
    pub(super) fn microseconds(&self) -> f64 {
        middle(&self.rounds)
    }

    pub(super) fn wal_bytes(&self) -> f64 {
        self.wal.bytes as f64 / self.webhooks as f64
    }

    pub(super) fn full_page_bytes(&self) -> f64 {
        self.wal.full_pages as f64 / self.webhooks as f64
    }
}

impl<'a> Side<'a> {
    pub(super) async fn new(scratch: &'a Scratch) -> anyhow::Result<Self> {
        let api = scratch.session(Role::Api).await?;
        let login = scratch.session(Role::Login).await?;
        let feed = Feed::new(&api).await?;
        Ok(Self {
            scratch,
            api,
            login,
            feed,
        })
    }

    /// A call that does not count.
    pub(super) async fn call(&mut self, batch: usize) -> anyhow::Result<()> {
        self.feed.ingest(&self.api, batch).await?;
        Ok(())
    }

    pub(super) async fn round(
        &mut self,
        batch: usize,
        webhooks: usize,
        cost: &mut Cost,
    ) -> anyhow::Result<()> {
        let meter = WalMeter::start(self.scratch).await?;
        let (mut took, mut sent) = (Duration::ZERO, 0);
        while sent < webhooks && took < ROUND_TIME {
            took += self.feed.ingest(&self.api, batch).await?;
            sent += batch;
        }
        let wal = meter.so_far().await?;
        cost.rounds.push(took.as_secs_f64() * 1e6 / sent as f64);
        cost.webhooks += sent;
        cost.wal.bytes += wal.bytes;
        cost.wal.full_pages += wal.full_pages;
        Ok(())
    }
}

/// Measures both.
pub(super) async fn measure(
    empty: &Scratch,
    full: &Scratch,
    webhooks: u32,
    report: &mut Report,
) -> anyhow::Result<()> {
    let webhooks = usize::try_from(webhooks)?;
    let a_round = webhooks.div_ceil(usize::try_from(ROUNDS)?);
    let (mut empty, mut full) = (Side::new(empty).await?, Side::new(full).await?);
    let largest = BATCHES[BATCHES.len() - 1];
    for side in [&mut empty, &mut full] {
        for batch in BATCHES {
            // A plan is kept from the sixth call on.
            for _ in 0..8 {
                side.call(batch).await?;
            }
        }
    }
    // On the empty database there is nothing to be warmed, and it is to stay as empty as it can.
    for _ in 0..(webhooks * WARM_UP).div_ceil(largest) {
        full.call(largest).await?;
    }
    let mut section = Section::new(
        "ingest",
        "Ingest, a webhook of 600 bytes",
        &[
            "batch",
            "empty us",
            "full us",
            "full/empty",
            "empty webhooks/s",
            "full webhooks/s",
            "empty WAL bytes",
            "full WAL bytes",
            "of it full pages, empty",
            "of it full pages, full",
        ],
    )
    .noted(
        "Time in the call on one connection, median of the rounds; synchronous_commit as set below. \"After a checkpoint\": \
         a checkpoint before each round, so that the first change of each page logs it whole.",
    );
    for batch in BATCHES {
        let costs = rounds(&mut empty, &mut full, (batch, a_round), false).await?;
        section.row(cells(batch.to_string(), &costs));
    }
    let costs = rounds(&mut empty, &mut full, (COLD_BATCH, a_round), true).await?;
    section.row(cells(format!("{COLD_BATCH}, after a checkpoint"), &costs));
    report.sections.push(section);
    Ok(())
}

/// The cost of that (batch, webhooks a round) on each.
async fn rounds<'a>(
    empty: &mut Side<'a>,
    full: &mut Side<'a>,
    (batch, webhooks): (usize, usize),
    cold: bool,
) -> anyhow::Result<[Cost; 2]> {
    let mut costs = [Cost::default(), Cost::default()];
    for _ in 0..ROUNDS {
        for (side, cost) in [&mut *empty, &mut *full].into_iter().zip(&mut costs) {
            if cold {
                checkpoint(&side.login).await?;
            }
            side.round(batch, webhooks, cost).await?;
        }
    }
    Ok(costs)
}

fn cells(batch: String, [empty, full]: &[Cost; 2]) -> [Cell; 10] {
    let (one, other) = (empty.microseconds(), full.microseconds());
    [
        Cell::text(batch),
        Cell::figure(one, 1),
        Cell::figure(other, 1),
        Cell::figure(other / one, 2),
        Cell::figure(1e6 / one, 0),
        Cell::figure(1e6 / other, 0),
        Cell::figure(empty.wal_bytes(), 0),
        Cell::figure(full.wal_bytes(), 0),
        Cell::figure(empty.full_page_bytes(), 0),
        Cell::figure(full.full_page_bytes(), 0),
    ]
}
