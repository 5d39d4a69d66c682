//! What processes use while load is on: CPU time over the window, and the most memory.

use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;

use crate::config::Pids;
use crate::processes::{Measured, find_all, times};

/// How often the servers' memory is looked at. The kernel walks the page tables of each server process for it: with the shared
/// buffers full, a look takes a tenth of a second from what is measured.
const SAMPLE_EVERY: Duration = Duration::from_secs(10);

/// What a process has used.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Usage {
    /// Its name.
    pub process: String,
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
    let mut is_on = tokio::select! {
        () = tokio::time::sleep_until(from.into()) => true,
        _ = &mut finished => false,
    };
    let (began, before) = (Instant::now(), times(&all)?);
    while is_on && Instant::now() < until {
        note_memory(&all, &mut most)?;
        let next = (Instant::now() + SAMPLE_EVERY).min(until);
        tokio::select! {
            () = tokio::time::sleep_until(next.into()) => {}
            _ = &mut finished => is_on = false,
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
        process: measured.name.to_owned(),
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

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_load_that_ends_before_its_window_is_told_of_all_the_same() {
        let now = Instant::now();
        for (from, until) in [(1, 2), (0, 1)] {
            let [from, until] = [from, until].map(|hours| now + Duration::from_secs(hours * 3_600));
            let (finished, is_finished) = oneshot::channel::<()>();
            drop(finished);
            let usage = watch(&Pids::default(), from, until, is_finished).await.unwrap();
            let processes: Vec<&str> = usage.iter().map(|usage| usage.process.as_str()).collect();
            assert_eq!(processes, ["load"]);
            assert!(
                usage[0].most_memory > 0 && usage[0].cores.is_finite(),
                "{usage:?}"
            );
        }
    }
}
