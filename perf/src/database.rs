//! What the database itself costs and bears, with as many jobs in it as are asked for: ingest, life cycles, dead rows,
//! claims under an old snapshot, views. No service runs; this process calls the SQL functions as each of them would.
//!
//! `feed.rs` makes webhooks, `relay.rs` and `flow.rs` take their jobs through to the end; `ingest.rs`, `change.rs`,
//! `lifecycle.rs`, `claims.rs` and `views.rs` are the measurements, `report.rs` what they print.

mod change;
mod claims;
mod feed;
mod flow;
mod ingest;
mod lifecycle;
mod relay;
mod report;
mod views;

use anyhow::Context as _;
use sql::volume::{Role, Scratch, describe_server, fill, filled, make_tenants};

pub use self::report::{Cell, Goal, Report, Section};
use crate::config::{DatabaseArgs, Measurement};
use crate::progress::say as progress;

/// Makes the databases, measures, and drops them again; also when it is interrupted.
///
/// # Errors
/// If the server can't be reached or something can't be measured.
pub async fn run(arguments: &DatabaseArgs) -> anyhow::Result<Report> {
    let name = match &arguments.reuse {
        Some(name) => name.clone(),
        None => format!("relayforge_perf_{}", std::process::id()),
    };
    let databases = Databases::open(arguments, &name).await?;
    let measured = tokio::select! {
        measured = Box::pin(measure(arguments, &databases)) => measured,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    let kept = arguments.keep || arguments.reuse.is_some();
    databases.empty.drop().await?;
    if kept {
        progress(&format!("kept: --reuse {}", databases.full.name()));
    } else {
        databases.full.drop().await?;
    }
    measured
}

/// A database without a job, and one with many.
struct Databases {
    empty: Scratch,
    full: Scratch,
}

impl Databases {
    async fn open(arguments: &DatabaseArgs, name: &str) -> anyhow::Result<Self> {
        let server = &arguments.database_url;
        let full = if arguments.reuse.is_some() {
            Scratch::reuse(server, name).await
        } else {
            Scratch::create(server, name).await
        };
        let full = full.with_context(|| format!("the database {name}"))?;
        let name = format!("{name}_empty");
        // What a killed run has left.
        if let Ok(old) = Scratch::reuse(server, &name).await {
            old.drop().await?;
        }
        let empty = Scratch::create(server, &name)
            .await
            .with_context(|| format!("the database {name}"))?;
        make_tenants(&empty).await?;
        Ok(Self { empty, full })
    }

    /// Fills what is to be full, unless an earlier run has.
    async fn fill(&self, jobs: i64) -> anyhow::Result<()> {
        match filled(&self.full).await? {
            Some(there) if there == jobs => Ok(()),
            Some(there) => anyhow::bail!("{} has {there} jobs, not {jobs}", self.full.name()),
            None => {
                make_tenants(&self.full).await?;
                Ok(fill(&self.full, jobs, &progress).await?)
            }
        }
    }
}

async fn measure(arguments: &DatabaseArgs, databases: &Databases) -> anyhow::Result<Report> {
    let asked = |one| arguments.only.is_empty() || arguments.only.contains(&one);
    let mut report = Report::default();
    let jobs = i64::from(arguments.jobs);
    databases.fill(jobs).await?;
    let Databases { empty, full } = databases;
    if asked(Measurement::Views) {
        progress("views");
        views::measure(full, &mut report).await?;
    }
    if asked(Measurement::Ingest) {
        progress("ingest");
        ingest::measure(empty, full, arguments.webhooks, &mut report).await?;
    }
    if let (Some(change), Some(undo)) = (&arguments.with, &arguments.undo) {
        progress(change);
        change::measure(full, (change, undo), arguments.webhooks, &mut report).await?;
    }
    if asked(Measurement::Lifecycle) {
        progress("life cycles");
        lifecycle::measure(empty, arguments.lifecycles, &mut report).await?;
    }
    if asked(Measurement::Through) {
        progress("jobs through a full database");
        lifecycle::through(full, arguments.through, &mut report).await?;
    }
    if asked(Measurement::Claims) {
        progress("claims");
        claims::measure(empty, full, arguments.messages, &mut report).await?;
    }
    settings(arguments, full, &mut report).await?;
    Ok(report)
}

/// What the figures depend on. Last, because it says how large the database has become.
async fn settings(arguments: &DatabaseArgs, full: &Scratch, report: &mut Report) -> anyhow::Result<()> {
    let login = full.session(Role::Login).await?;
    let mut section = Section::new("settings", "What it ran on", &["setting", "value"]);
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    section.row([Cell::text("jobs"), Cell::text(arguments.jobs)]);
    let sizes = sql::volume::table_sizes(&login).await?;
    let bytes: i64 = sizes
        .values()
        .map(|size| size.heap + size.toast + size.indexes)
        .sum();
    section.row([Cell::text("bytes at the end"), Cell::text(bytes)]);
    section.row([Cell::text("cores"), Cell::text(cores)]);
    for setting in describe_server(&login).await? {
        section.row([Cell::text(setting.name), Cell::text(setting.value)]);
    }
    report.sections.push(section);
    Ok(())
}
