//! The relay whole: from the outbox to the queue, and through what breaks in between.

use std::time::Duration;

use serde_json::json;
use sql::testing::proxy::Proxy;

use crate::world::{TRACEPARENT, World, body, wait_until, work_messages};

#[tokio::test(flavor = "multi_thread")]
async fn what_is_in_the_outbox_is_on_the_queue_with_all_it_says() {
    let world = World::new().await;
    let relay = world.relay(&[]);
    let jobs = world.ingest("generic", 0..1).await;
    world.outbox_is_empty().await;
    let message = world.broker.get(&world.broker.topology().jobs).await.unwrap();
    assert_eq!(message.message_id(), format!("{}:1", jobs[0]));
    assert_eq!(
        message.properties.correlation_id().map(String::as_str),
        Some("corr-1")
    );
    assert_eq!(
        message.properties.message_type().map(String::as_str),
        Some("order.created")
    );
    assert_eq!(
        message.properties.content_type().map(String::as_str),
        Some("application/cloudevents+json")
    );
    assert_eq!(message.properties.delivery_mode(), Some(2), "persistent");
    assert_eq!(message.header("traceparent").as_deref(), Some(TRACEPARENT));
    let event = body(&message.body);
    assert_eq!(
        (&event["jobid"], &event["subject"]),
        (&json!(jobs[0]), &json!("generic-0"))
    );
    assert_eq!(
        (&event["data"], &event["source"]),
        (&json!({ "n": 1 }), &json!("/webhooks/generic/default"))
    );
    let published = "select count(*) from store.job_log where what = 'published'";
    assert_eq!(world.count(published).await, 1);
    relay.end().await;
    assert_eq!(
        world.count("select count(*) from store.relay_sleepers").await,
        0,
        "it says goodbye"
    );
}

/// With a poll far longer than the test's patience, only a wake-up explains that the second one arrives.
#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_relay_is_woken() {
    let world = World::new().await;
    let _relay = world.relay(&["--RELAY__POLL_MS=60000"]);
    for round in 0..20 {
        world.relay_sleeps().await;
        world.ingest("generic", round..round + 1).await;
        world.outbox_is_empty().await;
    }
    assert_eq!(world.message_ids().await.len(), 20);
}

/// A notification wakes jobs; what is due for others has to be found by the look that follows.
#[tokio::test(flavor = "multi_thread")]
async fn a_sleeping_relay_is_woken_for_each_target() {
    let world = World::new().await;
    world.loud_source().await;
    // A broker that has lost nothing: else it is sent everything once more.
    world.declare().await;
    world.ingest("loud", 0..2).await;
    world
        .execute(
            "update store.outbox_messages set next_attempt_at = clock_timestamp() + interval '1 hour';
             update store.outbox_messages set target = 'retries' where target = 'jobs';
             update store.outbox_messages set target = 'dlq'
              where id = (select id from store.outbox_messages where target = 'retries' limit 1)",
        )
        .await;
    let _relay = world.relay(&["--RELAY__POLL_MS=60000"]);
    for target in ["dlq", "events", "retries"] {
        let waits = format!("select count(*) from store.outbox_messages where target = '{target}'");
        assert!(world.count(&waits).await > 0, "{target}");
        world.relay_sleeps().await;
        let due = format!(
            "update store.outbox_messages set next_attempt_at = clock_timestamp() where target = '{target}'"
        );
        world.execute(&due).await;
        world.execute("select relayforge.wake_relays()").await;
        wait_until(target, async || world.count(&waits).await == 0).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_retry_goes_out_when_it_is_due() {
    let world = World::new().await;
    world.ingest("generic", 0..1).await;
    world
        .execute(
            "update store.outbox_messages set next_attempt_at = clock_timestamp() + interval '2 seconds'",
        )
        .await;
    let _relay = world.relay(&["--RELAY__POLL_MS=60000"]);
    world.relay_sleeps().await;
    assert_eq!(world.count("select count(*) from store.outbox_messages").await, 1);
    world.outbox_is_empty().await;
    let early = "select count(*) from store.job_log l join store.jobs j on j.id = l.job_id
                  where relayforge.uuid7_time(l.id) < relayforge.uuid7_time(j.id) + interval '2 seconds'";
    assert_eq!(world.count(early).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_relays_share_the_work_and_publish_each_once() {
    let world = World::new().await;
    // A broker that has lost nothing: one that misses its queues is sent everything that is in flight once more.
    world.declare().await;
    let jobs = world.ingest("generic", 0..2000).await;
    let (one, two) = (
        world.relay(&["--RELAY__BATCH_ITEMS=50"]),
        world.relay(&["--RELAY__BATCH_ITEMS=50"]),
    );
    world.outbox_is_empty().await;
    one.end().await;
    two.end().await;
    assert_eq!(world.message_ids().await, work_messages(&jobs));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_waits_for_a_broker_that_is_away_and_loses_nothing_when_it_goes() {
    let world = World::new().await;
    let proxy = Proxy::before(world.broker.amqp_url(), 5672).await;
    proxy.shut(true);
    let database = world.db.url("relayforge_relay");
    let _relay = world.relay_at(database.expose(), proxy.url(), &["--RELAY__BATCH_ITEMS=20"]);
    let mut jobs = world.ingest("generic", 0..100).await;
    proxy.shut(false);
    world.outbox_is_empty().await;
    for round in 1..=10 {
        jobs.extend(world.ingest("generic", round * 100..round * 100 + 100).await);
        proxy.cut();
    }
    world.outbox_is_empty().await;
    // What was in flight when the connection went may be there twice; nothing may be missing.
    let mut ids = world.message_ids().await;
    ids.dedup();
    assert_eq!(ids, work_messages(&jobs));
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_when_the_database_was_away() {
    let world = World::new().await;
    let proxy = Proxy::before(world.db.url("relayforge_relay").expose(), 5432).await;
    let _relay = world.relay_at(proxy.url(), world.broker.amqp_url(), &["--RELAY__BATCH_ITEMS=20"]);
    let mut jobs = Vec::new();
    for round in 0..10 {
        jobs.extend(world.ingest("generic", round * 100..round * 100 + 100).await);
        proxy.cut();
    }
    world.outbox_is_empty().await;
    let mut ids = world.message_ids().await;
    ids.dedup();
    assert_eq!(ids, work_messages(&jobs));
}

/// Connections fall silent while new ones work, as after a failover that nobody was told of.
#[tokio::test(flavor = "multi_thread")]
async fn silent_connections_to_the_database_are_given_up() {
    let world = World::new().await;
    let proxy = Proxy::before(world.db.url("relayforge_relay").expose(), 5432).await;
    let relay = world.relay_at(proxy.url(), world.broker.amqp_url(), &[]);
    world.ingest("generic", 0..20).await;
    world.outbox_is_empty().await;
    proxy.silence();
    let jobs = world.ingest("generic", 20..21).await;
    let gone = "select count(*) from store.outbox_messages";
    let deadline = std::time::Instant::now() + Duration::from_secs(45);
    while world.count(gone).await > 0 {
        assert!(std::time::Instant::now() < deadline, "a call has no bound");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(world.message_ids().await.contains(&work_messages(&jobs)[0]));
    // Nor does one keep it from ending.
    proxy.silence();
    tokio::time::timeout(Duration::from_secs(30), relay.end())
        .await
        .expect("it ends");
}

/// A stalled broker confirms nothing: the rows are put off with that reason, the connection is made anew, all arrive.
#[tokio::test(flavor = "multi_thread")]
async fn a_stalled_broker_is_told_apart_and_survived() {
    let world = World::new().await;
    let proxy = Proxy::before(world.broker.amqp_url(), 5672).await;
    let database = world.db.url("relayforge_relay");
    let settings = ["--RELAY__CONFIRM_TIMEOUT_MS=500"];
    let _relay = world.relay_at(database.expose(), proxy.url(), &settings);
    world.ingest("generic", 0..10).await;
    world.outbox_is_empty().await;
    proxy.stall(true);
    world.ingest("generic", 10..20).await;
    wait_until("the rows say why they wait", async || {
        let why =
            "select count(*) from store.outbox_messages where attempts > 0 and last_error like 'no confirm%'";
        world.count(why).await == 10
    })
    .await;
    proxy.stall(false);
    world.outbox_is_empty().await;
}

/// A stranger's full queue refuses events. Jobs go out once each and at once, the events wait with the reason.
#[tokio::test(flavor = "multi_thread")]
async fn a_strangers_full_queue_holds_up_and_repeats_no_job() {
    let world = World::new().await;
    world.loud_source().await;
    world.declare().await;
    let session = world.broker.session().await;
    let queue = world.bind_full_queue(&session).await;
    let relay = world.relay(&[]);
    let jobs = world.ingest("loud", 0..300).await;
    wait_until("all jobs are out", async || {
        world
            .count("select count(*) from store.outbox_messages where target = 'jobs'")
            .await
            == 0
    })
    .await;
    wait_until("the events say why they wait", async || {
        let why = "select count(*) from store.outbox_messages
                    where target = 'events' and attempts > 0 and last_error = 'nacked by the broker'";
        world.count(why).await >= 299
    })
    .await;
    assert_eq!(world.message_ids().await, work_messages(&jobs));
    // After an hour they are given up; as if it had passed.
    world
        .execute(
            "update store.outbox_messages
                set refused_since = refused_since - interval '2 hours', next_attempt_at = clock_timestamp()",
        )
        .await;
    world.ingest("loud", 300..301).await;
    wait_until("what is an hour old is given up", async || {
        world
            .count("select count(*) from store.outbox_messages where target = 'events'")
            .await
            <= 1
    })
    .await;
    assert_eq!(world.count("select count(*) from store.dead_jobs").await, 0);
    let delete = amqprs::channel::QueueDeleteArguments::new(&queue);
    session.control().queue_delete(delete).await.unwrap();
    world.outbox_is_empty().await;
    relay.end().await;
}

/// A queue that was deleted with messages in it: the relay finds it gone, writes them anew, and declares it.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_queue_is_declared_and_filled_again() {
    let world = World::new().await;
    let relay = world.relay(&[]);
    let mut jobs = world.ingest("generic", 0..50).await;
    world.outbox_is_empty().await;
    let session = world.broker.session().await;
    let queue = world.broker.topology().jobs;
    let delete = amqprs::channel::QueueDeleteArguments::new(&queue);
    session.control().queue_delete(delete).await.unwrap();
    // The first message that nobody takes tells.
    jobs.extend(world.ingest("generic", 50..51).await);
    world.outbox_is_empty().await;
    let mut ids = world.message_ids().await;
    ids.dedup();
    assert_eq!(ids, work_messages(&jobs));
    relay.end().await;
}

/// Nothing is published that could come back: the relay looks by itself.
#[tokio::test(flavor = "multi_thread")]
async fn an_idle_relay_finds_out_that_its_queues_were_deleted() {
    let world = World::new().await;
    let relay = world.relay(&[]);
    let jobs = world.ingest("generic", 0..50).await;
    world.outbox_is_empty().await;
    let session = world.broker.session().await;
    for queue in world.broker.topology().work_queues() {
        let delete = amqprs::channel::QueueDeleteArguments::new(queue);
        session.control().queue_delete(delete).await.unwrap();
    }
    wait_until("all messages are written anew", async || {
        world
            .count("select count(*) from store.job_log where what = 'published'")
            .await
            >= 100
    })
    .await;
    world.outbox_is_empty().await;
    let mut ids = world.message_ids().await;
    ids.dedup();
    assert_eq!(ids, work_messages(&jobs));
    relay.end().await;
}

/// Nobody else is there to take the job over.
#[tokio::test(flavor = "multi_thread")]
async fn a_relay_takes_over_jobs_whose_lease_has_run_out() {
    let world = World::new().await;
    let relay = world.relay(&["--RELAY__POLL_MS=60000"]);
    let job = world.ingest("generic", 0..1).await[0];
    world.outbox_is_empty().await;
    assert_eq!(world.message_ids().await, [format!("{job}:1")]);
    world
        .execute(&format!(
            "select relayforge.start_jobs(array['{job}'::uuid], array[1], '1 second', 5)"
        ))
        .await;
    wait_until("it is back", async || {
        world
            .count("select count(*) from store.job_log where what = 'rescued'")
            .await
            == 1
    })
    .await;
    world.outbox_is_empty().await;
    assert_eq!(world.message_ids().await, [format!("{job}:2")]);
    relay.end().await;
}

/// What comes back has a queue of its own, and does not stand in front of what is new.
#[tokio::test(flavor = "multi_thread")]
async fn a_mass_of_retries_goes_by_its_own_queue_and_delays_nothing_new() {
    let world = World::new().await;
    world.declare().await;
    let old = world.ingest("generic", 0..3000).await;
    world
        .execute("update store.outbox_messages set target = 'retries', attempt = 2, next_attempt_at = next_attempt_at - interval '1 hour'")
        .await;
    let fresh = world.ingest("generic", 3000..3001).await;
    let _relay = world.relay(&["--RELAY__BATCH_ITEMS=50"]);
    wait_until("the new one is out", async || {
        world
            .count("select count(*) from store.outbox_messages where target = 'jobs'")
            .await
            == 0
    })
    .await;
    let waiting = world
        .count("select count(*) from store.outbox_messages where target = 'retries'")
        .await;
    assert!(waiting > 0, "long before the last of the old ones");
    world.outbox_is_empty().await;
    assert_eq!(world.message_ids().await, work_messages(&fresh));
    let queue = world.broker.topology().retries;
    assert_eq!(world.broker.drain(&queue).await.len(), old.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn events_reach_whoever_has_bound_and_nobody_waits_for_who_has_not() {
    let world = World::new().await;
    world.loud_source().await;
    let relay = world.relay(&[]);
    world.ingest("loud", 0..3).await;
    world.outbox_is_empty().await;
    assert_eq!(
        world.message_ids().await.len(),
        3,
        "the jobs are there, the events went to nobody"
    );
    let session = world.broker.session().await;
    let (queue, exchange) = (
        format!("{}.mine", world.broker.prefix()),
        world.broker.topology().events,
    );
    let channel = session.control();
    let declare = amqprs::channel::QueueDeclareArguments::new(&queue)
        .exclusive(true)
        .finish();
    channel.queue_declare(declare).await.unwrap();
    let binding = amqprs::channel::QueueBindArguments::new(&queue, &exchange, "default.loud.#").finish();
    channel.queue_bind(binding).await.unwrap();
    world.ingest("loud", 3..4).await;
    world.outbox_is_empty().await;
    let get = amqprs::channel::BasicGetArguments::new(&queue)
        .no_ack(true)
        .finish();
    let (delivered, properties, bytes) = channel.basic_get(get).await.unwrap().expect("the event is there");
    assert_eq!(delivered.routing_key(), "default.loud.order.created");
    let event = body(&bytes);
    assert_eq!(properties.message_id().map(String::as_str), event["id"].as_str());
    relay.end().await;
}

/// A message that can't be made does not hold up the others, and its job is given up with the reason.
#[tokio::test(flavor = "multi_thread")]
async fn an_unpublishable_message_is_given_up_and_the_rest_goes_out() {
    let world = World::new().await;
    let jobs = world.ingest("generic", 0..3).await;
    let event = "(select event_id from store.jobs order by id limit 1)";
    world
        .execute(&format!(
            "update store.webhook_inbox set body = 'no event' where id = {event}"
        ))
        .await;
    let _relay = world.relay(&[]);
    wait_until("the good ones are out", async || {
        world
            .count("select count(*) from store.job_log where what = 'published'")
            .await
            == 2
    })
    .await;
    wait_until("the bad one is given up", async || {
        world
            .count("select count(*) from store.dead_jobs where cause = 'unpublishable'")
            .await
            == 1
    })
    .await;
    world.outbox_is_empty().await;
    let mut good = jobs.clone();
    good.sort();
    assert_eq!(world.message_ids().await, work_messages(&good[1..]));
}

/// While releases are mixed, a source of a kind that only the newer one knows holds up nothing, and loses nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_message_of_a_newer_release_waits_and_the_rest_goes_out() {
    let world = World::new().await;
    let good = world.ingest("generic", 0..3).await;
    let newer = world.ingest("github", 3..4).await;
    world
        .execute("alter table store.sources drop constraint sources_kind_known")
        .await;
    world
        .execute("update store.sources set kind = 'paypal' where name = 'github'")
        .await;
    let _relay = world.relay(&[]);
    let waiting = "select count(*) from store.outbox_messages where last_error like '%paypal%release%'";
    wait_until("it is put off", async || world.count(waiting).await == 1).await;
    wait_until("the good ones are out", async || {
        world.count("select count(*) from store.outbox_messages").await == 1
    })
    .await;
    assert_eq!(world.message_ids().await, work_messages(&good));
    world
        .execute("update store.sources set kind = 'generic' where name = 'github'")
        .await;
    world.outbox_is_empty().await;
    assert_eq!(world.message_ids().await, work_messages(&newer));
}

/// A relay that dies between publishing and committing publishes again; one that is told to end finishes its batch.
#[tokio::test(flavor = "multi_thread")]
async fn relays_that_come_and_go_leave_nothing_behind() {
    let world = World::new().await;
    let jobs = world.ingest("generic", 0..3000).await;
    let waiting = async || world.count("select count(*) from store.outbox_messages").await;
    let mut started = 0;
    loop {
        // Counted once: the last commit of a relay that is gone may still come.
        let before = waiting().await;
        if before == 0 {
            break;
        }
        started += 1;
        assert!(started < 200, "no relay makes progress");
        let relay = world.relay(&["--RELAY__BATCH_ITEMS=100"]);
        wait_until("it has done something", async || waiting().await < before).await;
        if started % 2 == 0 {
            relay.end().await;
        } else {
            drop(relay);
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    let mut ids = world.message_ids().await;
    ids.dedup();
    assert_eq!(ids, work_messages(&jobs));
}
