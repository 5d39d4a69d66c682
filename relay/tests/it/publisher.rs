//! What becomes of a message: every outcome a broker can give it, and none.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use amqprs::channel::{BasicPublishArguments, QueueDeclareArguments, QueueDeleteArguments};
use amqprs::{BasicProperties, DELIVERY_MODE_PERSISTENT, FieldTable, FieldValue};
use observability::admin::Readiness;
use relay::kept::{KeptPublisher, keep};
use relay::outgoing::{HeaderValue, MAX_BODY_BYTES, Outgoing, Properties, PublishOutcome};
use relay::publisher::Publisher;
use relay::session::Session;
use relay::supervisor::Supervisor;
use relay::testing::TestBroker;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use sql::testing::proxy::Proxy;

use crate::world::nothing_to_repair;

const CONFIRM_TIMEOUT: Duration = Duration::from_secs(10);

/// A session with the topology declared, and a publisher on it.
async fn publisher(broker: &TestBroker) -> (Session, Publisher) {
    let session = broker.session().await;
    broker.topology().declare(&session).await.unwrap();
    let publisher = Publisher::start(&session, CONFIRM_TIMEOUT).await.unwrap();
    (session, publisher)
}

fn kept(
    broker: &TestBroker,
    proxy: &Proxy,
    confirm: Duration,
) -> (KeptPublisher, JoinHandle<()>, Readiness, CancellationToken) {
    let (readiness, stop) = (Readiness::new(&["broker"]), CancellationToken::new());
    let config = broker.config_at(proxy.url());
    let supervisor = Supervisor::new(&config, "test", readiness.clone(), nothing_to_repair()).unwrap();
    let (publisher, task) = keep(supervisor, confirm, stop.clone());
    (publisher, task, readiness, stop)
}

fn message(queue: &str, id: impl Into<String>) -> Outgoing {
    let properties = Properties {
        message_id: id.into(),
        ..Properties::default()
    };
    Outgoing {
        routing_key: queue.to_owned(),
        properties,
        body: b"{}".to_vec(),
        ..Outgoing::default()
    }
}

/// The outcomes of a batch that has all the time it needs.
async fn all(publisher: &Publisher, batch: Vec<Outgoing>) -> Vec<PublishOutcome> {
    let outcomes = publisher
        .publish_batch(batch, tokio::time::Instant::now() + CONFIRM_TIMEOUT * 3)
        .await;
    outcomes.into_iter().map(Option::unwrap).collect()
}

#[tokio::test]
async fn a_confirmed_message_is_in_the_queue_as_it_was_given() {
    let broker = TestBroker::start().await;
    let (_session, publisher) = publisher(&broker).await;
    let queue = broker.topology().jobs;
    let headers = BTreeMap::from([
        (
            "traceparent".to_owned(),
            HeaderValue::Text("00-ab-cd-01".to_owned()),
        ),
        ("attempt".to_owned(), HeaderValue::Integer(-3)),
        (
            "x-relayforge-publish".to_owned(),
            HeaderValue::Text("not ours".to_owned()),
        ),
    ]);
    let properties = Properties {
        message_id: "job-1".to_owned(),
        correlation_id: Some("c-1".to_owned()),
        message_type: Some("invoice.paid".to_owned()),
        content_type: Some("application/cloudevents+json".to_owned()),
        timestamp: Some(1_700_000_000),
        headers,
    };
    let large = vec![7; 1024 * 1024];
    let outgoing = Outgoing {
        routing_key: queue.clone(),
        properties,
        body: large.clone(),
        ..Outgoing::default()
    };
    assert_eq!(publisher.publish(outgoing).await, PublishOutcome::Confirmed);

    let got = broker.get(&queue).await.unwrap();
    assert_eq!((got.message_id(), &got.body), ("job-1", &large));
    assert_eq!(got.properties.correlation_id().unwrap(), "c-1");
    assert_eq!(got.properties.message_type().unwrap(), "invoice.paid");
    assert_eq!(
        got.properties.content_type().unwrap(),
        "application/cloudevents+json"
    );
    assert_eq!(got.properties.timestamp(), Some(1_700_000_000));
    assert_eq!(got.properties.delivery_mode(), Some(DELIVERY_MODE_PERSISTENT));
    assert_eq!(got.header("traceparent").unwrap(), "00-ab-cd-01");
    let attempt = got
        .properties
        .headers()
        .unwrap()
        .get(&"attempt".try_into().unwrap())
        .cloned();
    assert_eq!(attempt, Some(FieldValue::l(-3)));
    assert!(broker.get(&queue).await.is_none());
}

#[tokio::test]
async fn every_message_of_a_mixed_batch_gets_its_own_outcome() {
    let broker = TestBroker::start().await;
    let (_session, publisher) = publisher(&broker).await;
    let queue = broker.topology().jobs;
    // More than the window, every third with nowhere to go, two of each message_id in flight at once.
    let target = |n: usize| {
        if n.is_multiple_of(3) {
            "no.such.queue"
        } else {
            queue.as_str()
        }
    };
    let batch: Vec<_> = (0..2500)
        .map(|n| message(target(n), format!("m-{}", n / 2)))
        .collect();
    let outcomes = timeout(Duration::from_secs(30), all(&publisher, batch))
        .await
        .unwrap();

    let returned = PublishOutcome::Returned {
        reply_code: 312,
        reply_text: "NO_ROUTE".to_owned(),
    };
    for (n, outcome) in outcomes.iter().enumerate() {
        let expected = if n.is_multiple_of(3) {
            &returned
        } else {
            &PublishOutcome::Confirmed
        };
        assert_eq!(outcome, expected, "message {n}");
    }
    let there: Vec<_> = broker
        .drain(&queue)
        .await
        .iter()
        .map(|got| got.message_id().to_owned())
        .collect();
    let expected: Vec<_> = (0..2500)
        .filter(|n| n % 3 != 0)
        .map(|n: usize| format!("m-{}", n / 2))
        .collect();
    assert_eq!(there, expected, "in order, none twice");
}

#[tokio::test]
async fn a_queue_that_is_full_nacks() {
    let broker = TestBroker::start().await;
    let (session, publisher) = publisher(&broker).await;
    let queue = format!("{}.full", broker.prefix());
    let mut arguments = FieldTable::new();
    arguments.insert("x-max-length".try_into().unwrap(), FieldValue::I(1));
    arguments.insert("x-overflow".try_into().unwrap(), "reject-publish".into());
    let declare = QueueDeclareArguments::new(&queue)
        .exclusive(true)
        .arguments(arguments)
        .finish();
    session.control().queue_declare(declare).await.unwrap();
    let outcomes = all(
        &publisher,
        (0..5).map(|n| message(&queue, n.to_string())).collect(),
    )
    .await;
    assert_eq!(outcomes[0], PublishOutcome::Confirmed);
    assert!(outcomes.contains(&PublishOutcome::Nacked), "{outcomes:?}");
    session
        .control()
        .queue_delete(QueueDeleteArguments::new(&queue))
        .await
        .unwrap();
}

#[tokio::test]
async fn what_amqp_cannot_carry_is_refused_and_the_publisher_lives_on() {
    let broker = TestBroker::start().await;
    let (_session, publisher) = publisher(&broker).await;
    let queue = broker.topology().jobs;
    let (fits, long) = ("s".repeat(255), "s".repeat(256));
    let with_header = |name: String, value: String| {
        let mut outgoing = message(&queue, "m");
        outgoing.properties.headers.insert(name, HeaderValue::Text(value));
        outgoing
    };
    let with = |change: &dyn Fn(&mut Outgoing)| {
        let mut outgoing = message(&queue, "m");
        change(&mut outgoing);
        outgoing
    };
    let refused = [
        ("exchange", with(&|out| out.exchange.clone_from(&long))),
        ("routing key", message(&long, "m")),
        ("message_id", message(&queue, &*long)),
        (
            "correlation_id",
            with(&|out| out.properties.correlation_id = Some(long.clone())),
        ),
        (
            "type",
            with(&|out| out.properties.message_type = Some(long.clone())),
        ),
        (
            "content type",
            with(&|out| out.properties.content_type = Some(long.clone())),
        ),
        ("header name", with_header(long.clone(), String::new())),
        ("header name", with_header(String::new(), String::new())),
        (
            "headers",
            with_header("baggage".to_owned(), "b".repeat(64 * 1024)),
        ),
        ("body", with(&|out| out.body = vec![0; MAX_BODY_BYTES + 1])),
    ];
    for (field, outgoing) in refused {
        match publisher.publish(outgoing).await {
            PublishOutcome::Refused(reason) => assert!(reason.starts_with(field), "{field}: {reason}"),
            other => panic!("{field}: {other}"),
        }
    }
    // The most that is allowed really passes, header frame and largest body included.
    let largest = with(&|out| {
        let properties = &mut out.properties;
        properties.message_id.clone_from(&fits);
        properties.correlation_id = Some(fits.clone());
        properties.message_type = Some(fits.clone());
        properties.content_type = Some(fits.clone());
        properties
            .headers
            .insert(fits.clone(), HeaderValue::Text("b".repeat(65_000)));
        out.body = vec![0; MAX_BODY_BYTES];
    });
    assert_eq!(publisher.publish(largest).await, PublishOutcome::Confirmed);
    assert_eq!(broker.get(&queue).await.unwrap().message_id(), fits);
}

#[tokio::test]
async fn a_channel_closed_by_the_broker_loses_what_is_in_flight_with_its_reason() {
    let broker = TestBroker::start().await;
    let (session, publisher) = publisher(&broker).await;
    let mut astray = message("anywhere", "astray");
    astray.exchange = format!("{}.no-such-exchange", broker.prefix());
    let PublishOutcome::Lost(reason) = publisher.publish(astray).await else {
        panic!("not lost")
    };
    assert!(
        reason.contains("404 NOT_FOUND") && reason.contains("no-such-exchange"),
        "{reason}"
    );
    assert_eq!(
        session.lost().await,
        reason,
        "one closed channel ends the session"
    );
    assert!(publisher.is_lost());
    let late = publisher.publish(message(&broker.topology().jobs, "late")).await;
    assert_eq!(late, PublishOutcome::Lost(reason));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_cut_in_flight_loses_all_pending_and_the_next_one_works() {
    let broker = TestBroker::start().await;
    let proxy = Proxy::before(broker.amqp_url(), 5672).await;
    let (mut kept, task, readiness, stop) = kept(&broker, &proxy, CONFIRM_TIMEOUT);
    let publisher = kept.turn().await.unwrap().publisher;
    assert!(readiness.is_ready());
    let queue = broker.topology().jobs;

    proxy.stall(true);
    let batch = (0..1500).map(|n| message(&queue, n.to_string())).collect();
    let pending = tokio::spawn(async move { all(&publisher, batch).await });
    // Cut once the window is full: 1000 in flight, 500 that wait for a place.
    tokio::time::sleep(Duration::from_millis(200)).await;
    assert!(!pending.is_finished());
    proxy.cut();
    proxy.stall(false);
    let outcomes = timeout(Duration::from_secs(2), pending).await.unwrap().unwrap();
    assert_eq!(outcomes.len(), 1500);
    assert!(
        outcomes
            .iter()
            .all(|outcome| matches!(outcome, PublishOutcome::Lost(_))),
        "{:?}",
        outcomes[0]
    );

    let again = timeout(Duration::from_secs(5), kept.turn())
        .await
        .unwrap()
        .unwrap();
    assert!(
        !again.is_probe(),
        "a broker that was only away is not on probation"
    );
    assert_eq!(
        again.publisher.publish(message(&queue, "after")).await,
        PublishOutcome::Confirmed
    );
    assert!(readiness.is_ready());
    stop.cancel();
    timeout(Duration::from_secs(3), task).await.unwrap().unwrap();
    assert!(kept.turn().await.is_none());
    assert!(!readiness.is_ready());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_broker_times_out_in_time_and_the_next_session_works() {
    let broker = TestBroker::start().await;
    let proxy = Proxy::before(broker.amqp_url(), 5672).await;
    let (mut kept, _task, readiness, _stop) = kept(&broker, &proxy, Duration::from_millis(500));
    let publisher = kept.turn().await.unwrap().publisher;
    let queue = broker.topology().jobs;

    proxy.stall(true);
    // 64 MB: more than the buffers between us and the broker take, so that the writer itself is stuck.
    let large = |n: usize| Outgoing {
        body: vec![0; 64 * 1024],
        ..message(&queue, n.to_string())
    };
    let started = Instant::now();
    let outcomes = all(&publisher, (0..1000).map(large).collect()).await;
    let took = started.elapsed();
    assert!(
        took >= Duration::from_millis(500) && took < Duration::from_secs(3),
        "{took:?}"
    );
    assert_eq!(outcomes[0], PublishOutcome::TimedOut);
    let unknown =
        |outcome: &PublishOutcome| matches!(outcome, PublishOutcome::TimedOut | PublishOutcome::Lost(_));
    assert!(outcomes.iter().all(unknown));
    assert!(publisher.is_lost());
    let not_ready = async {
        while readiness.is_ready() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(1), not_ready)
        .await
        .expect("readiness follows");

    proxy.stall(false);
    let again = timeout(Duration::from_secs(20), kept.turn())
        .await
        .unwrap()
        .unwrap();
    // One message finds out whether it confirms again; everybody else waits for that.
    assert!(again.is_probe() && !readiness.is_ready());
    let mut other = kept.clone();
    let waiting = tokio::spawn(async move { other.turn().await.unwrap().is_probe() });
    let mut third = kept.clone();
    assert!(timeout(Duration::from_millis(200), third.turn()).await.is_err());
    assert_eq!(
        again.publisher.publish(message(&queue, "after")).await,
        PublishOutcome::Confirmed
    );
    let is_probe = timeout(Duration::from_secs(5), waiting).await.unwrap().unwrap();
    assert!(
        !is_probe,
        "publishing goes on while the probe's turn is still held"
    );
    assert!(readiness.is_ready());
}

/// Nothing is due, so nobody probes: the session asks by itself, or an idle relay would stay paused.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pause_ends_also_when_there_is_nothing_to_publish() {
    let broker = TestBroker::start().await;
    let proxy = Proxy::before(broker.amqp_url(), 5672).await;
    let (mut kept, _task, readiness, _stop) = kept(&broker, &proxy, Duration::from_millis(300));
    let queue = broker.topology().jobs;
    let turn = kept.turn().await.unwrap();
    proxy.stall(true);
    let outcome = turn.publisher.publish(message(&queue, "unanswered")).await;
    assert_eq!(outcome, PublishOutcome::TimedOut);
    drop(turn);
    proxy.stall(false);
    // Held by whom it may, without a message.
    let idle = timeout(Duration::from_secs(20), kept.turn())
        .await
        .unwrap()
        .unwrap();
    assert!(idle.is_probe());
    let ready = async {
        while !readiness.is_ready() {
            tokio::task::yield_now().await;
        }
    };
    timeout(Duration::from_secs(10), ready).await.unwrap();
    assert!(!kept.turn().await.unwrap().is_probe());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_stays_stalled_is_probed_again_and_again_with_one_message() {
    let broker = TestBroker::start().await;
    let proxy = Proxy::before(broker.amqp_url(), 5672).await;
    let (mut kept, _task, readiness, _stop) = kept(&broker, &proxy, Duration::from_millis(300));
    let queue = broker.topology().jobs;
    let mut turn = kept.turn().await.unwrap();
    for round in 0..3 {
        assert_eq!(turn.is_probe(), round > 0);
        proxy.stall(true);
        let outcome = turn
            .publisher
            .publish(message(&queue, format!("probe-{round}")))
            .await;
        assert_eq!(outcome, PublishOutcome::TimedOut);
        drop(turn);
        proxy.stall(false);
        turn = timeout(Duration::from_secs(20), kept.turn())
            .await
            .unwrap()
            .unwrap();
        assert!(!readiness.is_ready(), "round {round}");
    }
    // A turn that is given back without an answer leaves the probe to the next.
    drop(turn);
    let turn = timeout(Duration::from_secs(5), kept.turn())
        .await
        .unwrap()
        .unwrap();
    assert!(turn.is_probe());
    assert_eq!(
        turn.publisher.publish(message(&queue, "after")).await,
        PublishOutcome::Confirmed
    );
    drop(turn);
    let open = async { while kept.turn().await.unwrap().is_probe() {} };
    timeout(Duration::from_secs(5), open).await.unwrap();
    assert!(readiness.is_ready());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_writer_that_is_stuck_goes_with_its_session() {
    let broker = TestBroker::start().await;
    let proxy = Proxy::before(broker.amqp_url(), 5672).await;
    let endpoint = broker.config_at(proxy.url()).endpoint().unwrap();
    let session = Session::connect(&endpoint, "test").await.unwrap();
    let publisher = Publisher::start(&session, Duration::from_millis(300))
        .await
        .unwrap();
    let open_files = || std::fs::read_dir("/proc/self/fd").unwrap().count();
    let before = open_files();

    // Stays stalled, so that nothing but the end of the session can free the writer.
    proxy.stall(true);
    let large = |n: usize| Outgoing {
        body: vec![0; 64 * 1024],
        ..message("nowhere", n.to_string())
    };
    let outcomes = all(&publisher, (0..1000).map(large).collect()).await;
    assert_eq!(outcomes[0], PublishOutcome::TimedOut);
    assert!(session.lost().await.contains("no confirm in 300 ms"));
    let closed = async {
        while open_files() >= before {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    timeout(Duration::from_secs(3), closed)
        .await
        .expect("its socket is closed");
}

#[tokio::test]
async fn a_dropped_publish_takes_no_place_in_the_window_for_good() {
    let broker = TestBroker::start().await;
    let (_session, publisher) = publisher(&broker).await;
    let queue = broker.topology().jobs;
    for n in 0..1200 {
        let publish = publisher.publish(message(&queue, n.to_string()));
        let _ = timeout(Duration::ZERO, publish).await;
    }
    let last = timeout(Duration::from_secs(5), publisher.publish(message(&queue, "last")))
        .await
        .unwrap();
    assert_eq!(last, PublishOutcome::Confirmed);
}

#[tokio::test]
async fn a_stranger_on_another_channel_does_not_disturb_the_count() {
    let broker = TestBroker::start().await;
    let (session, publisher) = publisher(&broker).await;
    let queue = broker.topology().jobs;
    let other = session.open_channel().await.unwrap();
    for n in 0..50 {
        let route = BasicPublishArguments::new("", &queue);
        other
            .basic_publish(BasicProperties::default(), Vec::new(), route)
            .await
            .unwrap();
        assert_eq!(
            publisher.publish(message(&queue, n.to_string())).await,
            PublishOutcome::Confirmed
        );
    }
}

/// A broker that confirms too slowly for a whole batch: what is confirmed counts, and the rest is told apart from what was
/// never sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_ends_at_its_deadline_and_keeps_what_was_confirmed() {
    let broker = TestBroker::start().await;
    let proxy = Proxy::before(broker.amqp_url(), 5672).await;
    let (mut kept, _task, _readiness, _stop) = kept(&broker, &proxy, CONFIRM_TIMEOUT);
    let publisher = kept.turn().await.unwrap().publisher;
    let queue = broker.topology().jobs;
    assert_eq!(
        all(&publisher, vec![message(&queue, "first")]).await,
        [PublishOutcome::Confirmed]
    );
    proxy.stall(true);
    // One more than the window holds is never handed in.
    let batch = (0..1001).map(|n| message(&queue, n.to_string())).collect();
    let outcomes = publisher
        .publish_batch(batch, tokio::time::Instant::now() + Duration::from_millis(500))
        .await;
    assert_eq!(outcomes.len(), 1001);
    assert!(
        outcomes[..1000]
            .iter()
            .all(|outcome| *outcome == Some(PublishOutcome::TimedOut))
    );
    assert_eq!(outcomes[1000], None);
    assert!(
        !publisher.is_lost(),
        "the session goes on: the confirms come late, not never"
    );
    proxy.stall(false);
    assert_eq!(
        all(&publisher, vec![message(&queue, "last")]).await,
        [PublishOutcome::Confirmed]
    );
}

/// A message that the broker closes its channel over: it takes all that is in flight with it, once. One by one the others go
/// out, and it alone is refused for good.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_that_the_broker_closes_the_channel_over_is_found_and_refused() {
    let broker = TestBroker::start().await;
    let proxy = Proxy::before(broker.amqp_url(), 5672).await;
    let (mut kept, _task, _readiness, _stop) = kept(&broker, &proxy, CONFIRM_TIMEOUT);
    let queue = broker.topology().jobs;
    let batch: Vec<Outgoing> = (0..50)
        .map(|n| {
            let mut message = message(&queue, n.to_string());
            if n == 17 {
                // RabbitMQ wants a list there.
                let header = HeaderValue::Text("nobody".to_owned());
                message.properties.headers.insert("CC".to_owned(), header);
            }
            message
        })
        .collect();
    let mut waiting: Vec<Outgoing> = batch;
    let (mut refused, mut rounds, mut confirmed) = (Vec::new(), 0, 0);
    while !waiting.is_empty() {
        rounds += 1;
        assert!(rounds < 60, "{} wait still", waiting.len());
        let turn = timeout(Duration::from_secs(20), kept.turn())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(turn.is_probe(), rounds > 1, "round {rounds}");
        let count = if turn.is_probe() { 1 } else { waiting.len() };
        let now: Vec<Outgoing> = waiting.drain(..count).collect();
        let outcomes = all(&turn.publisher, now.clone()).await;
        let mut again = Vec::new();
        for (message, outcome) in now.into_iter().zip(outcomes) {
            match outcome {
                PublishOutcome::Confirmed => confirmed += 1,
                PublishOutcome::Refused(reason) => refused.push((message.properties.message_id, reason)),
                PublishOutcome::Lost(_) => {
                    assert!(turn.publisher.is_refused());
                    again.push(message);
                }
                other => panic!("{other}"),
            }
        }
        again.append(&mut waiting);
        waiting = again;
    }
    assert_eq!((confirmed, refused.len()), (49, 1));
    assert_eq!(refused[0].0, "17");
    assert!(refused[0].1.contains("PRECONDITION_FAILED"), "{}", refused[0].1);
    // As many answers as there were suspects, and it is over.
    for n in 0..60 {
        let turn = timeout(Duration::from_secs(20), kept.turn())
            .await
            .unwrap()
            .unwrap();
        if !turn.is_probe() {
            return;
        }
        all(&turn.publisher, vec![message(&queue, format!("after-{n}"))]).await;
    }
    panic!("one message at a time for ever");
}
