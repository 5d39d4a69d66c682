//! Life cycles of jobs: how many updates stay HOT, what a job leaves behind in bytes, and what is dead afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use sql::Object;
use sql::volume::{
    Role, Scratch, TableActivity, TableSize, TableWal, WalMeter, checkpoint, hold_snapshot, table_activity,
    table_sizes,
};

use super::feed::Feed;
use super::flow::{self, Flowed};
use super::{Cell, Report, Section};

/// Tables that are updated row by row.
const UPDATED: [&str; 2] = ["jobs", "open_jobs"];

/// The share of their updates that is to be HOT.
const HOT_SHARE: f64 = 0.95;

/// Tables that live by having their rows replaced or removed.
const CHURNING: [&str; 3] = ["open_jobs", "outbox_messages", "tenant_daily_quota_usage"];

/// How often dead rows are looked at while jobs go through.
const SAMPLE_EVERY: Duration = Duration::from_secs(2);

type Activity = BTreeMap<String, TableActivity>;

/// On an empty database: once as it is, once beside an old snapshot.
pub(super) async fn measure(scratch: &Scratch, jobs: u32, report: &mut Report) -> anyhow::Result<()> {
    let login = scratch.session(Role::Login).await?;
    let mut feed = Feed::new(&login).await?;
    // Plans are made, and the first pages exist.
    flow::run(scratch, &mut feed, 1_000.min(u64::from(jobs))).await?;
    let mut section = hot_section();

    checkpoint(&login).await?;
    let (before, sizes) = (table_activity(&login).await?, table_sizes(&login).await?);
    let meter = WalMeter::start(scratch).await?;
    let flowed = flow::run(scratch, &mut feed, u64::from(jobs)).await?;
    let wal = meter.by_table().await?;
    drop(meter);
    let after = table_activity(&login).await?;
    hot_rows(&mut section, "no snapshot", (&before, &after), flowed, report);
    let bytes = bytes_section(jobs, (&sizes, &table_sizes(&login).await?), &wal);

    let mut holder = scratch.session(Role::Login).await?;
    let snapshot = hold_snapshot(&mut holder).await?;
    let before = table_activity(&login).await?;
    let flowed = flow::run(scratch, &mut feed, u64::from(jobs)).await?;
    let after = table_activity(&login).await?;
    drop(snapshot);
    hot_rows(&mut section, "old snapshot", (&before, &after), flowed, report);
    report.sections.push(section);
    report.sections.push(bytes);
    Ok(())
}

fn hot_section() -> Section {
    Section::new(
        "hot",
        "HOT updates over whole life cycles",
        &[
            "beside", "table", "jobs", "retried", "given up", "updates", "HOT", "share", "jobs/s",
        ],
    )
    .noted("One ingester, one relay lane and one consumer; 1 job in 50 is retried, 1 in 200 given up.")
}

fn hot_rows(
    section: &mut Section,
    beside: &str,
    (before, after): (&Activity, &Activity),
    flowed: Flowed,
    report: &mut Report,
) {
    for table in UPDATED {
        let (old, new) = (activity(before, table), activity(after, table));
        let (updates, hot) = (new.updates - old.updates, new.hot_updates - old.hot_updates);
        let share = hot as f64 / updates as f64;
        section.row([
            Cell::text(beside),
            Cell::text(table),
            Cell::figure(flowed.jobs as f64, 0),
            Cell::figure(flowed.retried as f64, 0),
            Cell::figure(flowed.given_up as f64, 0),
            Cell::count(updates),
            Cell::count(hot),
            Cell::figure(share, 3),
            Cell::figure(flowed.jobs as f64 / flowed.took.as_secs_f64(), 0),
        ]);
        report.at_least(format!("HOT share of {table}, {beside}"), share, HOT_SHARE);
    }
}

fn activity(all: &Activity, table: &str) -> TableActivity {
    all.get(table).copied().unwrap_or_default()
}

/// Growth of the tables and the WAL they wrote, for each job.
fn bytes_section(
    jobs: u32,
    (before, after): (&BTreeMap<String, TableSize>, &BTreeMap<String, TableSize>),
    wal: &BTreeMap<String, TableWal>,
) -> Section {
    let mut section = Section::new(
        "bytes",
        "Bytes a job, over its whole life",
        &["table", "heap", "TOAST", "indexes", "WAL of rows", "WAL of indexes", "of it full pages"],
    )
    .noted(
        "Growth of each table divided by the jobs that went through; that of a queue is its largest size, and nothing with \
         more jobs. The WAL includes vacuum's.",
    );
    let each = |bytes: i64| bytes as f64 / f64::from(jobs);
    let mut total = [0.0; 6];
    let names: std::collections::BTreeSet<&String> = after.keys().chain(wal.keys()).collect();
    for name in names {
        let (old, new) = (
            before.get(name).copied().unwrap_or_default(),
            after.get(name).copied().unwrap_or_default(),
        );
        let wal = wal.get(name).cloned().unwrap_or_default();
        let figures = [
            each(new.heap - old.heap),
            each(new.toast - old.toast),
            each(new.indexes - old.indexes),
            each(wal.heap),
            each(wal.indexes),
            each(wal.full_pages),
        ];
        if figures.iter().all(|figure| *figure < 0.05) {
            continue;
        }
        for (sum, figure) in total.iter_mut().zip(figures) {
            *sum += figure;
        }
        section.row(std::iter::once(Cell::text(name)).chain(figures.map(|figure| Cell::figure(figure, 1))));
    }
    section.row(std::iter::once(Cell::text("together")).chain(total.map(|figure| Cell::figure(figure, 1))));
    section
}

/// On a full database: dead rows while very many jobs go through, and after them.
pub(super) async fn through(scratch: &Scratch, jobs: u32, report: &mut Report) -> anyhow::Result<()> {
    let login = scratch.session(Role::Login).await?;
    let mut feed = Feed::new(&login).await?;
    let (before, sizes_before) = (table_activity(&login).await?, table_sizes(&login).await?);
    let mut most: BTreeMap<&str, i64> = BTreeMap::new();
    let flowed = {
        let mut flowing = Box::pin(flow::run(scratch, &mut feed, u64::from(jobs)));
        let mut sampling = tokio::time::interval(SAMPLE_EVERY);
        loop {
            tokio::select! {
                flowed = &mut flowing => break flowed?,
                _ = sampling.tick() => sample(&login, &mut most).await?,
            }
        }
    };
    sample(&login, &mut most).await?;
    let (after, sizes) = (table_activity(&login).await?, table_sizes(&login).await?);
    let mut section = Section::new(
        "dead",
        format!("Dead rows, {jobs} jobs through, autovacuum as set below"),
        &[
            "table",
            "dead at the end",
            "most dead seen",
            "autovacuums",
            "heap bytes before",
            "heap bytes after",
            "index bytes before",
            "index bytes after",
        ],
    );
    for table in CHURNING {
        let (old, new) = (activity(&before, table), activity(&after, table));
        let (small, large) = (
            sizes_before.get(table).copied().unwrap_or_default(),
            sizes.get(table).copied().unwrap_or_default(),
        );
        section.row([
            Cell::text(table),
            Cell::count(new.dead_rows),
            Cell::count(most.get(table).copied().unwrap_or_default()),
            Cell::count(new.autovacuums - old.autovacuums),
            Cell::count(small.heap),
            Cell::count(large.heap),
            Cell::count(small.indexes),
            Cell::count(large.indexes),
        ]);
    }
    let mut hot = hot_section();
    hot.name = "hot_full";
    hot.title = format!("{} on the full database", hot.title);
    hot_rows(&mut hot, "full database", (&before, &after), flowed, report);
    report.sections.extend([section, hot]);
    Ok(())
}

async fn sample(login: &Object, most: &mut BTreeMap<&'static str, i64>) -> anyhow::Result<()> {
    let now = table_activity(login).await?;
    for table in CHURNING {
        let seen = most.entry(table).or_default();
        *seen = (*seen).max(activity(&now, table).dead_rows);
    }
    Ok(())
}
