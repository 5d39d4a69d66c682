//! One handler call in five fails: each failure is counted once, and every job succeeds in the end.

use std::time::{Duration, Instant};

use perf::demo::CHAOS;
use rand::rngs::StdRng;
use serde_json::json;

use super::load::{Event, Load};
use super::{Size, cast, ledger, seed};
use crate::world::World;

const FINAL_WITHIN: Duration = Duration::from_secs(30);

/// Of sixteen jobs one fails twice, one fails once and one panics once: four calls of twenty.
const JOBS: usize = 16;
const FAILURES: usize = 4;

fn mix(number: u64, _random: &mut StdRng) -> Event {
    let data = match number % JOBS as u64 {
        3 => json!({ "fail_until_attempt": 3 }),
        7 => json!({ "fail_until_attempt": 2 }),
        11 => json!({ "fail_until_attempt": 2, "panic": true }),
        _ => json!({}),
    };
    Event { source: CHAOS, data }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_in_five_fails() {
    let (size, seed) = (Size::chosen(), seed("one_call_in_five_fails"));
    let began = Instant::now();
    let mut world = World::new().await;
    ledger::record_every_finish(&world).await;
    cast::start(&mut world, None, &[]).await;
    let mut load = Load::start(&world, seed, mix);
    let times = size.of(20, 150);
    load.send(times * JOBS);
    let found = ledger::reckon(&world, &mut load, FINAL_WITHIN).await;
    println!(
        "faults: one_call_in_five_fails: seed {seed}; {found}; {:.1} s in all",
        began.elapsed().as_secs_f64()
    );
    let (jobs, failures) = (times * JOBS, times * FAILURES);
    assert_eq!((found.jobs, found.runs as usize), (jobs, jobs + failures));
    assert_eq!(
        (found.failed, found.rescued),
        (i64::try_from(failures).unwrap(), 0)
    );
    assert_eq!(failures * 5, found.runs as usize, "a fifth of all calls");
}
