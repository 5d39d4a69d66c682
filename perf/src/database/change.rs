//! What a change of the schema costs the ingest, an index for example: by turns without and with it, on the full database.

use sql::volume::{Scratch, checkpoint};

use super::ingest::{Cost, Side, middle};
use super::{Cell, Report, Section};

/// Webhooks a call takes.
const BATCH: usize = 64;

/// Turns of each.
const ROUNDS: usize = 7;

/// Calls after the change that do not count: plans are made again.
const CALLS_AFTER_CHANGE: usize = 8;

/// Measures without and with what `change` does and `undo` takes back; at the end it is taken back.
pub(super) async fn measure(
    full: &Scratch,
    (change, undo): (&str, &str),
    webhooks: u32,
    report: &mut Report,
) -> anyhow::Result<()> {
    let a_round = usize::try_from(webhooks)?.div_ceil(ROUNDS);
    let mut side = Side::new(full).await?;
    let mut section = Section::new(
        "change",
        format!("Ingest with: {change}"),
        &[
            "batch",
            "without us",
            "with us",
            "more us",
            "without WAL bytes",
            "with WAL bytes",
            "more WAL bytes",
            "of it full pages",
        ],
    )
    .noted(
        "Medians of turns without and with it, and of the differences of each two turns; on the full database. \"After a \
         checkpoint\": as above.",
    );
    for cold in [false, true] {
        let (mut without, mut with) = (Cost::default(), Cost::default());
        for _ in 0..ROUNDS {
            turn(&mut side, a_round, cold, &mut without).await?;
            full.alter(change).await?;
            let turned = turn(&mut side, a_round, cold, &mut with).await;
            full.alter(undo).await?;
            turned?;
        }
        let differences: Vec<f64> = with
            .rounds
            .iter()
            .zip(&without.rounds)
            .map(|(w, o)| w - o)
            .collect();
        section.row([
            Cell::text(if cold { "64, after a checkpoint" } else { "64" }),
            Cell::figure(without.microseconds(), 1),
            Cell::figure(with.microseconds(), 1),
            Cell::figure(middle(&differences), 1),
            Cell::figure(without.wal_bytes(), 0),
            Cell::figure(with.wal_bytes(), 0),
            Cell::figure(with.wal_bytes() - without.wal_bytes(), 0),
            Cell::figure(with.full_page_bytes() - without.full_page_bytes(), 0),
        ]);
    }
    report.sections.push(section);
    Ok(())
}

async fn turn(side: &mut Side<'_>, webhooks: usize, cold: bool, cost: &mut Cost) -> anyhow::Result<()> {
    for _ in 0..CALLS_AFTER_CHANGE {
        side.call(BATCH).await?;
    }
    if cold {
        checkpoint(&side.login).await?;
    }
    side.round(BATCH, webhooks, cost).await
}
