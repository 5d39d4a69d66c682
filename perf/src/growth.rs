//! What ingest loses as jobs pile up: the same load on an empty database and on ones with millions of jobs of thirty days,
//! in turns, each through an API of its own, so that a busy machine slows all of them and the ratio stays sound.

use std::fmt;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use sql::volume::{Scratch, checkpoint, fill, filled, make_tenants};
use tokio::process::{Child, Command};

use crate::client::Client;
use crate::config::{GrowthArgs, LoadArgs, Pids, Target};
use crate::demo;
use crate::load;
use crate::progress::say as progress;
use crate::report::{Align, Latencies, Table};

/// How long an API may take until it is ready.
const READY_WITHIN: Duration = Duration::from_secs(20);

/// How long an API may take to end.
const ENDED_WITHIN: Duration = Duration::from_secs(30);

/// The least that ingest with the most jobs may be, as a share of ingest with none.
pub(crate) const GOAL: f64 = 0.85;

/// Limits that are never reached, but looked at.
const HIGH_LIMITS: [(&str, &str); 5] = [
    ("HARDENING__INGRESS_RATE_LIMIT_PER_SECOND", "1000000"),
    ("HARDENING__INGRESS_BURST", "1000000"),
    ("HARDENING__TENANT_RATE_LIMIT_PER_SECOND", "1000000"),
    ("HARDENING__TENANT_RATE_LIMIT_BURST", "1000000"),
    ("HARDENING__TENANT_DAILY_QUOTA", "1000000000"),
];

/// A line for each size.
#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// Fewest jobs first.
    pub sizes: Vec<Size>,
}

/// What a database with so many jobs takes in.
#[derive(Debug, Serialize, Deserialize)]
pub struct Size {
    /// Jobs before the measurement.
    pub jobs: u32,
    /// Acceptances a second: the mean of all turns.
    pub accepted_a_second: f64,
    /// Of each turn.
    pub turns: Vec<f64>,
    /// The same as a share of what the first size takes in.
    pub ratio: f64,
    /// Over all turns.
    pub latencies: Latencies,
    /// Promises that were not kept, or kept twice.
    pub broken: usize,
}

/// A database with an API in front of it.
struct Stage {
    jobs: u32,
    scratch: Scratch,
    target: Target,
    api: Child,
    folder: PathBuf,
    accepted: Vec<f64>,
    micros: Vec<u32>,
    broken: usize,
}

/// Makes the databases, measures, and drops them again; also when it is interrupted.
///
/// # Errors
/// If the server can't be reached, an API does not start, or a webhook is refused.
pub async fn run(arguments: &GrowthArgs) -> anyhow::Result<Report> {
    let mut stages = Vec::new();
    let measured = tokio::select! {
        measured = Box::pin(measure(arguments, &mut stages)) => measured,
        _ = tokio::signal::ctrl_c() => Err(anyhow::anyhow!("interrupted")),
    };
    for stage in &mut stages {
        stage.take_down(arguments.keep).await?;
    }
    measured?;
    Ok(Report::of(stages))
}

async fn measure(arguments: &GrowthArgs, stages: &mut Vec<Stage>) -> anyhow::Result<()> {
    for &jobs in &arguments.sizes {
        stages.push(Stage::set_up(arguments, jobs).await?);
    }
    let load = LoadArgs {
        duration: arguments.duration,
        warmup: arguments.warmup,
        ..LoadArgs::fixed(u32::MAX, &arguments.sender)
    };
    for turn in 0..arguments.turns {
        for stage in &mut *stages {
            progress(&format!(
                "turn {} of {}, {} jobs",
                turn + 1,
                arguments.turns,
                stage.jobs
            ));
            stage.measure(&load).await?;
        }
    }
    Ok(())
}

impl Stage {
    async fn set_up(arguments: &GrowthArgs, jobs: u32) -> anyhow::Result<Self> {
        let server = &arguments.database_url;
        let name = format!("relayforge_perf_growth_{jobs}");
        let scratch = match Scratch::reuse(server, &name).await {
            Ok(kept) if filled(&kept).await? == Some(jobs.into()) => kept,
            Ok(unfinished) => {
                unfinished.drop().await?;
                Scratch::create(server, &name).await?
            }
            Err(_) => Scratch::create(server, &name).await?,
        };
        if filled(&scratch).await?.is_none() {
            make_tenants(&scratch).await?;
            fill(&scratch, jobs.into(), &progress).await?;
        }
        let folder = std::env::temp_dir().join(format!("{name}_{}", std::process::id()));
        std::fs::create_dir_all(&folder)?;
        let port = free_port()?;
        let target = Target {
            url: format!("http://127.0.0.1:{port}"),
            database: scratch.config(),
            master_key: arguments.master_key.clone(),
            state: folder.join("state.json"),
        };
        drop(demo::setup(&target).await?);
        let api = start_api(arguments, &target, port, &folder)?;
        await_ready(&target.url).await.with_context(|| {
            format!(
                "the API in front of {name}; its log is {}",
                folder.join("api.log").display()
            )
        })?;
        Ok(Self {
            jobs,
            scratch,
            target,
            api,
            folder,
            accepted: Vec::new(),
            micros: Vec::new(),
            broken: 0,
        })
    }

    async fn measure(&mut self, load: &LoadArgs) -> anyhow::Result<()> {
        // What the turn before has made dirty is written in its own time.
        checkpoint(&self.scratch.session(sql::volume::Role::Login).await?).await?;
        let sent = load::send(load, None, &self.target, &Pids::default()).await?;
        anyhow::ensure!(sent.tally.wrong == 0, "not accepted: {:?}", sent.tally.answers);
        self.accepted
            .push(f64::from(sent.tally.window.accepted) / sent.window.as_secs_f64());
        let rows = sent.check(&self.target).await?;
        self.broken += rows.missing + rows.doubled;
        self.micros.extend(sent.tally.window.latencies);
        Ok(())
    }

    async fn take_down(&mut self, keep: bool) -> anyhow::Result<()> {
        if let Some(pid) = self.api.id() {
            Command::new("kill").arg(pid.to_string()).status().await?;
        }
        if tokio::time::timeout(ENDED_WITHIN, self.api.wait()).await.is_err() {
            self.api.kill().await?;
        }
        std::fs::remove_dir_all(&self.folder)?;
        if keep {
            progress(&format!("kept for the next time: {}", self.scratch.name()));
            return Ok(());
        }
        Ok(self.scratch.drop().await?)
    }
}

/// A port that nobody listened on a moment ago.
fn free_port() -> anyhow::Result<u16> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.port())
}

/// The API of this build, with the rights of its role, its log in a file as in production.
fn start_api(arguments: &GrowthArgs, target: &Target, port: u16, folder: &Path) -> anyhow::Result<Child> {
    let program = match &arguments.api {
        Some(program) => program.clone(),
        None => std::env::current_exe()?.with_file_name("relayforge-api"),
    };
    let mut url: url::Url = target.database.url.expose().parse()?;
    // Not as a form would write it: to PostgreSQL's clients a plus is a plus.
    let options = "options=-c%20role%3Drelayforge_api";
    let query = url
        .query()
        .map_or_else(|| options.to_owned(), |query| format!("{query}&{options}"));
    url.set_query(Some(&query));
    Command::new(&program)
        .env_clear()
        .env("DATABASE__URL", url.as_str())
        .env("SECRETS__MASTER_KEY", target.master_key.expose())
        .env("SERVER__HOST", "127.0.0.1")
        .env("SERVER__PORT", port.to_string())
        .env("SERVER__DRAIN_MS", "0")
        .env("APP_ENV", "development")
        .envs(HIGH_LIMITS)
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(std::fs::File::create(folder.join("api.log"))?)
        .stderr(Stdio::inherit())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("{} does not start", program.display()))
}

async fn await_ready(url: &str) -> anyhow::Result<()> {
    let (client, deadline) = (Client::new(url)?, Instant::now() + READY_WITHIN);
    loop {
        match client.get("/readyz").await {
            Ok(answer) if answer.status == 200 => return Ok(()),
            answer => anyhow::ensure!(Instant::now() < deadline, "not ready: {answer:?}"),
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

impl Report {
    fn of(stages: Vec<Stage>) -> Self {
        let mut sizes: Vec<Size> = Vec::new();
        for stage in stages {
            let turns = f64::from(u32::try_from(stage.accepted.len()).unwrap_or(u32::MAX));
            let accepted_a_second = stage.accepted.iter().sum::<f64>() / turns;
            let first = sizes
                .first()
                .map_or(accepted_a_second, |size| size.accepted_a_second);
            sizes.push(Size {
                jobs: stage.jobs,
                accepted_a_second,
                turns: stage.accepted,
                ratio: accepted_a_second / first,
                latencies: Latencies::of(stage.micros),
                broken: stage.broken,
            });
        }
        Self { sizes }
    }

    /// Whether all promises were kept, and the last size takes in as much as the goal says.
    pub fn is_right(&self) -> bool {
        self.sizes.iter().all(|size| size.broken == 0)
            && self.sizes.last().is_some_and(|size| size.ratio >= GOAL)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let columns = [
            "jobs",
            "accepted/s",
            "ratio",
            "turns",
            "p50 ms",
            "p99 ms",
            "missing or doubled",
        ];
        let mut table = Table::new(&columns.map(|name| (name, Align::Right)));
        for size in &self.sizes {
            let [p50, _, p99, ..] = size.latencies.shown();
            let turns: Vec<String> = size.turns.iter().map(|turn| format!("{turn:.0}")).collect();
            table.row([
                size.jobs.to_string(),
                format!("{:.0}", size.accepted_a_second),
                format!("{:.2}", size.ratio),
                turns.join(" "),
                p50,
                p99,
                size.broken.to_string(),
            ]);
        }
        writeln!(f, "{}", table.markdown())?;
        let verdict = if self.is_right() { "met" } else { "MISSED" };
        writeln!(
            f,
            "{verdict}: with the most jobs, at least {GOAL} of the first line"
        )
    }
}
