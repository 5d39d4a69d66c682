//! Reaching the broker, failing to, and coming back; the topology as it really ends up there.

use std::time::Duration;

use amqprs::channel::{ExchangeDeclareArguments, QueueDeclareArguments, QueueDeleteArguments};
use observability::admin::Readiness;
use relay::amqp::AmqpError;
use relay::session::Session;
use relay::supervisor::Supervisor;
use relay::testing::TestBroker;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use url::Url;

use sql::testing::proxy::Proxy;

use crate::world::nothing_to_repair;

async fn connect_error(broker: &TestBroker, change: impl Fn(&mut Url)) -> AmqpError {
    let mut url = Url::parse(broker.amqp_url()).unwrap();
    change(&mut url);
    let endpoint = broker.config_at(url.as_str()).endpoint().unwrap();
    Session::connect(&endpoint, "test").await.unwrap_err()
}

#[tokio::test]
async fn a_wrong_password_says_so() {
    let broker = TestBroker::start().await;
    let error = connect_error(&broker, |url| url.set_password(Some("wr%40ng")).unwrap()).await;
    assert!(matches!(error, AmqpError::Login { .. }), "{error}");
    assert!(
        error.to_string().contains("wrong user or password in AMQP__URL"),
        "{error}"
    );
}

#[tokio::test]
async fn an_unknown_vhost_and_a_closed_port_are_told_apart() {
    let broker = TestBroker::start().await;
    let vhost = connect_error(&broker, |url| url.set_path("/no%2Fsuch")).await;
    assert!(
        matches!(&vhost, AmqpError::Refused(text) if text.contains("no/such")),
        "{vhost}"
    );
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
        .port();
    let port = connect_error(&broker, |url| url.set_port(Some(closed)).unwrap()).await;
    assert!(matches!(port, AmqpError::Unreachable { .. }), "{port}");
    assert!(port.to_string().contains("refused"), "{port}");
    let tls = connect_error(&broker, |url| {
        *url = url.as_str().replacen("amqp:", "amqps:", 1).parse().unwrap();
    })
    .await;
    assert!(
        matches!(tls, AmqpError::Unreachable { .. } | AmqpError::Login { .. }),
        "{tls}"
    );
}

#[tokio::test]
async fn declaring_twice_changes_nothing_and_leaves_the_names_of_the_prefix() {
    let broker = TestBroker::start().await;
    let topology = broker.topology();
    for _ in 0..2 {
        let session = broker.session().await;
        topology.declare(&session).await.unwrap();
        session.close().await;
    }
    let session = broker.session().await;
    for name in ["jobs", "jobs.dlq"] {
        let passive = QueueDeclareArguments::new(&format!("{}.{name}", broker.prefix()))
            .passive(true)
            .finish();
        session.control().queue_declare(passive).await.unwrap();
    }
    let events = format!("{}.events", broker.prefix());
    let passive = ExchangeDeclareArguments::new(&events, "topic")
        .passive(true)
        .finish();
    session.control().exchange_declare(passive).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_with_other_settings_is_named_and_not_tried_in_a_hot_loop() {
    let broker = TestBroker::start().await;
    let queue = broker.topology().jobs;
    let session = broker.session().await;
    let classic = QueueDeclareArguments::new(&queue).durable(true).finish();
    session.control().queue_declare(classic).await.unwrap();
    let error = broker
        .topology()
        .declare(&broker.session().await)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains(&format!("queue {queue}")) && error.contains("PRECONDITION_FAILED"),
        "{error}"
    );
    assert!(error.contains("AMQP__PREFIX"), "{error}");

    let proxy = Proxy::before(broker.amqp_url(), 5672).await;
    let readiness = Readiness::new(&["broker"]);
    let mut supervisor = Supervisor::new(
        &broker.config_at(proxy.url()),
        "test",
        readiness.clone(),
        nothing_to_repair(),
    )
    .unwrap();
    let stop = CancellationToken::new();
    assert!(
        timeout(Duration::from_secs(1), supervisor.connect(&stop))
            .await
            .is_err()
    );
    assert!(!readiness.is_ready());
    // Two an attempt: that the queue of retries is missing costs the first.
    assert!(
        proxy.accepted() <= 10,
        "{} attempts in a second",
        proxy.accepted()
    );

    session
        .control()
        .queue_delete(QueueDeleteArguments::new(&queue))
        .await
        .unwrap();
    let session = timeout(Duration::from_secs(10), supervisor.connect(&stop))
        .await
        .unwrap()
        .unwrap();
    assert!(readiness.is_ready());
    drop(session);
    stop.cancel();
    assert!(supervisor.connect(&stop).await.is_none());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_that_dies_young_is_followed_by_a_pause() {
    let broker = TestBroker::start().await;
    let proxy = Proxy::before(broker.amqp_url(), 5672).await;
    let readiness = Readiness::new(&["broker"]);
    let mut supervisor = Supervisor::new(
        &broker.config_at(proxy.url()),
        "test",
        readiness,
        nothing_to_repair(),
    )
    .unwrap();
    let stop = CancellationToken::new();
    let started = std::time::Instant::now();
    for _ in 0..4 {
        let session = supervisor.connect(&stop).await.unwrap();
        proxy.cut();
        let reason = timeout(Duration::from_secs(2), session.lost()).await.unwrap();
        assert!(session.ended().is_cancelled());
        assert_eq!(reason, "the connection broke");
        assert!(session.open_channel().await.is_err());
    }
    // 100, 200 and 400 ms less the jitter.
    assert!(
        started.elapsed() >= Duration::from_millis(350),
        "{:?}",
        started.elapsed()
    );
}

#[tokio::test]
async fn a_test_broker_leaves_nothing_behind() {
    let broker = TestBroker::start().await;
    let topology = broker.topology();
    topology.declare(&broker.session().await).await.unwrap();
    drop(broker);
    let other = TestBroker::start().await;
    for queue in [&topology.jobs, &topology.retries, &topology.dlq] {
        let session = other.session().await;
        let passive = QueueDeclareArguments::new(queue).passive(true).finish();
        session.control().queue_declare(passive).await.unwrap_err();
        assert!(session.lost().await.contains("404 NOT_FOUND"), "{queue}");
    }
    let session = other.session().await;
    let passive = ExchangeDeclareArguments::new(&topology.events, "topic")
        .passive(true)
        .finish();
    session.control().exchange_declare(passive).await.unwrap_err();
    assert!(session.lost().await.contains("404 NOT_FOUND"));
}
