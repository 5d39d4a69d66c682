//! A database that stops, dies or freezes, while webhooks are sent: providers hear 503 and try again, and everything goes
//! on once it is back, without a restart of anything. On a server of the test's own.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use relay::testing::TestBroker;
use sql::testing::TestDb;
use sql::testing::server::{OLDEST, Server, programs};

use super::load::{Load, mixed};
use super::{Size, cast, ledger, seed, skipped};
use crate::world::{World, eventually};

const FINAL_WITHIN: Duration = Duration::from_secs(40);

/// How long it may take until somebody has noticed.
const NOTICED_WITHIN: Duration = Duration::from_secs(10);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Stopped,
    Killed,
    Frozen,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_database_that_stops_dies_or_freezes() {
    let test = "a_database_that_stops_dies_or_freezes";
    let Some(programs) = programs() else {
        return skipped(test, &format!("PostgreSQL {OLDEST} or newer is not installed"));
    };
    let (size, seed) = (Size::chosen(), seed(test));
    let mut random = StdRng::seed_from_u64(seed);
    let began = Instant::now();
    let mut server = Server::initialise(&programs);
    server.start().await;
    let mut world = World::on(TestDb::create_on(&server).await, TestBroker::start().await).await;
    ledger::record_every_finish(&world).await;
    cast::start(&mut world, None, &[cast::SHORT_LEASE]).await;
    let mut load = Load::start(&world, seed, mixed);
    let all = [Fault::Stopped, Fault::Killed, Fault::Frozen];
    let small = vec![all[random.random_range(0..2)], Fault::Frozen];
    let faults = size.of(small, all.repeat(7));
    let jobs = size.of(200, 2_520) / faults.len();
    let mut told = Vec::new();
    for fault in faults {
        let before = random.random_range(1..jobs / 2);
        load.send(before);
        load.answered(load.released() - before / 2).await;
        match fault {
            Fault::Stopped => server.stop().await,
            Fault::Killed => server.kill().await,
            Fault::Frozen => server.freeze(),
        }
        let away = Instant::now();
        let refused = load.shared.retries.load(Ordering::Relaxed);
        load.send(jobs - before);
        eventually("senders are refused", NOTICED_WITHIN, async || {
            (load.shared.retries.load(Ordering::Relaxed) > refused).then_some(())
        })
        .await;
        // A frozen one is left alone for longer than a lease, or for longer than any time-out of ours.
        let away_ms = size.of(cast::LEASE.as_millis(), random.random_range(100..20_000));
        let is_frozen = fault == Fault::Frozen;
        tokio::time::sleep(Duration::from_millis(if is_frozen {
            u64::try_from(away_ms).unwrap()
        } else {
            0
        }))
        .await;
        match fault {
            Fault::Stopped | Fault::Killed => server.start().await,
            Fault::Frozen => server.thaw(),
        }
        let (away, back) = (away.elapsed(), Instant::now());
        world.sql = world.db.owner().await;
        load.answered(load.released()).await;
        ledger::all_is_final(&world, FINAL_WITHIN).await;
        told.push(format!(
            "{fault:?} {:.1} s, all final {:.1} s later",
            away.as_secs_f64(),
            back.elapsed().as_secs_f64()
        ));
    }
    let found = ledger::reckon(&world, &mut load, FINAL_WITHIN).await;
    println!(
        "faults: {test}: seed {seed}; {told:?}; {found}; {:.1} s in all",
        began.elapsed().as_secs_f64()
    );
}
