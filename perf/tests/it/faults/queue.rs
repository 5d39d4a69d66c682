//! What the broker held is gone: its queue was deleted with messages in it, or all its data was lost. Every job becomes
//! final all the same, without anybody's help.

use std::time::Instant;

use amqprs::channel::{QueueDeclareArguments, QueueDeleteArguments};
use perf::demo::CHAOS;
use rand::rngs::StdRng;
use relay::testing::node::{Node, program};
use serde_json::json;

use super::broker::{FINAL_WITHIN, world_on};
use super::load::{Event, Load};
use super::{Size, cast, ledger, seed, skipped};
use crate::world::{PATIENCE, World, eventually};

/// Jobs that a consumer runs at once, so few that most messages wait in the queue.
const SLOTS: (&str, &str) = ("CONSUMER__SLOTS", "2");

/// Messages that must be in the queue when it goes.
const LOST: u32 = 20;

/// Long enough for a queue to form.
fn slow(_number: u64, _random: &mut StdRng) -> Event {
    let data = json!({ "sleep_ms": 50 });
    Event { source: CHAOS, data }
}

/// Waits until so many messages are in the queue of jobs, none of them at a consumer; returns how many.
async fn queue_forms(world: &World) -> u32 {
    let queue = world.broker.topology().jobs;
    eventually("a queue forms", PATIENCE, async || {
        let session = world.broker.session().await;
        let look = QueueDeclareArguments::new(&queue).passive(true).finish();
        let (_, messages, _) = session.control().queue_declare(look).await.unwrap()?;
        session.close().await;
        Some(messages).filter(|messages| *messages >= LOST)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_deleted() {
    let (size, seed) = (Size::chosen(), seed("a_queue_that_is_deleted"));
    let began = Instant::now();
    let mut world = World::new().await;
    ledger::record_every_finish(&world).await;
    cast::start(&mut world, None, &[SLOTS]).await;
    let mut load = Load::start(&world, seed, slow);
    let (rounds, jobs) = size.of((1, 120), (10, 2_000));
    let mut lost = Vec::new();
    for _ in 0..rounds {
        load.send(jobs / rounds);
        let messages = queue_forms(&world).await;
        let session = world.broker.session().await;
        let delete = QueueDeleteArguments::new(&world.broker.topology().jobs);
        session.control().queue_delete(delete).await.unwrap();
        session.close().await;
        lost.push(messages);
        load.answered(load.released()).await;
        ledger::all_is_final(&world, FINAL_WITHIN).await;
    }
    let found = ledger::reckon(&world, &mut load, FINAL_WITHIN).await;
    println!(
        "faults: a_queue_that_is_deleted: seed {seed}; with {lost:?} messages in it; {found}; {:.1} s in all",
        began.elapsed().as_secs_f64()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_loses_everything() {
    let test = "a_broker_that_loses_everything";
    let Some(program) = program() else {
        return skipped(test, "RabbitMQ's rabbitmq-server is not installed");
    };
    let (size, seed) = (Size::chosen(), seed(test));
    let began = Instant::now();
    let mut node = Node::create(&program);
    node.start().await;
    let world = world_on(&node, &[SLOTS]).await;
    let mut load = Load::start(&world, seed, slow);
    let (rounds, jobs) = size.of((1, 120), (5, 2_000));
    let mut lost = Vec::new();
    for _ in 0..rounds {
        load.send(jobs / rounds);
        lost.push(queue_forms(&world).await);
        node.stop().await;
        node.wipe();
        load.answered(load.released()).await;
        node.start().await;
        ledger::all_is_final(&world, FINAL_WITHIN).await;
    }
    let found = ledger::reckon(&world, &mut load, FINAL_WITHIN).await;
    println!(
        "faults: {test}: seed {seed}; with {lost:?} messages in it; {found}; {:.1} s in all",
        began.elapsed().as_secs_f64()
    );
}
