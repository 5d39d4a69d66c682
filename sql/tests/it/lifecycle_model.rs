//! Random sequences of everything that can happen to jobs, against the database and against a model in memory; then
//! everything is driven to its end. `op.rs` says what can happen, `model.rs` (and `intake.rs`, `operators.rs`) what should
//! come of it, `step.rs` does one thing to both, `compare.rs` looks at the tables.
//!
//! A failure prints the smallest sequence that fails, what happened in it, and the seed. Put that in `REPLAY` to have
//! the same sequences again.

mod compare;
mod compare_intake;
mod database;
mod intake;
mod model;
mod op;
mod operators;
mod step;
mod step_runs;

use anyhow::{Context as _, Result, ensure};
use chrono::{TimeDelta, Utc};
use proptest::test_runner::{Config, RngAlgorithm, TestCaseError, TestError, TestRng, TestRunner};
use sql::testing::TestDb;

use self::database::Database;
use self::model::{Model, State, midnight_after};
use self::op::{Op, Verb, sequence};
use self::step::Case;

/// The seed of a run that failed.
const REPLAY: Option<u64> = None;

/// Sequences a run.
const CASES: u32 = 80;

/// The longest sequence; half of that on average.
const LONGEST: usize = 80;

/// Rounds in which a sequence must come to its end: the longest way is that of a job held until midnight that then
/// fails to be published, and each round does all that is due.
const ROUNDS: usize = 30;

#[test]
fn the_database_does_what_the_model_says() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let (_db, database) = runtime.block_on(async {
        let db = TestDb::create().await;
        let database = Database::prepare(&db).await;
        (db, database)
    });
    let seed = REPLAY.unwrap_or_else(rand::random);
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let config = Config {
        cases: CASES,
        failure_persistence: None,
        max_shrink_iters: 4_000,
        max_shrink_time: 60_000,
        ..Config::default()
    };
    let mut runner = TestRunner::new_with_rng(config, TestRng::from_seed(RngAlgorithm::ChaCha, &bytes));
    let result = runner.run(&sequence(LONGEST), |ops| {
        runtime
            .block_on(run(&database, &ops))
            .map_err(|error| TestCaseError::fail(format!("{error:#}")))
    });
    match result {
        Ok(()) => {}
        Err(TestError::Fail(_, ops)) => panic!("seed {seed}: {}", runtime.block_on(smallest(&database, ops))),
        Err(TestError::Abort(why)) => panic!("seed {seed}: {why}"),
    }
}

/// What goes wrong in the smallest sequence that fails. Proptest leaves some that need not be there: it tries each
/// operation once, and what an operation picks depends on those before.
async fn smallest(database: &Database, mut ops: Vec<Op>) -> String {
    let mut error = run(database, &ops).await.err();
    let mut at = 0;
    while at < ops.len() {
        let mut fewer = ops.clone();
        fewer.remove(at);
        match run(database, &fewer).await {
            Ok(()) => at += 1,
            Err(smaller) => (ops, error, at) = (fewer, Some(smaller), 0),
        }
    }
    error.map_or_else(
        || "it passes when it is run again".to_owned(),
        |error| format!("{error:#}"),
    )
}

async fn run(database: &Database, ops: &[Op]) -> Result<()> {
    database.reset().await?;
    // Noon of the database's day: it has partitions from the day before to a fortnight ahead.
    let start = midnight_after(Utc::now()) - TimeDelta::hours(12);
    let mut case = Case {
        database,
        model: Model::new(start),
        transcript: Vec::new(),
    };
    let result = play(&mut case, ops).await;
    result.with_context(|| format!("what happened:\n  {}", case.transcript.join("\n  ")))
}

async fn play(case: &mut Case<'_>, ops: &[Op]) -> Result<()> {
    for op in ops {
        case.step(op).await?;
    }
    drain(case).await?;
    let held: Vec<usize> = (0..case.model.jobs.len())
        .filter(|job| case.model.jobs[*job].is_open())
        .collect();
    for job in &held {
        let state = case.model.jobs[*job].state;
        ensure!(state == State::HeldByOperator, "job {job} never ends: {state:?}");
    }
    if !held.is_empty() {
        case.apply(Verb::Release, &held).await?;
        case.compare().await?;
        drain(case).await?;
    }
    case.assert_all_ended().await
}

/// Lets everything happen that has to: runs that are under way are lost, all others succeed.
async fn drain(case: &mut Case<'_>) -> Result<()> {
    for _ in 0..ROUNDS {
        case.step(&Op::Crash { swept: true }).await?;
        case.step(&Op::Turn { forgotten: false }).await?;
        let running: Vec<_> = case
            .model
            .jobs
            .iter()
            .filter_map(|job| match job.state {
                State::Processing { run, .. } => Some((job.id, run)),
                _ => None,
            })
            .collect();
        case.complete_runs(&running).await?;
        case.compare().await?;
        if case.model.outbox.is_empty() && case.model.broker.is_empty() {
            return Ok(());
        }
    }
    anyhow::bail!("no end after {ROUNDS} rounds")
}
