//! What processes use while load is on: CPU time over the window, and the most memory.

use std::time::{Duration, Instant};

use serde::Serialize;
use tokio::sync::oneshot;

use crate::config::Pids;
use crate::processes::{Measured, find_all, times};

/// How often the servers' memory is looked at.
const SAMPLE_EVERY: Duration = Duration::from_secs(1);

/// What a process has used.
#[derive(Debug, Clone, Serialize)]
pub struct Usage {
    /// Its name.
    pub process: &'static str,
    /// Cores, over the window.
    pub cores: f64,
    /// The most memory, in bytes: of a service what was resident, of a server with its descendants what is theirs, shared
    /// memory counted once.
    pub most_memory: u64,
}

/// Measures from `from` to `until`, or until whoever holds the other end of `finished` lets go of it. The memory is the
/// most since the call.
///
/// # Errors
/// If a process is not there, or ends meanwhile.
pub(crate) async fn watch(
    pids: &Pids,
    from: Instant,
    until: Instant,
    mut finished: oneshot::Receiver<()>,
) -> anyhow::Result<Vec<Usage>> {
    let mut all = find_all(pids)?;
    // What the sender takes, the services do not get.
    all.push(Measured::this("load")?);
    for measured in &all {
        measured.forget_most_memory();
    }
    let mut most = vec![0; all.len()];
    tokio::select! {
        () = tokio::time::sleep_until(from.into()) => {}
        _ = &mut finished => {}
    }
    let (began, before) = (Instant::now(), times(&all)?);
    while Instant::now() < until {
        note_memory(&all, &mut most)?;
        let next = (Instant::now() + SAMPLE_EVERY).min(until);
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            _ = &mut finished => break,
        }
    }
    let after = times(&all)?;
    let window = began.elapsed().as_secs_f64().max(f64::MIN_POSITIVE);
    note_memory(&all, &mut most)?;
    let used = before
        .iter()
        .zip(after)
        .map(|(before, after)| after.saturating_sub(*before));
    let usage = |((measured, used), most_memory): ((&Measured, Duration), u64)| Usage {
        process: measured.name,
        cores: used.as_secs_f64() / window,
        most_memory,
    };
    Ok(all.iter().zip(used).zip(most).map(usage).collect())
}

fn note_memory(all: &[Measured], most: &mut [u64]) -> anyhow::Result<()> {
    for (measured, most) in all.iter().zip(most) {
        *most = measured.memory()?.max(*most);
    }
    Ok(())
}
