//! A broker that dies, stops, freezes or is full, while webhooks are sent: all are accepted, wait in the outbox, and go
//! out once it is back. On a node of the test's own.

use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng as _, SeedableRng as _};
use relay::testing::TestBroker;
use relay::testing::node::{Node, program};
use sql::testing::TestDb;

use super::load::{Load, mixed};
use super::{Size, cast, ledger, seed, skipped};
use crate::world::{PATIENCE, World, eventually};

/// How long everything may take to become final once the broker is back: services that have tried in vain for a while
/// try again within ten seconds.
pub(super) const FINAL_WITHIN: Duration = Duration::from_secs(40);

/// How long a broker that takes nothing stays like that: longer than relays wait for a confirm.
const FULL_FOR: Duration = Duration::from_millis(1_500);
const CONFIRM_TIMEOUT: (&str, &str) = ("RELAY__CONFIRM_TIMEOUT_MS", "1000");

/// Work that has not been confirmed.
const WAITING: &str = "select count(*) from store.outbox_messages where target = 'jobs'";

/// Longer than a relay takes to settle what has been confirmed.
const SETTLED_AFTER: Duration = Duration::from_millis(500);

/// Probes of relays that have paused, which are waited for.
const PROBES: u64 = 2;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    Killed,
    Stopped,
    Frozen,
    Full,
}

/// All services on a new node, ready.
pub(super) async fn world_on(node: &Node, more: &[(&str, &str)]) -> World {
    let mut world = World::on(TestDb::create().await, TestBroker::at(node.url())).await;
    ledger::record_every_finish(&world).await;
    cast::start(&mut world, None, more).await;
    world
}

/// Relays whose broker reads and confirms nothing pause, and find out with one message at a time whether it is over.
async fn relays_only_probe(world: &World) {
    let relays: Vec<_> = world
        .services()
        .iter()
        .filter(|service| service.kind() == "relay")
        .collect();
    eventually("all relays pause", PATIENCE, async || {
        let paused = |log: String| log.rfind("publishing is paused") > log.rfind("publishing goes on");
        relays.iter().all(|relay| paused(relay.log())).then_some(())
    })
    .await;
    // What was in flight when they paused is put off a moment later, batches whole.
    tokio::time::sleep(FULL_FOR).await;
    let tried = "select coalesce(sum(attempts), 0)::bigint from store.outbox_messages";
    let (before, began) = (world.count(tried).await, Instant::now());
    let tries = eventually("the broker is probed", PATIENCE, async || {
        let tries = u64::try_from(world.count(tried).await - before).unwrap();
        (tries >= PROBES).then_some(tries)
    })
    .await;
    // One a second, each, and one that was under way.
    let most = (began.elapsed().as_secs() + 2) * relays.len() as u64;
    assert!(tries <= most, "{tries} messages were tried, {most} probes fit");
}

/// How many messages wait once relays have settled what the broker confirmed before it went: the count that stands still.
async fn settled(world: &World) -> i64 {
    let mut before = world.count(WAITING).await;
    loop {
        tokio::time::sleep(SETTLED_AFTER).await;
        let now = world.count(WAITING).await;
        if now >= before {
            return now;
        }
        before = now;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_dies_stops_freezes_or_is_full() {
    let test = "a_broker_that_dies_stops_freezes_or_is_full";
    let Some(program) = program() else {
        return skipped(test, "RabbitMQ's rabbitmq-server is not installed");
    };
    let (size, seed) = (Size::chosen(), seed(test));
    let mut random = StdRng::seed_from_u64(seed);
    let began = Instant::now();
    let mut node = Node::create(&program);
    node.start().await;
    let world = world_on(&node, &[CONFIRM_TIMEOUT]).await;
    let mut load = Load::start(&world, seed, mixed);
    let all = [Fault::Frozen, Fault::Full, Fault::Killed, Fault::Stopped];
    // A start takes seconds; in the small size it is left to the broker that loses everything (`queue.rs`).
    let faults = size.of(all[..2].to_vec(), all.repeat(5));
    let jobs = size.of(200, 2_400) / faults.len();
    let mut told = Vec::new();
    for fault in faults {
        let before = random.random_range(1..jobs / 2);
        load.send(before);
        load.answered(load.released() - before / 2).await;
        match fault {
            Fault::Killed => node.kill().await,
            Fault::Stopped => node.stop().await,
            Fault::Frozen => node.freeze(),
            Fault::Full => node.alarm(true),
        }
        load.send(jobs - before);
        let away = Instant::now();
        load.answered(load.released()).await;
        let waits = settled(&world).await;
        assert!(waits > 0, "{fault:?}: the broker took all");
        match fault {
            Fault::Killed | Fault::Stopped => node.start().await,
            Fault::Frozen => tokio::time::sleep(FULL_FOR).await,
            Fault::Full => relays_only_probe(&world).await,
        }
        assert!(
            world.count(WAITING).await >= waits,
            "{fault:?}: the broker has taken some"
        );
        match fault {
            Fault::Killed | Fault::Stopped => {}
            Fault::Frozen => node.thaw(),
            Fault::Full => node.alarm(false),
        }
        let (away, back) = (away.elapsed(), Instant::now());
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
