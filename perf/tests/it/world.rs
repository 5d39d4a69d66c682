//! What one test has to itself: a database with the demo tenant, a broker prefix, a folder, and the services it starts.
//!
//! When a test fails, its folder stays.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use perf::client::{Addressing, Answer, Client};
use perf::config::Target;
use perf::demo::{self, State, TENANT};
use perf::scenario::Delivery;
use relay::testing::TestBroker;
use sql::event::SourceKind;
use sql::testing::TestDb;
use uuid::Uuid;

use crate::service::Service;

/// Base64 of 32 bytes that are nobody's.
pub(crate) const MASTER_KEY: &str = "dGhpcyBrZXkgc2VhbHMgdGVzdCBzZWNyZXRzIG9ubHk=";

/// How long anything that a test waits for may take, unless it says otherwise.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How often what is waited for is looked at.
const POLL_EVERY: Duration = Duration::from_millis(20);

/// Services are declared before what they use: fields are dropped in order.
pub(crate) struct World {
    services: Vec<Service>,
    pub(crate) broker: TestBroker,
    pub(crate) db: TestDb,
    /// The test's own connection, as a superuser.
    pub(crate) sql: tokio_postgres::Client,
    /// The demo tenant's secrets.
    pub(crate) state: State,
    pub(crate) tenant_id: Uuid,
    /// How the services reach the servers; a test may put a proxy's URL here before it starts them.
    pub(crate) amqp_url: String,
    pub(crate) database_proxy: Option<String>,
    folder: PathBuf,
}

impl World {
    /// Servers, database and demo tenant, but no service yet.
    pub(crate) async fn new() -> Self {
        let (db, broker) = tokio::join!(TestDb::create(), TestBroker::start());
        Self::on(db, broker).await
    }

    /// The same on servers that the test has chosen.
    pub(crate) async fn on(db: TestDb, broker: TestBroker) -> Self {
        perf::client::install_tls();
        let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("e2e-{}", Uuid::new_v4().simple()));
        std::fs::create_dir_all(&folder).unwrap();
        let target = Target {
            url: String::new(),
            database: db.config("owner"),
            master_key: MASTER_KEY.parse().unwrap(),
            state: folder.join("demo.json"),
        };
        demo::setup(&target).await.unwrap();
        let sql = db.owner().await;
        let tenant = sql
            .query_one("select id from store.tenants where slug = $1", &[&TENANT])
            .await
            .unwrap();
        Self {
            services: Vec::new(),
            amqp_url: broker.amqp_url().to_owned(),
            database_proxy: None,
            broker,
            db,
            state: State::load(&target.state).unwrap(),
            tenant_id: tenant.get(0),
            sql,
            folder,
        }
    }

    /// A world with all three services, ready.
    pub(crate) async fn started() -> Self {
        let mut world = Self::new().await;
        for name in ["api", "relay", "consumer"] {
            world.start(name, &[]).await;
        }
        for name in ["api", "relay", "consumer"] {
            world.service(name).answers_ready_with(200).await;
        }
        world
    }

    /// Starts a service; it listens when this returns, and may not be ready yet.
    pub(crate) async fn start(&mut self, kind: &'static str, settings: &[(&str, &str)]) {
        self.start_as(kind, kind, settings).await;
    }

    /// How a service of that kind reaches the database.
    pub(crate) fn database_url(&self, kind: &str) -> String {
        let mut database = self.db.url(&format!("relayforge_{kind}")).expose().to_owned();
        if let Some(proxy) = &self.database_proxy {
            let (proxy, mut url) = (
                url::Url::parse(proxy).unwrap(),
                url::Url::parse(&database).unwrap(),
            );
            url.set_port(proxy.port()).unwrap();
            url.set_host(proxy.host_str()).unwrap();
            database = url.into();
        }
        database
    }

    /// Starts a service under a name of its own, of which there may be several.
    pub(crate) async fn start_as(
        &mut self,
        kind: &'static str,
        name: &'static str,
        settings: &[(&str, &str)],
    ) {
        let database = self.database_url(kind);
        let own = [
            ("APP_ENV", "production"),
            ("DATABASE__URL", &database),
            ("AMQP__URL", &self.amqp_url),
            ("AMQP__PREFIX", self.broker.prefix()),
            ("SECRETS__MASTER_KEY", MASTER_KEY),
            ("RUST_BACKTRACE", "1"),
        ];
        // A later value of a variable replaces an earlier one.
        let all = own
            .iter()
            .chain(settings)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let service = Service::start(kind, name, &self.folder, all).await;
        self.services.push(service);
    }

    /// Whether a service was started.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.services.iter().any(|service| service.name() == name)
    }

    /// A service that was started.
    pub(crate) fn service(&self, name: &str) -> &Service {
        self.services
            .iter()
            .find(|service| service.name() == name)
            .expect("a service that was started")
    }

    /// The same, to be stopped or started again.
    pub(crate) fn service_mut(&mut self, name: &str) -> &mut Service {
        self.services
            .iter_mut()
            .find(|service| service.name() == name)
            .expect("a service that was started")
    }

    /// All that were started.
    pub(crate) fn services(&self) -> &[Service] {
        &self.services
    }

    /// Takes all services out, for a task of their own.
    pub(crate) fn take_all(&mut self) -> Vec<Service> {
        std::mem::take(&mut self.services)
    }

    /// Puts them back.
    pub(crate) fn put_back(&mut self, services: Vec<Service>) {
        self.services.extend(services);
    }

    /// The folder that the test may write to.
    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    /// A sender to the API.
    pub(crate) fn client(&self) -> Client {
        Client::new(&self.service("api").url()).unwrap()
    }

    /// Signs with the demo tenant's secret and sends to the demo tenant, by the path.
    pub(crate) async fn deliver(&self, kind: SourceKind, delivery: Delivery) -> Answer {
        self.send(kind.as_str(), delivery.signed(kind, self.state.secret(kind)))
            .await
    }

    /// Sends as it is to the demo tenant, by the path.
    pub(crate) async fn send(&self, source: &str, delivery: Delivery) -> Answer {
        self.client()
            .deliver(source, Addressing::Path(TENANT), &delivery)
            .await
            .unwrap()
    }

    /// Waits until a job has its outcome; returns it and the attempts it took.
    pub(crate) async fn outcome(&self, job_id: Uuid) -> (String, i16) {
        let query = "select outcome, attempts from store.jobs where id = $1 and outcome is not null";
        eventually(&format!("job {job_id} has an outcome"), PATIENCE, async || {
            let row = self.sql.query_opt(query, &[&job_id]).await.unwrap()?;
            Some((row.get(0), row.get(1)))
        })
        .await
    }

    /// Waits until a job has succeeded in its first attempt.
    pub(crate) async fn succeeds(&self, job_id: Uuid) {
        assert_eq!(
            self.outcome(job_id).await,
            ("succeeded".to_owned(), 1),
            "job {job_id}"
        );
    }

    /// A number that a query gives.
    pub(crate) async fn count(&self, query: &str) -> i64 {
        self.sql.query_one(query, &[]).await.unwrap().get(0)
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

/// Polls until there is something; panics with `what` when the time is up.
pub(crate) async fn eventually<T>(
    what: &str,
    within: Duration,
    mut look: impl AsyncFnMut() -> Option<T>,
) -> T {
    eventually_or(what, within, &mut String::new(), async |_: &mut String| {
        look().await
    })
    .await
}

/// The same; what was last seen is shown too.
pub(crate) async fn eventually_or<T>(
    what: &str,
    within: Duration,
    last: &mut String,
    mut look: impl AsyncFnMut(&mut String) -> Option<T>,
) -> T {
    let began = Instant::now();
    loop {
        if let Some(found) = look(last).await {
            return found;
        }
        assert!(began.elapsed() < within, "not within {within:?}: {what}. {last}");
        tokio::time::sleep(POLL_EVERY).await;
    }
}
