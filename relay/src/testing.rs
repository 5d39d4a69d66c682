//! A broker for tests: where it is, a topology prefix of the test's own, and a look into its queues.
//!
//! Owns nothing but what carries its prefix, which it removes when dropped. Which server it is, in this order:
//! `TEST_AMQP_URL`, the one of `./dev test-servers`, a container (`sql::testing` has the rule).

pub mod node;

use std::time::Duration;

use amqprs::channel::{BasicAckArguments, BasicGetArguments, ExchangeDeleteArguments, QueueDeleteArguments};
use amqprs::{BasicProperties, FieldValue, ShortStr};
use clap::Parser;
use sql::testing::{CONTAINER_LABEL, Greeting, server_variable};
use testcontainers_modules::rabbitmq::RabbitMq;
use testcontainers_modules::testcontainers::ImageExt as _;
use testcontainers_modules::testcontainers::runners::AsyncRunner as _;

use crate::amqp::AmqpConfig;
use crate::session::Session;
use crate::topology::Topology;

/// Bound of the clean-up at the end, so that a dead broker holds no test.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(5);

/// One test's share of a real broker.
#[derive(Debug)]
pub struct TestBroker {
    url: String,
    prefix: String,
}

/// A message taken from a queue.
#[derive(Clone, Debug)]
pub struct TestMessage {
    /// Exchange it came through; empty for the default one.
    pub exchange: String,
    /// Key it was routed by.
    pub routing_key: String,
    /// Its AMQP properties.
    pub properties: BasicProperties,
    /// Its content.
    pub body: Vec<u8>,
}

impl TestMessage {
    /// Its `message_id`, or nothing.
    pub fn message_id(&self) -> &str {
        self.properties.message_id().map_or("", String::as_str)
    }

    /// The text of one of its headers.
    pub fn header(&self, name: &str) -> Option<String> {
        match self.properties.headers()?.get(&ShortStr::try_from(name).ok()?)? {
            FieldValue::S(text) => Some(text.to_string()),
            _ => None,
        }
    }
}

impl TestBroker {
    /// Finds the server, or starts one. Panics with what to do where there is none.
    pub async fn start() -> Self {
        Self::at(server_url().await)
    }

    /// A share of the server at that URL.
    pub fn at(url: String) -> Self {
        let id = uuid::Uuid::new_v4().simple().to_string();
        let prefix = format!("test-{}", &id[..12]);
        Self { url, prefix }
    }

    /// Where the broker is, with credentials.
    pub fn amqp_url(&self) -> &str {
        &self.url
    }

    /// What `AMQP__PREFIX` is in this test.
    pub fn prefix(&self) -> &str {
        &self.prefix
    }

    /// The names below the prefix.
    pub fn topology(&self) -> Topology {
        Topology::new(&self.prefix)
    }

    /// The settings of a service in this test.
    pub fn config(&self) -> AmqpConfig {
        self.config_at(&self.url)
    }

    /// The same, with the broker behind another address, such as a proxy's.
    #[expect(clippy::expect_used, reason = "a test support function fails the test")]
    pub fn config_at(&self, url: &str) -> AmqpConfig {
        #[derive(Parser)]
        struct Cli {
            #[command(flatten)]
            amqp: AmqpConfig,
        }
        let flags = [
            "test".to_owned(),
            format!("--AMQP__URL={url}"),
            format!("--AMQP__PREFIX={}", self.prefix),
        ];
        Cli::try_parse_from(flags).expect("test settings are valid").amqp
    }

    /// A session of the test's own, straight to the broker.
    #[expect(clippy::expect_used, reason = "a test support function fails the test")]
    pub async fn session(&self) -> Session {
        let endpoint = self.config().endpoint().expect("the test server's URL is valid");
        Session::connect(&endpoint, &self.prefix)
            .await
            .expect("the test server accepts connections")
    }

    /// Takes the first message off `queue`, if there is one.
    pub async fn get(&self, queue: &str) -> Option<TestMessage> {
        self.take(queue, 1).await.pop()
    }

    /// Takes all that is in `queue` now.
    pub async fn drain(&self, queue: &str) -> Vec<TestMessage> {
        self.take(queue, usize::MAX).await
    }

    #[expect(clippy::expect_used, reason = "a test support function fails the test")]
    async fn take(&self, queue: &str, limit: usize) -> Vec<TestMessage> {
        let session = self.session().await;
        let mut taken = Vec::new();
        while taken.len() < limit {
            let got = session
                .control()
                .basic_get(BasicGetArguments::new(queue))
                .await
                .expect("the queue exists");
            let Some((got, properties, body)) = got else { break };
            let ack = BasicAckArguments::new(got.delivery_tag(), false);
            session
                .control()
                .basic_ack(ack)
                .await
                .expect("the connection lives");
            taken.push(TestMessage {
                exchange: got.exchange().clone(),
                routing_key: got.routing_key().clone(),
                properties,
                body,
            });
        }
        // Says goodbye only after the acks before it.
        session.close().await;
        taken
    }

    /// Removes the queues and the exchange of this prefix. Dropping does the same.
    pub async fn cleanup(&self) {
        remove_all(&self.config(), &self.topology()).await;
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        let (config, topology) = (self.config(), self.topology());
        // A thread of its own: a test's runtime can't be waited on from inside.
        let cleanup = std::thread::spawn(move || {
            let Ok(runtime) = tokio::runtime::Runtime::new() else {
                return;
            };
            let removal = remove_all(&config, &topology);
            let _ = runtime.block_on(async { tokio::time::timeout(CLEANUP_TIMEOUT, removal).await });
        });
        let _ = cleanup.join();
    }
}

async fn remove_all(config: &AmqpConfig, topology: &Topology) {
    let Ok(endpoint) = config.endpoint() else { return };
    let Ok(session) = Session::connect(&endpoint, "test clean-up").await else {
        return;
    };
    for queue in [&topology.jobs, &topology.retries, &topology.dlq] {
        let _ = session
            .control()
            .queue_delete(QueueDeleteArguments::new(queue))
            .await;
    }
    let _ = session
        .control()
        .exchange_delete(ExchangeDeleteArguments::new(&topology.events))
        .await;
    session.close().await;
}

/// A broker answers the protocol header with a method frame.
const RABBITMQ: Greeting = Greeting {
    hello: b"AMQP\0\0\x09\x01",
    replies: &[1],
};

/// URL of the test server.
async fn server_url() -> String {
    server_variable("TEST_AMQP_URL", RABBITMQ, || async {
        let container = RabbitMq::default()
            .with_tag("3.13-management")
            .with_label(CONTAINER_LABEL.0, CONTAINER_LABEL.1)
            .start()
            .await
            .map_err(|error| error.to_string())?;
        let port = container
            .get_host_port_ipv4(5672)
            .await
            .map_err(|error| error.to_string())?;
        // Shared by the whole run: it must outlive this process.
        std::mem::forget(container);
        Ok(format!("amqp://guest:guest@127.0.0.1:{port}"))
    })
    .await
}
