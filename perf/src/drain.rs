//! How fast relay and consumer take away a backlog: the relay is frozen (SIGSTOP) while webhooks are accepted, then wakes up
//! before all of them at once.

use std::fmt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use chrono::DateTime;
use serde::{Deserialize, Serialize};
use sql::DbError;
use sql::activity::clock;
use sql::volume::{count_open_jobs, for_each_succeeded};
use tokio::process::Command;
use tokio::sync::oneshot;

use crate::backlog::{Count, is_gone_by, keep_counting, points};
use crate::config::{DrainArgs, LoadArgs};
use crate::ledger::Comparison;
use crate::load::{self, Usage, usage_table, watch};
use crate::plots::{Line, draw_seconds};
use crate::report::{Align, Table};

/// What a drain has shown.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Jobs that waited when the relay went on.
    pub jobs: usize,
    /// From there to the end of the last one.
    pub seconds: f64,
    /// Jobs a second, over all of it.
    pub jobs_a_second: f64,
    /// Open jobs, second by second.
    pub backlog: Vec<Count>,
    /// Jobs that have not succeeded.
    pub missing: usize,
    /// Answers against rows.
    pub rows: Comparison,
    /// What processes have used.
    pub usage: Vec<Usage>,
}

/// Makes a backlog and watches it go.
///
/// # Errors
/// If a process is not there, webhooks are refused, or the backlog has not gone in time.
pub async fn run(arguments: &DrainArgs) -> anyhow::Result<Report> {
    let pids = &arguments.pids;
    anyhow::ensure!(
        !pids.relay_pid.is_empty() && !pids.consumer_pid.is_empty(),
        "RELAY_PID and CONSUMER_PID are needed"
    );
    let pool = sql::pool::connect(&arguments.target.database, "relayforge-perf")?;
    let database = pool.get().await.map_err(DbError::from)?;
    let open = count_open_jobs(&database, DateTime::UNIX_EPOCH).await?;
    anyhow::ensure!(
        open == 0,
        "{open} jobs are open already: let them end first, or cancel them"
    );

    let since = clock(&database).await?;
    let load = LoadArgs::fixed(arguments.jobs, &arguments.sender);
    let frozen = Frozen::new(&pids.relay_pid).await?;
    let sent = tokio::select! {
        sent = load::send(&load, None, &arguments.target, pids) => sent?,
        _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
    };
    let jobs = sent.tally.promises.len();
    anyhow::ensure!(
        u32::try_from(jobs) == Ok(arguments.jobs),
        "not all were accepted (are the services' limits high enough?): {:?}",
        sent.tally.answers
    );
    let open = count_open_jobs(&database, since).await?;
    // The clock first: waking up is part of it.
    let (began, began_at) = (Instant::now(), clock(&database).await?);
    drop(frozen);
    let mut backlog = vec![Count { at: 0.0, open }];
    let counter = pool.get().await.map_err(DbError::from)?;
    let (finished, is_finished) = oneshot::channel();
    let deadline = began + Duration::from_secs(arguments.within.into());
    let ended = async {
        tokio::select! {
            gone = is_gone_by(&database, since, deadline) => anyhow::ensure!(gone?, "the backlog has not gone in time"),
            never = keep_counting(&counter, since, &mut backlog) => match never? {},
        }
        drop(finished);
        Ok::<_, anyhow::Error>(())
    };
    let ((), usage) = tokio::try_join!(ended, watch(pids, began, deadline, is_finished))?;
    let (mut last, mut succeeded) = (began_at, 0);
    for_each_succeeded(&database, since, |_, at| {
        last = last.max(at);
        succeeded += 1;
    })
    .await?;
    let seconds = (last - began_at).as_seconds_f64();
    Ok(Report {
        jobs,
        seconds,
        jobs_a_second: f64::from(u32::try_from(succeeded)?) / seconds,
        backlog,
        missing: jobs.saturating_sub(succeeded),
        rows: sent.check(&arguments.target).await?,
        usage,
    })
}

/// A process that is stopped, until this is dropped.
struct Frozen {
    pid: String,
}

impl Frozen {
    async fn new(pid: &str) -> anyhow::Result<Self> {
        let stopped = Command::new("kill").args(["-STOP", pid]).status().await?;
        anyhow::ensure!(stopped.success(), "process {pid} can't be stopped");
        Ok(Self { pid: pid.to_owned() })
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let woken = std::process::Command::new("kill")
            .args(["-CONT", &self.pid])
            .status();
        let woken = woken.context("kill").map(|status| status.success());
        if !matches!(woken, Ok(true)) {
            #[expect(clippy::print_stderr, reason = "whoever reads it has a process to wake")]
            {
                eprintln!("process {} is still stopped: kill -CONT {}", self.pid, self.pid);
            }
        }
    }
}

impl Report {
    /// Draws `drain-backlog.svg`.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn draw(&self, folder: &Path) -> anyhow::Result<()> {
        let line = Line {
            name: "open jobs".to_owned(),
            points: points(&self.backlog),
        };
        draw_seconds(&folder.join("drain-backlog.svg"), "Open jobs", "jobs", &[line])
    }

    /// Whether each webhook became one job that succeeded.
    pub fn is_right(&self) -> bool {
        self.missing == 0 && self.rows.is_right()
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = ["jobs", "seconds", "jobs/s", "not succeeded", "missing", "doubled"];
        let mut table = Table::new(&columns.map(|name| (name, Align::Right)));
        table.row([
            self.jobs.to_string(),
            format!("{:.1}", self.seconds),
            format!("{:.0}", self.jobs_a_second),
            self.missing.to_string(),
            self.rows.missing.to_string(),
            self.rows.doubled.to_string(),
        ]);
        writeln!(f, "{}", table.markdown())?;
        writeln!(f, "{}", usage_table(&self.usage, self.jobs_a_second).markdown())?;
        let verdict = if self.is_right() {
            "right: each webhook became one job that succeeded"
        } else {
            "WRONG: see above"
        };
        writeln!(f, "{verdict}")
    }
}
