//! A database per test, cloned from a migrated template; and where test servers come from. Feature `testing`.
//!
//! A server is, first that holds: the one that `TEST_DATABASE_URL` names; the private one of `./dev test-servers`; a
//! container. Tests never look at `DATABASE__URL`.
#![expect(
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a test that has no server cannot go on"
)]

pub mod proxy;
pub mod server;

use std::future::Future;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;
use std::str::FromStr as _;
use std::sync::OnceLock;
use std::time::{SystemTime, UNIX_EPOCH};

use testcontainers_modules::postgres::Postgres;
use testcontainers_modules::testcontainers::ImageExt as _;
use testcontainers_modules::testcontainers::runners::AsyncRunner as _;
use tokio_postgres::Client;
use url::Url;
use uuid::Uuid;

use crate::migrate::{MigrateConfig, migrate};
use crate::{CodeVersion, DatabaseConfig, Pool, Secret, pool};

/// Password of the service roles on a test server.
const PASSWORD: &str = "relayforge-test";

/// How long the end of a database may take. Its server may be gone, or frozen.
const DROPPED_WITHIN: std::time::Duration = std::time::Duration::from_secs(5);

/// Databases of test runs that were killed go when they are older than this, in seconds.
const STALE_AFTER_SECONDS: u64 = 3600;

/// Label of the containers that tests leave running for each other; `./dev test-servers stop` removes them.
pub const CONTAINER_LABEL: (&str, &str) = ("relayforge.test", "shared");

/// A database of its own, dropped when the value is.
pub struct TestDb {
    server: Url,
    name: String,
}

impl TestDb {
    /// A migrated database.
    pub async fn create() -> Self {
        let template = template().await;
        Self::create_from(&template).await
    }

    /// An empty database, for tests of the migrator itself.
    pub async fn create_empty() -> Self {
        Self::create_from("template0").await
    }

    /// A migrated database on a server that is a test's own.
    pub async fn create_on(server: &server::Server) -> Self {
        let db = Self::create_at(server.superuser_url(), "template0").await;
        migrate(&db.migrate_config())
            .await
            .expect("the migrations apply to an empty database");
        db
    }

    async fn create_from(template: &str) -> Self {
        Self::create_at(server_url().await, template).await
    }

    async fn create_at(server: Url, template: &str) -> Self {
        let seconds = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .expect("a clock after 1970")
            .as_secs();
        let name = format!("rf_test_{seconds}_{}", &Uuid::new_v4().simple().to_string()[..12]);
        let client = admin(&server).await;
        client
            .batch_execute(&format!("create database {name} template {template}"))
            .await
            .expect("a test database can be created");
        Self { server, name }
    }

    /// What the server knows it as.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// URL for a login; `owner` is the server's own superuser, the services' roles are named in full.
    pub fn url(&self, role: &str) -> Secret {
        let mut url = self.server.clone();
        url.set_path(&self.name);
        if role != "owner" {
            url.set_username(role).expect("a URL with a host");
            url.set_password(Some(PASSWORD)).expect("a URL with a host");
        }
        Secret::from_str(url.as_str()).expect("infallible")
    }

    /// What a service would be configured with.
    pub fn config(&self, role: &str) -> DatabaseConfig {
        DatabaseConfig {
            url: self.url(role),
            max_connections: 10,
        }
    }

    /// What the migrator would be configured with.
    pub fn migrate_config(&self) -> MigrateConfig {
        migrate_config(self.url("owner"))
    }

    /// A pool of that role.
    pub fn pool(&self, role: &str) -> Pool {
        pool::connect(&self.config(role), "relayforge-test").expect("a pool of a valid URL")
    }

    /// A single connection as the server's superuser, for arranging and for looking at tables.
    pub async fn owner(&self) -> Client {
        pool::connect_one(&self.url("owner"), "relayforge-test")
            .await
            .expect("the test server is up")
    }
}

impl Drop for TestDb {
    fn drop(&mut self) {
        let server = self.server.clone();
        let statement = format!("drop database if exists {} with (force)", self.name);
        // Drop is not async and runs inside a runtime: a thread with a runtime of its own.
        let dropper = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?;
            runtime.block_on(async {
                if let Ok(client) = pool::connect_one(&secret(&server), "relayforge-test").await {
                    // What is left over is dropped as stale by a later run.
                    let _ = tokio::time::timeout(DROPPED_WITHIN, client.batch_execute(&statement)).await;
                }
            });
            Ok::<(), std::io::Error>(())
        });
        let _ = dropper.join();
    }
}

fn secret(url: &Url) -> Secret {
    Secret::from_str(url.as_str()).expect("infallible")
}

async fn admin(server: &Url) -> Client {
    pool::connect_one(&secret(server), "relayforge-test")
        .await
        .expect("the test server is up")
}

fn migrate_config(url: Secret) -> MigrateConfig {
    let password = || Some(Secret::from_str(PASSWORD).expect("infallible"));
    MigrateConfig {
        url,
        api_password: password(),
        relay_password: password(),
        consumer_password: password(),
        dba_password: password(),
    }
}

/// The migrated template of this code and day (its partitions are dated), made once by whichever test comes first.
async fn template() -> String {
    let server = server_url().await;
    let client = admin(&server).await;
    // The epoch beside the fingerprint: a template made before the epoch was raised would say the old one.
    let code = CodeVersion::built_in();
    let name = format!(
        "rf_template_{}_{}_{}",
        code.epoch,
        code.fingerprint,
        chrono::Utc::now().format("%Y%m%d")
    );
    // "rftempl" as a number: tests of every crate meet here.
    client
        .batch_execute("select pg_advisory_lock(32194810000)")
        .await
        .expect("an advisory lock");
    let exists = client
        .query_one(
            "select exists (select 1 from pg_database where datname = $1)",
            &[&name],
        )
        .await
        .expect("the catalogue answers")
        .get::<_, bool>(0);
    if !exists {
        drop_stale(&client).await;
        // Under another name until it is whole: a killed run leaves no half template behind.
        let draft = format!("{name}_draft");
        client
            .batch_execute(&format!("drop database if exists {draft} with (force)"))
            .await
            .expect("no draft");
        client
            .batch_execute(&format!(
                "create database {draft} template template0 encoding 'UTF8' locale 'C'"
            ))
            .await
            .expect("a draft");
        let mut url = server.clone();
        url.set_path(&draft);
        migrate(&migrate_config(secret(&url)))
            .await
            .expect("the migrations apply to an empty database");
        rename(&client, &draft, &name).await;
    }
    name
}

async fn rename(client: &Client, from: &str, to: &str) {
    // The migrator's backend may still be on its way out.
    for _ in 0..100 {
        if client
            .batch_execute(&format!("alter database {from} rename to {to}"))
            .await
            .is_ok()
        {
            return;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
    }
    panic!("database {from} is still in use");
}

async fn drop_stale(client: &Client) {
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970")
        .as_secs();
    let rows = client
        .query(
            "select datname from pg_database where datname ~ '^rf_(test|template)_'",
            &[],
        )
        .await
        .expect("the catalogue answers");
    for row in rows {
        let name: String = row.get(0);
        let stale = match name
            .strip_prefix("rf_test_")
            .and_then(|rest| rest.split('_').next()?.parse::<u64>().ok())
        {
            Some(made) => now.saturating_sub(made) > STALE_AFTER_SECONDS,
            None => true,
        };
        if stale {
            // Another run may still use it: then it stays.
            let _ = client
                .batch_execute(&format!("drop database if exists {name}"))
                .await;
        }
    }
}

/// URL of the test server, as its superuser.
pub async fn server_url() -> Url {
    let text = server_variable("TEST_DATABASE_URL", POSTGRES, || async {
        let container = Postgres::default()
            .with_tag("15")
            .with_cmd(["postgres", "-c", "max_connections=300", "-c", "fsync=off"])
            .with_label(CONTAINER_LABEL.0, CONTAINER_LABEL.1)
            .start()
            .await
            .map_err(|error| error.to_string())?;
        let port = container
            .get_host_port_ipv4(5432)
            .await
            .map_err(|error| error.to_string())?;
        // Shared by the whole run: it must outlive this process.
        std::mem::forget(container);
        Ok(format!("postgres://postgres:postgres@127.0.0.1:{port}/postgres"))
    })
    .await;
    Url::parse(&text).expect("a URL")
}

/// The value of a `TEST_…_URL`: from the environment, from `./dev test-servers`, or from a container that `start`
/// starts and that all test processes of the machine then share.
pub async fn server_variable<F>(
    variable: &'static str,
    greeting: Greeting,
    start: impl FnOnce() -> F,
) -> String
where
    F: Future<Output = Result<String, String>>,
{
    #[expect(clippy::disallowed_methods, reason = "this is where tests are configured")]
    if let Ok(url) = std::env::var(variable) {
        return url;
    }
    let why_no_private = match from_dev_script(variable) {
        Ok(url) => return url,
        Err(why) => why,
    };
    let path = std::env::temp_dir().join(format!("relayforge-{variable}"));
    let file = std::fs::OpenOptions::new()
        .create(true)
        .truncate(false)
        .read(true)
        .write(true)
        .open(&path)
        .expect("the temporary folder is writable");
    file.lock().expect("file locks work");
    let known = std::fs::read_to_string(&path).unwrap_or_default();
    if answers(&known, greeting) {
        return known;
    }
    let url = match start().await {
        Ok(url) => url,
        Err(why) => panic!(
            "tests need a server: set {variable}, or let ./dev test-servers start one ({why_no_private}), \
             or have a Docker engine ({why})"
        ),
    };
    std::fs::write(&path, &url).expect("the temporary folder is writable");
    url
}

/// How a server is told from whatever else may have its port by now: what is sent, and how its answer may begin.
#[derive(Debug, Clone, Copy)]
pub struct Greeting {
    /// Sent as it is.
    pub hello: &'static [u8],
    /// First bytes of answers that are right.
    pub replies: &'static [u8],
}

/// PostgreSQL is asked for TLS, and says yes or no.
const POSTGRES: Greeting = Greeting {
    hello: &[0, 0, 0, 8, 4, 210, 22, 47],
    replies: b"SN",
};

fn answers(url: &str, greeting: Greeting) -> bool {
    let ask = || -> Option<bool> {
        let url = Url::parse(url).ok()?;
        let mut socket = std::net::TcpStream::connect((url.host_str()?, url.port()?)).ok()?;
        socket
            .set_read_timeout(Some(std::time::Duration::from_secs(2)))
            .ok()?;
        socket.write_all(greeting.hello).ok()?;
        let mut reply = [0];
        socket.read_exact(&mut reply).ok()?;
        Some(greeting.replies.contains(&reply[0]))
    };
    ask().unwrap_or(false)
}

/// What `./dev test-servers` says, asked once a process.
fn from_dev_script(variable: &str) -> Result<String, String> {
    static ANSWER: OnceLock<Result<String, String>> = OnceLock::new();
    let answer = ANSWER.get_or_init(|| {
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev");
        let output = Command::new(&script)
            .arg("test-servers")
            .output()
            .map_err(|error| format!("{}: {error}", script.display()))?;
        if output.status.success() {
            Ok(String::from_utf8_lossy(&output.stdout).into_owned())
        } else {
            Err(format!(
                "{}: {}",
                output.status,
                String::from_utf8_lossy(&output.stderr).trim()
            ))
        }
    });
    answer
        .clone()?
        .lines()
        .find_map(|line| line.strip_prefix(variable)?.strip_prefix('=').map(str::to_owned))
        .ok_or_else(|| format!("./dev test-servers does not name {variable}"))
}
