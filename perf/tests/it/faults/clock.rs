//! The clock of one process is an hour off, ahead or behind: nothing is late for it, or done twice. What has to do with
//! time is the database's to say; a provider's timestamps are the exception, and not sent here.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use serde_json::Value;

use super::load::{Load, mixed};
use super::{Size, cast, ledger, seed, skipped};
use crate::service::Service;
use crate::world::World;

/// As soon as if all clocks were right.
const FINAL_WITHIN: Duration = Duration::from_secs(10);

/// How long a service may take to end in an orderly way.
const ENDS_WITHIN: Duration = Duration::from_secs(30);

const OFFSETS: [&str; 2] = ["+3600s", "-3600s"];
const RIGHT: &str = "+0s";

/// Debian's package `faketime` has it, in a folder named for the machine's architecture.
fn library() -> Option<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").ok()?.flatten();
    folders
        .map(|folder| folder.path().join("faketime/libfaketime.so.1"))
        .chain([PathBuf::from("/usr/lib/faketime/libfaketime.so.1")])
        .find(|library| library.is_file())
}

/// How far the clock was off when it wrote its last line, in minutes.
fn minutes_off(service: &Service) -> i64 {
    let log = service.log();
    let line: Value = serde_json::from_str(log.lines().last().unwrap()).unwrap();
    let time: DateTime<Utc> = line["time"].as_str().unwrap().parse().unwrap();
    (time - Utc::now()).num_minutes()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_an_hour_off() {
    let test = "a_clock_that_is_an_hour_off";
    let Some(library) = library() else {
        return skipped(test, "libfaketime.so.1 is not installed (apt package faketime)");
    };
    let (size, seed) = (Size::chosen(), seed(test));
    let mut random = StdRng::seed_from_u64(seed);
    let began = Instant::now();
    let mut world = World::new().await;
    ledger::record_every_finish(&world).await;
    let library = library.to_string_lossy().into_owned();
    let clock = [
        ("LD_PRELOAD", library.as_str()),
        ("FAKETIME", RIGHT),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
    ];
    // One of each kind, so that all work goes through the one whose clock is wrong.
    let kinds = ["api", "relay", "consumer"];
    for kind in kinds {
        cast::start_one(&mut world, kind, kind, None, &clock).await;
    }
    let mut load = Load::start(&world, seed, mixed);
    let first = random.random_range(0..OFFSETS.len());
    let rounds = size.of(kinds.len(), kinds.len() * OFFSETS.len() * 2);
    let jobs = size.of(210, 2_400) / rounds;
    let mut told = Vec::new();
    for round in 0..rounds {
        let kind = kinds[round % kinds.len()];
        // Kinds are odd in number and offsets even: each kind comes to have each offset.
        let offset = OFFSETS[(first + round) % OFFSETS.len()];
        set_clock(&mut world, kind, offset).await;
        let off = minutes_off(world.service(kind));
        assert!(
            (58..=62).contains(&off.abs()),
            "{kind}: its clock is {off} minutes off"
        );
        let sent = Instant::now();
        load.send(jobs);
        load.answered(load.released()).await;
        ledger::all_is_final(&world, FINAL_WITHIN).await;
        told.push(format!(
            "{kind} {offset}: {jobs} jobs in {:.1} s",
            sent.elapsed().as_secs_f64()
        ));
        set_clock(&mut world, kind, RIGHT).await;
    }
    let found = ledger::reckon(&world, &mut load, FINAL_WITHIN).await;
    println!(
        "faults: {test}: seed {seed}; {told:?}; {found}; {:.1} s in all",
        began.elapsed().as_secs_f64()
    );
    assert_eq!(found.rescued, 0, "no lease is taken to have run out");
}

async fn set_clock(world: &mut World, kind: &str, offset: &str) {
    let service = world.service_mut(kind);
    service.signal("TERM").await;
    service.exits_within(ENDS_WITHIN).await;
    service.set("FAKETIME", offset);
    service.restart().await;
    service.answers_ready_with(200).await;
}
