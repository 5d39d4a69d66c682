//! A stranger's queue on the exchange of events that is full and refuses: our jobs neither wait for it nor are they
//! published twice, and the events wait in the outbox, with what the broker said, until the queue is gone.

use std::time::{Duration, Instant};

use amqprs::channel::{QueueBindArguments, QueueDeclareArguments, QueueDeleteArguments};
use amqprs::{FieldTable, FieldValue, ShortStr};
use rand::rngs::StdRng;
use relay::session::Session;
use serde_json::json;

use super::load::{Event, Load};
use super::{Size, cast, ledger, seed};
use crate::world::{World, eventually, eventually_or};

/// How long our own jobs may take to become final after the last answer: as long as without any stranger.
const JOBS_FINAL_WITHIN: Duration = Duration::from_secs(10);

/// How long the events may take to leave once nobody refuses them: they are tried again less and less often.
const EVENTS_LEAVE_WITHIN: Duration = Duration::from_secs(60);

fn fanned_out(_number: u64, _random: &mut StdRng) -> Event {
    Event {
        source: "generic",
        data: json!({}),
    }
}

/// A queue of one message that refuses all others.
async fn bind_full_queue(world: &World, session: &Session) -> String {
    let (queue, exchange) = (
        format!("{}.stranger", world.broker.prefix()),
        world.broker.topology().events,
    );
    let mut arguments = FieldTable::new();
    for (name, value) in [
        ("x-max-length", FieldValue::I(1)),
        ("x-overflow", FieldValue::from("reject-publish")),
    ] {
        arguments.insert(ShortStr::try_from(name).unwrap(), value);
    }
    // Exclusive: it goes with the session, should the test fail.
    let declare = QueueDeclareArguments::new(&queue)
        .exclusive(true)
        .arguments(arguments)
        .finish();
    session.control().queue_declare(declare).await.unwrap();
    let bind = QueueBindArguments::new(&queue, &exchange, "#");
    session.control().queue_bind(bind).await.unwrap();
    queue
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_strangers_full_queue() {
    let (size, seed) = (Size::chosen(), seed("a_strangers_full_queue"));
    let began = Instant::now();
    let mut world = World::new().await;
    ledger::record_every_finish(&world).await;
    let fan_out = "update store.sources set fanout = true where name = 'generic'";
    assert_eq!(world.sql.execute(fan_out, &[]).await.unwrap(), 1);
    cast::start(&mut world, None, &[]).await;
    let session = world.broker.session().await;
    let queue = bind_full_queue(&world, &session).await;

    let mut load = Load::start(&world, seed, fanned_out);
    let jobs = size.of(200, 2_000);
    load.send(jobs);
    load.answered(jobs).await;
    let answered = Instant::now();
    let open = "select count(*) from store.open_jobs";
    eventually("no job is open", JOBS_FINAL_WITHIN, async || {
        (world.count(open).await == 0).then_some(())
    })
    .await;
    let final_after = answered.elapsed();
    let twice = "select count(*) from store.job_log where what = 'published'";
    assert_eq!(
        world.count(twice).await,
        i64::try_from(jobs).unwrap(),
        "each job was published once"
    );
    for consumer in world
        .services()
        .iter()
        .filter(|service| service.kind() == "consumer")
    {
        assert!(
            !consumer.log().contains("a message started nothing"),
            "a job came twice"
        );
    }

    let waits = all_are_refused(&world).await;
    // Its queue takes one at least, and may take some more before it notices that it is full.
    assert!(
        waits > i64::try_from(jobs / 2).unwrap(),
        "{waits} of {jobs} events wait"
    );

    session
        .control()
        .queue_delete(QueueDeleteArguments::new(&queue))
        .await
        .unwrap();
    session.close().await;
    let gone = Instant::now();
    let found = ledger::reckon(&world, &mut load, EVENTS_LEAVE_WITHIN).await;
    println!(
        "faults: a_strangers_full_queue: seed {seed}; jobs final {:.1} s after the last answer; {waits} events waited, and left \
         {:.1} s after the queue; {found}; {:.1} s in all",
        final_after.as_secs_f64(),
        gone.elapsed().as_secs_f64(),
        began.elapsed().as_secs_f64()
    );
    assert_eq!((found.runs as usize, found.rescued), (jobs, 0));
}

/// Waits until the broker has refused every event that waits; returns how many do.
async fn all_are_refused(world: &World) -> i64 {
    let waiting = "select count(*) from store.outbox_messages where target = 'events'";
    let refused = format!("{waiting} and attempts > 0 and last_error like '%nacked%'");
    let (what, mut last) = ("all events were refused", String::new());
    eventually_or(what, JOBS_FINAL_WITHIN, &mut last, async |last: &mut String| {
        let (waits, refused) = (world.count(waiting).await, world.count(&refused).await);
        *last = format!("{refused} of {waits} were refused");
        (waits == refused).then_some(waits)
    })
    .await
}
